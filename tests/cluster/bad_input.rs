//! Hostile and broken senders at a running edge: each is refused by itself, for a counted reason; what it sent before
//! is kept, and nobody else notices.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use weir_tests::{Process, Scratch, Site, loadgen_binary, metric, peak_rss, rss, run, until};

const LONG: Duration = Duration::from_secs(60);
/// What the edge may use beyond what it used before; each bomb claims 1 GiB, and five come, four of them at once.
const GROWTH_MAX: u64 = 384 << 20;

/// A thing that no sender should send, and why it is refused.
struct Bad {
    reason: &'static str,
    bytes: Vec<u8>,
    /// Whether the sender goes away in the middle of it.
    leaves: bool,
}

fn bad(reason: &'static str, bytes: impl Into<Vec<u8>>) -> Bad {
    Bad { reason, bytes: bytes.into(), leaves: false }
}

fn all() -> Result<Vec<Bad>> {
    // A tag, and a bin or a list of 4 GiB less one.
    let giant = |kind: u8| [b"\x92\xa1t".as_slice(), &[kind], b"\xff\xff\xff\xff some of it"].concat();
    let half = good("half", 0);
    Ok(vec![
        Bad { reason: "truncated", bytes: half[..half.len() / 2].to_vec(), leaves: true },
        bad("malformed", [b"\xc1".repeat(7), noise(64 << 10)].concat()),
        bad("not_forward", b"GET /index.html HTTP/1.1\r\nHost: logs\r\n\r\n".as_slice()),
        bad("too_large", giant(0xc6)),
        bad("too_large", giant(0xdb)),
        bad("too_large", giant(0xdd)),
        bad("outer_array", b"\xdd\xff\xff\xff\xff".as_slice()),
        bad("too_deep", [b"\x92\xa1t".as_slice(), &b"\x91".repeat(10_000), b"\xc0"].concat()),
        bad("decompress_limit", bomb()?),
        bad("decompress_error", packed(b"no gzip at all")),
    ])
}

/// Bytes without a meaning, the same each time.
fn noise(bytes: usize) -> Vec<u8> {
    let step = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((*state >> 56) as u8)
    };
    std::iter::repeat_n((), bytes).scan(1, |state, ()| step(state)).collect()
}

/// 1 GiB of zeros in 1 MB: sixteen times 64 MiB.
fn bomb() -> Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    (0..64).try_for_each(|_| gzip.write_all(&zeros))?;
    Ok(packed(&gzip.finish()?.repeat(16)))
}

/// A message of mode `CompressedPackedForward`.
fn packed(entries: &[u8]) -> Vec<u8> {
    let len = (entries.len() as u32).to_be_bytes();
    [b"\x93\xa1t\xc6".as_slice(), &len, entries, b"\x81\xaacompressed\xa4gzip"].concat()
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend([0xd9, text.len() as u8]);
    out.extend(text.as_bytes());
}

/// One event with a chunk to acknowledge, as `weir-loadgen verify` knows it.
fn good(stream: &str, seq: u8) -> Vec<u8> {
    let mut out = vec![0x94];
    text(&mut out, "bad.input");
    out.extend(b"\xce\x65\x00\x00\x00\x83");
    text(&mut out, "stream");
    text(&mut out, stream);
    text(&mut out, "seq");
    out.push(seq);
    text(&mut out, "message");
    text(&mut out, "what came before");
    out.push(0x81);
    text(&mut out, "chunk");
    text(&mut out, stream);
    out
}

/// Sends a good event and the bad thing behind it in one go; returns when the edge has acknowledged the one and closed
/// for the other.
fn offend(edge: SocketAddr, stream: &str, bad: &Bad) -> Result<()> {
    let mut socket = TcpStream::connect(edge)?;
    socket.set_read_timeout(Some(LONG))?;
    socket.write_all(&good(stream, 0))?;
    // The edge may close before it has taken all.
    let _ = socket.write_all(&bad.bytes);
    if bad.leaves {
        socket.shutdown(Shutdown::Write)?;
    }
    let mut said = Vec::new();
    match socket.read_to_end(&mut said) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset && !said.is_empty() => {}
        read => {
            read.with_context(|| format!("not closed within {LONG:?}"))?;
        }
    }
    let mut ack = b"\x81\xa3ack".to_vec();
    text(&mut ack, stream);
    ensure!(said == ack, "instead of the acknowledgement came {said:?}");
    Ok(())
}

#[test]
fn bad_input_harms_its_sender_only() {
    Scratch::run("bad-input", |scratch| {
        let (site, files) = Site::files(scratch)?;
        let mut sink = site.sink("files-1")?;
        let mut edge = site.edge("edge-1")?;
        let forward = edge.forward()?;

        // Somebody who behaves, all the while.
        let ledger = scratch.path().join("well.ledger");
        let mut send = Command::new(loadgen_binary()?);
        send.args(["send", "--to", &forward.to_string(), "--ack", "--json", "--connections", "2"])
            .args(["--rate", "10000", "--chunk-events", "100", "--events", "100000"])
            .args(["--stream-prefix", "well", "--ledger"])
            .arg(&ledger);
        let mut well = Process::start("well", send, scratch.path())?;
        until("the well-behaved sender to be under way", LONG, || -> Result<()> {
            let events = metric(edge.metrics, "weir_edge_events_total", &[])?;
            ensure!(events > 0.0, "{events} events");
            Ok(())
        })?;

        let bads = all()?;
        let before = rss(edge.process.pid())?;
        for (number, bad) in bads.iter().enumerate() {
            let count = || metric(edge.metrics, "weir_forward_violations_total", &[("reason", bad.reason)]);
            let counted = count().unwrap_or(0.0);
            let stream = format!("before-{number}");
            offend(forward, &stream, bad).with_context(|| format!("{stream}, {}", bad.reason))?;
            ensure!(count()? == counted + 1.0, "{} was not counted", bad.reason);
        }
        // Several bombs at once are no worse than their number.
        let bomb = bads.iter().find(|bad| bad.reason == "decompress_limit").context("no bomb")?;
        std::thread::scope(|threads| {
            let offenders: Vec<_> = (0..4)
                .map(|number| threads.spawn(move || offend(forward, &format!("before-bomb-{number}"), bomb)))
                .collect();
            offenders.into_iter().try_for_each(|one| one.join().expect("an offender does not panic"))
        })?;
        let peak = peak_rss(edge.process.pid())?;
        println!("memory of the edge: {} MiB before, {} MiB at most", before >> 20, peak >> 20);
        ensure!(peak <= before + GROWTH_MAX, "the edge's memory went from {before} to {peak} bytes");

        ensure!(well.wait_exit(LONG)?.success(), "the well-behaved sender failed: {}", well.said()?);
        let said = well.said()?;
        ensure!(
            said.contains("\"errors\":0,\"reconnects\":0"),
            "the well-behaved sender was disturbed: {said}"
        );
        let streams = (bads.len() + 4).to_string();
        let verify = |args: &[&str]| {
            let mut command = Command::new(loadgen_binary()?);
            run(command.arg("verify").arg("--files").arg(&files).args(args)).map(drop)
        };
        let ledger = ledger.display().to_string();
        let well = ["--stream-prefix", "well", "--expect", "100000", "--ledger", &ledger, "--wait", "60"];
        verify(&well)?;
        verify(&["--stream-prefix", "before-", "--expect", &streams, "--wait", "60"])?;
        ensure!(verify(&["--stream-prefix", "half"]).is_err(), "half a message was stored");
        edge.stop()?;
        sink.stop()
    });
}
