//! `weir-loadgen send`: many numbered streams to Forward listeners, counted and kept in a ledger.
//!
//! This module has the options, the run and its summary; one stream's life is in [`stream`]. It judges
//! only the sending: what arrived in the stores is `verify`'s question.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    chunk::{Chunk, Mode},
    ledger::Ledger,
    records::{Records, TimeForm},
};
use stream::Stream;

mod stream;
#[cfg(test)]
mod tests;

/// Open files that a run needs besides its connections.
const OTHER_FILES: u64 = 64;
/// Longest wait for an acknowledgement that is told apart: an hour, in microseconds.
const ACK_MICROS_MAX: u64 = 3_600_000_000;
/// Connections that are being set up at one time; the others wait their turn.
const CONNECTING_MAX: usize = 256;
/// Output buffers that are kept for reuse; more are given back to the allocator.
const SPARE_BUFFERS: usize = 256;

/// Options of `send`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SendArgs {
    /// Where to send; when given more than once, connections are spread over all and move on when one fails.
    #[arg(long, value_name = "HOST:PORT", required = true, value_parser = address)]
    to: Vec<String>,
    /// Events a second over all connections; as fast as it goes without.
    #[arg(long, value_name = "EVENTS_PER_S", value_parser = rate)]
    rate: Option<f64>,
    /// Events to send in all.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 50))]
    events: u64,
    /// Connections, each with a stream of its own.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    connections: u32,
    /// Different tags; each chunk takes the next.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tags: u32,
    /// Tags are called `<prefix>.<number>`.
    #[arg(long, default_value = "app")]
    tag_prefix: String,
    /// Size of a record in bytes of MessagePack; about 150 is the least.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    event_bytes: u32,
    /// Events in a chunk. With `--mode message --ack` each event is a chunk.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    chunk_events: u32,
    /// Form of the messages.
    #[arg(long, value_enum, default_value_t = Mode::Packed)]
    mode: Mode,
    /// Ask for acknowledgements, and resend what is not acknowledged when a connection is lost.
    #[arg(long)]
    ack: bool,
    /// Chunks of one connection that may be unacknowledged.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    window: u32,
    /// Give a stream up after so long without progress.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    give_up: u64,
    /// Leave a connection that owes acknowledgements and gives none for so long, for the next --to address.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    ack_timeout: u64,
    /// How the time of events is written.
    #[arg(long, value_enum, default_value_t = TimeForm::Eventtime)]
    time: TimeForm,
    /// Seed of the records' content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Streams are called `<prefix>-<connection>`; a second run into the same stores needs another.
    #[arg(long, default_value = "s")]
    stream_prefix: String,
    /// Write what was sent and acknowledged to this file, for `verify`.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Print the summary as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Checks that `text` is `HOST:PORT`.
fn address(text: &str) -> Result<String, String> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    if matches!(port, Some(Ok(1..))) { Ok(text.to_owned()) } else { Err("wanted HOST:PORT".to_owned()) }
}

/// Checks that `text` is a rate that time can be divided by.
fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (1e-3..=1e12).contains(rate))
        .ok_or_else(|| "wanted a number above 0".to_owned())
}

/// What the run has done so far.
#[derive(Debug, Default)]
struct Counts {
    /// Events that are done: acknowledged, or written when no acknowledgements are asked for.
    events: AtomicU64,
    chunks: AtomicU64,
    acks: AtomicU64,
    /// Bytes that sockets took, resent ones too.
    bytes: AtomicU64,
    /// Failed tries to connect and lost connections.
    errors: AtomicU64,
    /// Connections made in place of others.
    reconnects: AtomicU64,
}

/// The pace of a limited run.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Time between two events of one stream.
    event: Duration,
    /// One stream's share of the run, by which streams are staggered.
    share: f64,
}

/// What all streams of a run share.
#[derive(Debug)]
struct Shared {
    addresses: Vec<String>,
    mode: Mode,
    ack: bool,
    window: usize,
    chunk_events: u32,
    give_up: Duration,
    ack_timeout: Duration,
    stream_prefix: String,
    tags: Vec<String>,
    records: Records,
    pace: Option<Pace>,
    started: Instant,
    connecting: Semaphore,
    counts: Counts,
    /// From a chunk's first offer to its acknowledgement, in microseconds.
    ack_micros: Mutex<Histogram<u64>>,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    fn new(args: &SendArgs) -> anyhow::Result<Self> {
        let first_stream = format!("{}-0", args.stream_prefix);
        let share = 1.0 / f64::from(args.connections);
        Ok(Self {
            addresses: args.to.clone(),
            mode: args.mode,
            ack: args.ack,
            window: args.window as usize,
            chunk_events: args.chunk_events,
            give_up: Duration::from_secs(args.give_up),
            ack_timeout: Duration::from_secs(args.ack_timeout),
            stream_prefix: args.stream_prefix.clone(),
            tags: (0..args.tags).map(|number| format!("{}.{number}", args.tag_prefix)).collect(),
            records: Records::new(args.seed, args.event_bytes as usize, &first_stream, args.time),
            pace: args.rate.map(|rate| Pace { event: Duration::from_secs_f64(1.0 / (rate * share)), share }),
            started: Instant::now(),
            connecting: Semaphore::new(CONNECTING_MAX),
            counts: Counts::default(),
            ack_micros: Mutex::new(Histogram::new_with_bounds(1, ACK_MICROS_MAX, 3)?),
            spare: Mutex::default(),
        })
    }

