//! Reading a stream of entries through: what of it is events, and how they add up.

use xxhash_rust::xxh3::xxh3_64;

use crate::outcome::{Reason, Skips};
use crate::scan::{ScanError, entries};
use crate::tally::Tally;

/// What of a stream is to be handed on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// All of it, as it is.
    All,
    /// What comes before this offset.
    Before(usize),
    /// These bytes: something in the middle had to be left out.
    Copy(Vec<u8>),
}

/// Adds the entries of `stream` to `tally`, and what is no event to `skips`.
///
/// # Errors
/// Malformed or too deep MessagePack; `tally` is then of no use (R22).
pub(crate) fn sieve(stream: &[u8], tally: &mut Tally, skips: &mut Skips) -> Result<Kept, ScanError> {
    let mut kept = Kept::All;
    let mut leave_out = |kept: &mut Kept, start: usize, reason: Reason| {
        skips.add(reason);
        if matches!(kept, Kept::All) {
            *kept = Kept::Before(start);
        }
    };
    let mut pos = 0;
    for entry in entries(stream) {
        match entry {
            Ok(entry) if entry.group_marker => {
                leave_out(&mut kept, pos, Reason::GroupMarker);
                pos += entry.bytes.len();
            }
            Ok(entry) => {
                tally.add(entry.time, entry.bytes.len(), xxh3_64(entry.bytes));
                pos += entry.bytes.len();
                if !matches!(kept, Kept::All) {
                    keep_behind_gap(&mut kept, stream, entry.bytes);
                }
            }
            Err(ScanError::NotEntry { start, end }) => {
                leave_out(&mut kept, start, Reason::InvalidEntry);
                pos = end;
            }
            Err(ScanError::Truncated { at }) => {
                leave_out(&mut kept, at, Reason::TruncatedEntry);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(kept)
}

#[cold]
fn keep_behind_gap(kept: &mut Kept, stream: &[u8], entry: &[u8]) {
    match kept {
        Kept::Copy(copy) => copy.extend_from_slice(entry),
        Kept::Before(end) => *kept = Kept::Copy([&stream[..*end], entry].concat()),
        Kept::All => {}
    }
}
