//! The events of a batch, one after the other, as a store's lines.

use std::io;

use weir_forward::scan::{EventTime, ScanError, entries};
use weir_forward::unpack::{UnpackError, unpack};
use weir_model::BatchHeader;
use weir_store::PartBatch;

use crate::json::Transcoder;
use crate::text::write_text;
use crate::time::{Clock, SECOND_NS};

/// Most bytes of a batch when unpacked. A batch with more is refused with [`ShapeError::Unpack`]; an edge takes
/// none that comes near it.
pub const UNPACKED_BYTES_MAX: usize = 512 << 20;

/// What an event's line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `{"time":"2026-01-02T03:04:05.678901234Z","tag":"app.web","record":{…}}`
    #[default]
    Envelope,
    /// The record alone: `{…}`
    Record,
}

/// An event, formatted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The tag, as it was received.
    pub tag: &'a str,
    /// When it happened, in nanoseconds since 1970. A time that the sender did not give is the time of receipt;
    /// one outside of the years 1677 to 2262 is cut to the nearest that 64 bits hold.
    pub time_ns: i64,
    /// One JSON object, without a newline in it or behind it.
    pub json: &'a [u8],
}

/// Why not all events of a batch were visited.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError<E> {
    /// The payload could not be brought into memory.
    #[error("the payload cannot be loaded")]
    Load(#[source] io::Error),
    /// The payload is damaged or too large.
    #[error("the payload cannot be unpacked")]
    Unpack(#[source] UnpackError),
    /// The payload holds something else than entries. Offsets within the error count from the first unpacked byte.
    #[error("entry {index} of the batch cannot be read")]
    Entry {
        /// Its place in the batch, counted from 0; the entries before it were visited.
        index: u64,
        /// What is wrong with it.
        #[source]
        source: ScanError,
    },
    /// The visitor did not want to go on.
    #[error("an event was not taken")]
    Visitor(#[source] E),
}

/// Calls `visit` with each event of `batch` in the order of the batch, formatted; returns how many there were.
///
/// The bytes of an event live in one buffer that the next event overwrites.
///
/// # Errors
/// [`ShapeError`]: the payload cannot be loaded, unpacked or read, or `visit` failed. It ends at the first error.
pub fn each_event<E>(
    batch: &PartBatch,
    format: Format,
    visit: impl FnMut(Event<'_>) -> Result<(), E>,
) -> Result<u64, ShapeError<E>> {
    let payload = batch.payload.load().map_err(ShapeError::Load)?;
    each_event_of(&batch.header, &payload, format, visit)
}

/// As [`each_event`], with the batch's payload in memory.
///
/// # Errors
/// As [`each_event`].
pub fn each_event_of<E>(
    header: &BatchHeader,
    payload: &[u8],
    format: Format,
    mut visit: impl FnMut(Event<'_>) -> Result<(), E>,
) -> Result<u64, ShapeError<E>> {
    let plain = unpack(header.encoding, payload, UNPACKED_BYTES_MAX).map_err(ShapeError::Unpack)?;

    let mut middle = b"\",\"tag\":".to_vec();
    write_text(&mut middle, header.tag.as_bytes());
    middle.extend_from_slice(b",\"record\":");

    let (mut clock, mut transcoder, mut json) = (Clock::new(), Transcoder::new(), Vec::new());
    // The line of the record that `bytes` begin with; its time, and the bytes of the record.
    let mut line = |json: &mut Vec<u8>, time, bytes: &[u8]| {
        let time_ns = match time {
            EventTime::Received => header.received_ns,
            EventTime::At { secs, nanos } => nanoseconds(secs, nanos),
        };
        json.clear();
        if format == Format::Envelope {
            json.extend_from_slice(b"{\"time\":\"");
            // Below 10⁹ by its divisor.
            let nanos = time_ns.rem_euclid(SECOND_NS) as u32;
            clock.write(time_ns.div_euclid(SECOND_NS), nanos, json);
            json.extend_from_slice(&middle);
        }
        let read = transcoder.write(json, bytes)?;
        if format == Format::Envelope {
            json.push(b'}');
        }
        Ok::<_, ScanError>((time_ns, read))
    };
    let mut entries = entries(&plain);
    let mut index = 0;
    loop {
        let quick = entries.plain().and_then(|(time, rest)| {
            let (time_ns, read) = line(&mut json, time, rest).ok()?;
            entries.go_on_at(rest.len() - read);
            Some(time_ns)
        });
        let time_ns = match quick {
            Some(time_ns) => time_ns,
            // Another form, or damage, which is told as the iterator finds it.
            None => {
                let Some(entry) = entries.next() else { return Ok(index) };
                let read = entry.and_then(|entry| line(&mut json, entry.time, entry.record));
                read.map_err(|source| ShapeError::Entry { index, source })?.0
            }
        };
        visit(Event { tag: &header.tag, time_ns, json: &json }).map_err(ShapeError::Visitor)?;
        index += 1;
    }
}

pub(crate) fn nanoseconds(secs: i64, nanos: u32) -> i64 {
    let exact = i128::from(secs) * i128::from(SECOND_NS) + i128::from(nanos);
    exact.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}
