//! A sender's retries: the same chunk again, over every way that it can take, is stored once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::{
    Node, RawSender, Scratch, Signal, Site, loadgen_binary, metric, port, ports, run, scrape, until,
};

const LONG: Duration = Duration::from_secs(90);

/// Two edges and a group of two sinks that write into one directory.
struct Cluster<'a> {
    scratch: &'a Scratch,
    edges: [Node; 2],
    sinks: [Node; 2],
    files: PathBuf,
}

impl<'a> Cluster<'a> {
    /// `group` and `route` are further lines for those tables.
    fn start(scratch: &'a Scratch, group: &str, route: &str) -> Result<Self> {
        let ([one, two], files) = (ports()?, scratch.dir("files")?);
        let topology = format!(
            r#"version = 1
[cluster]
name = "repeats"
[[edge]]
name = "edge-1"
rack = "r1"
[[edge]]
name = "edge-2"
rack = "r1"
[[group]]
id = "files"
quota = "16MiB"
sink = [
    {{ name = "sink-1", rack = "r1", address = "127.0.0.1:{one}" }},
    {{ name = "sink-2", rack = "r1", address = "127.0.0.1:{two}" }},
]
part.age = "200ms"
store = {{ kind = "file", path = "{}", shared = true }}
{group}
[[route]]
match = "**"
groups = ["files"]
{route}
"#,
            files.display()
        );
        let site = Site::new(scratch, &topology, &["edge-1", "edge-2", "sink-1", "sink-2"])?;
        let sinks = [site.sink("sink-1")?, site.sink("sink-2")?];
        let edges = [site.edge("edge-1")?, site.edge("edge-2")?];
        Ok(Self { scratch, edges, sinks, files })
    }

    fn connect(&self, edge: usize) -> Result<RawSender> {
        RawSender::connect(self.edges[edge].forward()?)
    }

    fn kill_edge(&mut self, edge: usize) -> Result<()> {
        self.edges[edge].process.kill_9()?;
        self.edges[edge].restart()
    }

    /// Every event of the stream is stored, each once.
    fn verify(&self, stream: &str, events: u64) -> Result<()> {
        let mut command = Command::new(loadgen_binary()?);
        command.arg("verify").arg("--files").arg(&self.files);
        command.args(["--wait", "60", "--expect", &events.to_string(), "--stream-prefix", stream]);
        run(&mut command).map(drop)
    }

    /// Events that the sinks have stored since their starts.
    fn stored(&self) -> Result<f64> {
        // A sink that has stored nothing yet does not show the metric.
        let of = |sink: &Node| Ok(scrape(sink.metrics)?.get("weir_store_events_total", &[]).unwrap_or(0.0));
        self.sinks.iter().map(of).sum()
    }

    fn repeats(&self, edge: usize) -> Result<f64> {
        metric(self.edges[edge].metrics, "weir_repeated_chunks_total", &[])
    }
}

fn acked(sender: &mut RawSender, chunk: &str) -> Result<()> {
    let named = sender.ack(LONG)?;
    ensure!(named == chunk, "{named} was acknowledged instead of {chunk}");
    Ok(())
}

#[test]
fn a_chunk_that_is_sent_again_through_one_edge_is_stored_once() {
    Scratch::run("repeats-one-edge", |scratch| {
        let mut cluster = Cluster::start(scratch, "", "")?;
        // On the same connection, also before the first is answered; then on a new one.
        let mut sender = cluster.connect(0)?;
        for _ in 0..3 {
            sender.send("app", "chunk-a", "a", 0..100)?;
        }
        for _ in 0..3 {
            acked(&mut sender, "chunk-a")?;
        }
        let mut again = cluster.connect(0)?;
        again.send("app", "chunk-a", "a", 0..100)?;
        acked(&mut again, "chunk-a")?;
        ensure!(cluster.repeats(0)? == 3.0, "{} repeats", cluster.repeats(0)?);
        // The same id with another tag or other events is another chunk.
        again.send("other", "chunk-a", "a", 100..110)?;
        acked(&mut again, "chunk-a")?;

        // Single events, packed by the edge: some of the second pack are known.
        again.send_singles("app", "single", "s", 0..50)?;
        for seq in 0..50 {
            acked(&mut again, &format!("single-{seq}"))?;
        }
        again.send_singles("app", "single", "s", 25..75)?;
        for seq in 25..75 {
            acked(&mut again, &format!("single-{seq}"))?;
        }
        cluster.verify("s", 75)?;

        // The log is trimmed, and still the edge knows, also after its death.
        for n in 0..24 {
            again.send_large("fill", &format!("fill-{n}"), "f", n * 10..n * 10 + 10, 100_000)?;
            acked(&mut again, &format!("fill-{n}"))?;
        }
        let first = cluster.scratch.path().join("data-edge-1/logs/files/00000000000000000000.seg");
        until("the first segment to be trimmed", LONG, || -> Result<()> {
            ensure!(!first.exists(), "{} is there", first.display());
            Ok(())
        })?;
        cluster.kill_edge(0)?;
        let mut sender = cluster.connect(0)?;
        sender.send("app", "chunk-a", "a", 0..100)?;
        sender.send_singles("app", "single", "s", 70..80)?;
        acked(&mut sender, "chunk-a")?;
        for seq in 70..80 {
            acked(&mut sender, &format!("single-{seq}"))?;
        }
        ensure!(cluster.repeats(0)? == 6.0, "{} repeats after the restart", cluster.repeats(0)?);
        cluster.verify("a", 110)?;
        cluster.verify("s", 80)?;
        cluster.verify("f", 240)?;
        until("exactly so many events in the store", LONG, || -> Result<()> {
            ensure!(cluster.stored()? == 430.0, "{}", cluster.stored()?);
            Ok(())
        })
    });
}

