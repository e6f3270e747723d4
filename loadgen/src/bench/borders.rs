//! Finds where Forward messages end, and what they want acknowledged; nothing else is looked at.
//!
//! This is all that the yardstick ([`super::copy`]) does with its bytes. Bytes may come cut anywhere.
//! Left out on purpose: entries, compression, every check that a receiver owes its users.

use std::ops::ControlFlow;

/// Most containers within each other; real messages have a handful.
const DEPTH_MAX: usize = 128;
/// Longest options that are looked into; a chunk id lies well within.
const OPTIONS_MAX: usize = 4096;

/// A stream's place between two reads.
#[derive(Debug, Default)]
pub(super) struct Borders {
    /// Values due in each open container, outermost first; empty between two messages.
    open: Vec<u64>,
    /// Bytes of the current value's body that are still to come.
    body: u64,
    /// A value's header that was cut: its first bytes.
    cut: Vec<u8>,
    /// Which element of the message is being read.
    element: usize,
    /// Which element has the options.
    options_at: usize,
    /// The options as they came, while they are read.
    options: Vec<u8>,
}

/// The bytes are not MessagePack, or nested beyond any message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotForward;

/// What the first bytes of a value say.
enum Header {
    /// A value without values in it: header bytes, body bytes.
    Plain(usize, u64),
    /// A container: header bytes, values in it.
    Container(usize, u64),
    /// More bytes are needed to tell.
    Cut,
}

impl Borders {
    /// Goes through `bytes`; calls `message` at each border with the acknowledgement that is due, if one is.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut message: impl FnMut(Option<Vec<u8>>),
    ) -> Result<(), NotForward> {
        while !bytes.is_empty() {
            if self.body > 0 {
                let taken = self.body.min(bytes.len() as u64);
                self.keep(&bytes[..taken as usize]);
                bytes = &bytes[taken as usize..];
                self.body -= taken;
                if self.body == 0 && self.value_ended().is_break() {
                    message(ack(&self.options));
                }
                continue;
            }
            // A header that was cut is put together byte by byte: that is rare.
            let mut joined = [0; 9];
            let before = self.cut.len();
            let head = if before == 0 {
                bytes
            } else {
                let more = bytes.len().min(joined.len() - before);
                joined[..before].copy_from_slice(&self.cut);
                joined[before..before + more].copy_from_slice(&bytes[..more]);
                &joined[..before + more]
            };
            let (size, container) = match header(head).ok_or(NotForward)? {
                Header::Cut => {
                    self.cut.extend_from_slice(bytes);
                    return Ok(());
                }
                Header::Plain(size, body) => {
                    self.body = body;
                    (size, None)
                }
                Header::Container(size, items) => (size, Some(items)),
            };
            self.begin_value(head[0], &head[..size]);
            self.cut.clear();
            bytes = &bytes[size - before..];
            match container {
                Some(items) if items > 0 => {
                    self.open.push(items);
                    if self.open.len() > DEPTH_MAX {
                        return Err(NotForward);
                    }
                }
                _ if self.body > 0 => {}
                _ => {
                    if self.value_ended().is_break() {
                        message(ack(&self.options));
                    }
                }
            }
        }
        Ok(())
    }

    fn begin_value(&mut self, first: u8, head: &[u8]) {
        match self.open.len() {
            0 => {
                (self.element, self.options_at) = (0, 2);
                self.options.clear();
            }
            // A message with one event has a time in second place, and its options in fourth.
            1 if self.element == 1 => {
                let has_entries = matches!(first, 0x90..=0xbf | 0xc4..=0xc6 | 0xd9..=0xdd);
                self.options_at = if has_entries { 2 } else { 3 };
            }
            _ => {}
        }
        self.keep(head);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if !self.open.is_empty() && self.element == self.options_at && self.options.len() < OPTIONS_MAX {
            self.options.extend_from_slice(bytes);
        }
    }

    /// Breaks when the value was the last of its message.
    fn value_ended(&mut self) -> ControlFlow<()> {
        while let Some(due) = self.open.last_mut() {
            *due -= 1;
            let left = *due;
            if self.open.len() == 1 {
                self.element += 1;
            }
            if left > 0 {
                return ControlFlow::Continue(());
            }
            self.open.pop();
        }
        ControlFlow::Break(())
    }
}

