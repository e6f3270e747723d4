//! The records: numbered, self-checking, and ready-made but for the stream, the time and the number.
//!
//! A run prepares [`TEMPLATES`] record tails from its seed; an entry is then two copies and eight bytes.
//! The same number of the same run gives the same content, so a chunk can be made again to be resent.
//! Forward's message forms are left to [`crate::chunk`].

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};

use crate::{canonical, encode};

/// Different records in a run; a power of two.
const TEMPLATES: usize = 1024;

/// Fields of each record: `stream`, `seq`, `sum` and what [`content`] gives.
const FIELDS: u32 = 8;

/// The text that fills messages: what makes encoders stumble is among it.
const WORDS: [&str; 16] = [
    "request",
    "finished",
    "upstream",
    "timeout",
    "retry",
    "session",
    "größe",
    "naïve",
    "日志",
    "поток",
    "🌊",
    "\"quoted\"",
    "C:\\weir",
    "tab\there",
    "line\nbreak",
    "a=b",
];

/// How an event's time is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TimeForm {
    /// The extension type with nanoseconds.
    Eventtime,
    /// Seconds, as an integer.
    Integer,
}

/// A moment: seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) seconds: u32,
    pub(crate) nanoseconds: u32,
}

/// What the records of a run share.
#[derive(Debug)]
pub(crate) struct Records {
    /// Record tails in MessagePack: everything after `seq`.
    tails: Vec<Vec<u8>>,
    time_form: TimeForm,
}

impl Records {
    /// Prepares the records of a run; each takes `event_bytes` as a MessagePack map when its stream is
    /// called `stream`, and more when the other fields alone need more.
    pub(crate) fn new(seed: u64, event_bytes: usize, stream: &str, time_form: TimeForm) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut head = Vec::new();
        open_record(&mut head, stream);
        encode::wide_uint(&mut head, 0);
        let tail_bytes = event_bytes.saturating_sub(head.len());
        let tails = (0..TEMPLATES).map(|_| tail(&content(&mut random, tail_bytes))).collect();
        Self { tails, time_form }
    }

    /// What all entries of `stream` at one moment open with, up to the number.
    pub(crate) fn opening(&self, stream: &str, time: Moment) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self.time_form {
            TimeForm::Eventtime => encode::event_time(&mut out, time.seconds, time.nanoseconds),
            TimeForm::Integer => encode::uint(&mut out, u64::from(time.seconds)),
        }
        open_record(&mut out, stream);
        out
    }

    /// Appends time and record number `seq` behind an `opening`; the caller wrote the array around them.
    pub(crate) fn append(&self, out: &mut Vec<u8>, opening: &[u8], seq: u64) {
        out.extend_from_slice(opening);
        encode::wide_uint(out, seq);
        out.extend_from_slice(&self.tails[seq as usize % TEMPLATES]);
    }
}

/// The record up to where the number follows.
fn open_record(out: &mut Vec<u8>, stream: &str) {
    encode::map(out, FIELDS);
    encode::str(out, "stream");
    encode::str(out, stream);
    encode::str(out, "seq");
}

/// The fields of a record that its sum covers, such that the record's tail takes `tail_bytes` if it can.
fn content(random: &mut SmallRng, tail_bytes: usize) -> Map<String, Value> {
    let took: i64 = match random.random_range(0..8) {
        0 => -random.random_range(1..1_000),
        1 => random.random_range((1 << 53)..i64::MAX), // beyond what a double holds
        _ => random.random_range(0..100_000),
    };
    let context = if random.random_bool(0.25) {
        Value::Bool(random.random())
    } else {
        json!({"cached": random.random::<bool>(), "path": format!("/v1/items/{}", random.random_range(0..10_000)), "parts": [1, 2, 3]})
    };
    let mut content = Map::new();
    content.insert(
        "level".into(),
        (*["debug", "info", "info", "warn", "error"].choose(random).unwrap_or(&"info")).into(),
    );
    content.insert("host".into(), format!("host-{:02}.example", random.random_range(0..100)).into());
    content.insert("took".into(), took.into());
    content.insert("context".into(), context);
    content.insert("message".into(), "".into());

    // The header of a string grows with it: what the first guess has too much, the second leaves out.
    let room = tail_bytes.saturating_sub(tail(&content).len());
    let guess = message(&mut random.clone(), room);
    content.insert("message".into(), guess.into());
    let excess = tail(&content).len().saturating_sub(tail_bytes);
    content.insert("message".into(), message(random, room.saturating_sub(excess)).into());
    content
}

/// Words of exactly `bytes` bytes.
fn message(random: &mut SmallRng, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push_str(WORDS.choose(random).unwrap_or(&"weir"));
        text.push(' ');
    }
    let end = text.floor_char_boundary(bytes);
    text.truncate(end);
    text.extend(std::iter::repeat_n('.', bytes - end));
    text
}

/// A record's tail: `sum` and the content it covers.
fn tail(content: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    encode::str(&mut out, "sum");
    encode::str(&mut out, &canonical::sum(content));
    for (key, item) in content {
        encode::str(&mut out, key);
        encode::value(&mut out, item);
    }
    out
}
