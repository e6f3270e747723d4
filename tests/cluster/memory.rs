//! What takes memory, and how much: many tags, in an edge and a sink; and messages that never end, in an edge.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use weir_tests::{Node, Scratch, Site, loadgen_binary, metric, peak_rss, rss, run, until};

const EVENTS: &str = "240000";
/// How much more memory 10 000 tags may take than 10: a tenth.
const MORE_MAX: f64 = 1.1;
/// A disk that stalls lets memory grow too, but not in each of so many rounds.
const ROUNDS: usize = 4;

/// Resident memory in bytes: of the edge at most and in the end, of the sink at most and in the end.
type Memory = [u64; 4];

/// Sends the load over one connection to fresh nodes, and looks at their memory when all is stored.
fn load(tags: u32) -> Result<Memory> {
    let scratch = Scratch::new("memory")?;
    let (site, files) = Site::files(&scratch)?;
    // Parts of some size, so that what a process takes anyway does not hide what the load takes.
    let topology = std::fs::read_to_string(site.topology())?.replace("300ms", "2s");
    scratch.write("topology.toml", topology)?;
    let (mut sink, mut edge) = (site.sink("files-1")?, site.edge("edge-1")?);
    // 10 000 chunks: with 10 000 tags each has one.
    let ledger = scratch.path().join("ledger");
    run(Command::new(loadgen_binary()?)
        .args(["send", "--to", &edge.forward()?.to_string(), "--ack", "--connections", "1"])
        .args(["--rate", "40000", "--events", EVENTS, "--chunk-events", "24", "--tags", &tags.to_string()])
        .arg("--ledger")
        .arg(&ledger))?;
    let mut verify = Command::new(loadgen_binary()?);
    verify.arg("verify").arg("--files").arg(&files).arg("--ledger").arg(&ledger);
    run(verify.args(["--wait", "60", "--expect", EVENTS]))?;
    let of =
        |node: &Node| -> Result<[u64; 2]> { Ok([peak_rss(node.process.pid())?, rss(node.process.pid())?]) };
    let ([edge_peak, edge_end], [sink_peak, sink_end]) = (of(&edge)?, of(&sink)?);
    edge.stop()?;
    sink.stop()?;
    Ok([edge_peak, edge_end, sink_peak, sink_end])
}

#[test]
fn ten_thousand_tags_cost_what_ten_cost() {
    let mut least: [Memory; 2] = [[u64::MAX; 4]; 2];
    let mut more = [f64::MAX; 4];
    for round in 0..ROUNDS {
        for (tags, least) in [10, 10_000].into_iter().zip(&mut least) {
            let memory = load(tags).unwrap_or_else(|error| panic!("{tags} tags: {error:?}"));
            println!("round {round}, {tags} tags: {:?} MiB", memory.map(|bytes| bytes >> 20));
            *least = std::array::from_fn(|n| least[n].min(memory[n]));
        }
        more = std::array::from_fn(|n| least[1][n] as f64 / least[0][n] as f64);
        println!(
            "10 000 tags take, of what 10 take: {more:.3?} (edge at most, in the end; sink at most, in the end)"
        );
        // What is left in the end is shown and not judged: it tells when the allocator last gave memory back.
        if more[0] <= MORE_MAX && more[2] <= MORE_MAX {
            return;
        }
    }
    panic!("memory grows with the number of tags: {more:.3?}");
}

/// What the edge of the test below may take in all.
const MEMORY: u64 = 256 << 20;
/// Those that fill it: so many sources, with so many connections each.
const CROWD: [u8; 2] = [6, 40];

/// Sends all but the end of a message of 4 MiB on each of its connections, and stays.
async fn crowd(edge: SocketAddr) -> Result<()> {
    let message = [b"\x92\xa5crowd\xc6\x00\x40\x00\x00".as_slice(), &vec![0xc0; (4 << 20) - 1]].concat();
    let message: &[u8] = message.leak();
    let mut connections = tokio::task::JoinSet::new();
    for source in 1..=CROWD[0] {
        for _ in 0..CROWD[1] {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 2, source), 0)))?;
            connections.spawn(async move {
                let mut socket = socket.connect(edge).await?;
                socket.write_all(message).await?;
                std::future::pending::<std::io::Result<()>>().await
            });
        }
    }
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    Ok(())
}

#[test]
fn messages_that_never_end_leave_the_process_within_its_memory_and_others_their_share() {
    Scratch::run("memory-crowd", |scratch| {
        let (site, files) = Site::files(scratch)?;
        let mut topology = std::fs::read_to_string(site.topology())?;
        topology.push_str(&format!("\n[forward]\nmemory = {MEMORY}\n"));
        scratch.write("topology.toml", topology)?;
        let (mut sink, mut edge) = (site.sink("files-1")?, site.edge("edge-1")?);
        let forward = edge.forward()?;

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let crowd = runtime.spawn(crowd(forward));
        let mut held = 0.0;
        until("the crowd to hold what it can", Duration::from_secs(60), || -> Result<()> {
            let before = std::mem::replace(&mut held, metric(edge.metrics, "weir_forward_held_bytes", &[])?);
            ensure!(held > 64e6 && held <= before, "it holds {held} bytes, and {before} before");
            Ok(())
        })?;
        let ledger = scratch.path().join("ledger");
        let sent = run(Command::new(loadgen_binary()?)
            .args(["send", "--to", &forward.to_string(), "--ack", "--connections", "4"])
            .args(["--events", "300000", "--chunk-events", "1000"])
            .arg("--ledger")
            .arg(&ledger))?;
        println!("{sent}");
        ensure!(!crowd.is_finished(), "the crowd is gone");
        let peak = peak_rss(edge.process.pid())?;
        println!("the crowd held {} MiB, the edge took {} MiB at most", held as u64 >> 20, peak >> 20);
        ensure!(peak <= MEMORY, "the edge took {peak} bytes of {MEMORY}");
        runtime.shutdown_background();
        let mut verify = Command::new(loadgen_binary()?);
        verify.arg("verify").arg("--files").arg(&files).arg("--ledger").arg(&ledger);
        run(verify.args(["--wait", "60", "--expect", "300000"]))?;
        edge.stop()?;
        sink.stop()
    });
}
