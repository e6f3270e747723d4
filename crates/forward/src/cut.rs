//! Taking some of its chunks out of a batch, because they are stored already.

use bytes::Bytes;
use weir_model::{BatchHeader, Encoding};
use xxhash_rust::xxh3::xxh3_64;

use crate::scan::entries;
use crate::tally::Tally;
use crate::unpack::unpack;

/// The batch without those of its chunks for which `keep` says no; `keep` goes by the places in `header.chunks`.
/// What is left is [`Encoding::Plain`], its tallies are counted anew. `unpacked_bytes_max` bounds the memory.
///
/// `None` where payload and header do not fit each other: then nothing can be taken out.
#[must_use]
pub fn keep_chunks(
    header: &BatchHeader,
    payload: &Bytes,
    keep: &[bool],
    unpacked_bytes_max: usize,
) -> Option<(BatchHeader, Bytes)> {
    let plain = unpack(header.encoding, payload, unpacked_bytes_max).ok()?;
    let mut tally = Tally::new(header.received_ns);
    let mut kept = Vec::new();
    let mut stream = entries(&plain);
    for (chunk, keep) in header.chunks.iter().zip(keep) {
        for _ in 0..chunk.entries {
            let entry = stream.next()?.ok()?;
            if *keep {
                tally.add(entry.time, entry.bytes.len(), xxh3_64(entry.bytes));
                kept.extend_from_slice(entry.bytes);
            }
        }
    }
    if stream.next().is_some() || keep.len() != header.chunks.len() {
        return None;
    }
    let chunks = header.chunks.iter().zip(keep).filter(|(_, keep)| **keep).map(|(chunk, _)| chunk.clone());
    let cut = BatchHeader {
        tag: header.tag.clone(),
        encoding: Encoding::Plain,
        received_ns: header.received_ns,
        chunks: chunks.collect(),
        unpacked_bytes: kept.len() as u64,
        minutes: tally.finish()?,
    };
    Some((cut, kept.into()))
}
