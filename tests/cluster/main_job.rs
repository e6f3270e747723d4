//! The main job with real processes and real stores: senders to edges to sinks to Kafka, HDFS and files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::{
    Client, HdfsCluster, KafkaCluster, Load, Mode, Process, Scratch, connections, loadgen_binary, metric,
    ports, until, weir_binary,
};

const READY: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(240);

/// Runs a command to its end and gives what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// Two edges and five sinks of three groups, each a process, with mutual TLS between them.
struct Cluster {
    edges: Vec<(Process, SocketAddr, SocketAddr)>,
    sinks: Vec<(Process, SocketAddr)>,
    files: PathBuf,
}

impl Cluster {
    fn start(scratch: &Scratch, kafka: &KafkaCluster, hdfs: &HdfsCluster) -> Result<Self> {
        let names = ["kafka-1", "kafka-2", "hdfs-1", "hdfs-2", "files-1"];
        let links = ports::<5>()?;
        let tls = scratch.dir("tls")?;
        run(Command::new(weir_binary()?).args(["ca", "init"]).arg(&tls))?;
        run(Command::new(weir_binary()?)
            .args(["ca", "issue"])
            .arg(&tls)
            .args(["edge-1", "edge-2"])
            .args(names))?;
        let files = scratch.dir("files")?;
        let sink = |index: usize| {
            format!(
                "{{ name = \"{}\", rack = \"r{}\", address = \"127.0.0.1:{}\" }}",
                names[index],
                index % 2 + 1,
                links[index]
            )
        };
        scratch.write(
            "topology.toml",
            format!(
                r#"version = 1
[cluster]
name = "main-job"
[[edge]]
name = "edge-1"
rack = "r1"
[[edge]]
name = "edge-2"
rack = "r2"
[[group]]
id = "kafka"
sink = [{}, {}]
[group.store]
kind = "kafka"
brokers = ["{}"]
topic = "weir-{{tag}}"
[group.part]
bytes = "64MiB"
age = "2s"
[[group]]
id = "hdfs"
sink = [{}, {}]
[group.store]
kind = "hdfs"
url = "{}"
path = "/logs"
[group.part]
age = "3s"
[[group]]
id = "files"
sink = [{}]
[group.store]
kind = "file"
path = "{}"
[[route]]
match = "app.**"
groups = ["files", "hdfs"]
[[route]]
match = "shop client.**"
groups = ["files", "kafka"]
[[route]]
match = "**"
groups = ["kafka"]
"#,
                sink(0),
                sink(1),
                kafka.bootstrap(),
                sink(2),
                sink(3),
                hdfs.url(),
                sink(4),
                files.display(),
            ),
        )?;
        let logs = scratch.dir("said")?;
        let node = |name: &str, role: &str, listen: &str| -> Result<Process> {
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
            Process::start(name, command, &logs)
        };
        let mut sinks = Vec::new();
        for name in names {
            let mut process = node(name, "sink", "")?;
            let metrics = process.wait_ready(READY)?.addr("metrics")?;
            sinks.push((process, metrics));
        }
        let mut edges = Vec::new();
        for name in ["edge-1", "edge-2"] {
            let mut process = node(name, "edge", "forward = \"127.0.0.1:0\"")?;
            let ready = process.wait_ready(READY)?;
            let (forward, metrics) = (ready.addr("forward")?, ready.addr("metrics")?);
            edges.push((process, forward, metrics));
        }
        Ok(Self { edges, sinks, files })
    }

    fn send(&self, scratch: &Scratch, name: &str, events: u64, tags: u64) -> Result<PathBuf> {
        let ledger = scratch.path().join(format!("{name}.ledger"));
        let mut command = Command::new(loadgen_binary()?);
        command.arg("send").args(["--ack", "--events", &events.to_string(), "--tags", &tags.to_string()]);
        command.args(["--tag-prefix", name, "--stream-prefix", name]).arg("--ledger").arg(&ledger);
        for (_, forward, _) in &self.edges {
            command.args(["--to", &forward.to_string()]);
        }
        run(&mut command)?;
        Ok(ledger)
    }
}

fn verify(source: &[&str], ledger: Option<&PathBuf>, prefix: &str, events: u64) -> Result<()> {
    let mut command = Command::new(loadgen_binary()?);
    command.arg("verify").args(source).args(["--wait", "240", "--expect", &events.to_string()]);
    command.args(["--stream-prefix", prefix]);
    if let Some(ledger) = ledger {
        command.arg("--ledger").arg(ledger);
    }
    run(&mut command).map(drop)
}

