//! The keys of the last record, ready-made: neighbours in a batch mostly have the same ones.
//!
//! What is remembered is exact bytes, and a MessagePack value shows its own end, so a hit writes what the long way
//! would have written. Left out on purpose: nested maps.

/// Most bytes of keys that are remembered, as MessagePack; records with more go the long way.
const BYTES_MAX: usize = 4096;
/// So many more misses than hits, and learning is given up: no record is like the one before.
const MISSES_MAX: i32 = 16;

/// The keys of one map, none of them twice.
#[derive(Default)]
pub(crate) struct Keys {
    ends: Vec<End>,
    /// The keys as MessagePack, one behind the other.
    raw: Vec<u8>,
    /// The same as JSON: a comma before each but the first, quotes, a colon behind.
    text: Vec<u8>,
    /// Misses less hits.
    misses: i32,
}

/// Where a key ends in the two texts. It begins where the one before ends.
#[derive(Clone, Copy, Default)]
struct End {
    raw: usize,
    text: usize,
    /// Bytes of the key with its quotes.
    quoted: usize,
}

/// A key that was found again.
pub(crate) struct Hit<'a> {
    /// Bytes of MessagePack that it takes.
    pub(crate) raw_bytes: usize,
    /// What to write: a comma if it is not the first, the key, a colon.
    pub(crate) text: &'a [u8],
    /// Bytes of the key with its quotes, in `text` before the colon.
    pub(crate) quoted: usize,
}

impl Keys {
    /// How many keys there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Key number `index`, if that is what `msgpack` begins with.
    #[inline]
    pub(crate) fn find(&self, index: usize, msgpack: &[u8]) -> Option<Hit<'_>> {
        let end = *self.ends.get(index)?;
        let begin = if index == 0 { End::default() } else { *self.ends.get(index - 1)? };
        let raw = self.raw.get(begin.raw..end.raw)?;
        let text = self.text.get(begin.text..end.text)?;
        msgpack.starts_with(raw).then_some(Hit { raw_bytes: raw.len(), text, quoted: end.quoted })
    }

    /// Says that a whole map had the remembered keys.
    #[inline]
    pub(crate) fn hit(&mut self) {
        self.misses = (self.misses - 1).max(-MISSES_MAX);
    }

    /// Remembers a map's keys, as MessagePack and as quoted JSON, if that promises to be of use.
    pub(crate) fn learn<'a>(&mut self, keys: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        if self.misses >= MISSES_MAX {
            return;
        }
        self.misses += 1;
        self.ends.clear();
        self.raw.clear();
        self.text.clear();
        for (raw, quoted) in keys {
            if self.raw.len() + raw.len() > BYTES_MAX {
                self.ends.clear();
                return;
            }
            if !self.ends.is_empty() {
                self.text.push(b',');
            }
            self.text.extend_from_slice(quoted);
            self.text.push(b':');
            self.raw.extend_from_slice(raw);
            self.ends.push(End { raw: self.raw.len(), text: self.text.len(), quoted: quoted.len() });
        }
    }
}
