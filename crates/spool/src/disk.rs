//! The file operations under a log, as a trait, so that tests can lose, tear and fail them; and the real disk.
//!
//! Left out on purpose: retries (a failed sync is a state, not a retry), and every decision about layout.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags};

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
    fn read_block(&self, bytes: usize, at: u64) -> io::Result<Vec<u8>> {
        let mut block = vec![0; bytes];
        let got = self.read_at(&mut block, at)?;
        block.truncate(got);
        Ok(block)
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

    /// Says that only what is asked for shall be read.
    fn read_no_further(&self) {}
}

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
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).map(OsFile)
    }

    fn open(&self, path: &Path) -> io::Result<OsFile> {
        OpenOptions::new().read(true).write(true).open(path).map(OsFile)
    }

    fn open_read(&self, path: &Path) -> io::Result<OsFile> {
        File::open(path).map(OsFile)
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
pub struct OsFile(File);

impl DiskFile for OsFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match self.0.read_at(&mut into[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    // Into memory that nobody has zeroed before.
    fn read_block(&self, bytes: usize, at: u64) -> io::Result<Vec<u8>> {
        let mut block = Vec::with_capacity(bytes);
        while block.len() < bytes {
            let from = at + block.len() as u64;
            match rustix::io::pread(&self.0, rustix::buffer::spare_capacity(&mut block), from) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        block.truncate(bytes);
        Ok(block)
    }

    fn write_at(&self, mut parts: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0); // drops empty slices in front
        while !parts.is_empty() {
            match rustix::io::pwritev(&self.0, parts, at) {
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
        self.0.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget(&self, at: u64, bytes: u64) {
        // Advice only: a kernel that does not take it costs us nothing but its cache.
        let forget = |at, bytes| {
            let _ = rustix::fs::fadvise(&self.0, at, std::num::NonZeroU64::new(bytes), Advice::DontNeed);
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

    fn read_no_further(&self) {
        let _ = rustix::fs::fadvise(&self.0, 0, None, Advice::Random);
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
