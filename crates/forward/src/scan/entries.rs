//! The entries of a plain stream, one after the other.

use super::time::time;
use super::{EventTime, ScanError, Skipper, array, map};

/// One event as it stands in a payload: `[time, record]` or `[[time, metadata], record]`, anything more ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When it happened.
    pub time: EventTime,
    /// The metadata map of the second form, as MessagePack; to be kept beside the record, never in it (R51).
    pub metadata: Option<&'a [u8]>,
    /// The record, a MessagePack map.
    pub record: &'a [u8],
    /// The whole entry.
    pub bytes: &'a [u8],
    /// Not an event but Fluent Bit's mark that a group of them begins or ends (R52). A
    /// [`Session`](crate::Session) takes these out of what it hands on.
    pub group_marker: bool,
}

/// The entries in `stream`, a plain concatenation of them.
#[must_use]
pub fn entries(stream: &[u8]) -> Entries<'_> {
    Entries { stream, pos: 0, skipper: Skipper::new() }
}

/// Iterator over the entries of a plain stream; [`entries`] makes it.
///
/// It goes on after [`ScanError::NotEntry`], which stands for one well-formed value, and ends after any
/// other error.
pub struct Entries<'a> {
    stream: &'a [u8],
    pos: usize,
    skipper: Skipper,
}

impl<'a> Entries<'a> {
    /// The next entry's time and all bytes from its record on, if it is `[time, record]` or `[[time, {}], record]`. For
    /// whoever goes through the record anyway, so that its end need not be found first; see [`Self::go_on_at`].
    #[inline]
    #[must_use]
    pub fn plain(&self) -> Option<(EventTime, &'a [u8])> {
        let rest = self.stream.get(self.pos..)?.strip_prefix(&[0x92])?;
        let (time, size) = match rest.strip_prefix(&[0x92]) {
            Some(pair) => {
                time(pair).filter(|(_, size)| pair.get(*size) == Some(&0x80)).map(|(t, n)| (t, n + 2))?
            }
            None => time(rest)?,
        };
        let record = &rest[size..];
        map(record).map(|_| (time, record))
    }

    /// Goes on where `left` bytes of the stream are left.
    #[inline]
    pub fn go_on_at(&mut self, left: usize) {
        self.pos = self.stream.len() - left.min(self.stream.len());
    }

    #[inline(always)]
    fn entry(&mut self, start: usize) -> Result<Entry<'a>, ScanError> {
        let stream = self.stream;
        let Some((elements @ 2.., header)) = array(&stream[start..]) else {
            return Err(self.not_entry(start));
        };
        let mut at = start + header;
        let (mut metadata, mut group_marker) = (None, false);
        let when;
        if let Some((parts, header)) = array(&stream[at..]) {
            at += header;
            let Some((first, size)) = time(&stream[at..]).filter(|_| parts > 0) else {
                return Err(self.not_entry(start));
            };
            when = first;
            group_marker = is_group_marker(when, stream[at]);
            at += size;
            for part in 1..parts {
                let end = self.end_of(at, 2, start)?;
                if part == 1 && map(&stream[at..]).is_some() {
                    metadata = Some(&stream[at..end]);
                }
                at = end;
            }
        } else if let Some((plain, size)) = time(&stream[at..]) {
            when = plain;
            at += size;
        } else {
            return Err(self.not_entry(start));
        }
        if map(&stream[at..]).is_none() {
            return Err(self.not_entry(start));
        }
        let record_end = self.end_of(at, 1, start)?;
        let mut end = record_end;
        for _ in 2..elements {
            end = self.end_of(end, 1, start)?;
        }
        Ok(Entry {
            time: when,
            metadata,
            record: &stream[at..record_end],
            bytes: &stream[start..end],
            group_marker,
        })
    }

    /// Passes by values of one byte that are no containers, and so no entries; how many.
    pub(crate) fn skip_scalars(&mut self) -> usize {
        let rest = self.stream.get(self.pos..).unwrap_or_default();
        let scalar = |byte: &u8| matches!(byte, 0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3);
        let scalars = rest.iter().position(|byte| !scalar(byte)).unwrap_or(rest.len());
        self.pos += scalars;
        scalars
    }

    /// The end of a value within the entry that begins at `start`.
    #[inline]
    fn end_of(&mut self, at: usize, around: usize, start: usize) -> Result<usize, ScanError> {
        self.skipper.end_of(self.stream, at, around).map_err(|error| match error {
            ScanError::Truncated { .. } => ScanError::Truncated { at: start },
            other => other,
        })
    }

    /// What the value at `start` is instead of an entry: it may still be damaged or cut short.
    #[cold]
    fn not_entry(&mut self, start: usize) -> ScanError {
        match self.skipper.end_of(self.stream, start, 0) {
            Ok(end) => ScanError::NotEntry { start, end },
            Err(error) => error,
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, ScanError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.pos >= self.stream.len() {
            return None;
        }
        let found = self.entry(self.pos);
        self.pos = match found {
            Ok(entry) => self.pos + entry.bytes.len(),
            Err(ScanError::NotEntry { end, .. }) => end,
            Err(_) => self.stream.len(),
        };
        Some(found)
    }
}

