//! Ready-made messages: what a bench sends costs the sender two or three writes and no encoding.
//!
//! All senders of a run share one body. Only the tag in front and the chunk id behind differ, so that
//! thousands of connections cost no memory and most of the machine is left to what is measured.

use std::{io::Write, sync::Arc};

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

use crate::{chunk::Mode, encode};

/// Characters of a chunk id, as Fluentd and Fluent Bit make them (16 bytes in base64).
pub(super) const ID_CHARS: usize = 24;
/// The last of these count, in hexadecimal digits; those before name the connection.
const COUNT_CHARS: usize = 16;
/// How fast is fast enough: speed matters here, not size.
const ZSTD_LEVEL: i32 = 1;
/// Single-event messages that are written at once.
const BURST_EVENTS: usize = 128;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) mode: Mode,
    /// Bytes of one event, time and array included.
    pub(super) event_bytes: usize,
    /// Events in one chunk; with single-event messages each event is one.
    pub(super) chunk_events: usize,
    pub(super) tags: usize,
    pub(super) ack: bool,
}

/// The messages of a run.
#[derive(Debug)]
pub(super) struct Traffic {
    shape: Shape,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// Many events under one tag: what stands between the tag and the options.
    Chunk(Arc<[u8]>),
    /// Single-event messages: the events, without tag and options.
    Singles(Vec<Vec<u8>>),
}

/// One write's worth: what goes out as one, and is done when all its acknowledgements have come.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// Written first.
    pub(super) head: Vec<u8>,
    /// Then this, if there is one.
    pub(super) body: Option<Arc<[u8]>>,
    /// Written last.
    pub(super) tail: Vec<u8>,
}

impl Traffic {
    pub(super) fn new(shape: Shape) -> anyhow::Result<Self> {
        let events = shape.chunk_events.max(BURST_EVENTS);
        let events: Vec<_> = (0..events).map(|number| event(number, shape.event_bytes)).collect();
        let chunk = || events[..shape.chunk_events].iter().flat_map(|event| [b"\x92", &event[..]].concat());
        let body = match shape.mode {
            Mode::Message => Body::Singles(events),
            Mode::Forward => {
                let mut out = Vec::new();
                encode::array(&mut out, shape.chunk_events as u32);
                out.extend(chunk());
                Body::Chunk(out.into())
            }
            Mode::Packed | Mode::Gzip | Mode::Zstd => {
                let plain: Vec<u8> = chunk().collect();
                let packed = pack(shape.mode, plain)?;
                let mut out = Vec::new();
                encode::bin(&mut out, |out| out.extend_from_slice(&packed));
                Body::Chunk(out.into())
            }
        };
        Ok(Self { shape, body })
    }

    /// Events in one unit.
    pub(super) fn unit_events(&self) -> usize {
        match self.body {
            Body::Chunk(_) => self.shape.chunk_events,
            Body::Singles(_) => BURST_EVENTS,
        }
    }

    /// Acknowledgements that one unit brings.
    pub(super) fn unit_acks(&self) -> usize {
        match self.body {
            _ if !self.shape.ack => 0,
            Body::Chunk(_) => 1,
            Body::Singles(_) => BURST_EVENTS,
        }
    }

    /// Makes unit `number` of connection `connection` in place of what `unit` held.
    pub(super) fn unit(&self, unit: &mut Unit, connection: u32, number: u64) {
        let Unit { head, body, tail } = unit;
        head.clear();
        tail.clear();
        // Neighbouring connections take different tags, and every tag has its turn.
        let tag = |number: u64| (number + u64::from(connection) * 7919) % self.shape.tags as u64;
        match &self.body {
            Body::Chunk(chunk) => {
                encode::array(head, 3);
                encode::str(head, &format!("app.{}", tag(number)));
                *body = Some(chunk.clone());
                self.options(tail, connection, number);
            }
            Body::Singles(events) => {
                let first = number * BURST_EVENTS as u64;
                for number in first..first + BURST_EVENTS as u64 {
                    encode::array(head, if self.shape.ack { 4 } else { 3 });
                    encode::str(head, &format!("app.{}", tag(number)));
                    head.extend_from_slice(&events[number as usize % events.len()]);
                    if self.shape.ack {
                        self.options(head, connection, number);
                    }
                }
            }
        }
    }

