//! Where a sink keeps the payloads of batches that no store has yet: memory first, then unsynced spill files. What a batch
//! takes besides is in memory in any case, and counts.
//!
//! It is only a cache: a crash loses nothing that the edges do not have. Spill files are written over while the kernel has their
//! pages: a copy into pages that were never touched costs several times as much.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tracing::warn;

use weir_store::Payload;

/// A spill file is full at this size.
const SPILL_BYTES: u64 = 16 << 20;
/// What one chunk of a staged batch takes in memory: its fingerprint and its number of entries, 24 bytes, and its place in the
/// collector's table of who holds it, 25 bytes in a table that is half full to nearly full.
pub(crate) const CHUNK_BYTES: u64 = 72;

/// The staging area of one sink.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    memory_max: AtomicU64,
    disk_max: AtomicU64,
    memory: AtomicU64,
    spills: Mutex<Spills>,
}

#[derive(Debug, Default)]
struct Spills {
    files: Vec<Spill>,
    // Which of them is being filled.
    current: usize,
    made: u64,
}

#[derive(Debug)]
struct Spill {
    // Shared with the payloads in it.
    file: Arc<SpillFile>,
    written: u64,
}

#[derive(Debug)]
struct SpillFile {
    file: File,
    path: PathBuf,
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot delete a spill file");
        }
    }
}

impl Spill {
    // Nobody comes by a share but through `Spills::put`, so what is free stays so.
    fn is_free(&self) -> bool {
        Arc::strong_count(&self.file) == 1
    }
}

impl Spills {
    fn bytes(&self) -> u64 {
        self.files.iter().filter(|spill| !spill.is_free()).map(|spill| spill.written).sum()
    }

    fn put(&mut self, dir: &Path, payload: &Bytes) -> io::Result<Place> {
        let has_room = |spill: &Spill| spill.is_free() || spill.written < SPILL_BYTES;
        if !self.files.get(self.current).is_some_and(has_room) {
            self.current = match self.files.iter().position(Spill::is_free) {
                Some(free) => free,
                None => self.add(dir)?,
            };
        }
        let spill = &mut self.files[self.current];
        let at = if spill.is_free() { 0 } else { spill.written };
        // What was read of it was read before it was free.
        fence(Ordering::Acquire);
        spill.file.file.write_all_at(payload, at)?;
        spill.written = at + payload.len() as u64;
        Ok(Place::Disk { spill: Arc::clone(&spill.file), at, bytes: payload.len() })
    }

    fn add(&mut self, dir: &Path) -> io::Result<usize> {
        let path = dir.join(format!("{:08}.spill", self.made));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        self.made += 1;
        self.files.push(Spill { file: Arc::new(SpillFile { file, path }), written: 0 });
        Ok(self.files.len() - 1)
    }

    // Deletes free files, but for as many as are in use.
    fn tidy(&mut self) {
        let mut free = self.files.iter().filter(|spill| !spill.is_free()).count();
        self.files.retain(|spill| {
            // Asked once: it may be free a moment later.
            let is_free = spill.is_free();
            let stays = !is_free || free > 0;
            free = free.saturating_sub(usize::from(is_free));
            stays
        });
        // The one that was being filled may have another place now.
        self.current = self.files.iter().position(|spill| spill.written < SPILL_BYTES).unwrap_or(0);
    }
}

/// One staged payload; its place is given back when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct Staged {
    place: Place,
    stage: Arc<Inner>,
    // What counts of it as in memory.
    memory: u64,
}

#[derive(Debug)]
enum Place {
    Memory(Bytes),
    Disk { spill: Arc<SpillFile>, at: u64, bytes: usize },
}

impl Payload for Staged {
    fn load(&self) -> io::Result<Bytes> {
        match &self.place {
            Place::Memory(payload) => Ok(payload.clone()),
            Place::Disk { spill, at, bytes } => {
                let mut payload = vec![0; *bytes];
                spill.file.read_exact_at(&mut payload, *at)?;
                Ok(payload.into())
            }
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.stage.memory.fetch_sub(self.memory, Ordering::Relaxed);
    }
}

impl Stage {
    /// Opens the stage in `dir`, which is emptied: what lies there is of an earlier life.
    ///
    /// # Errors
    /// The directory cannot be emptied or made.
    pub(crate) fn open(dir: &Path, memory_max: u64, disk_max: u64) -> io::Result<Self> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(dir)?,
        }
        Ok(Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                memory_max: memory_max.into(),
                disk_max: disk_max.into(),
                memory: AtomicU64::new(0),
                spills: Mutex::default(),
            }),
        })
    }

    /// Goes on with other bounds; what is kept stays where it is.
    pub(crate) fn resize(&self, memory_max: u64, disk_max: u64) {
        self.inner.memory_max.store(memory_max, Ordering::Relaxed);
        self.inner.disk_max.store(disk_max, Ordering::Relaxed);
    }

    /// Keeps the payload of a batch with so many chunks: in memory as long as its share lasts, then in a spill file. What
    /// cannot be spilled stays in memory; the edges' credit bounds it.
    pub(crate) fn put(&self, payload: Bytes, chunks: usize) -> Arc<Staged> {
        let inner = &self.inner;
        let (bytes, beside) = (payload.len() as u64, chunks as u64 * CHUNK_BYTES);
        let mut place = None;
        if inner.memory.load(Ordering::Relaxed) + bytes + beside > inner.memory_max.load(Ordering::Relaxed) {
            let mut spills = inner.spills();
            if spills.bytes() + bytes <= inner.disk_max.load(Ordering::Relaxed) {
                match spills.put(&inner.dir, &payload) {
                    Ok(spilled) => place = Some(spilled),
                    Err(error) => {
                        warn!(dir = %inner.dir.display(), %error, "cannot spill; keeping the batch in memory");
                    }
                }
            }
        }
        let memory = beside + if place.is_some() { 0 } else { bytes };
        inner.memory.fetch_add(memory, Ordering::Relaxed);
        let place = place.unwrap_or(Place::Memory(payload));
        Arc::new(Staged { place, stage: inner.clone(), memory })
    }

    /// Bytes in memory now.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.inner.memory.load(Ordering::Relaxed)
    }

    /// Bytes in spill files now, with those of payloads that are not needed any more but share a file with others.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.inner.spills().bytes()
    }

    /// Gives disk back that was needed once. Call it now and then.
    pub(crate) fn tidy(&self) {
        self.inner.spills().tidy();
    }
}

