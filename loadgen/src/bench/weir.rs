//! A small cluster of real `weir` processes in a directory of its own: certificates, topology, edge, sink.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};

use super::process::Process;

/// How long a node may take to start. A large log is opened in this time too.
const READY_MAX: Duration = Duration::from_secs(60);

/// The files of a cluster with one edge, one sink and one group; nothing runs yet.
#[derive(Debug)]
pub(super) struct Cluster {
    binary: PathBuf,
    dir: PathBuf,
}

/// What the group's sink writes to.
#[derive(Clone, Debug)]
pub(super) enum Store {
    /// Files below `<dir>/output`.
    File,
    /// A Kafka cluster, by its brokers, and the topic.
    Kafka(String, String),
}

impl Cluster {
    /// Writes the files of a cluster into `dir`.
    pub(super) fn new(binary: &Path, dir: &Path, store: &Store) -> anyhow::Result<Self> {
        Self::with_door(binary, dir, store, "")
    }

    /// The same; `door` is what `[forward]` says.
    pub(super) fn with_door(binary: &Path, dir: &Path, store: &Store, door: &str) -> anyhow::Result<Self> {
        let cluster = Self { binary: binary.to_owned(), dir: dir.to_owned() };
        let tls = dir.join("tls");
        cluster.weir(&["ca", "init"], &tls, &[])?;
        cluster.weir(&["ca", "issue"], &tls, &["bench-edge", "bench-sink"])?;
        // A free port; the edge must know it before the sink runs.
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let store = match store {
            Store::File => "kind = \"file\"\npath = \"output\"".to_owned(),
            Store::Kafka(brokers, topic) => {
                format!("kind = \"kafka\"\nbrokers = [{brokers:?}]\ntopic = {topic:?}")
            }
        };
        let topology = format!(
            "version = 1\n[cluster]\nname = \"bench\"\n[[edge]]\nname = \"bench-edge\"\nrack = \"r\"\n\
             [[group]]\nid = \"bench\"\nquota = \"1TiB\"\n\
             sink = [{{ name = \"bench-sink\", rack = \"r\", address = \"127.0.0.1:{port}\" }}]\n\
             [group.store]\n{store}\n[[route]]\nmatch = \"**\"\ngroups = [\"bench\"]\n[forward]\n{door}"
        );
        fs::write(dir.join("topology.toml"), topology)?;
        for (role, listen) in [("edge", "forward = \"127.0.0.1:0\"\n"), ("sink", "")] {
            let name = format!("bench-{role}");
            let node = format!(
                "name = \"{name}\"\nrole = \"{role}\"\nrack = \"r\"\ndata_dir = \"{name}\"\n\
                 topology = \"topology.toml\"\n[listen]\n{listen}metrics = \"127.0.0.1:0\"\n\
                 [tls]\nca = \"tls/ca.crt\"\ncert = \"tls/{name}.crt\"\nkey = \"tls/{name}.key\"\n"
            );
            fs::write(dir.join(format!("{role}.toml")), node)?;
        }
        Ok(cluster)
    }

    /// Where the sink's files are.
    pub(super) fn output(&self) -> PathBuf {
        self.dir.join("output")
    }

    /// Starts the edge; gives where senders connect and where its metrics are.
    pub(super) fn edge(&self) -> anyhow::Result<(Process, SocketAddr, SocketAddr)> {
        let mut process = self.start("edge")?;
        let forward = process.wait_ready("forward", READY_MAX)?;
        let metrics = process.wait_ready("metrics", READY_MAX)?;
        Ok((process, forward, metrics))
    }

    /// Starts the sink; gives where its metrics are.
    pub(super) fn sink(&self) -> anyhow::Result<(Process, SocketAddr)> {
        let mut process = self.start("sink")?;
        let metrics = process.wait_ready("metrics", READY_MAX)?;
        Ok((process, metrics))
    }

    fn start(&self, role: &str) -> anyhow::Result<Process> {
        let name = format!("weir-{role}");
        Process::clear_log(&self.dir, &name);
        let mut command = Command::new(&self.binary);
        command.arg(role).arg("--config").arg(self.dir.join(format!("{role}.toml")));
        Process::start(&name, command, &self.dir)
    }

    fn weir(&self, verb: &[&str], dir: &Path, rest: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(verb).arg(dir).args(rest);
        let output = command.output().with_context(|| {
            format!("running {}; is it built? --weir names another one", self.binary.display())
        })?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// The sum of a metric's samples whose line contains `label`, from a node's page; 0 where it is not shown.
pub(super) fn metric(page: SocketAddr, name: &str, label: &str) -> anyhow::Result<f64> {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect_timeout(&page, Duration::from_secs(5))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text).context("reading a metrics page")?;
    let samples = text.lines().filter(|line| line.contains(label)).filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        (rest.starts_with([' ', '{'])).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    Ok(samples.sum())
}
