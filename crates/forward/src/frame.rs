//! Finding the top-level values of a connection's stream, and the elements of those that are arrays.

use crate::outcome::Fault;
use crate::scan::{Skipper, Snag, array};

/// Most elements of a message: later ones than [`MEANT`] are ignored, and an array with more is not Forward (R8).
pub(crate) const ELEMENTS_MAX: usize = 16;
/// Elements that have a meaning: four of a message, six of a handshake's PING, and the one that a PING must not have.
const MEANT: usize = 7;

/// A complete value at the front of the buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    /// Whether it is an array; else it counts as one element.
    pub(crate) array: bool,
    /// Offset of each element that has a meaning and, behind the last, of its end.
    starts: [usize; MEANT + 1],
    elements: usize,
    end: usize,
}

impl Frame {
    /// Bytes of the whole value.
    pub(crate) fn len(&self) -> usize {
        self.end
    }

    /// Where the element lies, if the array has it.
    pub(crate) fn element(&self, index: usize) -> Option<std::ops::Range<usize>> {
        (index < self.elements.min(MEANT)).then(|| self.starts[index]..self.starts[index + 1])
    }
}

/// The place in the value at the front of the buffer, kept between reads.
pub(crate) struct Framer {
    frame: Frame,
    /// Elements found so far, once the header is known.
    found: Option<usize>,
    skipper: Skipper,
}

impl Framer {
    pub(crate) fn new() -> Self {
        Self {
            frame: Frame { array: false, starts: [0; MEANT + 1], elements: 0, end: 0 },
            found: None,
            skipper: Skipper::new(),
        }
    }

    /// Where the value at the front ends, at the earliest, by what is known of it.
    pub(crate) fn pos(&self) -> usize {
        if self.found.is_some() { self.skipper.pos() } else { 0 }
    }

    /// The value at the front of `bytes` if it is complete. The caller takes it off before it asks again.
    pub(crate) fn next(&mut self, bytes: &[u8], limit: usize) -> Result<Option<Frame>, Fault> {
        if self.found.is_none() && !self.begin(bytes)? {
            return Ok(None);
        }
        let mut found = self.found.unwrap_or(0);
        while found < self.frame.elements {
            let complete = self.skipper.run(bytes, limit).map_err(|snag| match snag {
                Snag::Malformed { .. } => Fault::Malformed,
                Snag::TooDeep { .. } => Fault::TooDeep,
                Snag::TooLarge => Fault::TooLarge { limit },
            })?;
            if !complete {
                self.found = Some(found);
                return Ok(None);
            }
            found += 1;
            self.frame.end = self.skipper.pos();
            if let Some(start) = self.frame.starts.get_mut(found) {
                *start = self.frame.end;
            }
            self.skipper.restart(self.frame.end, usize::from(self.frame.array));
        }
        self.found = None;
        Ok(Some(self.frame))
    }

    /// Reads the header; says whether it was there.
    fn begin(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        let Some(&first) = bytes.first() else { return Ok(false) };
        let is_array = matches!(first, 0x90..=0x9f | 0xdc | 0xdd);
        let (elements, header) = match array(bytes) {
            Some(found) => found,
            None if is_array => return Ok(false),
            None => (1, 0),
        };
        if elements > ELEMENTS_MAX {
            return Err(Fault::OuterArray { elements });
        }
        self.frame.starts[0] = header;
        (self.frame.array, self.frame.elements, self.frame.end) = (is_array, elements, header);
        self.skipper.restart(header, usize::from(is_array));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_where_the_bytes_ended() {
        // ["t", [[1, {}] 100 times], {"a": <bin of 1000 bytes>}]
        let mut message = b"\x93\xa1t\xdc\x00\x64".to_vec();
        message.extend(b"\x92\x01\x80".repeat(100));
        let body_at = message.len() + 6;
        message.extend(b"\x81\xa1a\xc5\x03\xe8");
        message.extend([0xc1; 1000]);
        let mut framer = Framer::new();
        for len in 1..message.len() {
            assert!(framer.next(&message[..len], 5000).unwrap().is_none(), "{len} bytes");
            // What it has been over is spoilt, so that a second look would not go unnoticed.
            let over = framer.skipper.pos().min(len);
            message[..over].fill(0xc1);
            assert!(len < body_at || framer.skipper.pos() == message.len(), "the length says where to go on");
        }
        let frame = framer.next(&message, 5000).unwrap().unwrap();
        assert_eq!((frame.len(), frame.element(1), frame.element(3)), (message.len(), Some(3..306), None));
    }
}
