//! Packing single-event messages that arrive together into one batch.

use std::sync::Arc;

use bytes::Bytes;
use weir_model::{BatchHeader, ChunkIdentity, Encoding};
use xxhash_rust::xxh3::xxh3_64;

use crate::outcome::{Batch, Event, Skips};
use crate::scan::EventTime;
use crate::tally::{MINUTES_MAX, Tally};

/// Most events in one pack. It bounds the chunk identities in a header, of which each event may bring one; and
/// as there cannot be more minutes than events, a pack never has too many of those.
const PACK_EVENTS_MAX: usize = 4096;
const _: () = assert!(PACK_EVENTS_MAX <= MINUTES_MAX);

/// How much a payload that has no more room may grow at once, as a multiple of what is in it.
const GROWTH: usize = 4;

/// A message with one valid event.
pub(crate) struct Single<'a> {
    pub(crate) tag: Arc<str>,
    pub(crate) time: EventTime,
    pub(crate) chunk: Option<Bytes>,
    pub(crate) ack: Bytes,
    pub(crate) skipped: Skips,
    /// The pieces of its entry.
    pub(crate) entry: [&'a [u8]; 4],
}

impl Single<'_> {
    fn entry_bytes(&self) -> usize {
        self.entry.iter().map(|piece| piece.len()).sum()
    }
}

/// A batch in the making.
pub(crate) struct Pack {
    tag: Arc<str>,
    chunked: bool,
    received_ns: i64,
    events: usize,
    payload: Vec<u8>,
    chunks: Vec<ChunkIdentity>,
    acks: Vec<u8>,
    tally: Tally,
    skipped: Skips,
}

impl Pack {
    /// An empty pack for messages like this one.
    pub(crate) fn new(single: &Single<'_>, received_ns: i64) -> Self {
        Self {
            tag: Arc::clone(&single.tag),
            chunked: single.chunk.is_some(),
            received_ns,
            events: 0,
            payload: Vec::new(),
            chunks: Vec::new(),
            acks: Vec::new(),
            tally: Tally::new(received_ns),
            skipped: Skips::default(),
        }
    }

    /// Whether a message may join: same tag, either all with a chunk or all without, and room for its entry.
    pub(crate) fn takes(&self, single: &Single<'_>, bytes_max: usize) -> bool {
        self.tag == single.tag
            && self.chunked == single.chunk.is_some()
            && self.events < PACK_EVENTS_MAX
            && self.payload.len() + single.entry_bytes() <= bytes_max
    }

    /// Adds the event. Behind it `ahead` bytes have come already, and more of its kind are probably among them, up to
    /// `bytes_max` with those before.
    pub(crate) fn add(&mut self, single: Single<'_>, ahead: usize, bytes_max: usize) {
        let (start, bytes) = (self.payload.len(), single.entry_bytes());
        if self.payload.capacity() - start < bytes {
            let more = ahead.min(GROWTH * start).min(bytes_max.saturating_sub(start + bytes));
            self.payload.reserve_exact(bytes + more);
        }
        for piece in single.entry {
            self.payload.extend_from_slice(piece);
        }
        let digest = xxh3_64(&self.payload[start..]);
        self.tally.add(single.time, bytes, digest);
        self.events += 1;
        self.skipped.add_all(single.skipped);
        if let Some(id) = single.chunk {
            // The event payload of such a message is its entry.
            self.chunks.push(ChunkIdentity { id, payload_hash: digest, entries: 1 });
            self.acks.extend_from_slice(&single.ack);
        }
    }

    pub(crate) fn into_event(self) -> Event {
        Event::Batch(Batch {
            header: BatchHeader {
                tag: self.tag,
                encoding: Encoding::Plain,
                received_ns: self.received_ns,
                chunks: self.chunks,
                unpacked_bytes: self.payload.len() as u64,
                // PACK_EVENTS_MAX keeps the minutes below their own bound.
                minutes: self.tally.finish().unwrap_or_default(),
            },
            payload: self.payload.into(),
            acks: self.acks.into(),
            skipped: self.skipped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_takes_no_more_memory_than_it_may() {
        const BYTES_MAX: usize = 40_000;
        let single = || Single {
            tag: "t".into(),
            time: EventTime::Received,
            chunk: None,
            ack: Bytes::new(),
            skipped: Skips::default(),
            entry: [b"\x92", &[7; 200], b"", b""],
        };
        let mut pack = Pack::new(&single(), 0);
        while pack.takes(&single(), BYTES_MAX) {
            pack.add(single(), 1 << 20, BYTES_MAX);
            assert!(pack.payload.capacity() <= BYTES_MAX);
        }
        assert!(pack.payload.len() > BYTES_MAX - 300);
    }
}