#[test]
fn every_event_is_once_in_each_store_of_its_route() {
    Scratch::run("main-job", |scratch| {
        let kafka = KafkaCluster::start(scratch, 1)?;
        let mut hdfs = HdfsCluster::start(scratch, 1)?;
        let mut cluster = Cluster::start(scratch, &kafka, &hdfs)?;
        let files = cluster.files.display().to_string();
        let directory = format!("{}/logs", hdfs.url());

        // A million events over 1 000 tags, to HDFS and to files. HDFS is away meanwhile: the files go on.
        hdfs.stop_all()?;
        let ledger = cluster.send(scratch, "app", 1_000_000, 1_000)?;
        verify(&["--files", &files], Some(&ledger), "app", 1_000_000)?;
        hdfs.restart_all()?;

        // Events for Kafka, a topic for each tag.
        let many = cluster.send(scratch, "topics", 50_000, 100)?;
        verify(
            &["--kafka", &kafka.bootstrap(), "--topic-prefix", "weir-topics"],
            Some(&many),
            "topics",
            50_000,
        )?;
        for (process, _) in &cluster.sinks[..2] {
            let open = connections(process.pid(), kafka.ports()[0])?;
            ensure!(open <= 2, "{open} connections to one broker; brokers + bootstrap are 2");
        }

        // Real client libraries.
        for (client, name) in
            [Client::python(), Client::node(), Client::go()].into_iter().zip(["py", "js", "go"])
        {
            let load = Load {
                port: cluster.edges[0].1.port(),
                tag_prefix: "client".to_owned(),
                tags: 3,
                count: 2_000,
                stream: name.to_owned(),
                mode: Mode::Message,
                ack: name != "py",
                event_time: true,
            };
            client.send(&load, &scratch.dir("clients")?, LONG)?;
            verify(&["--files", &files], None, name, 2_000)?;
            verify(&["--kafka", &kafka.bootstrap(), "--topic-prefix", "weir-client"], None, name, 2_000)?;
        }

        // What waited for HDFS has come, once.
        verify(&["--hdfs", &directory], Some(&ledger), "app", 1_000_000)?;

        for (edge, _, metrics) in &mut cluster.edges {
            until("the edge's logs to be empty", LONG, || -> Result<()> {
                let waiting = metric(*metrics, "weir_dispatch_promised_parts", &[])?;
                ensure!(waiting == 0.0, "{waiting} parts are promised");
                Ok(())
            })?;
            ensure!(edge.stop(READY)?.success(), "an edge did not stop in good order");
        }
        for (sink, _) in &mut cluster.sinks {
            ensure!(sink.stop(READY)?.success(), "a sink did not stop in good order");
        }
        Ok(())
    });
}

/// One round takes about a minute; `WEIR_TEST_ROUNDS` asks for more than one.
fn rounds() -> usize {
    std::env::var("WEIR_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[test]
#[ignore = "a second kill of a Kafka sink may leave its parts unsettled for minutes; see tests/README.md"]
fn a_killed_sink_and_a_killed_edge_lose_and_double_nothing() {
    Scratch::run("killed", |scratch| {
        let kafka = KafkaCluster::start(scratch, 1)?;
        let hdfs = HdfsCluster::start(scratch, 1)?;
        let mut cluster = Cluster::start(scratch, &kafka, &hdfs)?;
        let bootstrap = kafka.bootstrap();
        for round in 0..rounds() {
            let name = format!("kill{round}");
            let send = |tag: &str| cluster.send(scratch, tag, 100_000, 20);
            let before = send(&name)?;
            // Whatever it was doing, it is gone; the other member settles its parts.
            cluster.sinks[0].0.kill_9()?;
            let during = cluster.send(scratch, &format!("{name}b"), 20_000, 20)?;
            cluster.sinks[0].0.restart()?;
            cluster.sinks[0].0.wait_ready(READY)?;
            let topics = ["--kafka", &bootstrap, "--topic-prefix", "weir-kill"];
            verify(&topics, Some(&before), &format!("{name}-"), 100_000)?;
            verify(&topics, Some(&during), &format!("{name}b-"), 20_000)?;

            let durable = cluster.send(scratch, &format!("{name}c"), 50_000, 20)?;
            let edge = &mut cluster.edges[round % 2];
            edge.0.kill_9()?;
            edge.0.restart()?;
            let ready = edge.0.wait_ready(READY)?;
            (edge.1, edge.2) = (ready.addr("forward")?, ready.addr("metrics")?);
            verify(&topics, Some(&durable), &format!("{name}c-"), 50_000)?;
        }
        Ok(())
    });
}
