//! Format v1: what stands in the files of a log, byte by byte. Integers are little-endian.
//!
//! ```text
//! file      = file header, frame*, [seal]
//! file header (44): magic 8 ("WEIRSEG" | "WEIRLOG" | "WEIRJNL", version) | incarnation 16 | first seq 8
//!                   | time 8 | CRC32C 4 over the 40 before
//! frame     = head (44), header, payload
//! head      : magic 4 (f5 'W' version kind) | header bytes 4 | payload bytes 4 | CRC32C of header+payload 4
//!             | seq 8 | time 8 | synced 8 | CRC32C 4 over the 40 before, salted
//! seal      = a frame of kind 2: seq = end of the segment, header = time of the first record 8,
//!             payload = sparse index (seq 8, offset 8)*; then a trailer: length of the seal with trailer 4, "WEND"
//! ```
//!
//! The salt is made of the incarnation and the file's first seq, so bytes of another file never pass for this
//! one's. `synced` is the number below which all was durable when the frame was written: it lets recovery
//! tell a damaged record (it was durable) from a torn one (it never was). Times are nanoseconds since 1970.
//! Left out on purpose: any I/O.

use bytes::{Buf, BufMut, Bytes};
use weir_model::Incarnation;

/// The version that this code writes, and the only one that it reads.
pub(crate) const VERSION: u8 = 1;
/// Bytes of a file header.
pub(crate) const FILE_HEADER_BYTES: usize = 44;
/// Bytes of a frame's head.
pub(crate) const HEAD_BYTES: usize = 44;
/// The first bytes of every frame; its kind follows.
pub(crate) const FRAME_MAGIC: [u8; 3] = [0xf5, b'W', VERSION];
const TRAILER_MAGIC: [u8; 4] = *b"WEND";
/// Bytes at the end of a sealed segment that tell where its seal begins.
pub(crate) const TRAILER_BYTES: usize = 8;

/// Longest record (header and payload), in bytes; a longer one is refused. It bounds what one damaged length
/// can make a reader ask for.
pub const RECORD_BYTES_MAX: u64 = 256 << 20;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Segment,
    Meta,
    Journal,
}

impl FileKind {
    fn magic(self) -> &'static [u8; 7] {
        match self {
            Self::Segment => b"WEIRSEG",
            Self::Meta => b"WEIRLOG",
            Self::Journal => b"WEIRJNL",
        }
    }
}

/// The first bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) incarnation: Incarnation,
    pub(crate) first: u64,
    pub(crate) time_ns: u64,
}

/// What a file's first bytes turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderFound {
    Sound(FileHeader),
    /// Ours, of a version that this code does not know.
    Version(u8),
    Damaged,
}

impl FileHeader {
    pub(crate) fn encode(&self, kind: FileKind) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_slice(kind.magic());
        out.put_u8(VERSION);
        out.put_u128_le(self.incarnation.0);
        out.put_u64_le(self.first);
        out.put_u64_le(self.time_ns);
        let crc = crc32c::crc32c(&bytes[..40]);
        bytes[40..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], kind: FileKind) -> HeaderFound {
        if bytes.len() < FILE_HEADER_BYTES || &bytes[..7] != kind.magic() {
            return HeaderFound::Damaged;
        }
        let mut rest = &bytes[7..FILE_HEADER_BYTES];
        let version = rest.get_u8();
        let header = Self {
            incarnation: Incarnation(rest.get_u128_le()),
            first: rest.get_u64_le(),
            time_ns: rest.get_u64_le(),
        };
        // The checksum comes first: a flipped bit must not look like a file from the future.
        match rest.get_u32_le() == crc32c::crc32c(&bytes[..40]) {
            true if version == VERSION => HeaderFound::Sound(header),
            true => HeaderFound::Version(version),
            false => HeaderFound::Damaged,
        }
    }

    pub(crate) fn salt(&self) -> Salt {
        Salt(crc32c::crc32c_append(
            crc32c::crc32c(&self.incarnation.0.to_le_bytes()),
            &self.first.to_le_bytes(),
        ))
    }
}

/// Ties a frame's head to its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt(u32);

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Record = 1,
    Seal = 2,
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) header_bytes: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) body_crc: u32,
    pub(crate) seq: u64,
    pub(crate) time_ns: u64,
    pub(crate) synced: u64,
}

impl Head {
    pub(crate) fn encode(&self, salt: Salt, out: &mut impl BufMut) {
        let mut bytes = [0; HEAD_BYTES];
        let mut rest = &mut bytes[..];
        rest.put_slice(&FRAME_MAGIC);
        rest.put_u8(self.kind as u8);
        rest.put_u32_le(self.header_bytes);
        rest.put_u32_le(self.payload_bytes);
        rest.put_u32_le(self.body_crc);
        rest.put_u64_le(self.seq);
        rest.put_u64_le(self.time_ns);
        rest.put_u64_le(self.synced);
        let crc = crc32c::crc32c_append(salt.0, &bytes[..40]);
        bytes[40..].copy_from_slice(&crc.to_le_bytes());
        out.put_slice(&bytes);
    }