/// `None` where `bytes` begin no value.
fn header(bytes: &[u8]) -> Option<Header> {
    let number = |width: usize| {
        let digits = bytes.get(1..=width)?;
        Some(digits.iter().fold(0_u64, |number, &digit| number << 8 | u64::from(digit)))
    };
    let sized = |width, more| number(width).map_or(Header::Cut, |n| Header::Plain(1 + width, n + more));
    let filled =
        |width, each: u64| number(width).map_or(Header::Cut, |n| Header::Container(1 + width, n * each));
    Some(match *bytes.first()? {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Header::Plain(1, 0),
        first @ 0x80..=0x8f => Header::Container(1, 2 * u64::from(first & 0x0f)),
        first @ 0x90..=0x9f => Header::Container(1, u64::from(first & 0x0f)),
        first @ 0xa0..=0xbf => Header::Plain(1, u64::from(first & 0x1f)),
        0xc1 => return None,
        0xc4 | 0xd9 => sized(1, 0),
        0xc5 | 0xda => sized(2, 0),
        0xc6 | 0xdb => sized(4, 0),
        0xc7 => sized(1, 1),
        0xc8 => sized(2, 1),
        0xc9 => sized(4, 1),
        0xcc | 0xd0 => Header::Plain(1, 1),
        0xcd | 0xd1 | 0xd4 => Header::Plain(1, 2),
        0xca | 0xce | 0xd2 => Header::Plain(1, 4),
        0xcb | 0xcf | 0xd3 => Header::Plain(1, 8),
        0xd5 => Header::Plain(1, 3),
        0xd6 => Header::Plain(1, 5),
        0xd7 => Header::Plain(1, 9),
        0xd8 => Header::Plain(1, 17),
        0xdc => filled(2, 1),
        0xdd => filled(4, 1),
        0xde => filled(2, 2),
        0xdf => filled(4, 2),
    })
}

/// `{"ack": <chunk id as it came>}`, where the options ask for it.
fn ack(options: &[u8]) -> Option<Vec<u8>> {
    const KEY: &[u8] = b"\xa5chunk";
    let at = options.windows(KEY.len()).position(|window| window == KEY)?;
    let id = &options[at + KEY.len()..];
    let Some(Header::Plain(size, body)) = header(id) else { return None };
    Some([b"\x81\xa3ack", id.get(..size + body as usize)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode;

    fn stream() -> Vec<u8> {
        let mut out = Vec::new();
        encode::array(&mut out, 3);
        encode::str(&mut out, "app.1");
        encode::bin(&mut out, |out| out.extend_from_slice(&[0xc1; 300]));
        encode::map(&mut out, 2);
        encode::str(&mut out, "size");
        encode::uint(&mut out, 70_000);
        encode::str(&mut out, "chunk");
        encode::str(&mut out, "first");
        // One event, an acknowledgement asked for; then one without.
        for asked in [true, false] {
            encode::array(&mut out, if asked { 4 } else { 3 });
            encode::str(&mut out, "app.2");
            encode::event_time(&mut out, 7, 8);
            encode::map(&mut out, 1);
            encode::str(&mut out, "chunk");
            encode::str(&mut out, "not an option");
            if asked {
                encode::map(&mut out, 1);
                encode::str(&mut out, "chunk");
                encode::str(&mut out, "second");
            }
        }
        out
    }

    #[test]
    fn every_cut_gives_the_same_borders() {
        let stream = stream();
        let expected =
            [Some(b"\x81\xa3ack\xa5first".to_vec()), Some(b"\x81\xa3ack\xa6second".to_vec()), None];
        for step in 1..stream.len() {
            let (mut borders, mut seen) = (Borders::default(), Vec::new());
            for piece in stream.chunks(step) {
                borders.feed(piece, |ack| seen.push(ack)).unwrap();
            }
            assert_eq!(seen, expected, "in pieces of {step}");
        }
    }

    #[test]
    fn strangers_are_told() {
        assert_eq!(Borders::default().feed(b"\x93\xc1", |_| {}), Err(NotForward));
        assert_eq!(Borders::default().feed(&[0x91; 200], |_| {}), Err(NotForward));
    }
}