/// Whether a time in the metadata form marks a group: seconds `ff ff ff ff` (start) or `ff ff ff fe` (end), no
/// nanoseconds, and written as an ext, not as an integer of the year 2106.
pub(crate) fn is_group_marker(time: EventTime, first_byte: u8) -> bool {
    matches!(time, EventTime::At { secs: 0xffff_fffe | 0xffff_ffff, nanos: 0 })
        && matches!(first_byte, 0xd7 | 0xc7..=0xc9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_shows_its_parts() {
        let entry = b"\x93\x93\x05\x81\xa1m\x01\x80\x81\xa1a\x02\xc0";
        let found: Vec<_> = entries(entry).collect();
        let expected = Entry {
            time: EventTime::At { secs: 5, nanos: 0 },
            metadata: Some(b"\x81\xa1m\x01"),
            record: b"\x81\xa1a\x02",
            bytes: entry,
            group_marker: false,
        };
        assert_eq!(found, [Ok(expected)]);
    }

    #[test]
    fn a_plain_entry_is_known_by_its_beginning() {
        let at = |secs| EventTime::At { secs, nanos: 0 };
        let mut stream = entries(b"\x92\x05\x81\xa1a\x02\x92\x92\x06\x80\x80\x92\x07\x05");
        assert_eq!(stream.plain(), Some((at(5), &b"\x81\xa1a\x02\x92\x92\x06\x80\x80\x92\x07\x05"[..])));
        stream.go_on_at(8);
        assert_eq!(stream.plain(), Some((at(6), &b"\x80\x92\x07\x05"[..])));
        stream.go_on_at(3);
        assert_eq!(stream.plain(), None, "no map");
        assert_eq!(stream.next(), Some(Err(ScanError::NotEntry { start: 11, end: 14 })));
        assert_eq!(stream.plain(), None, "the end");
        for other in [&b"\x93\x05\x80\xc0"[..], b"\x92\x92\x05\x81\xa1m\x01\x80", b"\x92\x92\x05", b"\x92"] {
            assert_eq!(entries(other).plain(), None, "{other:x?}");
        }
    }

    #[test]
    fn it_goes_on_behind_a_stranger_and_ends_at_damage() {
        let stream = b"\x92\x00\x80\x05\x92\x01\x80\x92\x02\xc1\x92\x03\x80";
        let found: Vec<_> = entries(stream).map(|entry| entry.map(|entry| entry.bytes)).collect();
        assert_eq!(
            found,
            [
                Ok(&stream[..3]),
                Err(ScanError::NotEntry { start: 3, end: 4 }),
                Ok(&stream[4..7]),
                Err(ScanError::Malformed { at: 9 }),
            ]
        );
        let cut = &stream[..6];
        assert_eq!(entries(cut).last(), Some(Err(ScanError::Truncated { at: 4 })));
    }
}