#[test]
fn a_chunk_is_known_to_an_edge_that_died_before_it_answered() {
    Scratch::run("repeats-killed-edge", |scratch| {
        let mut cluster = Cluster::start(scratch, "", "")?;
        // Killed at any moment between receipt and acknowledgement; the sender knows nothing and sends again.
        for round in 0..5_u64 {
            let chunk = format!("chunk-{round}");
            let mut sender = cluster.connect(0)?;
            sender.send("app", &chunk, "k", round * 50..round * 50 + 50)?;
            if round % 2 == 0 {
                acked(&mut sender, &chunk)?;
            }
            cluster.kill_edge(0)?;
            let mut sender = cluster.connect(0)?;
            sender.send("app", &chunk, "k", round * 50..round * 50 + 50)?;
            acked(&mut sender, &chunk)?;
        }
        cluster.verify("k", 250)
    });
}

#[test]
fn a_chunk_that_comes_through_two_edges_is_stored_once() {
    Scratch::run("repeats-two-edges", |scratch| {
        let mut cluster = Cluster::start(scratch, "", "")?;
        // At once through both, and again.
        for round in 0..10_u64 {
            let (chunk, seqs) = (format!("both-{round}"), round * 20..round * 20 + 20);
            let mut senders = [cluster.connect(0)?, cluster.connect(1)?];
            for sender in &mut senders {
                sender.send("app", &chunk, "b", seqs.clone())?;
            }
            for sender in &mut senders {
                acked(sender, &chunk)?;
            }
        }
        cluster.verify("b", 200)?;

        // The sink that has it dies for ever; the other must hear of it from the edge.
        let mut sender = cluster.connect(0)?;
        for n in 0..8_u64 {
            sender.send(&format!("tag{n}"), "failover", "x", n * 10..n * 10 + 10)?;
            acked(&mut sender, "failover")?;
        }
        cluster.verify("x", 80)?;
        cluster.sinks[0].process.kill_9()?;
        let mut sender = cluster.connect(1)?;
        for n in 0..8_u64 {
            sender.send(&format!("tag{n}"), "failover", "x", n * 10..n * 10 + 10)?;
            acked(&mut sender, "failover")?;
        }
        // Behind it, on every tag, something new: when that is stored, the repeats were judged.
        for n in 0..8_u64 {
            sender.send(&format!("tag{n}"), "after", "y", n * 10..n * 10 + 10)?;
            acked(&mut sender, "after")?;
        }
        cluster.verify("y", 80)?;
        until("the second edge's log to be settled", LONG, || -> Result<()> {
            let waiting = metric(cluster.edges[1].metrics, "weir_dispatch_committed_batches_total", &[])?;
            ensure!(waiting == 26.0, "{waiting} of 26 batches");
            Ok(())
        })?;
        cluster.verify("x", 80)?;
        let repeated = metric(cluster.sinks[1].metrics, "weir_sink_repeated_batches_total", &[])?;
        ensure!(repeated >= 1.0, "the surviving sink has known no repeat");
        Ok(())
    });
}

#[test]
fn with_ack_store_a_lost_edge_loses_nothing_acknowledged() {
    Scratch::run("ack-store", |scratch| {
        let mut cluster = Cluster::start(scratch, "ack = \"store\"", "")?;
        let mut sender = cluster.connect(0)?;
        let mut told = Vec::new();
        for n in 0..20_u64 {
            sender.send("app", &format!("chunk-{n}"), "s", n * 10..n * 10 + 10)?;
            acked(&mut sender, &format!("chunk-{n}"))?;
            told.push(n);
        }
        // No sink, no acknowledgement.
        for sink in &mut cluster.sinks {
            sink.process.kill_9()?;
        }
        sender.send("app", "chunk-20", "s", 200..210)?;
        ensure!(sender.ack(Duration::from_secs(2)).is_err(), "acknowledged what no store has");
        // The edge is gone for ever, with its disk.
        cluster.edges[0].process.kill_9()?;
        std::fs::remove_dir_all(scratch.path().join("data-edge-1"))?;
        for sink in &mut cluster.sinks {
            sink.restart()?;
        }
        let mut other = cluster.connect(1)?;
        other.send("app", "chunk-20", "s", 200..210)?;
        acked(&mut other, "chunk-20")?;
        cluster.verify("s", 210)
    });
}

