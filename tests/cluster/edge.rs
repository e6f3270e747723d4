//! One edge, one sink with files: what an edge owes to senders whatever happens to it or comes in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::{Node, Scratch, Site, loadgen_binary, metric, run, until};

const LONG: Duration = Duration::from_secs(60);

/// Sends acknowledged events, and gives the ledger.
fn send(scratch: &Scratch, edge: &Node, name: &str, events: u64) -> Result<PathBuf> {
    let ledger = scratch.path().join(format!("{name}.ledger"));
    run(Command::new(loadgen_binary()?)
        .args(["send", "--to", &edge.forward()?.to_string(), "--ack", "--events", &events.to_string()])
        .args(["--stream-prefix", name, "--ledger"])
        .arg(&ledger))?;
    Ok(ledger)
}

fn verify(files: &Path, ledger: &Path, events: u64) -> Result<()> {
    let mut command = Command::new(loadgen_binary()?);
    command.arg("verify").arg("--files").arg(files).arg("--ledger").arg(ledger);
    run(command.args(["--wait", "60", "--expect", &events.to_string()])).map(drop)
}

#[test]
fn a_killed_edge_gives_out_what_its_log_holds() {
    Scratch::run("killed-edge", |scratch| {
        let (site, files) = Site::files(scratch)?;
        let mut edge = site.edge("edge-1")?;
        let ledger = send(scratch, &edge, "kept", 20_000)?;
        // Nothing new comes in: what the log held must be read by itself. Several starts, for the order in which an edge
        // reads its log and syncs its journal is chance.
        for start in 0..5 {
            edge.process.kill_9()?;
            edge.restart()?;
            until("the log to be read", LONG, || -> Result<()> {
                let waiting = metric(edge.metrics, "weir_dispatch_pending_batches", &[])?;
                ensure!(waiting == 20.0, "{waiting} of 20 batches after start {start}");
                Ok(())
            })?;
        }
        let mut sink = site.sink("files-1")?;
        verify(&files, &ledger, 20_000)?;
        // An operator's alarm looks at these; the segment itself stays on disk until it is worth giving back.
        until("the edge to see that nothing waits", LONG, || -> Result<()> {
            let waiting =
                ["weir_log_batches", "weir_log_oldest_seconds"].map(|name| metric(edge.metrics, name, &[]));
            let [batches, oldest] = waiting;
            let (batches, oldest) = (batches?, oldest?);
            ensure!((batches, oldest) == (0.0, 0.0), "{batches} batches, the oldest {oldest} s old");
            Ok(())
        })?;
        edge.stop()?;
        sink.stop()
    });
}
