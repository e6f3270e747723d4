//! One edge and four sinks of three groups, all of which write below one directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::{Process, Scratch, Signal, metric, ports, scrape, until, weir_binary};

pub(crate) const LONG: Duration = Duration::from_secs(120);
/// The sinks, and the group of each.
pub(crate) const SINKS: [(&str, &str); 4] = [("a-1", "a"), ("a-2", "a"), ("b-1", "b"), ("c-1", "c")];
const EDGE: &str = "edge-1";

/// Runs a command to its end and gives what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

pub(crate) struct Cluster {
    /// With where its metrics are.
    pub(crate) edge: (Process, SocketAddr),
    pub(crate) sinks: Vec<(Process, SocketAddr)>,
    pub(crate) links: [u16; 4],
    pub(crate) files: PathBuf,
    /// A port for another listener.
    pub(crate) beside: u16,
    forward: SocketAddr,
    directory: PathBuf,
}

impl Cluster {
    pub(crate) fn start(scratch: &Scratch) -> Result<Self> {
        let [forward, beside, l0, l1, l2, l3] = ports::<6>()?;
        let tls = scratch.dir("tls")?;
        run(Command::new(weir_binary()?).args(["ca", "init"]).arg(&tls))?;
        run(Command::new(weir_binary()?).args(["ca", "issue"]).arg(&tls).arg(EDGE).args(SINKS.map(|s| s.0)))?;
        let (links, files) = ([l0, l1, l2, l3], scratch.dir("files")?);
        scratch.write("topology.toml", topology(&links, true, ""))?;
        let logs = scratch.dir("said")?;
        let node = |name: &str, role: &str, listen: &str| -> Result<(Process, SocketAddr)> {
            let file = scratch.write(
                &format!("{name}.toml"),
                format!(
                    "name = \"{name}\"\nrole = \"{role}\"\nrack = \"r1\"\ndata_dir = \"data-{name}\"\n\
                     topology = \"topology.toml\"\n[listen]\nmetrics = \"127.0.0.1:0\"\n{listen}\n\
                     [tls]\nca = \"tls/ca.crt\"\ncert = \"tls/{name}.crt\"\nkey = \"tls/{name}.key\"\n"
                ),
            )?;
            let mut command = Command::new(weir_binary()?);
            command.arg(role).arg("--config").arg(file);
            let mut process = Process::start(name, command, &logs)?;
            let metrics = process.wait_ready(LONG)?.addr("metrics")?;
            Ok((process, metrics))
        };
        let sinks = SINKS.iter().map(|(name, _)| node(name, "sink", "")).collect::<Result<_>>()?;
        let edge = node(EDGE, "edge", &format!("forward = \"127.0.0.1:{forward}\""))?;
        let forward = SocketAddr::from(([127, 0, 0, 1], forward));
        Ok(Self { edge, sinks, links, files, beside, forward, directory: scratch.path().to_owned() })
    }

    pub(crate) fn forward(&self) -> SocketAddr {
        self.forward
    }

    /// The topology that it begins with.
    pub(crate) fn topology(&self) -> String {
        topology(&self.links, true, "")
    }

    /// The same without group c.
    pub(crate) fn without_c(&self) -> String {
        topology(&self.links, false, "")
    }

    /// All groups, with further tables for each.
    pub(crate) fn with(&self, tables: &str) -> String {
        topology(&self.links, true, tables)
    }

    /// Issues certificates anew. The nodes show them from the next revision on.
    pub(crate) fn certify(&self, names: &[&str]) -> Result<()> {
        let tls = self.directory.join("tls");
        run(Command::new(weir_binary()?).args(["ca", "issue"]).arg(tls).args(names)).map(drop)
    }

    /// Puts a topology in place and tells all nodes.
    pub(crate) fn offer(&mut self, topology: &str) -> Result<()> {
        self.put(topology)?;
        self.edge.0.signal(Signal::HUP)?;
        self.sinks.iter_mut().try_for_each(|(sink, _)| sink.signal(Signal::HUP))
    }