    fn options(&self, out: &mut Vec<u8>, connection: u32, number: u64) {
        let compressed = match self.shape.mode {
            Mode::Gzip => Some("gzip"),
            Mode::Zstd => Some("zstd"),
            _ => None,
        };
        let size = (self.shape.mode != Mode::Message).then_some(self.shape.chunk_events as u64);
        let pairs = [size.is_some(), compressed.is_some(), self.shape.ack];
        encode::map(out, pairs.into_iter().map(u32::from).sum());
        if let Some(size) = size {
            encode::str(out, "size");
            encode::uint(out, size);
        }
        if let Some(name) = compressed {
            encode::str(out, "compressed");
            encode::str(out, name);
        }
        if self.shape.ack {
            encode::str(out, "chunk");
            out.push(0xa0 | ID_CHARS as u8);
            out.extend_from_slice(&id(connection, number));
        }
    }
}

/// The chunk id number `number` of a connection.
fn id(connection: u32, number: u64) -> [u8; ID_CHARS] {
    let mut id = [0; ID_CHARS];
    let hex = |digit: u64| b"0123456789abcdef"[digit as usize & 15];
    for (place, digit) in id[..ID_CHARS - COUNT_CHARS].iter_mut().rev().enumerate() {
        *digit = hex(u64::from(connection) >> (4 * place));
    }
    for (place, digit) in id[ID_CHARS - COUNT_CHARS..].iter_mut().rev().enumerate() {
        *digit = hex(number >> (4 * place));
    }
    id
}

/// Which number an acknowledged chunk id has; `None` for an id that is none of ours.
pub(super) fn number_of(id: &str) -> Option<u64> {
    u64::from_str_radix(id.get(ID_CHARS - COUNT_CHARS..)?, 16).ok()
}

/// When event `number` happened: seconds, nanoseconds.
fn time(number: usize) -> (u32, u32) {
    (1_790_000_000 + number as u32 / 500, number as u32 * 1_999_993 % 1_000_000_000)
}

