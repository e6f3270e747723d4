//! A network of hosts with one address each, joined by a bridge, with faults that can be put between any two.
//!
//! Make it inside [`crate::in_own_world`]. The test itself, and what it starts without a host, is at
//! [`Network::HOME`]: the senders and the stores.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::paths::output;
use crate::process::Process;

/// The bridge and its hosts.
#[derive(Debug)]
pub struct Network {
    hosts: u8,
}

/// A host: a network namespace that lives as long as this value.
#[derive(Debug)]
pub struct Host {
    address: Ipv4Addr,
    holder: Process,
    faults: Vec<Fault>,
}

/// What is wrong with what a host hears. What it says is another host's hearing, so a fault is one-way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing of that address comes in.
    Deaf(Ipv4Addr),
    /// So many packets in a hundred do not come in, whoever sent them.
    Loss(u8),
}

impl Network {
    /// The address of the test itself.
    pub const HOME: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    /// Lays the bridge.
    ///
    /// # Errors
    /// If the system refuses, as it does where this namespace has one already.
    pub fn new() -> Result<Network> {
        let home = Network::HOME;
        shell(&format!(
            "ip link add weir type bridge && ip addr add {home}/24 dev weir && ip link set weir up"
        ))?;
        Ok(Network { hosts: 0 })
    }

    /// One more host; its holder's log goes to `logs`.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn host(&mut self, name: &str, logs: &Path) -> Result<Host> {
        self.hosts += 1;
        let number = 10 + self.hosts;
        let address = Ipv4Addr::new(10, 77, 0, number);
        let mut hold = Command::new("setpriv");
        hold.args(["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "echo there; exec sleep infinity"]);
        let mut holder = Process::start(&format!("host-{name}"), hold, logs)?;
        holder.wait_for_line("there", std::time::Duration::from_secs(20))?;
        let pid = holder.pid();
        shell(&format!(
            "ip link add v{number} type veth peer name eth0 netns {pid} && ip link set v{number} master weir up"
        ))?;
        let host = Host { address, holder, faults: Vec::new() };
        output(host.command("sh").args([
            "-c",
            &format!("ip link set lo up && ip addr add {address}/24 dev eth0 && ip link set eth0 up"),
        ]))?;
        Ok(host)
    }
}

impl Host {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs on this host. Its process is the program's own: signals reach it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.pid())).arg(program.as_ref());
        command
    }

    /// Puts a fault before this host's ears, beside those that are there.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn fault(&mut self, fault: Fault) -> Result<()> {
        self.faults.push(fault);
        self.apply()
    }

    /// Takes one such fault away.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn mend(&mut self, fault: Fault) -> Result<()> {
        if let Some(at) = self.faults.iter().position(|each| *each == fault) {
            self.faults.swap_remove(at);
        }
        self.apply()
    }

    /// Takes all faults away.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn heal(&mut self) -> Result<()> {
        self.faults.clear();
        self.apply()
    }

    fn apply(&self) -> Result<()> {
        let rule = |fault: &Fault| match fault {
            Fault::Deaf(from) => format!("ip saddr {from} drop\n"),
            Fault::Loss(percent) => format!("numgen random mod 100 < {percent} drop\n"),
        };
        let rules: String = self.faults.iter().map(rule).collect();
        // Made and deleted first, so that there is one to delete: what is loaded together takes effect together.
        let table = format!(
            "table inet faults {{\n}}\ndelete table inet faults\ntable inet faults {{\nchain hear {{\n\
             type filter hook input priority 0; policy accept;\n{rules}}}\n}}\n"
        );
        let mut nft = self.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        nft.stdin.take().context("it was piped")?.write_all(table.as_bytes())?;
        ensure!(nft.wait()?.success(), "nft does not take:\n{table}");
        Ok(())
    }
}

fn shell(script: &str) -> Result<()> {
    output(Command::new("sh").args(["-c", script])).map(drop)
}
