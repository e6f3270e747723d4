//! P4: a running cluster takes up revision after revision while acknowledged traffic flows, and nobody notices.
//!
//! `WEIR_TEST_REVISIONS` says how many random revisions are taken up (12 by default); `WEIR_TEST_SEED` chooses them.
//! `WEIR_TEST_REPLACEMENTS` says how often the edge's binary is replaced (2 by default).

mod broken;
mod cluster;
mod probe;
mod random;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weir_tests::{
    Client, Load, Mode, Process, Scratch, Signal, loadgen_binary, metric, stored_events, until,
};

use cluster::{Cluster, LONG, run};

/// Time between two revisions, so that traffic meets each of them.
const PACE: Duration = Duration::from_millis(800);
const RATE: u64 = 4_000;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What a load generator reports at its end.
struct Sent {
    events: u64,
    p99_ms: f64,
    errors: u64,
}

/// A load of `seconds` at a steady rate, under way.
struct Steady {
    process: Process,
    name: String,
}

impl Steady {
    fn start(cluster: &Cluster, scratch: &Scratch, name: &str, seconds: u64) -> Result<Self> {
        let mut command = Command::new(loadgen_binary()?);
        command.args([
            "send",
            "--ack",
            "--json",
            "--chunk-events",
            "20",
            "--tags",
            "40",
            "--connections",
            "8",
        ]);
        command.args(["--rate", &RATE.to_string(), "--events", &(RATE * seconds).to_string()]);
        command.args(["--tag-prefix", "app", "--stream-prefix", name]);
        command.arg("--ledger").arg(scratch.path().join(format!("{name}.ledger")));
        command.args(["--to", &cluster.forward().to_string()]);
        let process = Process::start(name, command, &scratch.dir("said")?)?;
        Ok(Self { process, name: name.to_owned() })
    }

    fn end(mut self) -> Result<Sent> {
        let status = self.process.wait_exit(LONG)?;
        let said = self.process.said()?;
        ensure!(status.success(), "{} failed:\n{said}", self.name);
        let line = said.lines().rev().find(|line| line.starts_with('{')).context("no summary")?;
        let summary: serde_json::Value = serde_json::from_str(line)?;
        let field = |name: &str| summary[name].as_u64().with_context(|| format!("{name} in {summary}"));
        Ok(Sent {
            events: field("events")?,
            p99_ms: summary["ack_ms"]["p99"].as_f64().context("no p99")?,
            errors: field("errors")? + field("reconnects")?,
        })
    }
}

/// What a real client sends beside the load.
fn client_load(cluster: &Cluster, count: u64) -> Load {
    Load {
        port: cluster.forward().port(),
        tag_prefix: "client".to_owned(),
        tags: 3,
        count,
        stream: "go".to_owned(),
        mode: Mode::Message,
        ack: true,
        event_time: true,
    }
}

/// Everything that a ledger names is below `files`, once, whatever groups it went through.
fn verify(files: &Path, scratch: &Scratch, stream: &str, events: u64, ledger: bool) -> Result<()> {
    let mut command = Command::new(loadgen_binary()?);
    command.arg("verify").arg("--files").arg(files);
    command.args(["--wait", "120", "--stream-prefix", stream, "--expect", &events.to_string()]);
    if ledger {
        command.arg("--ledger").arg(scratch.path().join(format!("{stream}.ledger")));
    }
    run(&mut command).map(drop)
}

#[test]
fn revisions_are_taken_up_while_traffic_flows() {
    Scratch::run("reconfigure", |scratch| {
        let revisions = number("WEIR_TEST_REVISIONS", 12);
        let mut cluster = Cluster::start(scratch)?;
        let mut random = random::Random::new(number("WEIR_TEST_SEED", 6));

        // The same load in quiet times, to compare with.
        let seconds = (revisions * 8 / 10 / 2).clamp(5, 30);
        let quiet = Steady::start(&cluster, scratch, "quiet", seconds)?;
        cluster.look(scratch)?;
        let quiet = quiet.end()?;

        let seconds = revisions * 8 / 10 + revisions / 4 + 4;
        let busy = Steady::start(&cluster, scratch, "busy", seconds)?;
        let load = client_load(&cluster, 400 * seconds);
        let mut client = Client::go().start(&load, &scratch.dir("clients")?)?;
        let mut took = Vec::new();
        for _ in 0..revisions {
            let began = Instant::now();
            cluster.certify(&random.names())?;
            cluster.take_up(&random.topology(&cluster))?;
            took.push(began.elapsed());
            std::thread::sleep(PACE.saturating_sub(began.elapsed()));
        }
        let busy = busy.end()?;
        Client::sent(&mut client, &load, LONG)?;
        took.sort();
        eprintln!(
            "{revisions} revisions; p99 of acknowledgements {:.1} ms during changes, {:.1} ms in quiet times: ratio {:.2}; \
             a revision was everywhere after {:?} (median), {:?} (most)",
            busy.p99_ms,
            quiet.p99_ms,
            busy.p99_ms / quiet.p99_ms,
            took[took.len() / 2],
            took[took.len() - 1],
        );
        ensure!(busy.errors == 0, "{} errors or lost connections", busy.errors);
        ensure!(busy.events == RATE * seconds, "{} events acknowledged", busy.events);
        ensure!(metric(cluster.edge.1, "weir_edge_unrouted_events_total", &[]).unwrap_or(0.0) == 0.0);

        // All groups again, so that whatever a log still holds has somewhere to go.
        cluster.take_up(&cluster.topology())?;
        verify(&cluster.files, scratch, "quiet", quiet.events, true)?;
        verify(&cluster.files, scratch, "busy", busy.events, true)?;
        verify(&cluster.files, scratch, "go", load.count, false)?;
        cluster.stop()
    });
}

