//! Parts made by hand: entries as Forward has them, headers that fit, names that no other run uses.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use weir_model::{
    BatchHeader, BatchId, Encoding, GroupId, Incarnation, LogId, MinuteTally, NodeId, PartId, Seq,
};

use crate::{Backend, Part, PartBatch, Partition};

const NS_PER_SECOND: i64 = 1_000_000_000;

/// One event of a batch and the envelope that a store must show for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// The tag of its batch.
    pub tag: Arc<str>,
    /// Nanoseconds since 1970.
    pub time_ns: i64,
    /// The text of its record's only member, `m`; none for an empty record.
    pub text: Option<String>,
}

/// Nanoseconds since 1970. Events of long ago will not do: some stores delete by the events' time.
///
/// # Panics
/// When the clock is before 1970.
#[must_use]
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    i64::try_from(since.as_nanos()).expect("the clock is before 2262")
}

/// A word of small letters and digits that no other call returns, in this process or another.
#[must_use]
pub fn marker(case: &str) -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    format!("{case}x{:x}x{:x}x{call}", now_ns(), std::process::id())
}

/// An incarnation that no other call returns.
#[must_use]
pub fn incarnation() -> Incarnation {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let chance = u128::from(now_ns().unsigned_abs()) << 64 | u128::from(std::process::id()) << 32;
    Incarnation(chance | u128::from(call))
}

/// A sink's name.
///
/// # Panics
/// When `name` is not one.
#[must_use]
pub fn sink(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid node name")
}

/// `count` events with times from `from_ns` on, a nanosecond apart, whose texts are `marker`, a space and a number.
#[must_use]
pub fn samples(tag: &str, marker: &str, from_ns: i64, count: u32) -> Vec<Sample> {
    let sample = |n: u32| Sample {
        tag: tag.into(),
        time_ns: from_ns + i64::from(n),
        text: Some(format!("{marker} {n}")),
    };
    (0..count).map(sample).collect()
}

/// The entries of `samples` as Forward has them: `[EventTime, {"m": text}]`, one after the other.
///
/// # Panics
/// When a time is not between 1970 and 2106, the reach of Forward's `EventTime`.
#[must_use]
pub fn entries(samples: &[Sample]) -> Vec<u8> {
    const REFUSED: &str = "a Vec never refuses a write";
    let mut out = Vec::new();
    for sample in samples {
        rmp::encode::write_array_len(&mut out, 2).expect(REFUSED);
        rmp::encode::write_ext_meta(&mut out, 8, 0).expect(REFUSED);
        let seconds = u32::try_from(sample.time_ns.div_euclid(NS_PER_SECOND)).expect("1970 to 2106");
        let nanoseconds = sample.time_ns.rem_euclid(NS_PER_SECOND) as u32;
        out.extend_from_slice(&seconds.to_be_bytes());
        out.extend_from_slice(&nanoseconds.to_be_bytes());
        rmp::encode::write_map_len(&mut out, u32::from(sample.text.is_some())).expect(REFUSED);
        if let Some(text) = &sample.text {
            rmp::encode::write_str(&mut out, "m").expect(REFUSED);
            rmp::encode::write_str(&mut out, text).expect(REFUSED);
        }
    }
    out
}

/// The header of a batch of these events, all of one tag. Its tallies' digests are 0: no store reads them.
///
/// # Panics
/// When there is no event.
#[must_use]
pub fn header(samples: &[Sample], encoding: Encoding) -> BatchHeader {
    let first = samples.first().expect("a batch has an event");
    let mut minutes: Vec<MinuteTally> = Vec::new();
    let mut sorted: Vec<&Sample> = samples.iter().collect();
    sorted.sort_by_key(|sample| sample.time_ns);
    for sample in sorted {
        let minute = sample.time_ns.div_euclid(60 * NS_PER_SECOND);
        let bytes = entries(std::slice::from_ref(sample)).len() as u64;
        match minutes.last_mut() {
            Some(last) if last.minute == minute => {
                last.events += 1;
                last.bytes += bytes;
            }
            _ => minutes.push(MinuteTally { minute, events: 1, bytes, digest: 0 }),
        }
    }
    BatchHeader {
        tag: Arc::clone(&first.tag),
        encoding,
        received_ns: now_ns(),
        chunks: Vec::new(),
        unpacked_bytes: entries(samples).len() as u64,
        minutes,
    }
}

/// Batch `seq` of `edge`'s log, with these events, all of one tag.
///
/// # Panics
/// When there is no event, or `edge` is not a name.
#[must_use]
pub fn batch(edge: &str, seq: u64, samples: &[Sample], encoding: Encoding) -> PartBatch {
    const REFUSED: &str = "a Vec never refuses a write";
    let plain = entries(samples);
    let payload = match encoding {
        Encoding::Plain => plain,
        Encoding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&plain).expect(REFUSED);
            encoder.finish().expect(REFUSED)
        }
        Encoding::Zstd => zstd::encode_all(&plain[..], 1).expect(REFUSED),
    };
    let log = LogId {
        edge: sink(edge),
        group: GroupId::new("conformance").expect("a valid group name"),
        incarnation: Incarnation(5),
    };
    PartBatch {
        id: BatchId { log: Arc::new(log), seq: Seq(seq) },
        header: Arc::new(header(samples, encoding)),
        done: Vec::new(),
        payload: Arc::new(Bytes::from(payload)),
    }
}

/// A part of these batches, with the partitions that `backend` says they fall into and that are not done yet.
#[must_use]
pub fn part(backend: &dyn Backend, id: PartId, batches: Vec<PartBatch>) -> Part {
    let mut partitions: Vec<Partition> = Vec::new();
    for batch in &batches {
        let all = backend.partitions(&batch.header);
        partitions.extend(all.into_iter().filter(|partition| !batch.done.contains(partition)));
    }
    partitions.sort();
    partitions.dedup();
    Part { id, partitions, batches }
}
