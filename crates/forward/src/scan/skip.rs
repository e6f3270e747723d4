//! The skip-scan: from the first byte of a value to the byte behind it, in one pass that can pause anywhere.

use super::ScanError;

/// Most containers within each other, the outermost included (R11: what Fluentd's unpacker takes).
///
/// In a message they are counted from the outer array, in a packed stream from the entry. Deeper input closes
/// the connection.
pub const DEPTH_MAX: usize = 128;

/// Bytes of a value that its first byte alone gives away; 0 where more must be looked at (lengths of one byte
/// and more, containers, the impossible `c1`).
const SIZES: [u8; 256] = sizes();

const fn sizes() -> [u8; 256] {
    let mut sizes = [0; 256];
    let mut first = 0;
    while first < 256 {
        sizes[first] = match first {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => 1,
            0xa0..=0xbf => 1 + (first as u8 & 0x1f),
            0xcc | 0xd0 => 2,
            0xcd | 0xd1 => 3,
            0xca | 0xce | 0xd2 => 5,
            0xcb | 0xcf | 0xd3 => 9,
            0xd4 => 3,
            0xd5 => 4,
            0xd6 => 6,
            0xd7 => 10,
            0xd8 => 18,
            _ => 0,
        };
        first += 1;
    }
    sizes
}

/// Why a scan can never be completed, however many bytes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Snag {
    Malformed {
        at: usize,
    },
    TooDeep {
        at: usize,
    },
    /// A length or count says that the value reaches beyond the limit.
    TooLarge,
}

/// One value being skipped. It keeps its place when bytes run out and goes on from there, so that no byte is
/// looked at twice however the value is fragmented.
pub(crate) struct Skipper {
    /// The next byte to look at. It lies beyond the end of the bytes while a str, bin or ext is awaited.
    pos: usize,
    /// Values that are still due in the innermost open container.
    due: u64,
    /// The same for the containers around it.
    outer: [u64; DEPTH_MAX],
    depth: usize,
    depth_max: usize,
}

impl Skipper {
    /// A scan of the value that starts at byte 0.
    pub(crate) fn new() -> Self {
        Self { pos: 0, due: 1, outer: [0; DEPTH_MAX], depth: 0, depth_max: DEPTH_MAX }
    }

    /// Starts over with the value at `at`, which lies within `around` containers.
    #[inline]
    pub(crate) fn restart(&mut self, at: usize, around: usize) {
        self.pos = at;
        self.due = 1;
        self.depth = 0;
        self.depth_max = DEPTH_MAX - around;
    }

    /// Where the scan stands: behind the value once [`run`](Self::run) has said that it is complete.
    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    /// Goes on as far as `bytes` reach; says whether the value is complete.
    ///
    /// `bytes` are the same as before with more at the end. A value that reaches beyond `limit` is refused as
    /// soon as a header says so (R13).
    #[inline]
    pub(crate) fn run(&mut self, bytes: &[u8], limit: usize) -> Result<bool, Snag> {
        let (mut pos, mut due) = (self.pos, self.due);
        let complete = loop {
            if due == 0 {
                if self.depth == 0 {
                    break pos <= bytes.len();
                }
                self.depth -= 1;
                due = self.outer[self.depth];
                continue;
            }
            let Some(&first) = bytes.get(pos) else { break false };
            let size = usize::from(SIZES[usize::from(first)]);
            if size != 0 {
                pos += size;
                due -= 1;
                continue;
            }
            // Most texts that are longer than what one byte says; their length cannot pass by the check at the end.
            if let (0xd9 | 0xc4, Some(&len)) = (first, bytes.get(pos + 1)) {
                pos += 2 + usize::from(len);
                due -= 1;
                continue;
            }
            let rest = &bytes[pos..];
            let (size, items) = match header(rest) {
                Header::Bytes(size) => (size, None),
                Header::Items(size, items) => (size, Some(items)),
                Header::Incomplete => break false,
                Header::Impossible => return Err(Snag::Malformed { at: pos }),
            };
            // Every item takes at least one byte, so a count is as telling as a length.
            if (pos + size) as u64 + items.unwrap_or(0) > limit as u64 {
                return Err(Snag::TooLarge);
            }
            due -= 1;
            if let Some(items) = items {
                if self.depth >= self.depth_max {
                    return Err(Snag::TooDeep { at: pos });
                }
                self.outer[self.depth] = due;
                self.depth += 1;
                due = items;
            }
            pos += size;
        };
        (self.pos, self.due) = (pos, due);
        if pos > limit { Err(Snag::TooLarge) } else { Ok(complete) }
    }

    /// The end of the value at `at`, where all there will ever be is in `bytes`.
    #[inline]
    pub(crate) fn end_of(&mut self, bytes: &[u8], at: usize, around: usize) -> Result<usize, ScanError> {
        self.restart(at, around);
        match self.run(bytes, usize::MAX) {
            Ok(true) => Ok(self.pos),
            // Without a limit nothing is too large.
            Ok(false) | Err(Snag::TooLarge) => Err(ScanError::Truncated { at }),
            Err(Snag::Malformed { at }) => Err(ScanError::Malformed { at }),
            Err(Snag::TooDeep { at }) => Err(ScanError::TooDeep { at }),
        }
    }
}

enum Header {
    /// A str, bin or ext of so many bytes, header included.
    Bytes(usize),
    /// A container: header size, and the values in it (two for each pair of a map).
    Items(usize, u64),
    Incomplete,
    Impossible,
}

fn header(rest: &[u8]) -> Header {
    let number = |width: usize| {
        rest.get(1..=width).map(|digits| digits.iter().fold(0_u64, |n, &digit| n << 8 | u64::from(digit)))
    };
    let sized = |width: usize, more: usize| match number(width) {
        Some(n) => Header::Bytes(1 + width + more + n as usize),
        None => Header::Incomplete,
    };
    let filled = |width: usize, each: u64| match number(width) {
        Some(n) => Header::Items(1 + width, n * each),
        None => Header::Incomplete,
    };
    let Some(&first) = rest.first() else { return Header::Incomplete };
    match first {
        0x80..=0x8f => Header::Items(1, 2 * u64::from(first & 0x0f)),
        0x90..=0x9f => Header::Items(1, u64::from(first & 0x0f)),
        0xc4 | 0xd9 => sized(1, 0),
        0xc5 | 0xda => sized(2, 0),
        0xc6 | 0xdb => sized(4, 0),
        // An ext has its type byte between length and data.
        0xc7 => sized(1, 1),
        0xc8 => sized(2, 1),
        0xc9 => sized(4, 1),
        0xdc => filled(2, 1),
        0xdd => filled(4, 1),
        0xde => filled(2, 2),
        0xdf => filled(4, 2),
        _ => Header::Impossible,
    }
}

/// The bytes of the value that `bytes` start with, without what follows it.
///
/// # Errors
/// [`ScanError`] when there is no whole, well-formed value; never [`ScanError::NotEntry`].
pub fn skip(bytes: &[u8]) -> Result<&[u8], ScanError> {
    let end = Skipper::new().end_of(bytes, 0, 0)?;
    Ok(&bytes[..end])
}