/// Events in the files below `dir` whose stream begins with `name`.
fn stored(dir: &Path, name: &str) -> Result<Vec<serde_json::Value>> {
    let mut events = stored_events(dir)?;
    events.retain(|event| event["record"]["stream"].as_str().is_some_and(|stream| stream.starts_with(name)));
    Ok(events)
}

/// All events of streams that begin with `name`, each there once. The ledger knows records as they were sent; these are others.
fn all_once(dir: &Path, name: &str, events: u64) -> Result<Vec<serde_json::Value>> {
    until(&format!("all of {name}"), LONG, || {
        let found = stored(dir, name)?;
        let numbers: BTreeSet<String> = found
            .iter()
            .map(|event| format!("{}/{}", event["record"]["stream"], event["record"]["seq"]))
            .collect();
        ensure!(numbers.len() as u64 == events, "{} of {events}", numbers.len());
        ensure!(found.len() == numbers.len(), "{} lines of {events} events", found.len());
        Ok(found)
    })
}

#[test]
fn transforms_change_while_traffic_flows() {
    Scratch::run("transforms", |scratch| {
        let mut cluster = Cluster::start(scratch)?;
        let busy = Steady::start(&cluster, scratch, "busy", 10)?;
        for revision in 1..=3 {
            cluster.take_up(&cluster.with(&format!(
                "[[group.transform]]\nadd = {{ revision = {revision}, at.tag = \"${{tag}}\" }}\n\
                 [[group.transform]]\ndrop = {{ field = \"stream\", match = \"^noise\" }}\n"
            )))?;
            // What comes now has the new shape.
            let name = format!("after{revision}");
            let sent = Steady::start(&cluster, scratch, &name, 1)?.end()?;
            for event in all_once(&cluster.files, &name, sent.events)? {
                let record = &event["record"];
                ensure!(record["revision"] == revision && record["at"]["tag"] == event["tag"], "{event}");
            }
        }
        let busy = busy.end()?;
        ensure!(busy.errors == 0, "{} errors or lost connections", busy.errors);
        let shapes: BTreeSet<_> = all_once(&cluster.files, "busy", busy.events)?
            .iter()
            .map(|event| event["record"]["revision"].as_u64())
            .collect();
        ensure!(shapes.contains(&None) && shapes.contains(&Some(3)), "{shapes:?}");

        // Batches of which nothing is left are committed and trimmed as others are, and come never again.
        let noise = Steady::start(&cluster, scratch, "noise", 2)?.end()?;
        let settled = |cluster: &Cluster| {
            until("the logs to be empty", LONG, || {
                let left: Vec<f64> = ["a", "b", "c"]
                    .map(|group| {
                        metric(cluster.edge.1, "weir_log_batches", &[("group", group)]).unwrap_or(0.0)
                    })
                    .to_vec();
                ensure!(left.iter().sum::<f64>() == 0.0, "{left:?} batches");
                Ok(())
            })
        };
        settled(&cluster)?;
        cluster.edge.0.kill_9()?;
        cluster.restart_edge()?;
        settled(&cluster)?;
        let mut filtered = 0.0;
        for ((_, metrics), (_, group)) in cluster.sinks.iter().zip(cluster::SINKS) {
            filtered +=
                metric(*metrics, "weir_store_filtered_events_total", &[("group", group)]).unwrap_or(0.0);
            ensure!(metric(*metrics, "weir_store_dead_letters_total", &[]).unwrap_or(0.0) == 0.0);
        }
        ensure!(filtered == noise.events as f64, "{filtered} of {} events were dropped", noise.events);
        ensure!(stored(&cluster.files, "noise")?.is_empty(), "dropped events are stored");
        cluster.stop()
    });
}

