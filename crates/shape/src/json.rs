//! MessagePack to JSON, value by value, with nothing in between.
//!
//! | MessagePack | JSON |
//! |---|---|
//! | nil, booleans | `null`, `true`, `false` |
//! | integers | all their digits, from −2⁶³ to 2⁶⁴−1 |
//! | floats | the shortest text that reads back as the same float of the same width, always with `.0` or an exponent; NaN and the infinities as `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | str | a string; what is no UTF-8 becomes U+FFFD |
//! | bin | a string if it is UTF-8, otherwise `{"$binary":"<base64>"}` |
//! | ext 0 of 8 bytes (Fluentd's EventTime) | RFC 3339 text with nine digits of nanoseconds |
//! | other ext | `{"$ext":[<type>,"<base64>"]}` |
//! | array | an array |
//! | map | an object; of several members with one name only the last remains, in its place |
//!
//! A key that is no string becomes the text of its value: `nil` is `""`, 7 is `"7"`, true is `"true"`. What has no text
//! (arrays, maps, bin that is no UTF-8, other ext) becomes `$msgpack:` and the base64 of its MessagePack. JSON in a key
//! would double its backslashes at each level, so that a few hundred bytes of input could fill any memory; this way
//! the output is at most a dozen times the input.
//!
//! Strings escape what RFC 8259, section 7 demands and nothing else. Base64 is the standard alphabet, padded.
//! Left out on purpose: pretty printing, and any opinion on what a record says.

use std::collections::HashSet;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use weir_forward::scan::{DEPTH_MAX, ScanError};

use crate::keys::Keys;
use crate::msgpack::{Input, Piece};
use crate::text::write_text;
use crate::time::{Clock, SECOND_NS};

/// Appends the value that `msgpack` starts with to `out`, as JSON; returns how many bytes of `msgpack` it took.
///
/// For many values in a row a [`Transcoder`] is faster.
///
/// # Errors
/// [`ScanError`] when there is no whole, well-formed value, or more than [`DEPTH_MAX`] containers lie within each
/// other. `out` then ends in something unfinished.
pub fn write_json(out: &mut Vec<u8>, msgpack: &[u8]) -> Result<usize, ScanError> {
    Transcoder::new().write(out, msgpack)
}

/// Turns values into JSON and keeps its scratch space between them.
pub struct Transcoder {
    /// The members of the maps that are open, innermost last.
    members: Vec<Member>,
    /// Where the keys of the outermost map lie in the input.
    raw_keys: Vec<Range<usize>>,
    /// The keys of the outermost map before.
    keys: Keys,
    clock: Clock,
}

/// Where a member of a map begins in the output, and where its key ends. It goes on to the next one's comma.
#[derive(Clone, Copy)]
struct Member {
    start: usize,
    key_end: usize,
}

impl Default for Transcoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Transcoder {
    /// One without any state that shows in what it writes.
    #[must_use]
    pub fn new() -> Self {
        Self { members: Vec::new(), raw_keys: Vec::new(), keys: Keys::default(), clock: Clock::new() }
    }

    /// Does as [`write_json`].
    ///
    /// # Errors
    /// As [`write_json`].
    pub fn write(&mut self, out: &mut Vec<u8>, msgpack: &[u8]) -> Result<usize, ScanError> {
        self.members.clear();
        let mut run = Run { input: Input::new(msgpack), out, transcoder: self };
        run.value(0)?;
        Ok(run.input.pos())
    }
}

/// One value on its way.
struct Run<'a, 'o> {
    input: Input<'a>,
    out: &'o mut Vec<u8>,
    transcoder: &'o mut Transcoder,
}

