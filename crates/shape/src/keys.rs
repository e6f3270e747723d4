//! The keys of the last record, ready-made: neighbours in a batch mostly have the same ones.
//!
//! What is remembered is exact bytes, and a MessagePack value shows its own end, so a hit writes what the long way
//! would have written. Left out on purpose: nested maps.

/// Most bytes of keys that are remembered, as MessagePack; records with more go the long way.
const BYTES_MAX: usize = 4096;
/// So many more misses than hits, and learning is given up: no record is like the one before.
const MISSES_MAX: i32 = 16;
/// Texts up to so many bytes are copied at a fixed length.
const SHORT: usize = 16;

/// The keys of one map, none of them twice.
#[derive(Default)]
pub(crate) struct Keys {
    ends: Vec<End>,
    /// The keys as MessagePack, one behind the other.
    raw: Vec<u8>,
    /// The same as JSON: a comma before each but the first, quotes, a colon behind. `SHORT` bytes more at the end, so
    /// that so many can be taken at each place.
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
    /// Begins with what to write: a comma if it is not the first, the key, a colon.
    text: &'a [u8],
    text_bytes: usize,
    /// Bytes of the key with its quotes, in `text` before the colon.
    pub(crate) quoted: usize,
}

impl Hit<'_> {
    /// Appends what to write.
    #[inline]
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self.text.first_chunk::<SHORT>() {
            // A copy whose length is known here is a few instructions; what is too much goes again.
            Some(chunk) if self.text_bytes <= SHORT => {
                let end = out.len() + self.text_bytes;
                out.extend_from_slice(chunk);
                out.truncate(end);
            }
            _ => out.extend_from_slice(&self.text[..self.text_bytes]),
        }
    }
}

/// Whether `bytes` begins with `key`.
#[inline]
fn begins_with(bytes: &[u8], key: &[u8]) -> bool {
    // Two words that overlap, where that is all of it: a call for each key costs more than the bytes.
    match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        (Some(first), Some(last)) if key.len() <= 16 => bytes.get(..key.len()).is_some_and(|bytes| {
            bytes.first_chunk::<8>() == Some(first) && bytes.last_chunk::<8>() == Some(last)
        }),
        _ => match (key.first_chunk::<4>(), key.last_chunk::<4>()) {
            (Some(first), Some(last)) if key.len() <= 8 => bytes.get(..key.len()).is_some_and(|bytes| {
                bytes.first_chunk::<4>() == Some(first) && bytes.last_chunk::<4>() == Some(last)
            }),
            _ => bytes.starts_with(key),
        },
    }
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
        let (text, text_bytes) = (self.text.get(begin.text..)?, end.text - begin.text);
        let hit = Hit { raw_bytes: raw.len(), text, text_bytes, quoted: end.quoted };
        begins_with(msgpack, raw).then_some(hit)
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
        self.text.extend_from_slice(&[0; SHORT]);
    }
}