#[test]
fn an_acknowledgement_waits_for_what_route_listener_or_group_says() {
    Scratch::run("ack-levels", |scratch| {
        let quick = port()?;
        let routes = "ack = \"store\"\n[[route]]\nmatch = \"edge.**\"\ngroups = [\"files\"]\nack = \"edge\"\n\
                      [[route]]\nmatch = \"store.**\"\ngroups = [\"files\"]\nack = \"store\"";
        let listeners = format!(
            "[[listener]]\nname = \"inside\"\n[[listener]]\nname = \"quick\"\nedges = [\"edge-1\"]\nack = \"edge\"\n\
             address = \"127.0.0.1:{quick}\""
        );
        let mut cluster = Cluster::start(scratch, routes, &listeners)?;
        let (inside, quick) = (cluster.edges[0].forward()?, SocketAddr::from(([127, 0, 0, 1], quick)));
        let mut senders = Vec::new();
        for (place, tag, waits) in [
            (inside, "edge.x", false),
            (inside, "app", true),
            (quick, "app", false),
            (quick, "store.x", true),
        ] {
            senders.push((RawSender::connect(place)?, tag, waits));
        }
        // Then the other way round, on the same connections.
        for (round, other_way) in [(0, false), (1, true)] {
            if other_way {
                let file = scratch.path().join("topology.toml");
                let text = std::fs::read_to_string(&file)?.replace("ack = \"edge\"", "ack = \"other\"");
                let text =
                    text.replace("ack = \"store\"", "ack = \"edge\"").replace("\"other\"", "\"store\"");
                scratch.write("topology.toml", text)?;
                cluster.edges[0].process.signal(Signal::HUP)?;
                until("the topology to be taken up", LONG, || -> Result<()> {
                    ensure!(
                        metric(cluster.edges[0].metrics, "weir_config_applied_total", &[])? == 1.0,
                        "not yet"
                    );
                    Ok(())
                })?;
            }
            for sink in &mut cluster.sinks {
                sink.process.kill_9()?;
            }
            let chunk = format!("chunk-{round}");
            for (number, (sender, tag, _)) in (0..).zip(&mut senders) {
                let first = (round * 4 + number) * 10;
                sender.send(tag, &chunk, "l", first..first + 10)?;
            }
            for (sender, tag, waits) in &mut senders {
                if *waits == other_way {
                    acked(sender, &chunk).with_context(|| format!("{tag} is on the edge's disk"))?;
                }
            }
            for (sender, tag, waits) in &mut senders {
                let early = *waits != other_way && sender.ack(Duration::from_millis(300)).is_ok();
                ensure!(!early, "{tag} in round {round}: acknowledged what no store has");
            }
            for sink in &mut cluster.sinks {
                sink.restart()?;
            }
            for (sender, _, waits) in &mut senders {
                if *waits != other_way {
                    acked(sender, &chunk)?;
                }
            }
        }
        cluster.verify("l", 80)
    });
}

#[test]
fn a_full_log_drops_its_oldest_and_other_connections_go_on() {
    Scratch::run("drop-oldest", |scratch| {
        let mut cluster = Cluster::start(scratch, "overflow = \"drop_oldest\"", "")?;
        for sink in &mut cluster.sinks {
            sink.process.kill_9()?;
        }
        // 30 MB into a quota of 16 MiB: all is acknowledged, the newest stay.
        let mut sender = cluster.connect(0)?;
        for n in 0..60_u64 {
            sender.send_large("app", &format!("chunk-{n}"), "o", n * 5..n * 5 + 5, 100_000)?;
            acked(&mut sender, &format!("chunk-{n}"))?;
        }
        let dropped =
            metric(cluster.edges[0].metrics, "weir_log_dropped_batches_total", &[("policy", "drop_oldest")])?;
        ensure!((15.0..50.0).contains(&dropped), "{dropped} of 60 batches were dropped");
        for sink in &mut cluster.sinks {
            sink.restart()?;
        }
        // What was not dropped arrives; what was, its sender may send again.
        let kept = 300 - 5 * dropped as u64;
        until("all that was kept to be stored", LONG, || -> Result<()> {
            ensure!(cluster.stored()? == kept as f64, "{} of {kept}", cluster.stored()?);
            Ok(())
        })?;
        for n in 0..60_u64 {
            sender.send_large("app", &format!("chunk-{n}"), "o", n * 5..n * 5 + 5, 100_000)?;
            acked(&mut sender, &format!("chunk-{n}"))?;
        }
        cluster.verify("o", 300)
    });
}
