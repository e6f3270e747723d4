//! Frames of zstd, one behind the other, read the same whoever reads (RFC 8878, section 3.1).
//!
//! What the library makes of a broken frame depends on the room for its output: where that holds the size that the header
//! says, it decodes in one pass, which checks that size of an empty last block too, but not the window and the sizes of
//! blocks. The edge, with its window, and the sink, which inflates whole, must come to one judgement, so the header is
//! read with no room at all, and the size is checked here.

use std::io::{self, Read};

use zstd::stream::raw::{Decoder, Operation};
use zstd::zstd_safe::get_frame_content_size;

/// Reads what frames inflate to. The window that a frame declares is bounded at 2^27 bytes, zstd's own default.
pub(crate) struct Frames<'a> {
    decoder: Decoder<'static>,
    packed: &'a [u8],
    frame: Option<Frame>,
}

/// The frame that is being read: bytes that its header says, where it says them, and bytes that came.
struct Frame {
    said: Option<u64>,
    came: u64,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(packed: &'a [u8]) -> io::Result<Self> {
        Ok(Self { decoder: Decoder::new()?, packed, frame: None })
    }
}

impl Read for Frames<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let begins = self.frame.is_none();
            if begins && self.packed.is_empty() {
                return Ok(0);
            }
            let frame = match &mut self.frame {
                Some(frame) => frame,
                none => {
                    let said =
                        get_frame_content_size(self.packed).map_err(|_| damaged("no frame begins here"))?;
                    none.insert(Frame { said, came: 0 })
                }
            };
            let room = if begins { &mut [][..] } else { &mut *out };
            let done = self.decoder.run_on_buffers(self.packed, room)?;
            self.packed = self.packed.get(done.bytes_read..).unwrap_or_default();
            frame.came += done.bytes_written as u64;
            if done.remaining == 0 {
                if frame.said.is_some_and(|said| said != frame.came) {
                    return Err(damaged("a frame has not the size that its header says"));
                }
                self.frame = None;
            } else if !begins && done.bytes_read == 0 && done.bytes_written == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a frame is cut short"));
            }
            if done.bytes_written > 0 {
                return Ok(done.bytes_written);
            }
        }
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out when there is room for so many bytes at a time.
    fn read(packed: &[u8], room: usize) -> io::Result<Vec<u8>> {
        let (mut frames, mut out, mut all) = (Frames::new(packed)?, vec![0; room], Vec::new());
        loop {
            match frames.read(&mut out)? {
                0 => return Ok(all),
                read => all.extend_from_slice(&out[..read]),
            }
        }
    }

    #[test]
    fn one_judgement_whatever_the_room() {
        let magic = [0x28, 0xb5, 0x2f, 0xfd];
        let sound = zstd::bulk::compress(&[7; 5000], 1).unwrap();
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let of = |frame: &[u8]| [&magic, frame].concat();
        for (name, packed, is) in [
            ("nothing", vec![], Some(0)),
            ("two frames", sound.repeat(2), Some(10_000)),
            ("of a size not said", zstd::stream::encode_all(&[7; 5000][..], 1).unwrap(), Some(5000)),
            ("a skippable frame between", [&sound, &skippable[..], &sound].concat(), Some(10_000)),
            ("an empty frame", of(&[0x20, 0, 1, 0, 0]), Some(0)),
            // One raw block of a byte, the last.
            ("a byte", of(&[0x20, 1, 9, 0, 0, 0xaa]), Some(1)),
            ("a byte, an empty last block", of(&[0x20, 1, 8, 0, 0, 0xaa, 1, 0, 0]), Some(1)),
            ("a byte of two, an empty last block", of(&[0x20, 2, 8, 0, 0, 0xaa, 1, 0, 0]), None),
            ("none of two", of(&[0x20, 2, 1, 0, 0]), None),
            ("a byte of none", of(&[0x20, 0, 9, 0, 0, 0xaa]), None),
            // As a fuzzer found it: the size is 8075, and the frame ends at once.
            ("a size of two bytes", of(&[0x40, 0x1f, 0x8b, 8, 1, 0, 0]), None),
            ("a window of 2^28 bytes", of(&[0x80, 18 << 3, 1, 0, 0, 0, 9, 0, 0, 0xaa]), None),
            ("a raw block of 200 000 bytes", raw_block(&magic, 200_000), None),
            ("cut", sound[..sound.len() - 1].to_vec(), None),
            ("cut in its header", [&sound, &magic[..]].concat(), None),
            ("garbage behind", [&sound, &[0; 9][..]].concat(), None),
        ] {
            for room in [1, 2, 4999, 5000, 5001, 1 << 20] {
                let read = read(&packed, room).map(|plain| plain.len());
                assert_eq!(read.as_ref().ok(), is.as_ref(), "{name}, with room for {room}: {read:?}");
            }
        }
    }

    /// A frame that says its size, in four bytes, and has it in one block, though blocks have 128 KiB at most.
    fn raw_block(magic: &[u8], bytes: u32) -> Vec<u8> {
        let block = (bytes << 3 | 1).to_le_bytes();
        [magic, &[0xa0], &bytes.to_le_bytes(), &block[..3], &vec![7; bytes as usize]].concat()
    }
}
