//! `weir-loadgen verify`: reads the stores and holds them against what was sent.
//!
//! Sources ([`files`], [`kafka`], [`hdfs`]) show each event to the [`judge`]; the [`report`] tells the
//! verdict. A reading is a whole one: with `--wait`, each try begins again with a judge who has seen nothing.

use std::{
    fs::File,
    io::{self, BufReader, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::de::DeserializeOwned;

use self::{
    judge::{Expectation, Judge},
    kafka::Topics,
    report::Report,
};
use crate::ledger::{Ledger, Ranges};

mod files;
mod hdfs;
mod judge;
mod kafka;
mod ranges;
mod report;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;

/// Exit status of wrong use.
const WRONG_USE: u8 = 2;

/// Readings in a row that may fail because something went away meanwhile.
const READINGS_MAX: u32 = 10;

/// Least time between two readings.
const PAUSE: Duration = Duration::from_millis(500);

/// Options of `verify`.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(group = clap::ArgGroup::new("source").required(true).multiple(true).args(["files", "kafka", "hdfs"]))]
pub(crate) struct VerifyArgs {
    /// Read *.jsonl, *.jsonl.gz and *.jsonl.zst below this directory; names that start with . or _ are ignored.
    #[arg(long, value_name = "DIR")]
    files: Vec<PathBuf>,
    /// Read committed messages from this cluster.
    #[arg(long, value_name = "HOST:PORT", requires = "topic_choice")]
    kafka: Option<String>,
    /// Topics to read.
    #[arg(long, value_name = "NAME", value_delimiter = ',', group = "topic_choice", requires = "kafka")]
    topics: Vec<String>,
    /// Read all topics whose names start with this.
    #[arg(long, value_name = "PREFIX", group = "topic_choice", requires = "kafka")]
    topic_prefix: Option<String>,
    /// Read files, as with --files, below this directory of HDFS.
    #[arg(long, value_name = "hdfs://HOST:PORT/DIR")]
    hdfs: Vec<String>,
    /// Take a directory of --files or --hdfs that is not there for an empty one.
    #[arg(long)]
    missing_ok: bool,
    /// Expect so many events in all.
    #[arg(long, value_name = "EVENTS")]
    expect: Option<u64>,
    /// Expect what this ledger of `send` names. Without, numbers must have no gaps up to each stream's last.
    #[arg(long, value_name = "FILE")]
    ledger: Vec<PathBuf>,
    /// Judge only streams whose names start so.
    #[arg(long, value_name = "PREFIX")]
    stream_prefix: Vec<String>,
    /// Judge only events whose tags start so.
    #[arg(long, value_name = "PREFIX")]
    tag: Option<String>,
    /// Read again until nothing is missing, at most so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// Print counts and hashes by minute of event time as JSON; the report goes to standard error.
    #[arg(long, conflicts_with = "json")]
    per_minute: bool,
    /// Expect the minutes that this output of --per-minute holds.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `verify`: 0 when all is as expected, 1 when something is lost, doubled, altered or foreign, 2 when an
/// expectation cannot be read.
///
/// # Errors
/// A source cannot be read, or standard output cannot be written.
#[expect(clippy::needless_pass_by_value, reason = "as clap hands it over: nobody needs it afterwards")]
pub(crate) fn command(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let expected = match expectation(&args) {
        Ok(expected) => expected,
        Err(error) => {
            eprintln!("weir-loadgen: {error:#}");
            return Ok(ExitCode::from(WRONG_USE));
        }
    };
    let report = verify(&args, &expected)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else if args.per_minute {
        writeln!(out, "{}", serde_json::to_string(&report.minutes)?)?;
        eprint!("{report}");
    } else {
        write!(out, "{report}")?;
    }
    Ok(if report.is_fine() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn expectation(args: &VerifyArgs) -> anyhow::Result<Expectation> {
    let mut ledger = (!args.ledger.is_empty()).then(Ledger::default);
    for path in &args.ledger {
        let ledger = ledger.get_or_insert_default();
        for (name, more) in load::<Ledger>(path)?.streams {
            let stream = ledger.streams.entry(name).or_default();
            stream.acked.0.extend(more.acked.0);
            stream.maybe.0.extend(more.maybe.0);
            stream.resent.0.extend(more.resent.0);
            [&mut stream.acked, &mut stream.maybe, &mut stream.resent].into_iter().for_each(Ranges::settle);
        }
    }
    Ok(Expectation {
        stream_prefixes: args.stream_prefix.clone(),
        tag_prefix: args.tag.clone(),
        events: args.expect,
        ledger,
        minutes: args.against.as_deref().map(load).transpose()?,
        per_minute: args.per_minute || args.against.is_some(),
    })
}

fn load<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let context = || path.display().to_string();
    let file = BufReader::new(File::open(path).with_context(context)?);
    serde_json::from_reader(file).with_context(context)
}

/// Reads all sources until nothing is missing or the time is over.
fn verify(args: &VerifyArgs, expected: &Expectation) -> anyhow::Result<Report> {
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let mut judge = Judge::new(expected);
        match read(args, &mut judge) {
            Ok(()) => {
                failures = 0;
                let report = judge.finish();
                if report.is_complete() || Instant::now() >= deadline {
                    return Ok(report);
                }
            }
            Err(error) => {
                failures += 1;
                // Whatever is not there yet may come while there is time; what went away is read elsewhere.
                let again = is_gone(&error) && (failures < READINGS_MAX || Instant::now() < deadline);
                if !again {
                    return Err(error);
                }
            }
        }
        // A large store is not read more than half of the time.
        std::thread::sleep(
            begun.elapsed().max(PAUSE).min(deadline.saturating_duration_since(Instant::now())),
        );
    }
}

fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn read(args: &VerifyArgs, judge: &mut Judge<'_>) -> anyhow::Result<()> {
    for directory in &args.files {
        if directory.exists() || !args.missing_ok {
            files::read(directory, judge)?;
        }
    }
    if let Some(bootstrap) = &args.kafka {
        let topics = match &args.topic_prefix {
            Some(prefix) => Topics::Prefix(prefix.clone()),
            None => Topics::Named(args.topics.clone()),
        };
        kafka::read(bootstrap, &topics, judge)?;
    }
    for url in &args.hdfs {
        hdfs::read(url, args.missing_ok, judge)?;
    }
    Ok(())
}
