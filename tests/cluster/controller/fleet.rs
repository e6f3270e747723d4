//! A fleet of real processes under one controller or several: two edges and three sinks of two groups.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{Process, Scratch, loadgen_binary, metric, port, ports, until, weir_binary};

pub(crate) const LONG: Duration = Duration::from_secs(180);
const RATE: u64 = 2000;
pub(crate) const NODES: [(&str, &str); 5] =
    [("edge-1", "edge"), ("edge-2", "edge"), ("a-1", "sink"), ("a-2", "sink"), ("b-1", "sink")];

pub(crate) struct Fleet {
    pub(crate) directory: PathBuf,
    /// By number; none while it does not run.
    pub(crate) controllers: Vec<Option<Process>>,
    pub(crate) nodes: Vec<Process>,
    forward: Vec<SocketAddr>,
    links: [u16; 3],
    apis: Vec<u16>,
    ca: PathBuf,
    token: Option<PathBuf>,
}

fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot run {command:?}"))
}

/// What a command printed, if it did what it should.
pub(crate) fn good(output: Result<Output>) -> Result<String> {
    let output = output?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

/// Runs a command of `weir` that needs no controller.
pub(crate) fn weir(arguments: &[&str], paths: &[&Path]) -> Result<String> {
    good(run(Command::new(weir_binary()?).args(arguments).args(paths)))
}

fn controller(number: usize) -> String {
    format!("controller-{number}")
}

impl Fleet {
    /// All processes, none of which knows a topology. `keys` is the beginning of each controller's file.
    pub(crate) fn start(scratch: &Scratch, controllers: usize, keys: &str) -> Result<Self> {
        let [f1, f2, l1, l2, l3] = ports::<5>()?;
        let apis: Vec<u16> = (0..controllers).map(|_| port()).collect::<Result<_>>()?;
        let agents: Vec<u16> = (0..controllers).map(|_| port()).collect::<Result<_>>()?;
        let directory = scratch.path().to_owned();
        let tls = scratch.dir("tls")?;
        weir(&["ca", "init"], &[&tls])?;
        let names: Vec<String> = (1..=controllers).map(controller).collect();
        let mut issue = Command::new(weir_binary()?);
        issue.args(["ca", "issue"]).arg(&tls).args(NODES.map(|node| node.0)).args(&names);
        good(run(issue.args(["--san", "127.0.0.1"])))?;
        let certificates = |name: &str| {
            format!("[tls]\nca = \"tls/ca.crt\"\ncert = \"tls/{name}.crt\"\nkey = \"tls/{name}.key\"\n")
        };
        let mut all = String::new();
        for ((name, api), agents) in names.iter().zip(&apis).zip(&agents) {
            scratch.write(
                &format!("{name}.toml"),
                format!(
                    "name = \"{name}\"\nrole = \"controller\"\ndata_dir = \"data-{name}\"\n{keys}\n[listen]\n\
                     api = \"127.0.0.1:{api}\"\nagents = \"127.0.0.1:{agents}\"\nmetrics = \"127.0.0.1:0\"\n{}",
                    certificates(name)
                ),
            )?;
            all += &format!("[[controller]]\nname = \"{name}\"\naddress = \"127.0.0.1:{agents}\"\n");
        }
        for (index, (name, role)) in NODES.iter().enumerate() {
            let forward = match index {
                0 => format!("forward = \"127.0.0.1:{f1}\"\n"),
                1 => format!("forward = \"127.0.0.1:{f2}\"\n"),
                _ => String::new(),
            };
            scratch.write(
                &format!("{name}.toml"),
                format!(
                    "name = \"{name}\"\nrole = \"{role}\"\nrack = \"r1\"\ndata_dir = \"data-{name}\"\n{all}\
                     [listen]\nmetrics = \"127.0.0.1:0\"\n{forward}{}",
                    certificates(name)
                ),
            )?;
        }
        let forward = [f1, f2].map(|port| SocketAddr::from(([127, 0, 0, 1], port))).to_vec();
        let ca = tls.join("ca.crt");
        let mut fleet = Self {
            directory,
            controllers: (0..controllers).map(|_| None).collect(),
            nodes: Vec::new(),
            forward,
            links: [l1, l2, l3],
            apis,
            ca,
            token: None,
        };
        (0..controllers).try_for_each(|number| fleet.control(number))?;
        for (name, role) in NODES {
            let process = fleet.process(name, role)?;
            fleet.nodes.push(process);
        }
        Ok(fleet)
    }

    fn process(&self, name: &str, role: &str) -> Result<Process> {
        let logs = self.directory.join("said");
        std::fs::create_dir_all(&logs)?;
        let mut command = Command::new(weir_binary()?);
        command.arg(role).arg("--config").arg(self.directory.join(format!("{name}.toml")));
        Process::start(name, command, &logs)
    }

    /// Starts a controller.
    pub(crate) fn control(&mut self, number: usize) -> Result<()> {
        let mut process = self.process(&controller(number + 1), "controller")?;
        process.wait_ready(LONG)?;
        self.controllers[number] = Some(process);
        Ok(())
    }

    /// SIGKILL to a controller.
    pub(crate) fn kill_controller(&mut self, number: usize) -> Result<()> {
        self.controllers[number].take().context("it does not run")?.kill_9()
    }

    /// The number of the one that leads.
    pub(crate) fn leader(&mut self) -> Result<usize> {
        until("one controller to lead", LONG, || {
            let mut leaders = Vec::new();
            for (number, process) in self.controllers.iter_mut().enumerate() {
                let Some(process) = process else { continue };
                let metrics = process.wait_ready(LONG)?.addr("metrics")?;
                if metric(metrics, "weir_controller_leading", &[])? == 1.0 {
                    leaders.push(number);
                }
            }
            ensure!(leaders.len() == 1, "{leaders:?} lead");
            Ok(leaders[0])
        })
    }

    /// Where a controller keeps everything.
    pub(crate) fn data_dir(&self, number: usize) -> PathBuf {
        self.directory.join(format!("data-{}", controller(number + 1)))
    }

    /// Whom its users trust, and as whom they come; before this: the cluster's authority, and the first token.
    pub(crate) fn access(&mut self, ca: PathBuf, token: Option<PathBuf>) {
        (self.ca, self.token) = (ca, token);
    }

    /// The first token; whoever led first wrote it.
    pub(crate) fn token(&self) -> Result<PathBuf> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        until("the first token", LONG, || {
            let tokens = (0..self.controllers.len()).map(|number| self.data_dir(number).join("admin.token"));
            tokens.into_iter().find(|token| token.exists()).context("there is none")
        })
    }

    /// Runs a command of `weir` against the controllers, for its JSON.
    pub(crate) fn weir(&self, arguments: &[&str]) -> Result<Output> {
        self.weir_for_people(&[arguments, &["--output", "json"]].concat())
    }

    /// Runs a command of `weir` against the controllers.
    pub(crate) fn weir_for_people(&self, arguments: &[&str]) -> Result<Output> {
        let urls: Vec<String> = self.apis.iter().map(|api| format!("https://127.0.0.1:{api}")).collect();
        let mut command = Command::new(weir_binary()?);
        command.args(arguments).arg("--controller").arg(urls.join(","));
        command.arg("--ca").arg(&self.ca).arg("--token-file").arg(self.token()?);
        run(&mut command)
    }

    pub(crate) fn agents(&self) -> Result<Vec<Value>> {
        let answer: Value = serde_json::from_str(&good(self.weir(&["status"]))?)?;
        Ok(answer["agents"].as_array().cloned().unwrap_or_default())
    }

    pub(crate) fn all_connected(&self) -> Result<()> {
        until("all agents", LONG, || {
            let agents = self.agents()?;
            let connected = agents.iter().filter(|agent| agent["connected"] == true).count();
            ensure!(connected == NODES.len(), "{connected} are connected");
            Ok(())
        })
    }

    /// Every node's revision by its text.
    pub(crate) fn hashes(&self) -> Result<Vec<String>> {
        Ok(self.agents()?.iter().map(|agent| agent["applied"]["hash"].to_string()).collect())
    }

    /// A topology with those keys of group a, and that address of its first sink.
    pub(crate) fn topology(&self, keys: &str, first: &str) -> Result<PathBuf> {
        let [l1, l2, l3] = self.links;
        let files = self.directory.join("files");
        let files = files.display();
        let first = first.replace("{l1}", &l1.to_string());
        let text = format!(
            "version = 1\n[cluster]\nname = \"live\"\n\
             [[edge]]\nname = \"edge-1\"\nrack = \"r1\"\n[[edge]]\nname = \"edge-2\"\nrack = \"r1\"\n\
             [[group]]\nid = \"a\"\n{keys}\nsink = [\n{{ name = \"a-1\", rack = \"r1\", address = \"{first}\", weight = 1 }},\n\
             {{ name = \"a-2\", rack = \"r1\", address = \"127.0.0.1:{l2}\" }}]\n\
             [group.store]\nkind = \"file\"\nshared = true\npath = \"{files}/a\"\n\
             [[group]]\nid = \"b\"\nquota = \"1GiB\"\nsink = [{{ name = \"b-1\", rack = \"r1\", address = \"127.0.0.1:{l3}\" }}]\n\
             [group.store]\nkind = \"file\"\nshared = true\npath = \"{files}/b\"\n\
             [[route]]\nmatch = \"app.*1\"\ngroups = [\"b\"]\n[[route]]\nmatch = \"**\"\ngroups = [\"a\"]\n"
        );
        let path = self.directory.join("topology.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    pub(crate) fn roll_out(&self, topology: &Path) -> Result<Output> {
        let file = topology.display().to_string();
        self.weir(&["rollout", "start", &file, "--settle", "1", "--wait"])
    }

    pub(crate) fn load(&self, name: &str, seconds: u64) -> Result<Process> {
        let mut command = Command::new(loadgen_binary()?);
        command.args([
            "send",
            "--ack",
            "--json",
            "--chunk-events",
            "20",
            "--tags",
            "20",
            "--connections",
            "4",
        ]);
        command.args(["--rate", &RATE.to_string(), "--events", &(RATE * seconds).to_string()]);
        command.args(["--tag-prefix", "app", "--stream-prefix", name]);
        command.arg("--ledger").arg(self.directory.join(format!("{name}.ledger")));
        for forward in &self.forward {
            command.args(["--to", &forward.to_string()]);
        }
        Process::start(name, command, &self.directory.join("said"))
    }

    pub(crate) fn verify(&self, name: &str, seconds: u64) -> Result<()> {
        let mut command = Command::new(loadgen_binary()?);
        command.arg("verify").arg("--files").arg(self.directory.join("files"));
        command.args(["--wait", "120", "--stream-prefix", name, "--expect", &(RATE * seconds).to_string()]);
        command.arg("--ledger").arg(self.directory.join(format!("{name}.ledger")));
        good(run(&mut command)).map(drop)
    }
}
