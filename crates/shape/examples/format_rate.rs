//! How fast events of about 250 bytes become lines, and how fast the codecs pack them.
//!
//! `cargo run --release -p weir-shape --example format_rate`

use std::convert::Infallible;
use std::error::Error;
use std::hint::black_box;
use std::io::{Write, stdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_model::{BatchHeader, BatchId, Encoding, GroupId, Incarnation, LogId, NodeId, Seq};
use weir_shape::{Codec, Event, Format, Partitioner, each_event};
use weir_store::PartBatch;

const EVENTS: usize = 4000;
const RUN: Duration = Duration::from_secs(1);

fn entry(n: usize) -> Vec<u8> {
    let mut entry = vec![0x92, 0xd7, 0x00];
    entry.extend((1_700_000_000 + n as u32 / 100).to_be_bytes());
    entry.extend((n as u32).to_be_bytes());
    entry.push(0x88);
    let mut text = |key: &str, value: &str| {
        entry.push(0xa0 | key.len() as u8);
        entry.extend(key.as_bytes());
        match value.len() {
            short @ 0..32 => entry.push(0xa0 | short as u8),
            long => entry.extend([0xd9, long as u8]),
        }
        entry.extend(value.as_bytes());
    };
    text("host", &format!("web-{:04}", n % 500));
    text("method", ["GET", "POST", "DELETE"][n % 3]);
    text("path", &format!("/api/v1/users/{n:08}/orders/{:06}/items", n * 7 % 999_999));
    text("referer", "https://shop.example.com/catalogue/page/4711");
    text("agent", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101");
    text("remote", &format!("10.{}.{}.{}", n % 250, n % 240, n % 230));
    entry.extend(b"\xa4code\xcd\x00\xc8");
    entry.extend(b"\xa4size\xce\x00\x01\x02\x03");
    entry
}

/// Nanoseconds per event of what `work` does with a whole batch: the best of many rounds, for the machine may have
/// other work as well.
fn ns_per_event<E>(mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let (begun, mut best) = (Instant::now(), Duration::MAX);
    while begun.elapsed() < RUN {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed());
    }
    Ok(best.as_nanos() as f64 / EVENTS as f64)
}

fn main() -> Result<(), Box<dyn Error>> {
    let payload: Bytes = (0..EVENTS).flat_map(entry).collect::<Vec<_>>().into();
    let bytes = payload.len();
    let log =
        LogId { edge: NodeId::new("edge-1")?, group: GroupId::new("files")?, incarnation: Incarnation(1) };
    let header = BatchHeader {
        tag: "app.web".into(),
        encoding: Encoding::Plain,
        received_ns: 0,
        chunks: Vec::new(),
        unpacked_bytes: bytes as u64,
        minutes: Vec::new(),
    };
    let batch = PartBatch {
        id: BatchId { log: Arc::new(log), seq: Seq(0) },
        header: Arc::new(header),
        done: Vec::new(),
        payload: Arc::new(payload),
    };
    let out = &mut stdout().lock();
    writeln!(out, "{} bytes per event", bytes / EVENTS)?;
    for format in [Format::Envelope, Format::Record] {
        let ns = ns_per_event(|| {
            each_event(&batch, format, |event| {
                black_box(event.json);
                Ok::<_, Infallible>(())
            })
            .map(drop)
        })?;
        writeln!(out, "{format:?}: {ns:.0} ns/event")?;
    }
    let partitioner = Partitioner::new("%Y/%m/%d/%H/{tag}")?;
    let ns = ns_per_event(|| {
        let mut of_tag = partitioner.of_tag("app.web");
        for n in 0..EVENTS as i64 {
            black_box(of_tag.at(black_box(1_700_000_000 + n / 100)));
        }
        Ok::<_, Infallible>(())
    })?;
    writeln!(out, "Partition: {ns:.1} ns/event")?;

    let mut lines = Vec::new();
    each_event(&batch, Format::Envelope, |Event { json, .. }| {
        lines.extend_from_slice(json);
        lines.push(b'\n');
        Ok::<_, Infallible>(())
    })?;
    for codec in [Codec::Gzip, Codec::Zstd] {
        let mut packed = 0;
        let ns = ns_per_event(|| {
            let mut writer = codec.writer(Vec::new());
            writer.write_all(&lines)?;
            packed = writer.finish()?.len();
            Ok::<_, std::io::Error>(())
        })?;
        writeln!(out, "{codec:?}: {ns:.0} ns/event, to {} %", 100 * packed / lines.len())?;
    }
    Ok(())
}
