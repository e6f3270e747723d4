//! A cluster of Weir: its topology, certificates and node files in a scratch directory, its nodes as processes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::paths::weir_binary;
use crate::port::port;
use crate::process::Process;
use crate::scratch::Scratch;

/// From the start of a node to its ready line: some 50 ms on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A graceful stop waits 20 s at most for a store.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// The files of one cluster.
#[derive(Debug)]
pub struct Site<'a> {
    scratch: &'a Scratch,
    topology: PathBuf,
}

/// One node of it, running unless it was killed.
#[derive(Debug)]
pub struct Node {
    /// Its process.
    pub process: Process,
    /// Where its metrics are.
    pub metrics: SocketAddr,
    forward: Option<SocketAddr>,
}

impl<'a> Site<'a> {
    /// Writes the topology, and a certificate for each of `names`.
    ///
    /// # Errors
    /// If `weir ca` fails or the disk refuses.
    pub fn new(scratch: &'a Scratch, topology: &str, names: &[&str]) -> Result<Site<'a>> {
        let tls = scratch.dir("tls")?;
        run(Command::new(weir_binary()?).args(["ca", "init"]).arg(&tls))?;
        run(Command::new(weir_binary()?).args(["ca", "issue"]).arg(&tls).args(names))?;
        Ok(Site { scratch, topology: scratch.write("topology.toml", topology)? })
    }

    /// One edge, `edge-1`, and one sink, `files-1`, that writes files soon; with the directory of the files.
    ///
    /// # Errors
    /// See [`Site::new`].
    pub fn files(scratch: &'a Scratch) -> Result<(Site<'a>, PathBuf)> {
        let (link, files) = (port()?, scratch.dir("files")?);
        let topology = format!(
            r#"version = 1
[cluster]
name = "files"
[[edge]]
name = "edge-1"
rack = "r1"
[[group]]
id = "files"
sink = [{{ name = "files-1", rack = "r1", address = "127.0.0.1:{link}" }}]
[group.store]
kind = "file"
path = "{}"
[group.part]
age = "300ms"
[[route]]
match = "**"
groups = ["files"]
"#,
            files.display()
        );
        Ok((Site::new(scratch, &topology, &["edge-1", "files-1"])?, files))
    }

    /// The topology's file.
    #[must_use]
    pub fn topology(&self) -> &PathBuf {
        &self.topology
    }

    /// Writes a node's file, with further lines for its `[listen]` table, and gives its path.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn node_file(&self, name: &str, role: &str, listen: &str) -> Result<PathBuf> {
        let text = format!(
            "name = \"{name}\"\nrole = \"{role}\"\nrack = \"r1\"\ndata_dir = \"data-{name}\"\n\
             topology = \"topology.toml\"\n[listen]\nmetrics = \"127.0.0.1:0\"\n{listen}\n\
             [tls]\nca = \"tls/ca.crt\"\ncert = \"tls/{name}.crt\"\nkey = \"tls/{name}.key\"\n"
        );
        self.scratch.write(&format!("{name}.toml"), text)
    }

    /// Starts an edge, on ports of the system's choice, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not come up; with the last lines of its log.
    pub fn edge(&self, name: &str) -> Result<Node> {
        self.start(name, "edge", "forward = \"127.0.0.1:0\"")
    }

    /// Starts a sink, where the topology says, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not come up; with the last lines of its log.
    pub fn sink(&self, name: &str) -> Result<Node> {
        self.start(name, "sink", "")
    }

    fn start(&self, name: &str, role: &str, listen: &str) -> Result<Node> {
        let file = self.node_file(name, role, listen)?;
        let mut command = Command::new(weir_binary()?);
        command.arg(role).arg("--config").arg(file);
        Node::of(Process::start(name, command, &self.scratch.dir("said")?)?)
    }
}

impl Node {
    /// Waits until a `weir` that was started is ready.
    ///
    /// # Errors
    /// If it does not come up; with the last lines of its log.
    pub fn of(mut process: Process) -> Result<Node> {
        let ready = process.wait_ready(START_TIMEOUT)?;
        Ok(Node { process, metrics: ready.addr("metrics")?, forward: ready.addr("forward").ok() })
    }

    /// Where senders connect, if it is an edge.
    ///
    /// # Errors
    /// If it is none.
    pub fn forward(&self) -> Result<SocketAddr> {
        self.forward.context("not an edge")
    }

    /// Starts it again after a kill, and waits until it is ready. Its ports may be others.
    ///
    /// # Errors
    /// If it still runs or does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        let ready = self.process.wait_ready(START_TIMEOUT)?;
        (self.metrics, self.forward) = (ready.addr("metrics")?, ready.addr("forward").ok());
        Ok(())
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// If it does not end, or not with 0.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.stop(STOP_TIMEOUT)?;
        ensure!(status.success(), "it did not stop in good order: {status}");
        Ok(())
    }
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// If it cannot be run or fails; with all that it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}
