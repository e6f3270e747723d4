//! A full disk is a normal state: an edge starts on it, delivers what it holds, and takes more as soon as there is room.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::{Cluster, Disk, Network, Plan, Scratch, Sending, Verdict, in_own_world, metric, until};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn an_edge_starts_and_delivers_on_a_full_ext4() {
    in_own_world("an_edge_starts_and_delivers_on_a_full_ext4", |scratch| {
        starts_and_delivers(scratch, &Disk::ext4(scratch, "disk", 96)?)
    });
}

fn starts_and_delivers(scratch: &Scratch, disk: &Disk) -> Result<()> {
    let mut network = Network::new()?;
    let files = scratch.dir("files")?.display().to_string();
    let source = ["--files".to_owned(), files.clone()];
    let store = format!("[group.store]\nkind = \"file\"\npath = \"{files}\"\n");
    let plan = Plan::new(1)
        .group("files", 1, &store)
        .route("**", &["files"])
        .data("edge-1", disk.path().join("data"));
    let mut cluster = Cluster::start(scratch, &mut network, &plan)?;
    let forward = cluster.forward();

    // All of this is in the log and nowhere else.
    cluster.node("files-1")?.process.freeze()?;
    let options = ["--events", "20000", "--chunk-events", "50"];
    let mut load = Sending::start("before", "app", &forward, &options, scratch.path())?;
    load.finish(LONG)?;

    disk.fill()?;
    let edge = cluster.node("edge-1")?;
    edge.process.kill_9()?;
    edge.restart().context("on a full disk")?;
    cluster.node("files-1")?.process.thaw()?;
    let verdict = Verdict::of(&source, &[load.ledger()], LONG)?;
    ensure!(verdict.is_sound() && verdict.events == 20_000, "delivered on a full disk: {verdict}");

    // What comes now is not acknowledged before there is room.
    let options = ["--events", "400000", "--chunk-events", "1000"];
    let mut load = Sending::start("during", "app", &forward, &options, scratch.path())?;
    let metrics = cluster.node("edge-1")?.metrics();
    until("the full disk to be met", LONG, || {
        let met = metric(metrics, "weir_log_full_total", &[("group", "files")])?;
        ensure!(met > 0.0, "not met");
        Ok(())
    })?;
    disk.free()?;
    load.finish(LONG)?;
    let verdict = Verdict::of(&source, &[load.ledger()], LONG)?;
    ensure!(verdict.is_sound() && verdict.events == 400_000, "once there is room: {verdict}");
    for name in ["edge-1", "files-1"] {
        ensure!(cluster.node(name)?.process.stop(LONG)?.success(), "{name} did not stop in good order");
    }
    Ok(())
}
