//! Adding members to the records of a batch, for what only the receiver knows: the sender's address, its name.
//!
//! It is the one place where entries do not stay as they came. A member is put behind those of the record, and of two
//! with one name the last counts, so it overwrites what a sender claims.

use weir_model::BatchHeader;
use xxhash_rust::xxh3::xxh3_64;

use crate::outcome::{Batch, Fault};
use crate::scan::{Entry, map};
use crate::sieve::Sieve;
use crate::tally::Tally;
use crate::unpack::look_through;
use crate::writer::Writer;

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

/// The batch with these members in each record; packed anew where it came packed. Its chunks are still those of the bytes
/// that came, so that a retry is recognised.
#[must_use]
pub fn annotate(batch: Batch, members: &[Member]) -> Batch {
    let header = &batch.header;
    let mut writer = Writer::new(header.encoding);
    let mut sieve = Sieve::new(Tally::new(header.received_ns), batch.skipped);
    let mut tally = Tally::new(header.received_ns);
    let mut out = Vec::new();
    // It was looked through before, under the session's own limit.
    let read = look_through(header.encoding, &batch.payload, usize::MAX, &mut 0, |piece, last| {
        let add = |_, entry: &Entry<'_>| {
            out.clear();
            write(&mut out, entry, members);
            tally.add(entry.time, out.len(), xxh3_64(&out));
            writer.write(&out);
        };
        sieve.read(piece, last, add).map_err(Fault::from)
    });
    let (Ok(()), Some(minutes), Some(written)) = (read, tally.finish(), writer.finish()) else {
        return batch;
    };
    let (encoding, unpacked_bytes, payload) = written;
    let header =
        BatchHeader { encoding, unpacked_bytes: unpacked_bytes as u64, minutes, ..batch.header.clone() };
    Batch { header, payload, ..batch }
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
