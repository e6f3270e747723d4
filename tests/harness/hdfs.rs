//! A real Apache HDFS: a NameNode and DataNodes, each a process of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::jvm::java;
use crate::observe::http_get;
use crate::paths::output;
use crate::port::{port, ports};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::wait::until;

/// From `java` to serving: 4 s on an idle machine of 2 cores, many times that on a busy one.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const HEAP_MIB_MAX: u32 = 256;
const LOGGING: &str = "log4j.rootLogger=INFO,out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %c{1} %m%n
";
/// The page directories that Hadoop's web servers want to see, even empty, before they start.
const WEB_APPS: [&str; 2] = ["webapps/hdfs", "webapps/datanode"];

/// A running file system on free ports, without authentication; logs and data lie in `hdfs/` of the scratch
/// directory.
#[derive(Debug)]
pub struct HdfsCluster {
    name_node: Process,
    data_nodes: Vec<Process>,
    host: Ipv4Addr,
    rpc_port: u16,
    http: SocketAddr,
    conf: PathBuf,
}

impl HdfsCluster {
    /// Starts a NameNode and so many DataNodes, and waits until all are known and files can be written. Files have
    /// as many replicas as there are DataNodes, three at most.
    ///
    /// # Errors
    /// If the jars are missing or a process does not come up; with the last lines of its log.
    pub fn start(scratch: &Scratch, data_nodes: usize) -> Result<HdfsCluster> {
        HdfsCluster::start_at(scratch, data_nodes, Ipv4Addr::LOCALHOST)
    }

    /// The same at another address of this machine, such as [`crate::Network::HOME`].
    ///
    /// # Errors
    /// See [`HdfsCluster::start`].
    pub fn start_at(scratch: &Scratch, data_nodes: usize, host: Ipv4Addr) -> Result<HdfsCluster> {
        ensure!(data_nodes > 0, "a file system of no DataNodes");
        let logs = scratch.dir("hdfs")?;
        let [rpc_port, http_port] = ports()?;
        let shared = shared_site(host, rpc_port, http_port, data_nodes);

        let conf = configure(&scratch.dir("hdfs/name")?, host, rpc_port, &shared)?;
        let name_node_class = "org.apache.hadoop.hdfs.server.namenode.NameNode";
        output(hadoop(&conf)?.args([name_node_class, "-format", "-nonInteractive"]))?;
        let mut serve = hadoop(&conf)?;
        serve.arg(name_node_class);
        let name_node = Process::start("name", serve, &logs)?;

        let mut processes = Vec::new();
        for node in 0..data_nodes {
            let name = format!("data-{node}");
            let site = [data_node_site(host)?, shared.clone()].concat();
            let conf = configure(&scratch.dir(&format!("hdfs/{name}"))?, host, rpc_port, &site)?;
            let mut serve = hadoop(&conf)?;
            serve.arg("org.apache.hadoop.hdfs.server.datanode.DataNode");
            processes.push(Process::start(&name, serve, &logs)?);
        }
        let http = SocketAddr::from((host, http_port));
        let mut cluster = HdfsCluster { name_node, data_nodes: processes, host, rpc_port, http, conf };
        cluster.wait_serves()?;
        Ok(cluster)
    }

    /// The file system's address: `hdfs://HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("hdfs://{}:{}", self.host, self.rpc_port)
    }

    /// The NameNode's port for clients.
    #[must_use]
    pub fn rpc_port(&self) -> u16 {
        self.rpc_port
    }

    /// The NameNode's process: to kill, freeze, thaw or look at.
    pub fn name_node(&mut self) -> &mut Process {
        &mut self.name_node
    }

    /// One DataNode's process, counted from 0: to kill, freeze, thaw or look at.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn data_node(&mut self, index: usize) -> Result<&mut Process> {
        self.data_nodes.get_mut(index).with_context(|| format!("no DataNode {index}"))
    }

    /// Starts a stopped or killed NameNode again, and waits until files can be written.
    ///
    /// # Errors
    /// If it still runs or does not come up.
    pub fn restart_name_node(&mut self) -> Result<()> {
        self.name_node.restart()?;
        self.wait_serves()
    }

    /// Starts a stopped or killed DataNode again, and waits until the NameNode knows its blocks.
    ///
    /// # Errors
    /// If it still runs or does not come up, or if the NameNode does not run.
    pub fn restart_data_node(&mut self, index: usize) -> Result<()> {
        let node = self.data_node(index)?;
        node.restart()?;
        wait_reported(node)
    }

    /// Stops everything: an outage of the whole store.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn stop_all(&mut self) -> Result<()> {
        for process in self.data_nodes.iter_mut().chain([&mut self.name_node]) {
            if process.exited()?.is_none() && process.stop(STOP_TIMEOUT).is_err() {
                process.kill_9()?;
            }
        }
        Ok(())
    }

    /// The end of the outage: starts everything and waits until files can be written.
    ///
    /// # Errors
    /// If a process still runs or does not come up.
    pub fn restart_all(&mut self) -> Result<()> {
        self.name_node.restart()?;
        self.data_nodes.iter_mut().try_for_each(Process::restart)?;
        self.data_nodes.iter_mut().try_for_each(wait_reported)?;
        self.wait_serves()
    }

    /// Runs `hdfs dfs` with these arguments and gives what it printed: `shell(&["-ls", "-R", "/"])`. A second each.
    ///
    /// # Errors
    /// If the command fails; with what it said.
    pub fn shell(&self, arguments: &[&str]) -> Result<String> {
        let mut command = hadoop(&self.conf)?;
        command.arg("-Dlog4j.configuration=none").arg("org.apache.hadoop.fs.FsShell").args(arguments);
        output(&mut command)
    }

    /// Waits until the NameNode has left its safe mode and knows all running DataNodes.
    fn wait_serves(&mut self) -> Result<()> {
        let mut running = 0;
        for node in &mut self.data_nodes {
            running += u64::from(node.exited()?.is_none());
        }
        let http = self.http;
        until("HDFS to serve", START_TIMEOUT, || {
            let state = jmx(http, "NameNode", "FSNamesystemState")?;
            let (mode, live) = (&state["FSState"], &state["NumLiveDataNodes"]);
            ensure!(mode == "Operational" && *live == running, "{mode}, {live} of {running} DataNodes");
            Ok(())
        })
        .with_context(|| format!("see the logs beside {}", self.conf.display()))
    }
}

