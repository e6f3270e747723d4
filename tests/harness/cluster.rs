//! A whole cluster of Weir's processes, each on a host of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::network::{Host, Network};
use crate::paths::{output, weir_binary};
use crate::process::{Process, Ready};
use crate::scratch::Scratch;

/// From the start of a node to its ready line.
const READY: Duration = Duration::from_secs(60);
const FORWARD_PORT: u16 = 24224;
const LINK_PORT: u16 = 24400;
const METRICS_PORT: u16 = 24220;

/// What a cluster is made of. The nodes' names are `edge-1`, `edge-2`, ..., and `GROUP-1`, `GROUP-2`, ... for sinks.
#[derive(Debug, Default)]
pub struct Plan {
    edges: usize,
    groups: Vec<(String, usize, String)>,
    routes: String,
    data: BTreeMap<String, PathBuf>,
    environment: Vec<(String, String, String)>,
}

impl Plan {
    /// A cluster of so many edges, and no group yet.
    #[must_use]
    pub fn new(edges: usize) -> Plan {
        Plan { edges, ..Plan::default() }
    }

    /// Adds a group of so many sinks. `settings` is the rest of its table in the topology: keys first, then tables as
    /// `[group.store]`.
    #[must_use]
    pub fn group(mut self, id: &str, sinks: usize, settings: &str) -> Plan {
        self.groups.push((id.to_owned(), sinks, settings.to_owned()));
        self
    }

    /// Adds a route.
    #[must_use]
    pub fn route(mut self, pattern: &str, groups: &[&str]) -> Plan {
        self.routes += &format!("[[route]]\nmatch = \"{pattern}\"\ngroups = {groups:?}\n");
        self
    }

    /// Says where a node keeps its data; by default in the scratch directory.
    #[must_use]
    pub fn data(mut self, node: &str, dir: impl Into<PathBuf>) -> Plan {
        self.data.insert(node.to_owned(), dir.into());
        self
    }

    /// Gives a node a variable of its environment.
    #[must_use]
    pub fn environment(mut self, node: &str, name: &str, value: &str) -> Plan {
        self.environment.push((node.to_owned(), name.to_owned(), value.to_owned()));
        self
    }

    fn topology(&self, hosts: &BTreeMap<String, Host>) -> Result<String> {
        let mut text = "version = 1\n[cluster]\nname = \"test\"\n".to_owned();
        for edge in 1..=self.edges {
            text += &format!("[[edge]]\nname = \"edge-{edge}\"\nrack = \"r1\"\n");
        }
        for (id, sinks, settings) in &self.groups {
            text += &format!("[[group]]\nid = \"{id}\"\nsink = [\n");
            for sink in 1..=*sinks {
                let name = format!("{id}-{sink}");
                let address = hosts.get(&name).context("each sink has a host")?.address();
                text += &format!(
                    "{{ name = \"{name}\", rack = \"r1\", address = \"{address}:{LINK_PORT}\" }},\n"
                );
            }
            text += &format!("]\n{settings}\n");
        }
        Ok(text + &self.routes)
    }
}

/// A node: its process and the host that it runs on.
#[derive(Debug)]
pub struct HostedNode {
    /// The process.
    pub process: Process,
    /// Its host.
    pub host: Host,
}

impl HostedNode {
    /// Where senders connect, if it is an edge.
    #[must_use]
    pub fn forward(&self) -> SocketAddr {
        (self.host.address(), FORWARD_PORT).into()
    }

    /// Where its metrics are.
    #[must_use]
    pub fn metrics(&self) -> SocketAddr {
        (self.host.address(), METRICS_PORT).into()
    }

    /// Starts it again after it was killed or stopped, and waits until it is ready.
    ///
    /// # Errors
    /// If it still runs or does not come up.
    pub fn restart(&mut self) -> Result<Ready> {
        self.process.restart()?;
        self.process.wait_ready(READY)
    }
}

/// A running cluster, with mutual TLS between its nodes. Logs of all nodes lie in `said/` of the scratch directory.
#[derive(Debug)]
pub struct Cluster {
    nodes: BTreeMap<String, HostedNode>,
}

impl Cluster {
    /// Starts all nodes and waits until they are ready.
    ///
    /// # Errors
    /// If one does not come up.
    pub fn start(scratch: &Scratch, network: &mut Network, plan: &Plan) -> Result<Cluster> {
        let said = scratch.dir("said")?;
        let edges = (1..=plan.edges).map(|number| ("edge", format!("edge-{number}")));
        let sinks = plan
            .groups
            .iter()
            .flat_map(|(id, sinks, _)| (1..=*sinks).map(move |n| ("sink", format!("{id}-{n}"))));
        let names: Vec<(&str, String)> = sinks.chain(edges).collect();
        let mut hosts = BTreeMap::new();
        for (_, name) in &names {
            hosts.insert(name.clone(), network.host(name, &said)?);
        }
        let tls = scratch.dir("tls")?;
        output(Command::new(weir_binary()?).args(["ca", "init"]).arg(&tls))?;
        output(
            Command::new(weir_binary()?)
                .args(["ca", "issue"])
                .arg(&tls)
                .args(names.iter().map(|(_, name)| name)),
        )?;
        scratch.write("topology.toml", plan.topology(&hosts)?)?;

        let mut nodes = BTreeMap::new();
        for (role, name) in &names {
            let host = hosts.remove(name).context("made above")?;
            let file = scratch.write(&format!("{name}.toml"), node_file(plan, role, name, &host))?;
            let mut command = host.command(weir_binary()?);
            command.arg(role).arg("--config").arg(file);
            let own = plan.environment.iter().filter(|(node, ..)| node == name);
            command.envs(own.map(|(_, name, value)| (name, value)));
            let process = Process::start(name, command, &said)?;
            nodes.insert(name.clone(), HostedNode { process, host });
        }
        for node in nodes.values_mut() {
            node.process.wait_ready(READY)?;
        }
        Ok(Cluster { nodes })
    }

    /// A node by its name.
    ///
    /// # Errors
    /// If there is none.
    pub fn node(&mut self, name: &str) -> Result<&mut HostedNode> {
        self.nodes.get_mut(name).with_context(|| format!("no node {name}"))
    }

    /// All nodes by their names.
    pub fn nodes(&mut self) -> impl Iterator<Item = (&String, &mut HostedNode)> {
        self.nodes.iter_mut()
    }

    /// Where senders connect: all edges.
    #[must_use]
    pub fn forward(&self) -> Vec<SocketAddr> {
        let edges = self.nodes.iter().filter(|(name, _)| name.starts_with("edge-"));
        edges.map(|(_, node)| node.forward()).collect()
    }
}

fn node_file(plan: &Plan, role: &str, name: &str, host: &Host) -> String {
    let data = plan.data.get(name).cloned().unwrap_or_else(|| format!("data-{name}").into());
    let address = host.address();
    let forward =
        if role == "edge" { format!("forward = \"{address}:{FORWARD_PORT}\"\n") } else { String::new() };
    format!(
        "name = \"{name}\"\nrole = \"{role}\"\nrack = \"r1\"\ndata_dir = \"{data}\"\ntopology = \"topology.toml\"\n\
         [listen]\nmetrics = \"{address}:{METRICS_PORT}\"\n{forward}\
         [tls]\nca = \"tls/ca.crt\"\ncert = \"tls/{name}.crt\"\nkey = \"tls/{name}.key\"\n",
        data = data.display(),
    )
}
