//! The main job with real processes and real stores: senders to edges to sinks to Kafka, HDFS and files.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::{
    Client, HdfsCluster, KafkaCluster, Load, Mode, Node, Scratch, Site, connections, loadgen_binary, metric,
    port, ports, run, scrape, until,
};

const LONG: Duration = Duration::from_secs(240);

/// Two edges and five sinks of three groups, each a process, with mutual TLS between them.
struct Cluster {
    edges: Vec<Node>,
    sinks: Vec<Node>,
    files: PathBuf,
}

impl Cluster {
    fn start(scratch: &Scratch, kafka: &KafkaCluster, hdfs: &str) -> Result<Self> {
        let names = ["kafka-1", "kafka-2", "hdfs-1", "hdfs-2", "files-1"];
        let links = ports::<5>()?;
        let files = scratch.dir("files")?;
        let sink = |index: usize| {
            format!(
                "{{ name = \"{}\", rack = \"r{}\", address = \"127.0.0.1:{}\" }}",
                names[index],
                index % 2 + 1,
                links[index]
            )
        };
        let topology = format!(
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
            hdfs,
            sink(4),
            files.display(),
        );
        let all = [&names[..], &["edge-1", "edge-2"]].concat();
        let site = Site::new(scratch, &topology, &all)?;
        let sinks = names.iter().map(|name| site.sink(name)).collect::<Result<_>>()?;
        let edges = ["edge-1", "edge-2"].map(|name| site.edge(name)).into_iter().collect::<Result<_>>()?;
        Ok(Self { edges, sinks, files })
    }

    fn send(&self, scratch: &Scratch, name: &str, events: u64, tags: u64) -> Result<PathBuf> {
        let ledger = scratch.path().join(format!("{name}.ledger"));
        let mut command = Command::new(loadgen_binary()?);
        command.arg("send").args(["--ack", "--events", &events.to_string(), "--tags", &tags.to_string()]);
        command.args(["--tag-prefix", name, "--stream-prefix", name]).arg("--ledger").arg(&ledger);
        for edge in &self.edges {
            command.args(["--to", &edge.forward()?.to_string()]);
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
        let mut cluster = Cluster::start(scratch, &kafka, &hdfs.url())?;
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
        for sink in &cluster.sinks[..2] {
            let open = connections(sink.process.pid(), kafka.ports()[0])?;
            ensure!(open <= 2, "{open} connections to one broker; brokers + bootstrap are 2");
        }

        // Real client libraries.
        for (client, name) in
            [Client::python(), Client::node(), Client::go()].into_iter().zip(["py", "js", "go"])
        {
            let load = Load {
                port: cluster.edges[0].forward()?.port(),
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

        for edge in &mut cluster.edges {
            until("the edge's logs to be empty", LONG, || -> Result<()> {
                let waiting = metric(edge.metrics, "weir_dispatch_promised_parts", &[])?;
                ensure!(waiting == 0.0, "{waiting} parts are promised");
                Ok(())
            })?;
            edge.stop()?;
        }
        cluster.sinks.iter_mut().try_for_each(Node::stop)
    });
}

/// One round takes half a minute; `WEIR_TEST_ROUNDS` asks for more than one.
fn rounds() -> usize {
    std::env::var("WEIR_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Waits until an edge has promised a part: from then on, and until the store has spoken, that part is in doubt.
fn promised(edge: &Node) -> Result<()> {
    until("a promise", LONG, || -> Result<()> {
        let parts = metric(edge.metrics, "weir_dispatch_promised_parts", &[("group", "kafka")])?;
        ensure!(parts > 0.0, "{parts} parts are promised");
        Ok(())
    })
}

/// Parts that sinks have settled for others, or for their own former lives.
fn settled(sinks: &[Node]) -> Result<f64> {
    let outcomes = ["resolved_committed", "resolved_void", "resolved_partial"];
    let of = |sink: &Node| -> Result<f64> {
        let metrics = scrape(sink.metrics)?;
        Ok(outcomes
            .iter()
            .filter_map(|outcome| metrics.get("weir_parts_total", &[("outcome", outcome)]))
            .sum())
    };
    sinks.iter().map(of).sum()
}

// The broker stands still while a part is being committed, so that whoever is killed then leaves it in doubt; and it
// goes on afterwards with whatever had reached it, a late commit too.
#[test]
fn a_killed_sink_and_a_killed_edge_lose_and_double_nothing() {
    Scratch::run("killed", |scratch| {
        let mut kafka = KafkaCluster::start(scratch, 1)?;
        // No event goes to HDFS here: its sinks wait for a store that is not there, and disturb nobody.
        let mut cluster = Cluster::start(scratch, &kafka, &format!("hdfs://127.0.0.1:{}", port()?))?;
        let bootstrap = kafka.bootstrap();
        for round in 0..rounds() {
            let name = format!("kill{round}");
            let topics = ["--kafka", &bootstrap, "--topic-prefix", &format!("weir-{name}")];
            // The first has topics made, and connections.
            let before = cluster.send(scratch, &name, 50_000, 20)?;
            verify(&topics, Some(&before), &format!("{name}-"), 50_000)?;

            kafka.broker(0)?.freeze()?;
            let during = cluster.send(scratch, &format!("{name}b"), 50_000, 20)?;
            promised(&cluster.edges[0])?;
            cluster.sinks[0].process.kill_9()?;
            let after = cluster.send(scratch, &format!("{name}c"), 20_000, 20)?;
            kafka.broker(0)?.thaw()?;
            if round % 2 == 0 {
                // The other member settles what it left.
                until("parts to be settled", LONG, || -> Result<()> {
                    ensure!(settled(&cluster.sinks[1..2])? > 0.0, "none yet");
                    Ok(())
                })?;
            }
            cluster.sinks[0].restart()?;
            verify(&topics, Some(&during), &format!("{name}b-"), 50_000)?;
            verify(&topics, Some(&after), &format!("{name}c-"), 20_000)?;

            kafka.broker(0)?.freeze()?;
            let durable = cluster.send(scratch, &format!("{name}d"), 50_000, 20)?;
            let edge = &mut cluster.edges[round % 2];
            promised(edge)?;
            edge.process.kill_9()?;
            kafka.broker(0)?.thaw()?;
            edge.restart()?;
            verify(&topics, Some(&durable), &format!("{name}d-"), 50_000)?;
        }
        Ok(())
    });
}
