//! `weir tap`: a sample of the events that an edge takes in, live.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;
use tokio::sync::mpsc;

use weir_edge::Tapped;
use weir_shape::{Format, each_event_of};

use crate::http;

/// Most events in a second that an onlooker may ask for.
const RATE_MAX: u32 = 1_000;
/// A batch larger than this is not unpacked for an onlooker.
const PAYLOAD_BYTES_MAX: usize = 4 << 20;

#[derive(Args)]
pub(crate) struct TapArgs {
    /// Where the edge serves its metrics.
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:24220")]
    address: String,
    /// Only tags that this pattern matches, as in a route.
    #[arg(long, value_name = "PATTERN")]
    tag: Option<String>,
    /// Most events in a second.
    #[arg(long, value_name = "EVENTS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    rate: u32,
    /// Fields whose values are not shown, at any depth of a record.
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    redact: Vec<String>,
    /// End after so many events.
    #[arg(long, value_name = "EVENTS")]
    count: Option<u64>,
}

/// Shows events until the edge ends, `count` is reached, or the reader of the output is gone.
pub(crate) fn run(args: &TapArgs) -> anyhow::Result<ExitCode> {
    let tag = args.tag.as_deref().map(|tag| format!("&tag={}", http::encoded(tag))).unwrap_or_default();
    let redact = http::encoded(&args.redact.join(","));
    let path = format!("/api/v1/tap?rate={}&redact={redact}{tag}", args.rate);
    let lines = http::open(&args.address, &path, None)?.lines();
    for line in lines.take(usize::try_from(args.count.unwrap_or(u64::MAX)).unwrap_or(usize::MAX)) {
        use std::io::Write;
        if writeln!(std::io::stdout(), "{}", line?).is_err() {
            break; // as `head` does it
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes lines of what an onlooker asked for, at most `rate` in a second.
pub(crate) async fn lines(
    mut batches: mpsc::Receiver<Tapped>,
    rate: u32,
    redact: BTreeSet<String>,
    out: mpsc::Sender<Vec<u8>>,
) {
    let rate = rate.clamp(1, RATE_MAX) as usize;
    let (mut second, mut shown) = (Instant::now(), 0);
    while let Some(batch) = batches.recv().await {
        if second.elapsed() >= Duration::from_secs(1) {
            (second, shown) = (Instant::now(), 0);
        }
        let left = rate - shown;
        if left == 0 || batch.payload.len() > PAYLOAD_BYTES_MAX {
            continue;
        }
        let redact = redact.clone();
        let Ok(lines) = tokio::task::spawn_blocking(move || events(&batch, left, &redact)).await else {
            return;
        };
        shown += lines.len();
        for line in lines {
            if out.send(line).await.is_err() {
                return;
            }
        }
    }
}

/// The first events of a batch, each a line.
fn events(batch: &Tapped, most: usize, redact: &BTreeSet<String>) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let visited = each_event_of(&batch.header, &batch.payload, Format::Envelope, |event| {
        let mut line = match serde_json::from_slice::<Value>(event.json) {
            Ok(mut value) if !redact.is_empty() => {
                hide(&mut value["record"], redact);
                value.to_string().into_bytes()
            }
            // Nested too deep to be looked through: not to be shown either.
            Err(_) if !redact.is_empty() => return Ok(()),
            _ => event.json.to_owned(),
        };
        line.push(b'\n');
        lines.push(line);
        if lines.len() < most { Ok(()) } else { Err(()) }
    });
    // It ends early where enough was seen; a batch that does not read is the store's to report.
    let _ = visited;
    lines
}

fn hide(value: &mut Value, names: &BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                if names.contains(name) { *value = Value::from("***") } else { hide(value, names) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use weir_model::{BatchHeader, Encoding};

    use super::*;

    #[tokio::test]
    async fn an_onlooker_gets_no_more_than_it_asked_for() {
        let header = BatchHeader {
            tag: "app.web".into(),
            encoding: Encoding::Plain,
            received_ns: 0,
            chunks: Vec::new(),
            unpacked_bytes: 0,
            minutes: Vec::new(),
        };
        // [time, {"k": 1}], a hundred times
        let payload = b"\x92\xce\x65\x00\x00\x00\x81\xa1k\x01".repeat(100);
        let batch = Tapped { header: Arc::new(header), payload: payload.into() };
        let (tapped, batches) = mpsc::channel(3);
        for _ in 0..3 {
            tapped.try_send(batch.clone()).unwrap();
        }
        drop(tapped);
        let (out, mut shown) = mpsc::channel(1000);
        lines(batches, 5, BTreeSet::from(["k".to_owned()]), out).await;
        let mut count = 0;
        while let Some(line) = shown.recv().await {
            let line = String::from_utf8(line).unwrap();
            assert!(line.contains("\"k\":\"***\"") && line.ends_with('\n'), "{line}");
            count += 1;
        }
        assert_eq!(count, 5);
    }

    #[test]
    fn fields_are_hidden_at_any_depth() {
        let mut value = json!({"user": "ada", "a": [{"password": {"x": 1}, "b": 2}], "password": 3});
        hide(&mut value, &BTreeSet::from(["password".to_owned()]));
        assert_eq!(value, json!({"user": "ada", "a": [{"password": "***", "b": 2}], "password": "***"}));
    }
}
