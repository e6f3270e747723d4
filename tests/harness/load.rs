//! The load and the witness: `weir-loadgen send` in the background, `weir-loadgen verify` over what came of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::Deserialize;

use crate::Signal;
use crate::paths::loadgen_binary;
use crate::process::Process;

/// A running `weir-loadgen send`, with acknowledgements.
#[derive(Debug)]
pub struct Sending {
    process: Process,
    ledger: PathBuf,
}

/// What a load came to, as `send --json` says.
#[derive(Debug, Clone, Deserialize)]
pub struct Sent {
    /// Acknowledged events.
    pub events: u64,
    /// Acknowledged events a second.
    pub events_per_second: f64,
    /// How long acknowledgements took, in milliseconds.
    pub ack_ms: Option<AckMillis>,
    /// Failed tries to connect and lost connections.
    pub errors: u64,
    /// Connections made in place of lost ones.
    pub reconnects: u64,
}

/// Quantiles of the time to the acknowledgement.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct AckMillis {
    /// The median.
    pub p50: f64,
    /// One in a hundred took longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// What the stores hold of a load, as `verify --json` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    /// Events there, doubled ones counted each time.
    pub events: u64,
    /// Acknowledged and not there.
    pub lost: u64,
    /// There more often than once.
    pub doubled: u64,
    /// Of these, events that their sender had sent more than once.
    pub doubled_resent: u64,
    /// Not what was sent.
    pub altered: u64,
    /// Never sent.
    pub foreign: u64,
}

/// The rest of what `verify` says.
#[derive(Deserialize)]
struct Report {
    #[serde(flatten)]
    verdict: Verdict,
    // Events of other loads.
    unjudged: u64,
}

impl Sending {
    /// Starts to send numbered events to these edges, acknowledged: streams and log are called after `name`, tags begin
    /// with `tag`, `options` are further ones of `send`.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(name: &str, tag: &str, to: &[SocketAddr], options: &[&str], dir: &Path) -> Result<Sending> {
        let ledger = dir.join(format!("{name}.ledger"));
        let mut command = Command::new(loadgen_binary()?);
        command.args(["send", "--ack", "--json", "--stream-prefix", name, "--tag-prefix", tag]).args(options);
        command.arg("--ledger").arg(&ledger);
        for address in to {
            command.args(["--to", &address.to_string()]);
        }
        Ok(Sending { process: Process::start(&format!("send-{name}"), command, dir)?, ledger })
    }

    /// Where the ledger will be, or is.
    #[must_use]
    pub fn ledger(&self) -> &Path {
        &self.ledger
    }

    /// Waits until everything is sent and acknowledged.
    ///
    /// # Errors
    /// If a stream gave up, or it still sends after `timeout`.
    pub fn finish(&mut self, timeout: Duration) -> Result<Sent> {
        let status = self.process.wait_exit(timeout)?;
        ensure!(status.success(), "the load failed ({status}): {}", self.process.said()?);
        self.sent()
    }

    /// Ends it before its time; what is not acknowledged is in the ledger as that.
    ///
    /// # Errors
    /// If it does not end after `timeout`, or leaves no ledger.
    pub fn cut_short(&mut self, timeout: Duration) -> Result<Sent> {
        if self.process.exited()?.is_none() {
            self.process.signal(Signal::TERM)?;
        }
        self.process.wait_exit(timeout)?;
        self.sent()
    }

    fn sent(&self) -> Result<Sent> {
        let said = self.process.said()?;
        let line =
            said.lines().find(|line| line.starts_with('{')).with_context(|| format!("no summary: {said}"))?;
        Ok(serde_json::from_str(line)?)
    }
}

impl Verdict {
    /// Whether each acknowledged event is there once, and nothing else, also of what a sender sent twice.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let Verdict { lost, doubled, altered, foreign, .. } = *self;
        lost + doubled + altered + foreign == 0
    }

    /// Reads `source` (options of `verify` that name stores) until nothing of the ledger is missing, at most so long.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn of(source: &[String], ledgers: &[&Path], wait: Duration) -> Result<Verdict> {
        let mut command = Command::new(loadgen_binary()?);
        command.args(["verify", "--json", "--missing-ok"]).args(source);
        for ledger in ledgers {
            command.arg("--ledger").arg(ledger);
        }
        command.args(["--wait", &wait.as_secs().to_string()]);
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = || format!("{command:?} says: {text}{}", String::from_utf8_lossy(&output.stderr));
        let report: Report = serde_json::from_str(&text).with_context(said)?;
        let events = report.verdict.events - report.unjudged;
        Ok(Verdict { events, ..report.verdict })
    }
}

/// Options of `verify` for the directories of the minutes from `since` until now, below a root that is partitioned by
/// `%Y/%m/%d/%H/%M`: so that a long test does not read everything again and again.
#[must_use]
pub fn minute_directories(option: &str, root: &str, since: SystemTime) -> Vec<String> {
    let minute = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
    let name = |minute: u64| {
        let time = Timestamp::from_second((minute * 60).cast_signed()).unwrap_or(Timestamp::UNIX_EPOCH);
        format!("{root}/{}", time.strftime("%Y/%m/%d/%H/%M"))
    };
    (minute(since)..=minute(SystemTime::now())).flat_map(|minute| [option.to_owned(), name(minute)]).collect()
}

impl std::ops::AddAssign for Verdict {
    fn add_assign(&mut self, more: Verdict) {
        self.events += more.events;
        self.lost += more.lost;
        self.doubled += more.doubled;
        self.doubled_resent += more.doubled_resent;
        self.altered += more.altered;
        self.foreign += more.foreign;
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Verdict { events, lost, doubled, doubled_resent, altered, foreign } = self;
        write!(out, "{events} stored, {lost} lost, {doubled} doubled ({doubled_resent} of these resent), ")?;
        write!(out, "{altered} altered, {foreign} foreign")
    }
}
