//! Entries that cannot be handed on as they came: written anew.

use std::io::Write;

use bytes::Bytes;
use weir_model::Encoding;

/// What costs the least; logs shrink to a quarter or less.
const LEVEL: i32 = 1;

/// A payload in the making.
///
/// What came packed is packed again, so that it stays about as small as it came: a chunk that inflates to a thousand times its
/// size must not take so much memory on its way.
pub(crate) enum Writer {
    Plain(Vec<u8>),
    Packed { zstd: zstd::stream::write::Encoder<'static, Vec<u8>>, plain: usize, sound: bool },
}

impl Writer {
    /// For entries that came so.
    pub(crate) fn new(came: Encoding) -> Self {
        match zstd::stream::write::Encoder::new(Vec::new(), LEVEL) {
            Ok(zstd) if came != Encoding::Plain => Self::Packed { zstd, plain: 0, sound: true },
            _ => Self::Plain(Vec::new()),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(out) => out.extend_from_slice(bytes),
            Self::Packed { zstd, plain, sound } => {
                *sound &= zstd.write_all(bytes).is_ok();
                *plain += bytes.len();
            }
        }
    }

    /// Encoding, bytes when inflated, and the payload; `None` where there is no memory to pack it.
    pub(crate) fn finish(self) -> Option<(Encoding, usize, Bytes)> {
        match self {
            Self::Plain(out) => Some((Encoding::Plain, out.len(), out.into())),
            Self::Packed { zstd, plain, sound } => {
                let out = zstd.finish().ok().filter(|_| sound)?;
                Some((Encoding::Zstd, plain, out.into()))
            }
        }
    }
}
