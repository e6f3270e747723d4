//! The file operations under a log, as a trait, so that tests can lose, tear and fail them; and the real disk.
//!
//! Left out on purpose: retries (a failed sync is a state, not a retry), and every decision about layout.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rustix::fs::{Advice, FallocateFlags, OFlags};

/// Files and directories, as a log needs them. Names are durable only after [`Disk::sync_dir`], bytes only
/// after [`DiskFile::sync`].
pub trait Disk: Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Makes `dir` and its missing parents, durably.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names of the files in `dir`, in no particular order.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn names(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes an empty file for reading and writing; an old one of that name is emptied.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or whatever the disk says.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file for reading alone.
    ///
    /// # Errors
    /// `NotFound`, or whatever the disk says.
    fn open_read(&self, path: &Path) -> io::Result<Self::File>;

    /// Gives a file another name, in place of what had it.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound`, or whatever the disk says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    ///
    /// # Errors
    /// Whatever the disk says; what was durable before may then be unknown.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// One open file; every operation says where, so that readers and the writer need no common cursor.
pub trait DiskFile: std::fmt::Debug + Send + Sync + 'static {
    /// Bytes in the file.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `into` from `at` on, as far as the file reaches; returns the bytes filled.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;

    /// The `bytes` bytes from `at` on, as far as the file reaches.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn read_block(&self, bytes: usize, at: u64) -> io::Result<Bytes> {
        let mut block = vec![0; bytes];
        let got = self.read_at(&mut block, at)?;
        block.truncate(got);
        Ok(block.into())
    }

    /// Writes all `parts` one behind the other from `at` on; the slices are used up.
    ///
    /// # Errors
    /// Whatever the disk says; any part of the bytes may have been written.
    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()>;

    /// Cuts the file off at `bytes`.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Takes room for the first `bytes` bytes without making the file longer, so that a write there cannot
    /// meet a full disk. A file system that cannot do so says `Ok`.
    ///
    /// # Errors
    /// `StorageFull`, or whatever else the disk says.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Makes the bytes and the length durable (fdatasync).
    ///
    /// # Errors
    /// Whatever the disk says; the bytes written since the last success may be lost, whatever reads show.
    fn sync(&self) -> io::Result<()>;

    /// Says that the `bytes` from `at` on are not read again soon, so that they do not push hotter pages out.
    fn forget(&self, at: u64, bytes: u64);

    /// Says that what is read from now on is read once: nothing of it shall be kept in memory, and nothing beyond it read.
    /// `cached`: most of it is in memory already.
    fn read_once(&mut self, _cached: bool) {}
}

/// What reads past the page cache begin and end at, in bytes: no file system asks for more on the usual disks. Memory for
/// them begins at a multiple of it too.
const DIRECT_BYTES: usize = 4096;

/// Pages that are given back at once, in bytes. Meanwhile the kernel may let no other thread on: 64 MiB held a core for 4 ms,
/// on which the log's thread had been woken. As large as the largest folio of most machines: one that only reaches into a
/// step is left out of it.
const FORGET_BYTES: usize = 2 << 20;

