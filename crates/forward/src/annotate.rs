//! Adding members to the records of a batch, for what only the receiver knows: the sender's address, its name.
//!
//! It is the one place where entries do not stay as they came. A member is put behind those of the record, and of two
//! with one name the last counts, so it overwrites what a sender claims.

use weir_model::{BatchHeader, Encoding};
use xxhash_rust::xxh3::xxh3_64;

use crate::outcome::Batch;
use crate::scan::{Entry, entries, map};
use crate::tally::Tally;
use crate::unpack::unpack;

/// A member to add: text for text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    bytes: Vec<u8>,
}

impl Member {
    /// A member of this name and value.
    #[must_use]
    pub fn new(key: &str, value: &str) -> Self {
        let mut bytes = Vec::with_capacity(key.len() + value.len() + 10);
        for text in [key, value] {
            // A text in memory is shorter than its header can say, and a Vec takes every write.
            let _ = rmp::encode::write_str(&mut bytes, text);
        }
        Self { bytes }
    }
}

/// The batch with these members in each record, inflated where it came compressed. Its chunks are still those of the
/// bytes that came, so that a retry is recognised.
#[must_use]
pub fn annotate(batch: Batch, members: &[Member]) -> Batch {
    let header = &batch.header;
    // It was inflated before, under the session's own limit.
    let Ok(plain) = unpack(header.encoding, &batch.payload, usize::MAX) else { return batch };
    let added: usize = members.iter().map(|member| member.bytes.len() + 5).sum();
    let events = usize::try_from(header.events()).unwrap_or(0);
    let mut out = Vec::with_capacity(plain.len() + added.saturating_mul(events).min(plain.len() * 4 + added));
    let mut tally = Tally::new(header.received_ns);
    for entry in entries(&plain) {
        // A session hands on nothing but entries.
        let Ok(entry) = entry else { continue };
        let start = out.len();
        write(&mut out, &entry, members);
        tally.add(entry.time, out.len() - start, xxh3_64(&out[start..]));
    }
    let Some(minutes) = tally.finish() else { return batch };
    Batch {
        header: BatchHeader {
            encoding: Encoding::Plain,
            unpacked_bytes: out.len() as u64,
            minutes,
            ..batch.header.clone()
        },
        payload: out.into(),
        ..batch
    }
}

fn write(out: &mut Vec<u8>, entry: &Entry<'_>, members: &[Member]) {
    let Some((pairs, head)) = map(entry.record) else { return };
    let before = entry.record.as_ptr() as usize - entry.bytes.as_ptr() as usize;
    out.extend_from_slice(&entry.bytes[..before]);
    let _ = rmp::encode::write_map_len(out, u32::try_from(pairs + members.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(&entry.record[head..]);
    members.iter().for_each(|member| out.extend_from_slice(&member.bytes));
    out.extend_from_slice(&entry.bytes[before + entry.record.len()..]);
}