impl Run<'_, '_> {
    /// Writes the next value, which lies within `depth` containers.
    fn value(&mut self, depth: usize) -> Result<(), ScanError> {
        if let Some(text) = self.input.short_text() {
            write_text(self.out, text);
            return Ok(());
        }
        let at = self.input.pos();
        match self.input.next()? {
            Piece::Nil => self.out.extend_from_slice(b"null"),
            Piece::Bool(truth) => self.bool(truth),
            Piece::Unsigned(n) => self.integer(n),
            Piece::Signed(n) => self.integer(n),
            Piece::Float32(n) => self.float(n, !n.is_finite()),
            Piece::Float64(n) => self.float(n, !n.is_finite()),
            Piece::Str(text) => write_text(self.out, text),
            Piece::Bin(bytes) if std::str::from_utf8(bytes).is_ok() => write_text(self.out, bytes),
            Piece::Bin(bytes) => {
                self.out.extend_from_slice(b"{\"$binary\":\"");
                self.base64(bytes);
                self.out.extend_from_slice(b"\"}");
            }
            Piece::Ext(0, &[a, b, c, d, e, f, g, h]) => self.time([a, b, c, d, e, f, g, h]),
            Piece::Ext(kind, data) => {
                self.out.extend_from_slice(b"{\"$ext\":[");
                self.integer(kind);
                self.out.extend_from_slice(b",\"");
                self.base64(data);
                self.out.extend_from_slice(b"\"]}");
            }
            Piece::Array(len) => self.array(len, self.inside(at, depth)?)?,
            Piece::Map(len) => self.map(len, self.inside(at, depth)?)?,
        }
        Ok(())
    }

    /// The depth of what lies in a container at `at` that lies within `depth` others.
    fn inside(&self, at: usize, depth: usize) -> Result<usize, ScanError> {
        if depth < DEPTH_MAX { Ok(depth + 1) } else { Err(ScanError::TooDeep { at }) }
    }

