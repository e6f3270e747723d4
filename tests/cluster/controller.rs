//! A fleet of real processes under a controller: revisions rolled out under load, one that only a node can refuse, and
//! a controller that is killed and forgets everything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{Process, Scratch, loadgen_binary, ports, until, weir_binary};

const LONG: Duration = Duration::from_secs(180);
const RATE: u64 = 2000;
const NODES: [(&str, &str); 5] =
    [("edge-1", "edge"), ("edge-2", "edge"), ("a-1", "sink"), ("a-2", "sink"), ("b-1", "sink")];

struct Fleet {
    directory: PathBuf,
    controller: Option<Process>,
    nodes: Vec<Process>,
    forward: Vec<SocketAddr>,
    links: [u16; 3],
    api: u16,
}

fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot run {command:?}"))
}

fn good(output: Result<Output>) -> Result<String> {
    let output = output?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

impl Fleet {
    /// All processes, none of which knows a topology.
    fn start(scratch: &Scratch) -> Result<Self> {
        let [api, agents, f1, f2, l1, l2, l3] = ports::<7>()?;
        let directory = scratch.path().to_owned();
        let tls = scratch.dir("tls")?;
        good(run(Command::new(weir_binary()?).args(["ca", "init"]).arg(&tls)))?;
        let mut issue = Command::new(weir_binary()?);
        issue.args(["ca", "issue"]).arg(&tls).args(NODES.map(|node| node.0)).arg("controller-1");
        good(run(issue.args(["--san", "127.0.0.1"])))?;
        let certificates = |name: &str| {
            format!("[tls]\nca = \"tls/ca.crt\"\ncert = \"tls/{name}.crt\"\nkey = \"tls/{name}.key\"\n")
        };
        scratch.write(
            "controller.toml",
            format!(
                "name = \"controller-1\"\nrole = \"controller\"\ndata_dir = \"data-controller\"\n[listen]\n\
                 api = \"127.0.0.1:{api}\"\nagents = \"127.0.0.1:{agents}\"\nmetrics = \"127.0.0.1:0\"\n{}",
                certificates("controller-1")
            ),
        )?;
        for (index, (name, role)) in NODES.iter().enumerate() {
            let forward = match index {
                0 => format!("forward = \"127.0.0.1:{f1}\"\n"),
                1 => format!("forward = \"127.0.0.1:{f2}\"\n"),
                _ => String::new(),
            };
            scratch.write(
                &format!("{name}.toml"),
                format!(
                    "name = \"{name}\"\nrole = \"{role}\"\nrack = \"r1\"\ndata_dir = \"data-{name}\"\n\
                     [[controller]]\nname = \"controller-1\"\naddress = \"127.0.0.1:{agents}\"\n\
                     [listen]\nmetrics = \"127.0.0.1:0\"\n{forward}{}",
                    certificates(name)
                ),
            )?;
        }
        let forward = [f1, f2].map(|port| SocketAddr::from(([127, 0, 0, 1], port))).to_vec();
        let mut fleet =
            Self { directory, controller: None, nodes: Vec::new(), forward, links: [l1, l2, l3], api };
        fleet.control()?;
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

    fn control(&mut self) -> Result<()> {
        let mut controller = self.process("controller", "controller")?;
        controller.wait_ready(LONG)?;
        let token = self.token();
        until("the first token", LONG, || {
            ensure!(token.exists(), "there is no {}", token.display());
            Ok(())
        })?;
        self.controller = Some(controller);
        Ok(())
    }

    fn token(&self) -> PathBuf {
        self.directory.join("data-controller/admin.token")
    }

    /// Runs a command of `weir` against the controller.
    fn weir(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(weir_binary()?);
        command.args(arguments).arg("--controller").arg(format!("https://127.0.0.1:{}", self.api));
        command.arg("--ca").arg(self.directory.join("tls/ca.crt")).arg("--token-file").arg(self.token());
        run(command.args(["--output", "json"]))
    }

    fn agents(&self) -> Result<Vec<Value>> {
        let answer: Value = serde_json::from_str(&good(self.weir(&["fleet"]))?)?;
        Ok(answer["agents"].as_array().cloned().unwrap_or_default())
    }

    fn all_connected(&self) -> Result<()> {
        until("all agents", LONG, || {
            let agents = self.agents()?;
            let connected = agents.iter().filter(|agent| agent["connected"] == true).count();
            ensure!(connected == NODES.len(), "{connected} are connected");
            Ok(())
        })
    }

    /// Every node's revision by its text.
    fn hashes(&self) -> Result<Vec<String>> {
        Ok(self.agents()?.iter().map(|agent| agent["applied"]["hash"].to_string()).collect())
    }

    fn topology(&self, keys: &str, first: &str) -> Result<PathBuf> {
        let [l1, l2, l3] = self.links;
        let files = self.directory.join("files");
        let files = files.display();
        let first = first.replace("{l1}", &l1.to_string());
        let text = format!(
            "version = 1\n[cluster]\nname = \"fleet\"\n\
             [[edge]]\nname = \"edge-1\"\nrack = \"r1\"\n[[edge]]\nname = \"edge-2\"\nrack = \"r1\"\n\
             [[group]]\nid = \"a\"\n{keys}\nsink = [\n{{ name = \"a-1\", rack = \"r1\", address = \"{first}\" }},\n\
             {{ name = \"a-2\", rack = \"r1\", address = \"127.0.0.1:{l2}\" }}]\n\
             [group.store]\nkind = \"file\"\nshared = true\npath = \"{files}/a\"\n\
             [[group]]\nid = \"b\"\nsink = [{{ name = \"b-1\", rack = \"r1\", address = \"127.0.0.1:{l3}\" }}]\n\
             [group.store]\nkind = \"file\"\nshared = true\npath = \"{files}/b\"\n\
             [[route]]\nmatch = \"app.*1\"\ngroups = [\"b\"]\n[[route]]\nmatch = \"**\"\ngroups = [\"a\"]\n"
        );
        let path = self.directory.join("topology.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    fn roll_out(&self, topology: &std::path::Path) -> Result<Output> {
        let file = topology.display().to_string();
        self.weir(&["rollout", "start", &file, "--settle", "1", "--wait"])
    }

    fn load(&self, name: &str, seconds: u64) -> Result<Process> {
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

    fn verify(&self, name: &str, seconds: u64) -> Result<()> {
        let mut command = Command::new(loadgen_binary()?);
        command.arg("verify").arg("--files").arg(self.directory.join("files"));
        command.args(["--wait", "120", "--stream-prefix", name, "--expect", &(RATE * seconds).to_string()]);
        command.arg("--ledger").arg(self.directory.join(format!("{name}.ledger")));
        good(run(&mut command)).map(drop)
    }
}

#[test]
fn a_fleet_is_changed_from_one_place_and_runs_on_without_it() {
    const SECONDS: u64 = 25;
    Scratch::run("controller", |scratch| {
        let mut fleet = Fleet::start(scratch)?;
        fleet.all_connected()?;
        // The first revision brings every node to work.
        good(fleet.roll_out(&fleet.topology("quota = \"1GiB\"", "127.0.0.1:{l1}")?))?;
        for node in &mut fleet.nodes {
            node.wait_ready(LONG)?;
        }

        let mut load = fleet.load("steady", SECONDS)?;
        good(
            fleet
                .roll_out(&fleet.topology("quota = \"2GiB\"\npart = { age = \"300ms\" }", "127.0.0.1:{l1}")?),
        )?;
        let before = fleet.hashes()?;
        ensure!(before.iter().all(|hash| *hash == before[0]), "{before:?}");

        // What a controller can see is refused by it; nothing is rolled out.
        let broken = fleet.topology("quota = \"2GiB\"\noverflow = \"sink\"", "127.0.0.1:{l1}")?;
        let refused = fleet.roll_out(&broken)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("13:12: error"), "{said}");
        // An address that is not this host's: only the node can know. It is the canary, and all go back.
        let unfit = fleet.topology("quota = \"3GiB\"", "192.0.2.1:{l1}")?;
        let refused = fleet.roll_out(&unfit)?;
        let said = String::from_utf8_lossy(&refused.stdout).into_owned();
        ensure!(
            !refused.status.success() && said.contains("rolled_back") && said.contains("a-1 refused"),
            "{said}"
        );
        until("all on the old revision", LONG, || {
            ensure!(fleet.hashes()? == before, "not yet");
            Ok(())
        })?;

        // The controller dies, and all that it knew. Nobody notices.
        fleet.controller.take().context("no controller")?.kill_9()?;
        std::fs::remove_dir_all(fleet.directory.join("data-controller"))?;
        ensure!(load.wait_exit(LONG)?.success(), "the load failed: {}", load.said()?);
        fleet.verify("steady", SECONDS)?;

        // A new one knows nothing, and is told by hand.
        fleet.control()?;
        fleet.all_connected()?;
        ensure!(fleet.hashes()? == before, "a new controller changes nothing by itself");
        let mut load = fleet.load("after", 5)?;
        good(fleet.roll_out(&fleet.topology("quota = \"4GiB\"", "127.0.0.1:{l1}")?))?;
        ensure!(load.wait_exit(LONG)?.success(), "the load failed: {}", load.said()?);
        fleet.verify("after", 5)?;
        ensure!(fleet.hashes()?.iter().all(|hash| *hash != before[0]), "a revision of the new one");

        let mut all: Vec<Process> = fleet.nodes.drain(..).chain(fleet.controller.take()).collect();
        for process in &mut all {
            ensure!(process.stop(LONG)?.success(), "a process did not stop in good order");
        }
        Ok(())
    });
}