#[test]
fn another_binary_takes_over_and_nobody_is_refused() {
    Scratch::run("replaced", |scratch| {
        let replacements = number("WEIR_TEST_REPLACEMENTS", 2);
        let mut cluster = Cluster::start(scratch)?;
        let seconds = 4 * replacements + 2;
        let load = Steady::start(&cluster, scratch, "load", seconds)?;
        let client_load = client_load(&cluster, 400 * seconds);
        let mut client = Client::go().start(&client_load, &scratch.dir("clients")?)?;
        let probe = probe::Probe::start(cluster.forward());
        let pid = cluster.edge.0.pid();
        for count in 1..=replacements {
            cluster.edge.0.signal(Signal::USR2)?;
            ready_again(&mut cluster.edge.0, count + 1)?;
            let sink = usize::try_from(count)? % cluster.sinks.len();
            cluster.sinks[sink].0.signal(Signal::USR2)?;
            ready_again(&mut cluster.sinks[sink].0, 1 + (count - 1) / 4 + 1)?;
        }
        ensure!(cluster.edge.0.pid() == pid && cluster.edge.0.exited()?.is_none());
        let sent = load.end()?;
        let (connected, longest) = probe.end()?;
        eprintln!(
            "{replacements} replacements, {} events, {} connections reopened; {connected} connections tried, none refused, \
             the slowest made in {longest:?}; p99 of acknowledgements {:.0} ms",
            sent.events, sent.errors, sent.p99_ms
        );
        ensure!(sent.events == RATE * seconds, "{} events acknowledged", sent.events);
        // It ends with an error at the first that its library reports.
        Client::sent(&mut client, &client_load, LONG)?;
        verify(&cluster.files, scratch, "load", sent.events, true)?;
        verify(&cluster.files, scratch, "go", client_load.count, false)?;
        cluster.stop()
    });
}

/// Waits for the `count`-th ready line of a process.
fn ready_again(process: &mut Process, count: u64) -> Result<()> {
    until("the replaced program to be ready", LONG, || {
        let lines = process.said()?.matches("weir ready").count() as u64;
        ensure!(lines >= count, "{lines} ready lines of {count}");
        ensure!(process.exited()?.is_none(), "it ended");
        Ok(())
    })
}

#[test]
fn broken_revisions_are_refused_and_the_one_before_runs_on() {
    Scratch::run("refused", |scratch| {
        let mut cluster = Cluster::start(scratch)?;
        let good = cluster.topology();
        let edge = cluster.edge.1;
        let revision = cluster.revision()?;
        for (count, broken) in (1_u32..).zip(broken::TOPOLOGIES) {
            let text = broken.of(&good);
            cluster.offer(&text)?;
            until("the refusal", LONG, || {
                let refused = metric(edge, "weir_config_refused_total", &[])?;
                ensure!(refused == f64::from(count), "{refused} of {count} refused: {}", broken.what);
                Ok(())
            })?;
            let said = cluster.edge.0.said()?;
            ensure!(said.contains(broken.said), "no {:?} after {}:\n{said}", broken.said, broken.what);
            ensure!(cluster.revision()? == revision, "{} was taken up", broken.what);
        }
        ensure!(broken::TOPOLOGIES.len() >= 30);
        for sink in &mut cluster.sinks {
            ensure!(sink.0.exited()?.is_none(), "a sink ended");
        }
        let sent = Steady::start(&cluster, scratch, "after", 1)?.end()?;
        verify(&cluster.files, scratch, "after", sent.events, true)?;
        cluster.take_up(&format!("{good}\n# again\n"))?;
        ensure!(cluster.revision()? != revision, "a good revision was not taken up");
        cluster.stop()
    });
}

#[test]
fn a_group_that_leaves_is_drained_and_taken_up_again() {
    Scratch::run("drained", |scratch| {
        let mut cluster = Cluster::start(scratch)?;
        let edge = cluster.edge.1;
        // Nobody takes what is for group c, so it stays in the log.
        cluster.sinks[3].0.freeze()?;
        let first = Steady::start(&cluster, scratch, "first", 1)?.end()?;
        cluster.take_up_by_edge(&cluster.without_c())?;
        ensure!(metric(edge, "weir_logs", &[("state", "draining")])? == 1.0, "group c is not drained");
        ensure!(cluster.log_list()?.contains("draining"), "{}", cluster.log_list()?);
        // Also after a restart, by the note beside the log.
        ensure!(cluster.edge.0.stop(LONG)?.success());
        cluster.restart_edge()?;
        let edge = cluster.edge.1;
        ensure!(metric(edge, "weir_logs", &[("state", "draining")])? == 1.0);
        cluster.sinks[3].0.thaw()?;
        until("the log to be drained", LONG, || {
            let detached = metric(edge, "weir_logs", &[("state", "detached")])?;
            ensure!(detached == 1.0, "{detached} logs are detached");
            Ok(())
        })?;
        verify(&cluster.files, scratch, "first", first.events, true)?;
        ensure!(cluster.log_list()?.contains("detached"), "{}", cluster.log_list()?);
        // A group of the same id goes on with the same log.
        cluster.take_up(&cluster.topology())?;
        ensure!(metric(edge, "weir_logs", &[("state", "attached")])? == 3.0);
        let second = Steady::start(&cluster, scratch, "second", 1)?.end()?;
        verify(&cluster.files, scratch, "second", second.events, true)?;
        cluster.stop()
    });
}