    /// Has all nodes take a topology up.
    pub(crate) fn take_up(&mut self, topology: &str) -> Result<()> {
        let nodes: Vec<SocketAddr> =
            std::iter::once(self.edge.1).chain(self.sinks.iter().map(|(_, metrics)| *metrics)).collect();
        let before: Vec<f64> = nodes.iter().map(|node| applied(*node)).collect::<Result<_>>()?;
        self.offer(topology)?;
        for (node, before) in nodes.into_iter().zip(before) {
            until("a node to take a revision up", LONG, || {
                ensure!(applied(node)? > before, "{node} did not");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Has the edge alone take a topology up.
    pub(crate) fn take_up_by_edge(&mut self, topology: &str) -> Result<()> {
        let before = applied(self.edge.1)?;
        self.put(topology)?;
        self.edge.0.signal(Signal::HUP)?;
        until("the edge to take a revision up", LONG, || {
            ensure!(applied(self.edge.1)? > before, "it did not");
            Ok(())
        })
    }

    /// The revision that the edge runs.
    pub(crate) fn revision(&self) -> Result<String> {
        let metrics = format!("{:?}", scrape(self.edge.1)?);
        let info = metrics.split("weir_config_info").nth(1).context("no weir_config_info")?;
        Ok(info.split("value").next().unwrap_or_default().to_owned())
    }

    pub(crate) fn restart_edge(&mut self) -> Result<()> {
        self.edge.0.restart()?;
        self.edge.1 = self.edge.0.wait_ready(LONG)?.addr("metrics")?;
        Ok(())
    }

    pub(crate) fn log_list(&self) -> Result<String> {
        let data = self.directory.join(format!("data-{EDGE}"));
        run(Command::new(weir_binary()?).args(["log", "list"]).arg(data))
    }

    /// Looks at the running nodes as people do.
    pub(crate) fn look(&self, scratch: &Scratch) -> Result<()> {
        let weir = |arguments: &[&str]| run(Command::new(weir_binary()?).args(arguments));
        let (edge, sink) = (self.edge.1.to_string(), self.sinks[0].1.to_string());
        let events = weir(&["tap", &edge, "--tag", "app.*", "--redact", "message", "--count", "3"])?;
        for line in events.lines() {
            let event: serde_json::Value = serde_json::from_str(line)?;
            ensure!(event["tag"].as_str().is_some_and(|tag| tag.starts_with("app.")), "{event}");
            ensure!(event["record"]["message"] == "***" && event["record"]["seq"].is_u64(), "{event}");
        }
        ensure!(events.lines().count() == 3, "{events}");
        let status: serde_json::Value = serde_json::from_str(&weir(&["status", &edge, "--output", "json"])?)?;
        ensure!(
            status["ready"] == true && status["logs"].as_array().is_some_and(|logs| logs.len() == 3),
            "{status}"
        );
        ensure!(status["rates"]["events_per_second"].as_f64().is_some_and(|rate| rate > 100.0), "{status}");
        ensure!(weir(&["status", &edge])?.contains("attached"));
        ensure!(weir(&["status", &sink])?.contains("ready"));
        let pages = scratch.dir("man")?;
        weir(&["man", &pages.display().to_string()])?;
        ensure!(pages.join("weir-topology-diff.1").exists());
        ensure!(weir(&["completions", "bash"])?.contains("topology"));
        Ok(())
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        ensure!(self.edge.0.stop(LONG)?.success(), "the edge did not stop in good order");
        for (sink, _) in &mut self.sinks {
            ensure!(sink.stop(LONG)?.success(), "a sink did not stop in good order");
        }
        Ok(())
    }

    // In one step, so that no node reads half a file.
    fn put(&self, topology: &str) -> Result<()> {
        let new = self.directory.join("topology.new");
        std::fs::write(&new, topology)?;
        Ok(std::fs::rename(new, self.directory.join("topology.toml"))?)
    }
}

fn applied(node: SocketAddr) -> Result<f64> {
    scrape(node)?;
    Ok(metric(node, "weir_config_applied_total", &[]).unwrap_or(0.0))
}

fn topology(links: &[u16; 4], with_c: bool, tables: &str) -> String {
    let mut text = "version = 1\n[cluster]\nname = \"live\"\n".to_owned();
    text += &format!("[[edge]]\nname = \"{EDGE}\"\nrack = \"r1\"\n");
    for group in ["a", "b", "c"].into_iter().filter(|group| with_c || *group != "c") {
        text += &self::group(group, &[1, 1, 1, 1], links, "quota = \"1GiB\"", "", tables);
    }
    text += "[[route]]\nmatch = \"app.*1\"\ngroups = [\"b\"]\n";
    if with_c {
        text += "[[route]]\nmatch = \"app.*2\"\ngroups = [\"c\"]\n";
    }
    text + "[[route]]\nmatch = \"**\"\ngroups = [\"a\"]\n"
}

/// A group's stanza. A weight of 0 leaves the sink out.
pub(crate) fn group(
    id: &str,
    weights: &[u32; 4],
    links: &[u16; 4],
    keys: &str,
    store: &str,
    tables: &str,
) -> String {
    let mut text = format!("[[group]]\nid = \"{id}\"\n{keys}\nsink = [\n");
    for (((name, group), weight), link) in SINKS.iter().zip(weights).zip(links) {
        if *group == id && *weight > 0 {
            text += &format!(
                "  {{ name = \"{name}\", rack = \"r1\", address = \"127.0.0.1:{link}\", weight = {weight} }},\n"
            );
        }
    }
    text + &format!(
        "]\n{tables}\n[group.store]\nkind = \"file\"\nshared = true\npath = \"files/{id}\"\n{store}\n"
    )
}
