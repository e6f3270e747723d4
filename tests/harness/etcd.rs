//! A real etcd of three members on this host.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::port::port;
use crate::process::Process;

/// Three members, each a process of its own.
#[derive(Debug)]
pub struct EtcdCluster {
    endpoints: Vec<String>,
    members: Vec<Process>,
}

impl EtcdCluster {
    /// Whether there is an `etcd` to run; `tests/setup.sh` installs it.
    #[must_use]
    pub fn is_possible() -> bool {
        Command::new("etcd").arg("--version").output().is_ok()
    }

    /// Starts all three, with data and logs below `directory`. They need not have elected anybody yet.
    ///
    /// # Errors
    /// If there is no `etcd`, or no free port.
    pub fn start(directory: &Path) -> Result<EtcdCluster> {
        let url = || port().map(|port| format!("http://127.0.0.1:{port}"));
        let endpoints: Vec<String> = (0..3).map(|_| url()).collect::<Result<_>>()?;
        let peers: Vec<String> = (0..3).map(|_| url()).collect::<Result<_>>()?;
        let all: Vec<String> = (0..3).map(|n| format!("m{n}={}", peers[n])).collect();
        let member = |n: usize| {
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("m{n}"), "--log-level", "error"]);
            command.arg("--data-dir").arg(directory.join(format!("etcd-{n}")));
            command.args(["--listen-client-urls", &endpoints[n], "--advertise-client-urls", &endpoints[n]]);
            command.args(["--listen-peer-urls", &peers[n], "--initial-advertise-peer-urls", &peers[n]]);
            command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
            // The machine may be busy with other tests.
            command.args(["--heartbeat-interval", "200", "--election-timeout", "2000"]);
            Process::start(&format!("etcd-{n}"), command, directory).context("tests/setup.sh installs etcd")
        };
        let members = (0..3).map(member).collect::<Result<_>>()?;
        Ok(EtcdCluster { endpoints, members })
    }

    /// The URLs of all members.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// SIGKILL to a member.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill_9(&mut self, member: usize) -> Result<()> {
        self.members[member].kill_9()
    }

    /// Starts a member again that was killed.
    ///
    /// # Errors
    /// If it still runs or cannot be started.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        self.members[member].restart()
    }
}
