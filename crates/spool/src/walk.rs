//! Goes through the frames of one file, block by block, and over damage to the next sound frame.
//!
//! Left out on purpose: what a gap in the numbers means; recovery, readers and `inspect` each judge that.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use crate::disk::DiskFile;
use crate::frame::{FRAME_MAGIC, HEAD_BYTES, Head, Kind, Salt};

/// Bytes searched at once for the next sound frame.
const SEARCH_BYTES: u64 = 1 << 20;
/// What a disk loses at once when it cannot read a place.
const PAGE_BYTES: usize = 4096;

/// A sound record.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) at: u64,
    pub(crate) head: Head,
    pub(crate) header: Bytes,
    pub(crate) payload: Bytes,
}

/// What comes next in the file.
#[derive(Debug)]
pub(crate) enum Step {
    Record(Found),
    /// The file's seal begins at `at`; nothing follows it.
    Seal {
        at: u64,
        head: Head,
    },
    /// These bytes are no sound frame. Where only the body is damaged, its head is known.
    Damage {
        bytes: Range<u64>,
        head: Option<Head>,
    },
    End,
}

/// A cursor over the frames of `file` up to the byte `end`.
#[derive(Debug)]
pub(crate) struct Walker<F> {
    pub(crate) file: F,
    pub(crate) at: u64,
    pub(crate) end: u64,
    /// Bytes to read at once.
    pub(crate) block_bytes: usize,
    salt: Salt,
    block: Bytes,
    block_at: u64,
}

impl<F: DiskFile> Walker<F> {
    pub(crate) fn new(file: F, salt: Salt, range: Range<u64>, block_bytes: usize) -> Self {
        Self { file, at: range.start, end: range.end, block_bytes, salt, block: Bytes::new(), block_at: 0 }
    }

    /// Takes the next step.
    ///
    /// # Errors
    /// Reading failed in a way that going on cannot cure; a place that the disk cannot read is damage, not
    /// an error.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        let at = self.at;
        if at >= self.end {
            return Ok(Step::End);
        }
        let Some(bytes) = self.slice(at, HEAD_BYTES as u64)? else { return Ok(self.damage(self.end, None)) };
        let Some(head) = Head::decode(&bytes, self.salt) else {
            let next = self.search(at + 1)?;
            return Ok(self.damage(next, None));
        };
        let Some(frame) = self.slice(at, head.frame_bytes())? else {
            return Ok(self.damage(self.end, Some(head)));
        };
        let body = frame.slice(HEAD_BYTES..);
        if crc32c::crc32c(&body) != head.body_crc {
            return Ok(self.damage(at + head.frame_bytes(), Some(head)));
        }
        if head.kind == Kind::Seal {
            self.at = self.end;
            return Ok(Step::Seal { at, head });
        }
        self.at = at + head.frame_bytes();
        let split = head.header_bytes as usize;
        Ok(Step::Record(Found { at, head, header: body.slice(..split), payload: body.slice(split..) }))
    }

    fn damage(&mut self, to: u64, head: Option<Head>) -> Step {
        let bytes = self.at..to;
        self.at = to;
        Step::Damage { bytes, head }
    }

    /// The bytes `at..at + len`, or `None` where the file does not reach so far.
    fn slice(&mut self, at: u64, len: u64) -> io::Result<Option<Bytes>> {
        if at + len > self.end {
            return Ok(None);
        }
        let inside = at >= self.block_at && at + len <= self.block_at + self.block.len() as u64;
        if !inside {
            let want = len.max(self.block_bytes as u64).min(self.end - at);
            self.block = block_around(&self.file, usize::try_from(want).map_err(io::Error::other)?, at)?;
            self.block_at = at;
            if (self.block.len() as u64) < len {
                return Ok(None);
            }
        }
        let start = (at - self.block_at) as usize;
        Ok(Some(self.block.slice(start..start + len as usize)))
    }

    /// The place of the next sound head at or after `from`, or the end. Heads are salted and checksummed, so
    /// a payload that looks like one costs a look and no more.
    fn search(&mut self, mut from: u64) -> io::Result<u64> {
        while from + HEAD_BYTES as u64 <= self.end {
            let len = SEARCH_BYTES.min(self.end - from);
            let Some(chunk) = self.slice(from, len)? else { break };
            let hit = (0..=chunk.len() - HEAD_BYTES).find(|&i| {
                chunk[i..].starts_with(&FRAME_MAGIC) && Head::decode(&chunk[i..], self.salt).is_some()
            });
            match hit {
                Some(i) => return Ok(from + i as u64),
                // A head may lie across the edge of two chunks.
                None => from += len - (HEAD_BYTES as u64 - 1),
            }
        }
        Ok(self.end)
    }
}

/// Reads as `read_block` does, around what the disk cannot give.
fn block_around<F: DiskFile>(file: &F, bytes: usize, at: u64) -> io::Result<Bytes> {
    match file.read_block(bytes, at) {
        Err(error) if is_unreadable(&error) => {
            let mut block = vec![0; bytes];
            let got = read_around(file, &mut block, at)?;
            block.truncate(got);
            Ok(block.into())
        }
        read => read,
    }
}

fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Reads as `read_at` does, with zeros in place of pages that the disk cannot give: they fail their checksum,
/// so that one bad sector costs the records on it and not the rest of the log.
pub(crate) fn read_around<F: DiskFile>(file: &F, into: &mut [u8], at: u64) -> io::Result<usize> {
    match file.read_at(into, at) {
        Err(error) if is_unreadable(&error) => {}
        other => return other,
    }
    let mut filled = 0;
    while filled < into.len() {
        let page_left = PAGE_BYTES - ((at as usize + filled) % PAGE_BYTES);
        let to = into.len().min(filled + page_left);
        match file.read_at(&mut into[filled..to], at + filled as u64) {
            Ok(n) if n < to - filled => return Ok(filled + n),
            Ok(_) => {}
            Err(error) if is_unreadable(&error) => into[filled..to].fill(0),
            Err(error) => return Err(error),
        }
        filled = to;
    }
    Ok(filled)
}
