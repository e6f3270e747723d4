//! `weir status`: how a node does, asked over HTTP and shown as a table or as JSON; or the fleet, through a controller
//! ([`crate::fleet`]).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::{Deserialize, Serialize};

use weir_edge::GroupStatus;

use crate::fleet::Access;
use crate::http;
use crate::terminal::{Palette, age, size, table};
use crate::topology::Output;

/// Where a node serves its metrics unless told otherwise.
const NODE: &str = "127.0.0.1:24220";

/// Time between the two looks from which rates are made.
const RATE_OVER: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct StatusArgs {
    /// Where the node serves its metrics. Without it: the fleet, if a controller is named; else 127.0.0.1:24220.
    #[arg(value_name = "ADDR")]
    pub(crate) address: Option<String>,
    #[command(flatten)]
    pub(crate) access: Access,
}

/// How a node does: the answer of `/api/v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) version: String,
    pub(crate) revision: Option<String>,
    pub(crate) uptime_seconds: u64,
    pub(crate) ready: bool,
    /// Condition → why it does not hold; nothing if it does.
    pub(crate) conditions: BTreeMap<String, Option<String>>,
    pub(crate) notes: BTreeMap<String, String>,
    /// The group logs of an edge.
    pub(crate) logs: Vec<LogStatus>,
    /// Events and bytes in a second; only in what `weir status` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rates: Option<Rates>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogStatus {
    pub(crate) group: String,
    pub(crate) state: String,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    pub(crate) quota_bytes: u64,
    pub(crate) oldest_seconds: f64,
    pub(crate) promised_parts: usize,
    pub(crate) sinks: Vec<SinkStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SinkStatus {
    pub(crate) sink: String,
    pub(crate) connected: bool,
    pub(crate) in_flight_bytes: u64,
    pub(crate) credit_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rates {
    pub(crate) events_per_second: f64,
    pub(crate) bytes_per_second: f64,
}

impl LogStatus {
    pub(crate) fn of(group: GroupStatus) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = |since| now.saturating_sub(Duration::from_nanos(since)).as_secs_f64();
        let (promised_parts, sinks) =
            group.dispatch.map_or((0, Vec::new()), |dispatch| (dispatch.promised_parts, dispatch.sinks));
        let sink = |sink: weir_edge::SinkStatus| SinkStatus {
            sink: sink.sink.to_string(),
            connected: sink.connected,
            in_flight_bytes: sink.in_flight_bytes,
            credit_bytes: sink.credit_bytes,
        };
        Self {
            group: group.group.to_string(),
            state: group.state.to_string(),
            batches: group.depth.records,
            bytes: group.depth.bytes,
            quota_bytes: group.quota_bytes,
            oldest_seconds: group.depth.oldest_ns.map_or(0.0, age),
            promised_parts,
            sinks: sinks.into_iter().map(sink).collect(),
        }
    }
}

/// Asks a node and shows its answer: exit 0 if it is ready, else 1.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let address = args.address.as_deref().unwrap_or(NODE);
    let mut status: Status = serde_json::from_slice(&http::get(address, "/api/v1/status")?)?;
    let before = totals(address)?;
    std::thread::sleep(RATE_OVER);
    let after = totals(address)?;
    let rate = |index: usize| (after[index] - before[index]).max(0.0) / RATE_OVER.as_secs_f64();
    status.rates = Some(Rates { events_per_second: rate(0), bytes_per_second: rate(1) });
    match args.access.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Text => {
            print!("{}", text(&status, Palette { colours: std::io::stdout().is_terminal() }));
        }
    }
    Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Events and bytes since the node began: taken in by an edge, stored by a sink.
fn totals(address: &str) -> anyhow::Result<[f64; 2]> {
    let page = String::from_utf8(http::get(address, "/metrics")?)?;
    let sum = |names: [&str; 2]| -> f64 {
        let of = |name: &str| {
            let values = page.lines().filter(move |line| line.split(['{', ' ']).next() == Some(name));
            values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        };
        let (edge, sink) = (of(names[0]), of(names[1]));
        // In a standalone process the same event passes both.
        if edge > 0.0 { edge } else { sink }
    };
    Ok([
        sum(["weir_edge_events_total", "weir_store_events_total"]),
        sum(["weir_edge_bytes_total", "weir_store_bytes_total"]),
    ])
}

fn text(status: &Status, palette: Palette) -> String {
    let ready = if status.ready { palette.good("ready") } else { palette.bad("not ready") };
    let revision = status.revision.as_deref().unwrap_or("none");
    let mut out = format!(
        "{} {} ({}), version {}, up {}\n  {ready}, revision {revision}\n",
        status.role,
        palette.strong(&status.name),
        if status.logs.is_empty() { "no logs".to_owned() } else { format!("{} logs", status.logs.len()) },
        status.version,
        age(status.uptime_seconds as f64),
    );
    for (name, reason) in status.conditions.iter().filter_map(|(name, why)| Some((name, why.as_ref()?))) {
        let _ = writeln!(out, "  {}: {reason}", palette.bad(name));
    }
    for (name, note) in &status.notes {
        let _ = writeln!(out, "  {}: {note}", palette.note(name));
    }
    if let Some(Rates { events_per_second, bytes_per_second }) = status.rates {
        let _ = writeln!(out, "  {events_per_second:.0} events/s, {}/s", size(bytes_per_second));
    }
    if !status.logs.is_empty() {
        let mut rows = vec![
            ["LOG", "STATE", "BATCHES", "BYTES", "OF", "OLDEST", "PROMISED", "SINKS"].map(str::to_owned),
        ];
        rows.extend(status.logs.iter().map(|log| {
            let up = log.sinks.iter().filter(|sink| sink.connected).count();
            [
                log.group.clone(),
                log.state.clone(),
                log.batches.to_string(),
                size(log.bytes as f64),
                size(log.quota_bytes as f64),
                age(log.oldest_seconds),
                log.promised_parts.to_string(),
                format!("{up}/{}", log.sinks.len()),
            ]
        }));
        out += "\n";
        out += &table(&rows);
        let mut rows = vec![["SINK", "GROUP", "CONNECTED", "IN FLIGHT", "CREDIT"].map(str::to_owned)];
        for log in &status.logs {
            rows.extend(log.sinks.iter().map(|sink| {
                [
                    sink.sink.clone(),
                    log.group.clone(),
                    if sink.connected { "yes" } else { "NO" }.to_owned(),
                    size(sink.in_flight_bytes as f64),
                    size(sink.credit_bytes as f64),
                ]
            }));
        }
        out += "\n";
        out += &table(&rows);
    }
    out
}
