//! A disk that counts what another one does, for tests that bound the cost of something.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{Disk, DiskFile};

/// What a [`Counting`] disk has done.
#[derive(Debug, Default)]
pub struct Counts {
    /// Syncs of files and directories.
    pub syncs: AtomicU64,
    /// Bytes read.
    pub read_bytes: AtomicU64,
    /// Bytes written.
    pub written_bytes: AtomicU64,
    /// Bytes that are not read again soon.
    pub forgotten_bytes: AtomicU64,
}

/// A disk that counts what another one does.
#[derive(Debug, Clone, Default)]
pub struct Counting<D> {
    disk: D,
    counts: Arc<Counts>,
}

impl<D> Counting<D> {
    /// Counts what `disk` does.
    pub fn new(disk: D) -> Self {
        Self { disk, counts: Arc::default() }
    }

    /// The figures so far; they go on changing.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    fn wrap<F>(&self, file: F) -> CountingFile<F> {
        CountingFile { file, counts: Arc::clone(&self.counts) }
    }
}

impl<D: Disk> Disk for Counting<D> {
    type File = CountingFile<D::File>;

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.names(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Self::File> {
        Ok(self.wrap(self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Self::File> {
        Ok(self.wrap(self.disk.open(path)?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Self::File> {
        Ok(self.wrap(self.disk.open_read(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.disk.sync_dir(dir)
    }
}

/// An open file of a [`Counting`] disk.
#[derive(Debug)]
pub struct CountingFile<F> {
    file: F,
    counts: Arc<Counts>,
}

impl<F: DiskFile> DiskFile for CountingFile<F> {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let got = self.file.read_at(into, at)?;
        self.counts.read_bytes.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        self.counts.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.file.write_at(parts, at)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync()
    }

    fn forget(&self, at: u64, bytes: u64) {
        self.counts.forgotten_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.file.forget(at, bytes);
    }
}
