//! Walking over MessagePack without decoding it: skip a value, iterate the entries of a plain stream.
//!
//! Nothing here allocates, recurses, or trusts a declared length. Left out on purpose: what a record says.

mod entries;
mod skip;
mod time;

pub use entries::{Entries, Entry, entries};
pub use skip::{DEPTH_MAX, skip};
pub use time::EventTime;

pub(crate) use entries::is_group_marker;
pub(crate) use skip::{Skipper, Snag};
pub(crate) use time::time;

/// Why a stream of entries cannot be read on, or why one value in it is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// A byte that starts no MessagePack value (`c1`): whatever follows cannot be told apart.
    #[error("byte {at} starts no MessagePack value")]
    Malformed {
        /// Offset of the byte in the scanned slice.
        at: usize,
    },
    /// More than [`DEPTH_MAX`] containers within each other.
    #[error("byte {at} opens a container more than {DEPTH_MAX} levels deep")]
    TooDeep {
        /// Offset of the container's first byte in the scanned slice.
        at: usize,
    },
    /// The bytes end inside a value.
    #[error("the value that starts at byte {at} is cut short")]
    Truncated {
        /// Offset of the value that has no end; everything before it is whole.
        at: usize,
    },
    /// A well-formed value that is no entry. The only error after which [`Entries`] goes on.
    #[error("the value in bytes {start} to {end} is no entry")]
    NotEntry {
        /// Offset of the value.
        start: usize,
        /// Offset behind it.
        end: usize,
    },
}

/// The bytes in the str or bin that `value` starts with; the protocol makes no difference between the two (R10).
pub(crate) fn text(value: &[u8]) -> Option<&[u8]> {
    let (body, len) = match *value {
        [b @ 0xa0..=0xbf, ..] => (1, usize::from(b & 0x1f)),
        [0xd9 | 0xc4, n, ..] => (2, usize::from(n)),
        [0xda | 0xc5, a, b, ..] => (3, usize::from(u16::from_be_bytes([a, b]))),
        [0xdb | 0xc6, a, b, c, d, ..] => (5, u32::from_be_bytes([a, b, c, d]) as usize),
        _ => return None,
    };
    value.get(body..)?.get(..len)
}

/// Elements and header size of the array that `value` starts with.
pub(crate) fn array(value: &[u8]) -> Option<(usize, usize)> {
    match *value {
        [b @ 0x90..=0x9f, ..] => Some((usize::from(b & 0x0f), 1)),
        [0xdc, a, b, ..] => Some((usize::from(u16::from_be_bytes([a, b])), 3)),
        [0xdd, a, b, c, d, ..] => Some((u32::from_be_bytes([a, b, c, d]) as usize, 5)),
        _ => None,
    }
}

/// Pairs and header size of the map that `value` starts with.
pub(crate) fn map(value: &[u8]) -> Option<(usize, usize)> {
    match *value {
        [b @ 0x80..=0x8f, ..] => Some((usize::from(b & 0x0f), 1)),
        [0xde, a, b, ..] => Some((usize::from(u16::from_be_bytes([a, b])), 3)),
        [0xdf, a, b, c, d, ..] => Some((u32::from_be_bytes([a, b, c, d]) as usize, 5)),
        _ => None,
    }
}
