//! A file that goes to the disk while it is written, past the page cache where the file system can do that (direct I/O).
//!
//! What a sink writes, it does not read again. By way of the cache a page would be taken, filed, copied into, looked up and
//! given back for each 4 KiB, which is four times the CPU time; and what gathers there comes to the disk in bursts, behind
//! which every other sync waits. Where the file system cannot do without its cache, this is done by advice, as well as it goes.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, OFlags};

/// What is written past the cache begins and ends at a multiple of it, in the file and in memory, in bytes: no file system asks
/// for more on the usual disks.
const BLOCK_BYTES: usize = 4096;
/// Through the cache, the kernel is asked to write the file out each time that so many bytes have come.
const WRITE_OUT_BYTES: u64 = 1 << 20;

/// A file that is written from its beginning to its end.
pub(crate) struct DirectFile {
    file: File,
    /// Past the cache (`O_DIRECT`).
    direct: bool,
    /// Whole blocks of it begin at `begin`; what comes before is there for the border alone.
    memory: Vec<u8>,
    begin: usize,
    /// Bytes behind `begin` that wait.
    waiting: usize,
    /// Bytes in the file.
    written: u64,
    /// Below this the kernel was asked to write out what lies in its cache.
    asked: u64,
}

impl DirectFile {
    /// Writes into `file`, which is empty, `buffer_bytes` at once, rounded up to whole blocks.
    pub(crate) fn new(file: File, buffer_bytes: usize) -> Self {
        let direct = rustix::fs::fcntl_setfl(&file, OFlags::DIRECT).is_ok();
        let memory = vec![0; buffer_bytes.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES];
        let begin = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        Self { file, direct, memory, begin, waiting: 0, written: 0, asked: 0 }
    }

    /// Writes the rest, and makes all of it durable. Returns the bytes of the file.
    ///
    /// # Errors
    /// Whatever the disk says; the file is of no use then.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        let rest = self.waiting % BLOCK_BYTES;
        self.write_out(self.waiting - rest)?;
        // What was in the cache before may have been on its way to the disk still.
        let cached_from = if self.direct { self.written } else { 0 };
        if rest > 0 {
            // No whole block: it can go no other way.
            self.through_cache()?;
            self.write_out(rest)?;
        }
        self.file.sync_all()?;
        self.forget(cached_from..self.written);
        Ok(self.written)
    }

    /// Bytes that may wait.
    fn room(&self) -> usize {
        self.memory.len() - BLOCK_BYTES
    }

    /// Writes the first `bytes` of what waits.
    fn write_out(&mut self, bytes: usize) -> io::Result<()> {
        let end = self.begin + bytes;
        match self.file.write_all_at(&self.memory[self.begin..end], self.written) {
            // It took the flag, but not the write.
            Err(error) if self.direct && error.kind() == io::ErrorKind::InvalidInput => {
                self.through_cache()?;
                self.file.write_all_at(&self.memory[self.begin..end], self.written)?;
            }
            written => written?,
        }
        self.written += bytes as u64;
        self.waiting -= bytes;
        self.memory.copy_within(end..end + self.waiting, self.begin);
        if !self.direct && self.written >= self.asked + WRITE_OUT_BYTES {
            self.forget(self.asked..self.written);
            self.asked = self.written;
        }
        Ok(())
    }

    fn through_cache(&mut self) -> io::Result<()> {
        self.direct = false;
        Ok(rustix::fs::fcntl_setfl(&self.file, OFlags::empty())?)
    }

    /// Says that these bytes are not read again soon: what is dirty goes to the disk, and the pages of what is there go back.
    fn forget(&self, bytes: std::ops::Range<u64>) {
        // Advice only: a kernel that does not take it costs us nothing but its cache.
        if let Some(len) = NonZeroU64::new(bytes.end - bytes.start) {
            let _ = rustix::fs::fadvise(&self.file, bytes.start, Some(len), Advice::DontNeed);
        }
    }
}

impl Write for DirectFile {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.waiting == self.room() {
            self.write_out(self.waiting)?;
        }
        let taken = bytes.len().min(self.room() - self.waiting);
        let at = self.begin + self.waiting;
        self.memory[at..at + taken].copy_from_slice(&bytes[..taken]);
        self.waiting += taken;
        Ok(taken)
    }

    #[inline]
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.write(bytes)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Nothing: see [`Self::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFER_BYTES: usize = 64 << 10;

    fn pattern(bytes: usize) -> Vec<u8> {
        (0..bytes as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    fn write(mut file: DirectFile, bytes: &[u8], at_once: usize) -> u64 {
        for piece in bytes.chunks(at_once) {
            file.write_all(piece).unwrap();
        }
        file.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_there_to_the_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        let sizes = [0, 1, 4095, 4096, 4097, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1];
        for bytes in sizes.into_iter().chain([3 * BUFFER_BYTES, 3_333_333]) {
            for at_once in [77, 4096, 1 << 20] {
                let (path, bytes) = (dir.path().join(format!("{bytes}-{at_once}")), pattern(bytes));
                let file = DirectFile::new(File::create(&path).unwrap(), BUFFER_BYTES);
                assert_eq!(write(file, &bytes, at_once), bytes.len() as u64);
                assert!(std::fs::read(&path).unwrap() == bytes, "{} bytes, {at_once} at once", bytes.len());
            }
        }
    }

    #[test]
    fn no_page_of_it_stays_behind() {
        const TMPFS_MAGIC: u64 = 0x0102_1994;
        let dir = tempfile::tempdir().unwrap();
        if rustix::fs::statfs(dir.path()).unwrap().f_type as u64 == TMPFS_MAGIC {
            return; // Its cache is all that there is of a file.
        }
        for cached in [false, true] {
            let path = dir.path().join(cached.to_string());
            let mut file = DirectFile::new(File::create(&path).unwrap(), BUFFER_BYTES);
            if cached {
                file.through_cache().unwrap();
            }
            let bytes = write(file, &pattern(5_555_555), 300);
            let file = File::open(&path).unwrap();
            // A page that is asked for without waiting comes a moment later; no other must come with it.
            rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
            let mut byte = [0];
            let stays = (0..bytes).step_by(BLOCK_BYTES).find(|&at| {
                let into = &mut [io::IoSliceMut::new(&mut byte)];
                rustix::io::preadv2(&file, into, at, rustix::io::ReadWriteFlags::NOWAIT).is_ok()
            });
            assert_eq!(stays, None, "cached: {cached}");
        }
    }

    #[test]
    fn a_file_system_that_takes_the_flag_and_not_the_write_is_written_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = DirectFile::new(File::create(&path).unwrap(), BUFFER_BYTES);
        // To one that asks for larger blocks than ours, ours are what this place is to this one.
        file.begin = (file.begin + 1) % BLOCK_BYTES;
        let bytes = pattern(333_333);
        assert_eq!(write(file, &bytes, 1000), 333_333);
        assert!(std::fs::read(&path).unwrap() == bytes);
    }
}