    /// The head in the first bytes of `bytes`, if it is sound and of this file.
    pub(crate) fn decode(bytes: &[u8], salt: Salt) -> Option<Self> {
        let head = bytes.get(..HEAD_BYTES)?;
        if head[..3] != FRAME_MAGIC {
            return None;
        }
        let mut rest = &head[3..];
        let kind = match rest.get_u8() {
            1 => Kind::Record,
            2 => Kind::Seal,
            _ => return None,
        };
        let decoded = Self {
            kind,
            header_bytes: rest.get_u32_le(),
            payload_bytes: rest.get_u32_le(),
            body_crc: rest.get_u32_le(),
            seq: rest.get_u64_le(),
            time_ns: rest.get_u64_le(),
            synced: rest.get_u64_le(),
        };
        let sound = rest.get_u32_le() == crc32c::crc32c_append(salt.0, &head[..40])
            && decoded.body_bytes() <= RECORD_BYTES_MAX;
        sound.then_some(decoded)
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        u64::from(self.header_bytes) + u64::from(self.payload_bytes)
    }

    pub(crate) fn frame_bytes(&self) -> u64 {
        HEAD_BYTES as u64 + self.body_bytes()
    }
}

/// Something to append: bytes whose meaning is the caller's, in two pieces. Its checksum is computed here, on
/// the caller's thread, while the bytes are warm.
#[derive(Debug, Clone)]
pub struct Record {
    pub(crate) header: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) crc: u32,
}

impl Record {
    /// Makes a record of a small header and its payload.
    #[must_use]
    pub fn new(header: Bytes, payload: Bytes) -> Self {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header), &payload);
        Self { header, payload, crc }
    }

    /// Bytes that it takes on disk.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        (HEAD_BYTES + self.header.len() + self.payload.len()) as u64
    }

    /// Bytes of header and payload, to be held against [`RECORD_BYTES_MAX`].
    pub(crate) fn body_bytes(&self) -> u64 {
        (self.header.len() + self.payload.len()) as u64
    }
}

/// Where records begin in one segment: one entry for at least [`SparseIndex::STRIDE`] bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SparseIndex {
    entries: Vec<(u64, u64)>,
}

impl SparseIndex {
    /// Bytes between two entries: a look-up reads at most this much too much (or one record).
    pub(crate) const STRIDE: u64 = 64 << 10;

    pub(crate) fn note(&mut self, seq: u64, at: u64) {
        if self.entries.last().is_none_or(|&(_, last)| at >= last + Self::STRIDE) {
            self.entries.push((seq, at));
        }
    }

    /// Where to begin to look for `seq`.
    pub(crate) fn at_or_before(&self, seq: u64) -> Option<u64> {
        let after = self.entries.partition_point(|&(s, _)| s <= seq);
        after.checked_sub(1).map(|i| self.entries[i].1)
    }

    pub(crate) fn cut(&mut self, at: u64) {
        self.entries.retain(|&(_, entry)| entry < at);
    }
}

/// The end of a finished segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// One above the last record's seq.
    pub(crate) end: u64,
    /// When the segment's first record was appended.
    pub(crate) oldest_ns: u64,
    pub(crate) index: SparseIndex,
}

impl Seal {
    pub(crate) fn encode(&self, salt: Salt, time_ns: u64) -> Vec<u8> {
        let mut body = Vec::with_capacity(8 + 16 * self.index.entries.len());
        body.put_u64_le(self.oldest_ns);
        for &(seq, at) in &self.index.entries {
            body.put_u64_le(seq);
            body.put_u64_le(at);
        }
        let head = Head {
            kind: Kind::Seal,
            header_bytes: 8,
            payload_bytes: u32::try_from(body.len() - 8).unwrap_or(u32::MAX),
            body_crc: crc32c::crc32c(&body),
            seq: self.end,
            time_ns,
            synced: self.end,
        };
        let mut out = Vec::with_capacity(HEAD_BYTES + body.len() + TRAILER_BYTES);
        head.encode(salt, &mut out);
        out.put_slice(&body);
        out.put_u32_le(u32::try_from(out.len() + TRAILER_BYTES).unwrap_or(u32::MAX));
        out.put_slice(&TRAILER_MAGIC);
        out
    }

    /// How long the seal is, by the last bytes of the file.
    pub(crate) fn bytes_by_trailer(mut trailer: &[u8]) -> Option<u64> {
        if trailer.len() != TRAILER_BYTES || trailer[4..] != TRAILER_MAGIC {
            return None;
        }
        Some(u64::from(trailer.get_u32_le()))
    }

    pub(crate) fn decode(bytes: &[u8], salt: Salt) -> Option<Self> {
        let head = Head::decode(bytes, salt)?;
        let mut body = bytes.get(HEAD_BYTES..bytes.len().checked_sub(TRAILER_BYTES)?)?;
        let sound = head.kind == Kind::Seal
            && head.header_bytes == 8
            && head.body_bytes() == body.len() as u64
            && head.body_crc == crc32c::crc32c(body);
        if !sound {
            return None;
        }
        let oldest_ns = body.get_u64_le();
        let mut index = SparseIndex::default();
        while body.remaining() >= 16 {
            index.entries.push((body.get_u64_le(), body.get_u64_le()));
        }
        Some(Self { end: head.seq, oldest_ns, index })
    }
}