    fn stream_name(&self, index: usize) -> String {
        format!("{}-{index}", self.stream_prefix)
    }

    fn spare_buffer(&self) -> Vec<u8> {
        self.spare.lock().pop().unwrap_or_default()
    }

    fn keep_buffer(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut spare = self.spare.lock();
        if spare.len() < SPARE_BUFFERS {
            spare.push(buffer);
        }
    }

    fn count_done(&self, chunk: &Chunk) {
        self.counts.events.fetch_add(u64::from(chunk.count), Relaxed);
        self.counts.chunks.fetch_add(1, Relaxed);
    }

    fn count_ack(&self, waited: Duration) {
        self.counts.acks.fetch_add(1, Relaxed);
        self.ack_micros.lock().saturating_record(waited.as_micros() as u64);
    }
}

/// How long acknowledgements took, in milliseconds.
#[derive(Clone, Debug, Serialize)]
struct AckMillis {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// What a run came to; `README.md` explains the fields.
#[derive(Clone, Debug, Serialize)]
struct Summary {
    events: u64,
    bytes: u64,
    seconds: f64,
    events_per_second: f64,
    chunks: u64,
    acks: u64,
    ack_ms: Option<AckMillis>,
    errors: u64,
    reconnects: u64,
}

impl Summary {
    fn of(shared: &Shared) -> Self {
        let counts = &shared.counts;
        let seconds = shared.started.elapsed().as_secs_f64();
        let events = counts.events.load(Relaxed);
        let micros = shared.ack_micros.lock();
        let millis = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            events,
            bytes: counts.bytes.load(Relaxed),
            seconds: (seconds * 1e6).round() / 1e6,
            events_per_second: (events as f64 / seconds).round(),
            chunks: counts.chunks.load(Relaxed),
            acks: counts.acks.load(Relaxed),
            ack_ms: (!micros.is_empty()).then(|| AckMillis {
                p50: millis(0.5),
                p90: millis(0.9),
                p99: millis(0.99),
                p999: millis(0.999),
                max: micros.max() as f64 / 1000.0,
            }),
            errors: counts.errors.load(Relaxed),
            reconnects: counts.reconnects.load(Relaxed),
        }
    }

    fn print(&self, as_json: bool) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if as_json {
            return writeln!(out, "{}", serde_json::to_string(self)?);
        }
        writeln!(
            out,
            "{} events in {:.3} s: {} events/s, {} chunks, {} acks, {} bytes, {} errors, {} reconnects",
            self.events,
            self.seconds,
            self.events_per_second,
            self.chunks,
            self.acks,
            self.bytes,
            self.errors,
            self.reconnects
        )?;
        self.ack_ms.iter().try_for_each(|ack| {
            let AckMillis { p50, p90, p99, p999, max } = ack;
            writeln!(out, "ack ms: p50 {p50}, p90 {p90}, p99 {p99}, p999 {p999}, max {max}")
        })
    }
}

/// The whole result of a run.
#[derive(Debug)]
struct Outcome {
    summary: Summary,
    ledger: Ledger,
    /// Why streams ended early, one for each such stream.
    failures: Vec<anyhow::Error>,
}

/// Runs `send`; success only when every event was written, and acknowledged if that was asked for.
///
/// # Errors
/// The run could not start, or its ledger could not be written.
pub(crate) fn command(args: &SendArgs) -> anyhow::Result<ExitCode> {
    let files = u64::from(args.connections) + OTHER_FILES;
    let limit = rlimit::increase_nofile_limit(files).context("raising the limit of open files")?;
    ensure!(limit >= files, "{} connections need {files} open files, the limit is {limit}", args.connections);

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(run(args))?;
    if let Some(path) = &args.ledger {
        outcome.ledger.write(path).with_context(|| format!("writing the ledger {}", path.display()))?;
    }
    outcome.summary.print(args.json)?;
    let Some(first) = outcome.failures.first() else { return Ok(ExitCode::SUCCESS) };
    eprintln!("weir-loadgen: {} streams ended early; {first:#}", outcome.failures.len());
    Ok(ExitCode::from(crate::FAILED))
}

/// Sends everything, or what could be sent until a signal.
async fn run(args: &SendArgs) -> anyhow::Result<Outcome> {
    let (stop_all, stop) = watch::channel(false);
    let shared = Arc::new(Shared::new(args)?);
    let mut streams = JoinSet::new();
    let connections = u64::from(args.connections);
    for index in 0..connections {
        let total = args.events / connections + u64::from(index < args.events % connections);
        streams.spawn(Stream::new(shared.clone(), stop.clone(), index as usize, total).run());
    }

    let bar = progress_bar(args.events);
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ledger = Ledger::default();
    let mut failures = Vec::new();
    loop {
        tokio::select! {
            ended = streams.join_next() => {
                let Some(ended) = ended else { break };
                let (name, stream, failure) = ended?;
                ledger.streams.insert(name, stream);
                failures.extend(failure);
            }
            _ = tick.tick() => bar.set_position(shared.counts.events.load(Relaxed)),
            // Streams end in order, so that the ledger is written.
            _ = interrupt.recv() => drop(stop_all.send(true)),
            _ = terminate.recv() => drop(stop_all.send(true)),
        }
    }
    bar.finish_and_clear();
    Ok(Outcome { summary: Summary::of(&shared), ledger, failures })
}

fn progress_bar(events: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} {per_sec} {eta}");
    ProgressBar::new(events).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
