//! What many tags cost: the same load over 10 tags and over 10 000, and the memory of an edge and a sink.

use std::process::Command;

use anyhow::Result;
use weir_tests::{Node, Scratch, Site, loadgen_binary, peak_rss, rss, run};

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