/// What event `number` says, but for the text that fills it up.
fn fields(number: usize) -> [(&'static str, Value); 7] {
    [
        ("host", format!("web-{:03}", number % 500).into()),
        ("level", ["info", "info", "warn", "debug"][number % 4].into()),
        ("code", [200, 204, 404, 500][number % 4].into()),
        ("size", (number as u64 * 7_919 % 100_000).into()),
        ("ms", (number as u64 % 128).into()),
        ("ok", (!number.is_multiple_of(4)).into()),
        ("user", format!("u{:05}", number * 31 % 99_991).into()),
    ]
}

/// Event `number`: a time and a record of eight fields, `bytes` long with the array around them.
fn event(number: usize, bytes: usize) -> Vec<u8> {
    event_and_text(number, bytes).0
}

/// The event, and the text in it that fills it up.
fn event_and_text(number: usize, bytes: usize) -> (Vec<u8>, String) {
    let mut out = Vec::with_capacity(bytes);
    let (seconds, nanos) = time(number);
    encode::event_time(&mut out, seconds, nanos);
    let fields = fields(number);
    encode::map(&mut out, fields.len() as u32 + 1);
    for (name, value) in &fields {
        encode::str(&mut out, name);
        match value {
            Value::String(text) => encode::str(&mut out, text),
            Value::Bool(truth) => out.push(0xc2 | u8::from(*truth)),
            number => encode::uint(&mut out, number.as_u64().unwrap_or_default()),
        }
    }
    encode::str(&mut out, "log");
    // The array's byte, and the header of the string that fills up the rest.
    let mut rest = bytes.saturating_sub(out.len() + 2);
    rest -= [32, 256, 65_536].iter().filter(|&&limit| rest >= limit).count().min(rest);
    let text = message(number, rest);
    encode::str(&mut out, &text);
    (out, text)
}

/// The same event as Weir writes it into a store: with time and tag, as JSON.
pub(super) fn line(number: usize, bytes: usize, tag: &str) -> anyhow::Result<String> {
    let (_, text) = event_and_text(number, bytes);
    let (seconds, nanos) = time(number);
    let time = jiff::Timestamp::new(i64::from(seconds), nanos as i32)?;
    let fields = fields(number).into_iter().chain([("log", text.into())]);
    let record: serde_json::Map<_, _> = fields.map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(serde_json::json!({ "time": format!("{time:.9}"), "tag": tag, "record": record }).to_string())
}

/// Text like that of an application; one line in four has quotes to escape.
fn message(number: usize, bytes: usize) -> String {
    let words =
        ["GET", "/api/v1/orders", "from 10.1.2.3", "took longer than", "retry", "session", "größe", "done"];
    let mut text = if number.is_multiple_of(4) { "said \"no\" ".to_owned() } else { "finished ".to_owned() };
    for turn in 0.. {
        if text.len() >= bytes {
            break;
        }
        text.push_str(words[(number + turn * 3) % words.len()]);
        text.push(' ');
    }
    text.truncate(text.floor_char_boundary(bytes));
    text.extend(std::iter::repeat_n('.', bytes.saturating_sub(text.len())));
    text
}

fn pack(mode: Mode, plain: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    match mode {
        Mode::Zstd => zstd::bulk::compress(&plain, ZSTD_LEVEL).context("zstd"),
        Mode::Gzip => {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&plain).context("gzip")?;
            gzip.finish().context("gzip")
        }
        Mode::Message | Mode::Forward | Mode::Packed => Ok(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_size_that_was_asked_for() {
        for bytes in [100, 250, 1024, 16 << 10, 100_000] {
            for number in 0..300 {
                // The array's byte is written by whoever puts the event into a message.
                let len = 1 + event(number, bytes).len();
                assert!(len.abs_diff(bytes) <= 1, "{bytes}: event {number} has {len}");
            }
        }
    }

    #[test]
    fn a_line_is_the_event_as_json() {
        for number in 0..9 {
            let line: serde_json::Value = serde_json::from_str(&line(number, 250, "app.0").unwrap()).unwrap();
            assert_eq!(
                (line["tag"].as_str(), line["time"].as_str().map(str::len)),
                (Some("app.0"), Some(30))
            );
            let event = event(number, 250);
            // Behind the time: ten bytes.
            let record = rmpv::decode::read_value(&mut &event[10..]).unwrap();
            let record: serde_json::Value = serde_json::from_str(&record.to_string()).unwrap();
            assert_eq!(line["record"], record);
        }
    }

    #[test]
    fn units_are_messages_whose_ids_come_back() {
        for mode in [Mode::Message, Mode::Forward, Mode::Packed, Mode::Gzip, Mode::Zstd] {
            let shape = Shape { mode, event_bytes: 250, chunk_events: 10, tags: 3, ack: true };
            let traffic = Traffic::new(shape).unwrap();
            let mut unit = Unit::default();
            traffic.unit(&mut unit, 3, 5);
            let bytes = [&unit.head[..], unit.body.as_deref().unwrap_or_default(), &unit.tail].concat();
            let (mut borders, mut acks) = (super::super::borders::Borders::default(), Vec::new());
            borders.feed(&bytes, |ack| acks.push(ack.unwrap())).unwrap();
            assert_eq!(acks.len(), traffic.unit_acks(), "{mode:?}");
            let first = if mode == Mode::Message { 5 * BURST_EVENTS as u64 } else { 5 };
            for (ack, number) in acks.iter().zip(first..) {
                let (id, taken) = crate::ack::parse(ack).unwrap().unwrap();
                assert_eq!((number_of(id), taken), (Some(number), ack.len()), "{mode:?}");
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                assert!(rmpv::decode::read_value(&mut rest).unwrap().is_array(), "{mode:?}");
            }
        }
    }
}