    fn array(&mut self, len: usize, depth: usize) -> Result<(), ScanError> {
        self.out.push(b'[');
        for element in 0..len {
            if element > 0 {
                self.out.push(b',');
            }
            self.value(depth)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, len: usize, depth: usize) -> Result<(), ScanError> {
        self.out.push(b'{');
        let first = self.transcoder.members.len();
        let outermost = depth == 1;
        if outermost {
            self.transcoder.raw_keys.clear();
        }
        let mut as_before = outermost && self.transcoder.keys.len() == len;
        for index in 0..len {
            let at = self.input.pos();
            as_before = as_before && self.known_key(index);
            if !as_before {
                if index > 0 {
                    self.out.push(b',');
                }
                let start = self.out.len();
                self.key()?;
                self.transcoder.members.push(Member { start, key_end: self.out.len() });
                self.out.push(b':');
            }
            if outermost {
                self.transcoder.raw_keys.push(at..self.input.pos());
            }
            self.value(depth)?;
        }
        if as_before {
            self.transcoder.keys.hit();
        } else {
            self.finish_new(first, outermost);
        }
        self.transcoder.members.truncate(first);
        self.out.push(b'}');
        Ok(())
    }

    /// Writes key number `index` of the outermost map with what surrounds it, if it is the one of the map before.
    #[inline]
    fn known_key(&mut self, index: usize) -> bool {
        let Some(hit) = self.transcoder.keys.find(index, self.input.rest()) else { return false };
        hit.write(self.out);
        let key_end = self.out.len() - 1;
        let member = Member { start: key_end - hit.quoted, key_end };
        self.input.skip(hit.raw_bytes);
        self.transcoder.members.push(member);
        true
    }

    /// Looks for names that a map has twice, and remembers its keys if it has none. Its members are those from
    /// number `first` on.
    fn finish_new(&mut self, first: usize, outermost: bool) {
        let Transcoder { members, raw_keys, keys, .. } = &mut *self.transcoder;
        let members = &members[first..];
        if has_duplicates(self.out, members) {
            keep_last(self.out, members);
        } else if outermost {
            let raw = raw_keys.iter().map(|range| self.input.bytes(range));
            let quoted = members.iter().map(|member| &self.out[member.start..member.key_end]);
            keys.learn(raw.zip(quoted));
        }
    }

    fn key(&mut self) -> Result<(), ScanError> {
        let at = self.input.pos();
        match self.input.next()? {
            Piece::Str(text) => write_text(self.out, text),
            Piece::Bin(bytes) if std::str::from_utf8(bytes).is_ok() => write_text(self.out, bytes),
            Piece::Nil => self.out.extend_from_slice(b"\"\""),
            Piece::Bool(truth) => self.quoted(|run| run.bool(truth)),
            Piece::Unsigned(n) => self.quoted(|run| run.integer(n)),
            Piece::Signed(n) => self.quoted(|run| run.integer(n)),
            Piece::Float32(n) => self.float(n, true),
            Piece::Float64(n) => self.float(n, true),
            Piece::Ext(0, &[a, b, c, d, e, f, g, h]) => self.time([a, b, c, d, e, f, g, h]),
            Piece::Bin(_) | Piece::Ext(..) | Piece::Array(_) | Piece::Map(_) => {
                let key = self.input.value_at(at)?;
                self.quoted(|run| {
                    run.out.extend_from_slice(b"$msgpack:");
                    run.base64(key);
                });
            }
        }
        Ok(())
    }

    fn quoted(&mut self, write: impl FnOnce(&mut Self)) {
        self.out.push(b'"');
        write(self);
        self.out.push(b'"');
    }

    fn bool(&mut self, truth: bool) {
        self.out.extend_from_slice(if truth { b"true" } else { b"false" });
    }

    fn integer(&mut self, n: impl itoa::Integer) {
        self.out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
    }

    fn float(&mut self, n: impl zmij::Float + Into<f64> + Copy, quoted: bool) {
        let wide: f64 = n.into();
        let mut buffer = zmij::Buffer::new();
        let text = match wide {
            _ if wide.is_nan() => "NaN",
            f64::INFINITY => "Infinity",
            f64::NEG_INFINITY => "-Infinity",
            _ => buffer.format_finite(n),
        };
        if quoted {
            self.quoted(|run| run.out.extend_from_slice(text.as_bytes()));
        } else {
            self.out.extend_from_slice(text.as_bytes());
        }
    }

    /// Fluentd's EventTime: unsigned seconds and nanoseconds, 32 bits each; nanoseconds carry.
    fn time(&mut self, [a, b, c, d, e, f, g, h]: [u8; 8]) {
        let secs = i64::from(u32::from_be_bytes([a, b, c, d]));
        let nanos = i64::from(u32::from_be_bytes([e, f, g, h]));
        self.quoted(|run| {
            let rest = (nanos % SECOND_NS) as u32;
            run.transcoder.clock.write(secs + nanos / SECOND_NS, rest, run.out);
        });
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(BASE64.encode(bytes).as_bytes());
    }
}

/// Most members whose keys are compared each with each; above it a set is cheaper, and safe from hostile maps.
const PAIRWISE_MAX: usize = 16;

/// Whether two of a map's keys are the same. Escaping is one to one, so the written texts are compared.
fn has_duplicates(out: &[u8], members: &[Member]) -> bool {
    if members.len() > PAIRWISE_MAX {
        let mut seen = HashSet::with_capacity(members.len());
        return !members.iter().all(|member| seen.insert(&out[member.start..member.key_end]));
    }
    let mut prints = [0; PAIRWISE_MAX];
    for (index, member) in members.iter().enumerate() {
        let key = &out[member.start..member.key_end];
        let print = fingerprint(key);
        if prints[..index].contains(&print)
            && members[..index].iter().any(|other| out[other.start..other.key_end] == *key)
        {
            return true;
        }
        prints[index] = print;
    }
    false
}

/// Tells most keys apart: the length, the beginning and the end of a quoted key.
fn fingerprint(key: &[u8]) -> u64 {
    let head = key.first_chunk().map_or(0, |head| u32::from_le_bytes(*head));
    // Without the closing quote.
    let tail = key[..key.len() - 1].last_chunk().map_or(0, |tail| u32::from_le_bytes(*tail));
    (u64::from(head) << 32 | u64::from(tail)) ^ (key.len() as u64).rotate_right(16)
}

/// Rewrites the members at the end of `out`: of those with the same key only the last stays.
fn keep_last(out: &mut Vec<u8>, members: &[Member]) {
    let Some(begin) = members.first().map(|first| first.start) else { return };
    let mut seen = HashSet::with_capacity(members.len());
    let mut kept = Vec::with_capacity(members.len());
    let mut end = out.len();
    for member in members.iter().rev() {
        if seen.insert(&out[member.start..member.key_end]) {
            kept.push(member.start..end);
        }
        // The comma before the member is not part of the one before it.
        end = member.start.saturating_sub(1);
    }
    let mut rewritten = Vec::with_capacity(out.len() - begin);
    for member in kept.into_iter().rev() {
        if !rewritten.is_empty() {
            rewritten.push(b',');
        }
        rewritten.extend_from_slice(&out[member]);
    }
    out.truncate(begin);
    out.append(&mut rewritten);
}