/// The real disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    type File = OsFile;

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(dir)?;
        // The new name must outlive a power cut as well; of several new levels each is synced.
        dir.ancestors()
            .skip(1)
            .filter(|above| !above.as_os_str().is_empty())
            .try_for_each(|above| self.sync_dir(above))
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, path: &Path) -> io::Result<OsFile> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).map(OsFile::from)
    }

    fn open(&self, path: &Path) -> io::Result<OsFile> {
        OpenOptions::new().read(true).write(true).open(path).map(OsFile::from)
    }

    fn open_read(&self, path: &Path) -> io::Result<OsFile> {
        File::open(path).map(OsFile::from)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// An open file of the real disk.
#[derive(Debug)]
pub struct OsFile {
    file: File,
    /// Reads go past the page cache (`O_DIRECT`).
    direct: AtomicBool,
}

impl From<File> for OsFile {
    fn from(file: File) -> Self {
        Self { file, direct: AtomicBool::new(false) }
    }
}

impl OsFile {
    /// Reads whole blocks past the page cache; `None` where the file system cannot do so after all. The disk then writes into our memory:
    /// nothing is copied, and no page taken, filed, looked up and given back, which was three quarters of the CPU time.
    fn read_direct(&self, bytes: usize, at: u64, block_bytes: usize) -> io::Result<Option<Bytes>> {
        let before = (at % block_bytes as u64) as usize;
        let len = (before + bytes).next_multiple_of(block_bytes);
        let mut block: Vec<u8> = Vec::with_capacity(len + DIRECT_BYTES);
        let begin = block.as_ptr().align_offset(DIRECT_BYTES).min(DIRECT_BYTES);
        block.resize(begin + len, 0);
        match fill(&self.file, &mut block[begin..], at - before as u64) {
            Ok(got) => {
                let found = (begin + before).min(begin + got)..(begin + before + bytes).min(begin + got);
                Ok(Some(Bytes::from(block).slice(found)))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.give_up_direct()?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Goes on through the page cache, as well as that goes.
    fn give_up_direct(&self) -> io::Result<()> {
        rustix::fs::fcntl_setfl(&self.file, OFlags::empty())?;
        self.direct.store(false, Ordering::Relaxed);
        self.read_no_further();
        Ok(())
    }

    /// Keeps the kernel from reading ahead.
    fn read_no_further(&self) {
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::Random);
    }
}

/// Fills `into` from `at` on, as far as the file reaches.
fn fill(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl DiskFile for OsFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        if self.direct.load(Ordering::Relaxed)
            && let Some(block) = self.read_direct(into.len(), at, DIRECT_BYTES)?
        {
            into[..block.len()].copy_from_slice(&block);
            return Ok(block.len());
        }
        fill(&self.file, into, at)
    }

    // Into memory that nobody has zeroed before.
    fn read_block(&self, bytes: usize, at: u64) -> io::Result<Bytes> {
        if self.direct.load(Ordering::Relaxed)
            && let Some(block) = self.read_direct(bytes, at, DIRECT_BYTES)?
        {
            return Ok(block);
        }
        let mut block = Vec::with_capacity(bytes);
        while block.len() < bytes {
            let from = at + block.len() as u64;
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut block), from) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        block.truncate(bytes);
        Ok(block.into())
    }

    fn write_at(&self, mut parts: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0); // drops empty slices in front
        while !parts.is_empty() {
            match rustix::io::pwritev(&self.file, parts, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    IoSlice::advance_slices(&mut parts, n);
                    at += n as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn forget(&self, at: u64, bytes: u64) {
        // What was read past the page cache is not in it.
        if self.direct.load(Ordering::Relaxed) {
            return;
        }
        // Advice only: a kernel that does not take it costs us nothing but its cache.
        let forget = |at, bytes| {
            let _ = rustix::fs::fadvise(&self.file, at, std::num::NonZeroU64::new(bytes), Advice::DontNeed);
        };
        for step in (0..bytes).step_by(FORGET_BYTES) {
            forget(at + step, (bytes - step).min(FORGET_BYTES as u64));
            // A thread that has slept for long is not preempted by one that was woken on its core.
            std::thread::yield_now();
        }
        // What lay across two steps.
        if bytes > FORGET_BYTES as u64 {
            forget(at, bytes);
        }
    }

    fn read_once(&mut self, cached: bool) {
        // A file system in memory, and few others, cannot do without.
        if !cached && rustix::fs::fcntl_setfl(&self.file, OFlags::DIRECT).is_ok() {
            *self.direct.get_mut() = true;
        } else {
            self.read_no_further();
        }
    }
}

/// Why a directory could not be locked.
#[derive(Debug)]
pub(crate) enum LockFailure {
    /// Another process has it; its id, where it could be read.
    Held(Option<u32>),
    /// The lock file itself could not be opened or written.
    Io(PathBuf, io::Error),
}

/// The right to write in a directory. It ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes `dir/lock` and writes the own process id into it.
    pub(crate) fn take(dir: &Path) -> Result<Self, LockFailure> {
        let path = dir.join("lock");
        let io = |error| LockFailure::Io(path.clone(), error);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LockFailure::Held(pid));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(io(error)),
        }
        // The number only helps a human: on a full disk the lock must hold without it.
        let _ = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::ReadWriteFlags;

    use super::*;

    const BYTES: usize = 40 << 20;

    fn pattern() -> Vec<u8> {
        (0..BYTES as u64 / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
    }

    /// A durable file of no whole number of pages; written a few MB at once, which gives folios of all sizes.
    fn written(dir: &Path, bytes: &[u8]) -> OsFile {
        let file = OsDisk.create(&dir.join("file")).unwrap();
        let mut at = 0;
        for (piece, len) in bytes.chunks(6_800_000).map(|piece| (piece, piece.len() as u64)) {
            file.write_at(&mut [IoSlice::new(piece)], at).unwrap();
            at += len;
        }
        file.sync().unwrap();
        file
    }

    /// The first page that the page cache has.
    fn cached(dir: &Path) -> Option<u64> {
        let file = File::open(dir.join("file")).unwrap();
        // A page that is asked for without waiting comes a moment later; no other must come with it.
        rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
        let mut byte = [0];
        (0..file.metadata().unwrap().len()).step_by(DIRECT_BYTES).find(|&at| {
            let into = &mut [io::IoSliceMut::new(&mut byte)];
            rustix::io::preadv2(&file, into, at, ReadWriteFlags::NOWAIT).is_ok()
        })
    }

    /// Whether the file system keeps what it has in memory alone, and so has nothing to give back.
    fn is_in_memory(dir: &Path) -> bool {
        const TMPFS_MAGIC: u64 = 0x0102_1994;
        rustix::fs::statfs(dir).unwrap().f_type as u64 == TMPFS_MAGIC
    }

    #[test]
    fn what_is_forgotten_leaves_the_cache_whatever_its_folios() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = &pattern()[..BYTES - 77];
        let file = written(dir.path(), bytes);
        if is_in_memory(dir.path()) {
            return;
        }
        assert_eq!(cached(dir.path()), Some(0));
        file.forget(0, bytes.len() as u64);
        assert_eq!(cached(dir.path()), None);
    }

    #[test]
    fn what_is_read_once_is_right_anywhere_and_leaves_no_page_behind() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = &pattern()[..BYTES - 77];
        let file = written(dir.path(), bytes);
        file.forget(0, bytes.len() as u64);
        let mut once = OsDisk.open_read(&dir.path().join("file")).unwrap();
        once.read_once(false);
        let end = bytes.len();
        let places = [(0, 1), (0, 4096), (1, 4096), (4095, 2), (12_288, 256 << 10), (100_001, 254_077)];
        let at_the_end =
            [(end - 5000, 4999), (end - 77, 77), (end - 77, 500), (end - 10_000, 1 << 20), (end, 9)];
        for (at, len) in places.into_iter().chain(at_the_end) {
            let expected = &bytes[at..end.min(at + len)];
            assert_eq!(once.read_block(len, at as u64).unwrap(), expected, "{len} at {at}");
            let mut into = vec![0; len];
            assert_eq!(once.read_at(&mut into, at as u64).unwrap(), expected.len(), "{len} at {at}");
            assert_eq!(&into[..expected.len()], expected, "{len} at {at}");
        }
        assert!(once.read_block(9, end as u64 + 9000).unwrap().is_empty());
        if !is_in_memory(dir.path()) {
            assert_eq!(cached(dir.path()), None);
        }
    }

    #[test]
    fn a_file_system_that_takes_the_flag_and_not_the_read_is_read_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = &pattern()[..BYTES - 77];
        let mut file = written(dir.path(), bytes);
        rustix::fs::fcntl_setfl(&file.file, OFlags::DIRECT).unwrap();
        *file.direct.get_mut() = true;
        // To one that asks for larger blocks than ours, ours are what bytes are to this one.
        if !is_in_memory(dir.path()) {
            assert_eq!(file.read_direct(4097, 4095, 1).unwrap(), None);
            assert!(!*file.direct.get_mut());
        }
        assert_eq!(file.read_block(4097, 4095).unwrap(), &bytes[4095..8192]);
    }
}
