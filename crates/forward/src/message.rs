//! Reading a complete message's outline: tag, kind of body, options. No entry is looked at here.

use std::ops::Range;

use bytes::Bytes;
use weir_model::Encoding;

use crate::frame::Frame;
use crate::scan::{Skipper, array, map, text};

/// Longest tag taken, in bytes. Forward sets no bound; a batch's header, which travels through logs and links,
/// carries the tag. The events of a message with a longer one are skipped and counted, as R17 does with other bad tags.
pub const TAG_BYTES_MAX: usize = 4096;

/// Longest chunk id taken, in bytes. Known senders use up to 36, and none reads an ack of more than 512 bytes
/// in one piece, so no longer id could be answered (R40). A message with one is refused.
pub const CHUNK_BYTES_MAX: usize = 1024;

/// Where in a message its parts lie.
pub(crate) struct Outline {
    /// The element that should be the tag.
    pub(crate) tag: Range<usize>,
    pub(crate) body: Body,
    pub(crate) options: Options,
}

/// The modes of the protocol; the second element alone decides (section 2).
pub(crate) enum Body {
    /// PackedForward: the contents of the str or bin.
    Packed(Range<usize>),
    /// Forward: the entries without the array's header.
    Entries(Range<usize>),
    /// Message.
    Single { time: Range<usize>, record: Range<usize> },
    /// Too few elements to be any of these.
    Missing,
}

/// What a sender asks for. The values that are ranges are whole MessagePack values.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) chunk: Option<Range<usize>>,
    pub(crate) packing: Packing,
    /// The payload is no log (`fluent_signal` other than 0).
    pub(crate) other_signal: bool,
    pub(crate) metadata: Option<Range<usize>>,
    /// They were neither map nor nil.
    pub(crate) invalid: bool,
}

/// What the option `compressed` says of a packed body.
#[derive(Default, Clone, Copy)]
pub(crate) enum Packing {
    #[default]
    Plain,
    Gzip,
    Zstd,
    /// Something unknown: the first bytes decide (R34).
    Unknown,
}

impl Packing {
    pub(crate) fn of(self, body: &[u8]) -> Encoding {
        match (self, body) {
            (Self::Gzip, _) | (Self::Unknown, [0x1f, 0x8b, ..]) => Encoding::Gzip,
            (Self::Zstd, _) | (Self::Unknown, [0x28, 0xb5, 0x2f, 0xfd, ..]) => Encoding::Zstd,
            _ => Encoding::Plain,
        }
    }
}

/// The outline of the message that `frame` found in `bytes`; `None` for an array of fewer than two elements.
pub(crate) fn outline(bytes: &[u8], frame: &Frame) -> Option<Outline> {
    let (tag, second) = (frame.element(0)?, frame.element(1)?);
    let value = &bytes[second.clone()];
    let (body, options) = if let Some(packed) = text(value) {
        (Body::Packed(second.end - packed.len()..second.end), frame.element(2))
    } else if let Some((_, header)) = array(value) {
        (Body::Entries(second.start + header..second.end), frame.element(2))
    } else if let Some(record) = frame.element(2) {
        (Body::Single { time: second, record }, frame.element(3))
    } else {
        (Body::Missing, None)
    };
    let options = options.map(|range| read_options(bytes, range)).unwrap_or_default();
    Some(Outline { tag, body, options })
}

/// Reads the options at `range`; whatever is unknown, of another type or in another place is ignored (R31).
fn read_options(bytes: &[u8], range: Range<usize>) -> Options {
    let mut options = Options::default();
    let Some((pairs, header)) = map(&bytes[range.clone()]) else {
        options.invalid = bytes[range.start] != 0xc0;
        return options;
    };
    let mut skipper = Skipper::new();
    let mut key = range.start + header;
    for _ in 0..pairs {
        // The framer has been here: neither of the two can fail.
        let Ok(at) = skipper.end_of(bytes, key, 0) else { break };
        let Ok(end) = skipper.end_of(bytes, at, 0) else { break };
        let value = &bytes[at..end];
        match text(&bytes[key..at]) {
            // nil and false mean that no ack is wanted.
            Some(b"chunk") => options.chunk = (!matches!(value, [0xc0 | 0xc2])).then_some(at..end),
            Some(b"compressed") => {
                options.packing = match text(value) {
                    Some(b"gzip") => Packing::Gzip,
                    Some(b"zstd") => Packing::Zstd,
                    Some(b"text") => Packing::Plain,
                    None if value == [0xc0] => Packing::Plain,
                    _ => Packing::Unknown,
                }
            }
            Some(b"fluent_signal") => options.other_signal = is_nonzero_integer(value),
            Some(b"metadata") => options.metadata = map(value).is_some().then_some(at..end),
            _ => {}
        }
        key = end;
    }
    options
}

fn is_nonzero_integer(value: &[u8]) -> bool {
    match *value {
        [0x01..=0x7f | 0xe0..=0xff] => true,
        [0xcc..=0xd3, ref digits @ ..] => digits.iter().any(|&digit| digit != 0),
        _ => false,
    }
}

/// The ack for a chunk: `{"ack": <the value as it came>}`, same bytes, same type.
pub(crate) fn ack(chunk: &[u8]) -> Bytes {
    [b"\x81\xa3ack", chunk].concat().into()
}