impl Inner {
    fn spills(&self) -> MutexGuard<'_, Spills> {
        self.spills.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_in_memory_is_spilled_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::open(&dir.path().join("stage"), 10, 1 << 20).unwrap();
        let kept: Vec<_> = (0..5_u8).map(|n| stage.put(vec![n; 8].into(), 0)).collect();
        assert_eq!((stage.memory_bytes(), stage.disk_bytes()), (8, 32));
        for (n, staged) in (0..5_u8).zip(&kept) {
            assert_eq!(staged.load().unwrap(), vec![n; 8]);
        }
        drop(kept);
        assert_eq!(stage.memory_bytes(), 0);
    }

    #[test]
    fn chunks_count_as_memory_wherever_the_payload_is() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::open(&dir.path().join("stage"), 2 * CHUNK_BYTES + 8, 1 << 20).unwrap();
        let first = stage.put(vec![1; 8].into(), 2);
        let second = stage.put(vec![2; 8].into(), 1);
        assert_eq!((stage.memory_bytes(), stage.disk_bytes()), (3 * CHUNK_BYTES + 8, 8));
        drop(first);
        assert_eq!((stage.memory_bytes(), stage.disk_bytes()), (CHUNK_BYTES, 8));
        drop(second);
        assert_eq!(stage.memory_bytes(), 0);
    }

    fn spill_files(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_spill_file_is_written_over_when_nothing_in_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::open(dir.path(), 0, 1 << 30).unwrap();
        let full = |n: u8| stage.put(vec![n; SPILL_BYTES as usize].into(), 0);
        let (first, second, third) = (full(1), full(2), stage.put(vec![3; 9].into(), 0));
        assert_eq!((spill_files(dir.path()), stage.disk_bytes()), (3, 2 * SPILL_BYTES + 9));
        drop(second);
        assert_eq!(stage.disk_bytes(), SPILL_BYTES + 9);
        // The third file is filled first.
        let fourth = full(4);
        let fifth = full(5);
        assert_eq!((spill_files(dir.path()), stage.disk_bytes()), (3, 3 * SPILL_BYTES + 9));
        for (staged, n) in [(&first, 1), (&third, 3), (&fourth, 4), (&fifth, 5)] {
            assert!(staged.load().unwrap().iter().all(|&byte| byte == n), "{n}");
        }
        // A payload keeps the file, whatever else was in it.
        drop(third);
        assert_eq!(stage.disk_bytes(), 3 * SPILL_BYTES + 9);
        drop(fourth);
        assert_eq!(stage.disk_bytes(), 2 * SPILL_BYTES);
        let sixth = stage.put(vec![6; 3].into(), 0);
        assert_eq!(stage.disk_bytes(), 2 * SPILL_BYTES + 3, "from its beginning");
        assert_eq!(sixth.load().unwrap(), [6; 3].as_slice());
    }

    #[test]
    fn disk_that_is_not_needed_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::open(dir.path(), 0, 1 << 30).unwrap();
        let mut kept: Vec<_> = (0..6).map(|n| stage.put(vec![n; SPILL_BYTES as usize].into(), 0)).collect();
        stage.tidy();
        assert_eq!(spill_files(dir.path()), 6);
        kept.drain(..4);
        stage.tidy();
        assert_eq!(spill_files(dir.path()), 4, "two in use, and as many to be written over");
        let more = stage.put(vec![7; 9].into(), 0);
        assert_eq!(spill_files(dir.path()), 4);
        for (staged, n) in [(&kept[0], 4), (&kept[1], 5), (&more, 7)] {
            assert!(staged.load().unwrap().iter().all(|&byte| byte == n), "{n}");
        }
        drop((kept, more));
        stage.tidy();
        assert_eq!((spill_files(dir.path()), stage.disk_bytes()), (0, 0));
        let again = stage.put(vec![8; 9].into(), 0);
        assert_eq!(again.load().unwrap(), vec![8; 9]);
    }

    #[test]
    fn beyond_the_disk_budget_memory_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::open(&dir.path().join("stage"), 0, 4).unwrap();
        let _kept = stage.put(vec![1; 8].into(), 0);
        assert_eq!((stage.memory_bytes(), stage.disk_bytes()), (8, 0));
    }
}