/// Waits until the NameNode has heard from this start of a DataNode. Its own count would not do: it believes in a dead
/// DataNode for a while.
fn wait_reported(node: &mut Process) -> Result<()> {
    node.wait_for_line("Successfully sent block report", START_TIMEOUT).map(drop)
}

fn hadoop(conf: &Path) -> Result<Command> {
    java("hdfs", conf, HEAP_MIB_MAX)
}

/// One managed bean of a Hadoop process.
fn jmx(http: SocketAddr, service: &str, name: &str) -> Result<Value> {
    let body = http_get(http, &format!("/jmx?qry=Hadoop:service={service},name={name}"))?;
    let mut answer: Value = serde_json::from_str(&body)?;
    answer["beans"].get_mut(0).map(Value::take).with_context(|| format!("no bean {name} yet"))
}

/// Writes a process's configuration directory below its own directory, and gives its path.
fn configure(dir: &Path, host: Ipv4Addr, rpc_port: u16, site: &[(&str, String)]) -> Result<PathBuf> {
    let conf = dir.join("conf");
    for app in WEB_APPS {
        fs::create_dir_all(conf.join(app))?;
    }
    let place = |name: &str| dir.join(name).display().to_string();
    let core = [("fs.defaultFS", format!("hdfs://{host}:{rpc_port}")), ("hadoop.tmp.dir", place("tmp"))];
    let places = [("dfs.namenode.name.dir", place("name")), ("dfs.datanode.data.dir", place("blocks"))];
    fs::write(conf.join("core-site.xml"), xml(&core))?;
    fs::write(conf.join("hdfs-site.xml"), xml(&[&places, site].concat()))?;
    fs::write(conf.join("log4j.properties"), LOGGING)?;
    Ok(conf)
}

fn shared_site(
    host: Ipv4Addr,
    rpc_port: u16,
    http_port: u16,
    data_nodes: usize,
) -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    vec![
        ("dfs.namenode.rpc-address", format!("{host}:{rpc_port}")),
        ("dfs.namenode.http-address", format!("{host}:{http_port}")),
        ("dfs.replication", data_nodes.min(3).to_string()),
        ("dfs.blocksize", (16 << 20).to_string()),
        ("dfs.permissions.enabled", text("false")),
        ("dfs.namenode.datanode.registration.ip-hostname-check", text("false")),
        // With few DataNodes any of them may look too busy beside the others, and writes would be refused.
        ("dfs.namenode.redundancy.considerLoad", text("false")),
        ("dfs.namenode.safemode.extension", text("0")),
        // A dead DataNode is noticed after 2 × 1 s + 10 × 1 s, instead of ten minutes.
        ("dfs.heartbeat.interval", text("1")),
        ("dfs.namenode.heartbeat.recheck-interval", text("1000")),
    ]
}

fn data_node_site(host: Ipv4Addr) -> Result<Vec<(&'static str, String)>> {
    let address = || -> Result<String> { Ok(format!("{host}:{}", port()?)) };
    Ok(vec![
        ("dfs.datanode.hostname", host.to_string()),
        ("dfs.datanode.address", address()?),
        ("dfs.datanode.http.address", address()?),
        ("dfs.datanode.ipc.address", address()?),
    ])
}

fn xml(properties: &[(&str, String)]) -> String {
    let property = |(name, value): &(&str, String)| {
        format!("<property><name>{name}</name><value>{value}</value></property>\n")
    };
    format!("<configuration>\n{}</configuration>\n", properties.iter().map(property).collect::<String>())
}
