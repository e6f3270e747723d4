//! The main job with real processes and real stores: senders to edges to sinks to Kafka, HDFS and files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weir_tests::{
    Client, HdfsCluster, KafkaCluster, Load, Node, Process, Scratch, Site, connections, loadgen_binary,
    metric, port, ports, run, scrape, until,
};

const LONG: Duration = Duration::from_secs(240);

/// Two edges and five sinks of three groups, each a process, with mutual TLS between them.
struct Cluster {
    edges: Vec<Node>,
    sinks: Vec<Node>,
    files: PathBuf,
}

impl Cluster {
    fn start(scratch: &Scratch, kafka: &KafkaCluster, topic: &str, hdfs: &str) -> Result<Self> {
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
topic = "{topic}"
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
match = "app.** client.**"
groups = ["files", "kafka", "hdfs"]
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

    /// A sender of acknowledged events to both edges, yet to be run.
    fn sender(&self, name: &str, events: u64, tags: u64, ledger: &Path) -> Result<Command> {
        let mut command = Command::new(loadgen_binary()?);
        command.arg("send").args(["--ack", "--events", &events.to_string(), "--tags", &tags.to_string()]);
        command.args(["--tag-prefix", name, "--stream-prefix", name]).arg("--ledger").arg(ledger);
        for edge in &self.edges {
            command.args(["--to", &edge.forward()?.to_string()]);
        }
        Ok(command)
    }

    fn send(&self, scratch: &Scratch, name: &str, events: u64, tags: u64) -> Result<PathBuf> {
        let ledger = scratch.path().join(format!("{name}.ledger"));
        run(&mut self.sender(name, events, tags, &ledger)?)?;
        Ok(ledger)
    }
}

/// Looks for exactly these events in a store, and waits for them for a while; yet to be run.
fn verifier(source: &[&str], ledger: Option<&PathBuf>, prefix: &str, events: u64) -> Result<Command> {
    let mut command = Command::new(loadgen_binary()?);
    command.arg("verify").args(source).args(["--expect", &events.to_string(), "--stream-prefix", prefix]);
    if let Some(ledger) = ledger {
        command.arg("--ledger").arg(ledger);
    }
    Ok(command)
}

fn verify(source: &[&str], ledger: Option<&PathBuf>, prefix: &str, events: u64) -> Result<()> {
    run(verifier(source, ledger, prefix, events)?.args(["--wait", "240"])).map(drop)
}

/// Every client library, in each of its modes, with acknowledgements where it can ask for them: some thousands of
/// events from each, all at once. Gives how many they sent.
fn send_from_libraries(scratch: &Scratch, edges: &[Node]) -> Result<u64> {
    let logs = scratch.dir("clients")?;
    let mut running = Vec::new();
    for client in Client::all() {
        for mode in client.modes {
            let load = Load {
                port: edges[running.len() % edges.len()].forward()?.port(),
                tag_prefix: format!("client.{}", client.name),
                tags: 3,
                count: 4_000 / client.modes.len() as u64,
                stream: format!("client-{}-{mode:?}", client.name),
                mode: *mode,
                ack: client.acks,
                event_time: true,
            };
            running.push((client.start(&load, &logs)?, load));
        }
    }
    running.iter_mut().try_for_each(|(process, load)| Client::sent(process, load, LONG))?;
    Ok(running.iter().map(|(_, load)| load.count).sum())
}

/// Waits until the store of these sinks has confirmed so many events.
fn stored(sinks: &[Node], events: u64) -> Result<()> {
    until("the store to have all", LONG, || -> Result<()> {
        let of = |sink: &Node| metric(sink.metrics, "weir_store_events_total", &[]).unwrap_or(0.0);
        let stored: f64 = sinks.iter().map(of).sum();
        ensure!(stored >= events as f64, "{stored} of {events} events");
        Ok(())
    })
}

#[test]
fn every_event_is_once_in_each_store_of_its_route() {
    Scratch::run("main-job", |scratch| {
        let kafka = KafkaCluster::start(scratch, 1)?;
        let mut hdfs = HdfsCluster::start(scratch, 1)?;
        let mut cluster = Cluster::start(scratch, &kafka, "weir-all", &hdfs.url())?;
        let (files, directory) = (cluster.files.display().to_string(), format!("{}/logs", hdfs.url()));
        let bootstrap = kafka.bootstrap();
        let (files, kafka_topic, hdfs_dir) =
            (["--files", &files], ["--kafka", &bootstrap, "--topics", "weir-all"], ["--hdfs", &directory]);

        // A million events over 1 000 tags, to all three stores, in some 40 s.
        let ledger = scratch.path().join("app.ledger");
        let mut command = cluster.sender("app", 1_000_000, 1_000, &ledger)?;
        command.args(["--rate", "25000", "--chunk-events", "250"]);
        let mut sender = Process::start("sender", command, scratch.path())?;
        until("the run to be under way", LONG, || -> Result<()> {
            let events = metric(cluster.edges[0].metrics, "weir_edge_events_total", &[("group", "hdfs")])?;
            ensure!(events >= 50_000.0, "{events} events");
            Ok(())
        })?;

        // One store goes away for a minute at least: the others have everything while it is gone.
        hdfs.stop_all()?;
        let gone = Instant::now();
        let from_libraries = send_from_libraries(scratch, &cluster.edges)?;
        ensure!(sender.wait_exit(LONG)?.success(), "the sender failed: {}", sender.said()?);
        let all = 1_000_000 + from_libraries;
        stored(&cluster.sinks[4..], all)?;
        stored(&cluster.sinks[..2], all)?;
        println!("without HDFS, files and Kafka had all {:.1?} after it went away", gone.elapsed());
        // By number, and by count and hash of each minute of event time against the files, as for traffic without numbers.
        let minutes = scratch.path().join("minutes.json");
        let against = ["--against".to_owned(), minutes.display().to_string()];
        let with = |source: &[&str], options: &[String]| -> Result<String> {
            let mut command = verifier(source, Some(&ledger), "app-", 1_000_000)?;
            run(command.args(options))
        };
        fs::write(&minutes, with(&files, &["--per-minute".to_owned()])?)?;
        with(&kafka_topic, &against)?;
        let others = verifier(&files, None, "client-", from_libraries)?.args(&against).output()?;
        let said = String::from_utf8_lossy(&others.stdout);
        ensure!(
            others.status.code() == Some(1) && said.contains("differs: minute"),
            "a difference went unseen: {said}"
        );
        for source in [&files[..], &kafka_topic] {
            verify(source, None, "client-", from_libraries)?;
        }
        for sink in &cluster.sinks[..2] {
            let open = connections(sink.process.pid(), kafka.ports()[0])?;
            ensure!(open <= 2, "{open} connections to one broker; brokers + bootstrap are 2");
        }
        for edge in &cluster.edges {
            let waiting = metric(edge.metrics, "weir_log_batches", &[("group", "hdfs")])?;
            ensure!(waiting > 0.0, "nothing waits for HDFS, which is away");
        }
        until("a minute of outage", LONG, || -> Result<()> {
            ensure!(gone.elapsed() >= Duration::from_secs(60), "{:?}", gone.elapsed());
            Ok(())
        })?;

        // What waited comes, once.
        let outage = gone.elapsed();
        hdfs.restart_all()?;
        let back = Instant::now();
        stored(&cluster.sinks[2..4], all)?;
        println!("HDFS was away for {outage:.1?}, and had all {:.1?} after it was back", back.elapsed());
        with(&hdfs_dir, &against)?;
        verify(&hdfs_dir, None, "client-", from_libraries)?;

        cluster.edges.iter_mut().try_for_each(Node::stop)?;
        cluster.sinks.iter_mut().try_for_each(Node::stop)
    });
}

// One transaction spans a thousand topics here, which takes seconds; what is counted is connections.
#[test]
fn a_topic_for_each_of_a_thousand_tags_costs_no_connection() {
    Scratch::run("topics", |scratch| {
        let kafka = KafkaCluster::start(scratch, 1)?;
        let nowhere = format!("hdfs://127.0.0.1:{}", port()?);
        let mut cluster = Cluster::start(scratch, &kafka, "weir-{tag}", &nowhere)?;
        let ledger = scratch.path().join("topics.ledger");
        let mut command = cluster.sender("topics", 20_000, 1_000, &ledger)?;
        run(command.args(["--chunk-events", "20"]))?;
        let mut most = 0;
        until("the events to be stored", LONG, || -> Result<()> {
            let mut stored = 0.0;
            for sink in &cluster.sinks[..2] {
                most = most.max(connections(sink.process.pid(), kafka.ports()[0])?);
                stored += metric(sink.metrics, "weir_store_events_total", &[]).unwrap_or(0.0);
            }
            ensure!(stored >= 20_000.0, "{stored} of 20 000 events");
            Ok(())
        })?;
        println!("{most} connections of a sink to the one broker, for 1 000 topics");
        ensure!(most <= 2, "{most} connections to one broker; brokers + bootstrap are 2");
        let topics = ["--kafka", &kafka.bootstrap(), "--topic-prefix", "weir-topics."];
        verify(&topics, Some(&ledger), "topics-", 20_000)?;
        cluster.edges.iter_mut().try_for_each(Node::stop)?;
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

/// Waits until a sink has the promises of a part that the store then keeps waiting: should the sink die, others must settle it.
fn committing(sink: &Node) -> Result<()> {
    until("a part to be committed", LONG, || -> Result<()> {
        let parts = metric(sink.metrics, "weir_sink_committing_parts", &[])?;
        ensure!(parts > 0.0, "{parts} parts are being committed");
        Ok(())
    })
}

/// Waits until no part of Kafka's sinks is being committed, and no edge has one in doubt.
fn idle(cluster: &Cluster) -> Result<()> {
    until("all parts to be committed", LONG, || -> Result<()> {
        for sink in &cluster.sinks[..2] {
            ensure!(
                metric(sink.metrics, "weir_sink_committing_parts", &[])? == 0.0,
                "a part is being committed"
            );
        }
        for edge in &cluster.edges {
            let parts = metric(edge.metrics, "weir_dispatch_promised_parts", &[("group", "kafka")])?;
            ensure!(parts == 0.0, "{parts} parts are promised");
        }
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
        let mut cluster =
            Cluster::start(scratch, &kafka, "weir-{tag}", &format!("hdfs://127.0.0.1:{}", port()?))?;
        let bootstrap = kafka.bootstrap();
        for round in 0..rounds() {
            let name = format!("kill{round}");
            let topics = ["--kafka", &bootstrap, "--topic-prefix", &format!("weir-{name}")];
            // The first has topics made, and connections.
            let before = cluster.send(scratch, &name, 50_000, 20)?;
            verify(&topics, Some(&before), &format!("{name}-"), 50_000)?;

            // Gauges may still tell of the parts before.
            idle(&cluster)?;
            kafka.broker(0)?.freeze()?;
            let during = cluster.send(scratch, &format!("{name}b"), 50_000, 20)?;
            committing(&cluster.sinks[0])?;
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

            idle(&cluster)?;
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
