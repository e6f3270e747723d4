//! Taking MessagePack apart, one header at a time.
//!
//! A declared length is believed only as far as bytes are there. Left out on purpose: containers, which are for the
//! caller to walk, and what an ext means.

use std::ops::Range;

use weir_forward::scan::{ScanError, skip};

/// One value, or the header of a container whose items follow.
pub(crate) enum Piece<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float32(f32),
    Float64(f64),
    Str(&'a [u8]),
    Bin(&'a [u8]),
    Ext(i8, &'a [u8]),
    Array(usize),
    Map(usize),
}

/// Bytes with a place in them.
pub(crate) struct Input<'a> {
    all: &'a [u8],
    pos: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(all: &'a [u8]) -> Self {
        Self { all, pos: 0 }
    }

    /// Offset of the next piece.
    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    /// What is not read yet.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.all.get(self.pos..).unwrap_or_default()
    }

    /// What lies at `range`, as far as there is any.
    pub(crate) fn bytes(&self, range: &Range<usize>) -> &'a [u8] {
        self.all.get(range.clone()).unwrap_or_default()
    }

    /// Goes on behind `bytes` bytes that the caller knows.
    #[inline]
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.pos += bytes;
    }

    /// The next piece if it is a str of less than 256 bytes, as nearly all are; otherwise nothing is read.
    #[inline]
    pub(crate) fn short_text(&mut self) -> Option<&'a [u8]> {
        let (start, len) = match *self.rest() {
            [first @ 0xa0..=0xbf, ..] => (self.pos + 1, usize::from(first & 0x1f)),
            [0xd9, len, ..] => (self.pos + 2, usize::from(len)),
            _ => return None,
        };
        let text = self.all.get(start..start + len)?;
        self.pos = start + len;
        Some(text)
    }

    /// Goes to the end of the whole value at `at`, and gives its bytes.
    pub(crate) fn value_at(&mut self, at: usize) -> Result<&'a [u8], ScanError> {
        let value = skip(&self.all[at..]).map_err(|error| match error {
            ScanError::Malformed { at: inner } => ScanError::Malformed { at: at + inner },
            ScanError::TooDeep { at: inner } => ScanError::TooDeep { at: at + inner },
            ScanError::Truncated { .. } | ScanError::NotEntry { .. } => ScanError::Truncated { at },
        })?;
        self.pos = at + value.len();
        Ok(value)
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<Piece<'a>, ScanError> {
        let at = self.pos;
        let mut rest = Rest(&self.all[at..]);
        let piece = rest.piece().ok_or(ScanError::Truncated { at })?;
        self.pos = self.all.len() - rest.0.len();
        piece.ok_or(ScanError::Malformed { at })
    }
}

/// What is still to be read. Its methods say `None` when it is too short.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// The inner `None` is for the byte that starts nothing.
    #[inline]
    fn piece(&mut self) -> Option<Option<Piece<'a>>> {
        let [first] = self.array()?;
        Some(Some(match first {
            0x00..=0x7f => Piece::Unsigned(first.into()),
            0x80..=0x8f => Piece::Map(usize::from(first & 0x0f)),
            0x90..=0x9f => Piece::Array(usize::from(first & 0x0f)),
            0xa0..=0xbf => Piece::Str(self.take(usize::from(first & 0x1f))?),
            0xc0 => Piece::Nil,
            0xc1 => return Some(None),
            0xc2 => Piece::Bool(false),
            0xc3 => Piece::Bool(true),
            0xc4 => Piece::Bin(self.sized8()?),
            0xc5 => Piece::Bin(self.sized16()?),
            0xc6 => Piece::Bin(self.sized32()?),
            0xc7 => {
                let len = usize::from(u8::from_be_bytes(self.array()?));
                self.ext(len)?
            }
            0xc8 => {
                let len = self.len16()?;
                self.ext(len)?
            }
            0xc9 => {
                let len = self.len32()?;
                self.ext(len)?
            }
            0xca => Piece::Float32(f32::from_be_bytes(self.array()?)),
            0xcb => Piece::Float64(f64::from_be_bytes(self.array()?)),
            0xcc => Piece::Unsigned(u8::from_be_bytes(self.array()?).into()),
            0xcd => Piece::Unsigned(u16::from_be_bytes(self.array()?).into()),
            0xce => Piece::Unsigned(u32::from_be_bytes(self.array()?).into()),
            0xcf => Piece::Unsigned(u64::from_be_bytes(self.array()?)),
            0xd0 => Piece::Signed(i8::from_be_bytes(self.array()?).into()),
            0xd1 => Piece::Signed(i16::from_be_bytes(self.array()?).into()),
            0xd2 => Piece::Signed(i32::from_be_bytes(self.array()?).into()),
            0xd3 => Piece::Signed(i64::from_be_bytes(self.array()?)),
            0xd4..=0xd8 => self.ext(1 << (first - 0xd4))?,
            0xd9 => Piece::Str(self.sized8()?),
            0xda => Piece::Str(self.sized16()?),
            0xdb => Piece::Str(self.sized32()?),
            0xdc => Piece::Array(self.len16()?),
            0xdd => Piece::Array(self.len32()?),
            0xde => Piece::Map(self.len16()?),
            0xdf => Piece::Map(self.len32()?),
            0xe0..=0xff => Piece::Signed(i64::from(first as i8)),
        }))
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn len16(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_be_bytes(self.array()?)))
    }

    fn len32(&mut self) -> Option<usize> {
        Some(u32::from_be_bytes(self.array()?) as usize)
    }

    #[inline]
    fn sized8(&mut self) -> Option<&'a [u8]> {
        let [len] = self.array()?;
        self.take(len.into())
    }

    fn sized16(&mut self) -> Option<&'a [u8]> {
        let len = self.len16()?;
        self.take(len)
    }

    fn sized32(&mut self) -> Option<&'a [u8]> {
        let len = self.len32()?;
        self.take(len)
    }

    fn ext(&mut self, len: usize) -> Option<Piece<'a>> {
        let [kind] = self.array()?;
        Some(Piece::Ext(kind as i8, self.take(len)?))
    }
}
