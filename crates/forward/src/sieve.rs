//! Reading a stream of entries through: what of it is events, and how they add up.

use xxhash_rust::xxh3::xxh3_64;

use crate::outcome::{Reason, Skips};
use crate::scan::{Entry, ScanError, entries};
use crate::tally::Tally;

/// A stream of entries that is read piece by piece.
pub(crate) struct Sieve {
    /// The events so far.
    pub(crate) tally: Tally,
    /// What was no event.
    pub(crate) skips: Skips,
    /// Where the first value begins that is to be left out of what is handed on.
    pub(crate) gap: Option<usize>,
    /// Bytes that were read.
    pub(crate) pos: usize,
}

impl Sieve {
    pub(crate) fn new(tally: Tally, skips: Skips) -> Self {
        Self { tally, skips, gap: None, pos: 0 }
    }

    /// Adds up the entries in the next piece; `last`: nothing follows it. Calls `each` with the gap so far and
    /// each of them. How much of the piece was read: what is left is the beginning of an entry, to be shown again with its rest.
    ///
    /// # Errors
    /// Malformed or too deep MessagePack, with its place in the stream; the tally is then of no use (R22).
    #[inline]
    pub(crate) fn read(
        &mut self,
        piece: &[u8],
        last: bool,
        mut each: impl FnMut(Option<usize>, &Entry<'_>),
    ) -> Result<usize, ScanError> {
        let (before, mut pos, mut gap) = (self.pos, 0, self.gap);
        let mut leave_out = |pos: &mut usize, gap: &mut Option<usize>, bytes: usize, reason, times| {
            if bytes > 0 {
                self.skips.add(reason, times);
                gap.get_or_insert(before + *pos);
                *pos += bytes;
            }
        };
        let mut found = entries(piece);
        while let Some(entry) = found.next() {
            match entry {
                Ok(entry) if entry.group_marker => {
                    leave_out(&mut pos, &mut gap, entry.bytes.len(), Reason::GroupMarker, 1);
                }
                Ok(entry) => {
                    self.tally.add(entry.time, entry.bytes.len(), xxh3_64(entry.bytes));
                    pos += entry.bytes.len();
                    each(gap, &entry);
                }
                Err(ScanError::NotEntry { start, end }) => {
                    leave_out(&mut pos, &mut gap, end - start, Reason::InvalidEntry, 1);
                    let scalars = found.skip_scalars();
                    leave_out(&mut pos, &mut gap, scalars, Reason::InvalidEntry, scalars);
                }
                Err(ScanError::Truncated { .. }) if !last => break,
                Err(ScanError::Truncated { at }) => {
                    leave_out(&mut pos, &mut gap, piece.len() - at, Reason::TruncatedEntry, 1);
                }
                Err(ScanError::Malformed { at }) => return Err(ScanError::Malformed { at: before + at }),
                Err(ScanError::TooDeep { at }) => return Err(ScanError::TooDeep { at: before + at }),
            }
        }
        (self.pos, self.gap) = (before + pos, gap);
        Ok(pos)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What came of a stream that was shown in such pieces.
    fn read(stream: &[u8], pieces: &[usize]) -> Result<(Vec<u8>, Option<usize>, usize, Skips), ScanError> {
        let mut sieve = Sieve::new(Tally::new(0), Skips::default());
        let (mut kept, mut end) = (Vec::new(), 0);
        for piece in pieces.iter().copied().chain([stream.len()]) {
            end = (end + piece).min(stream.len());
            let start = sieve.pos;
            let done =
                sieve.read(&stream[start..end], end == stream.len(), |_, entry| kept.extend(entry.bytes))?;
            assert_eq!(sieve.pos, start + done);
            if end == stream.len() {
                break;
            }
        }
        Ok((kept, sieve.gap, sieve.pos, sieve.skips))
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            values in prop::collection::vec(prop_oneof![
                8 => Just(&b"\x92\x05\x81\xa1a\xd9\x03xyz"[..]),
                1 => Just(&b"\x92\x92\xd7\x00\xff\xff\xff\xff\0\0\0\0\x80\x80"[..]),
                1 => Just(&b"\x00\x01\xc0\xff"[..]),
                1 => Just(&b"\x93\x01\xdc\x00\x01\x05\xc0"[..]),
                1 => Just(&b"\xd9\x02ab"[..]),
                1 => Just(&b"\x92\x05\xc1"[..]),
            ], 0..12),
            cut in 0_usize..12,
            pieces in prop::collection::vec(0_usize..20, 0..30),
        ) {
            let stream = values.concat();
            let stream = &stream[..stream.len().saturating_sub(cut)];
            prop_assert_eq!(read(stream, &pieces), read(stream, &[]));
        }
    }
}
