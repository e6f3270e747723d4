//! Where a sink keeps the payloads of batches that no store has yet: memory first, then unsynced spill files. What a batch
//! takes besides is in memory in any case, and counts.
//!
//! It is only a cache: a crash loses nothing that the edges do not have.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tracing::warn;

use weir_store::Payload;

/// A spill file is closed at this size. It is deleted when nothing in it is needed any more.
const SPILL_BYTES: u64 = 64 << 20;
/// What one chunk of a staged batch takes in memory: its fingerprint and its number of entries, 24 bytes, and its place in the
/// collector's table of who holds it, 25 bytes in a table that is half full to nearly full.
const CHUNK_BYTES: u64 = 72;

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
    disk: Arc<AtomicU64>,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    spill: Option<Arc<Spill>>,
    written: u64,
    made: u64,
}

/// One spill file; deleted with its last payload.
#[derive(Debug)]
struct Spill {
    file: File,
    path: PathBuf,
    bytes: AtomicU64,
    disk: Arc<AtomicU64>,
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.disk.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot delete a spill file");
        }
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
    Disk { spill: Arc<Spill>, at: u64, bytes: usize },
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
                disk: Arc::default(),
                current: Mutex::default(),
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
        if inner.memory.load(Ordering::Relaxed) + bytes + beside > inner.memory_max.load(Ordering::Relaxed)
            && inner.disk.load(Ordering::Relaxed) + bytes <= inner.disk_max.load(Ordering::Relaxed)
        {
            match inner.spill(&payload) {
                Ok(spilled) => place = Some(spilled),
                Err(error) => {
                    warn!(dir = %inner.dir.display(), %error, "cannot spill; keeping the batch in memory");
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

    /// Bytes in spill files now.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.inner.disk.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn spill(&self, payload: &Bytes) -> io::Result<Place> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let spill = match &current.spill {
            Some(spill) if current.written < SPILL_BYTES => spill.clone(),
            _ => {
                let path = self.dir.join(format!("{:08}.spill", current.made));
                let file = File::options().read(true).write(true).create_new(true).open(&path)?;
                let spill = Arc::new(Spill { file, path, bytes: AtomicU64::new(0), disk: self.disk.clone() });
                current.made += 1;
                current.written = 0;
                current.spill = Some(spill.clone());
                spill
            }
        };
        let at = current.written;
        spill.file.write_all_at(payload, at)?;
        current.written += payload.len() as u64;
        spill.bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        self.disk.fetch_add(payload.len() as u64, Ordering::Relaxed);
        if current.written >= SPILL_BYTES {
            current.spill = None; // it lives on in its payloads
        }
        Ok(Place::Disk { spill, at, bytes: payload.len() })
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

    #[test]
    fn a_spill_file_goes_with_its_last_payload() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("stage");
        let stage = Stage::open(&dir, 0, 1 << 30).unwrap();
        let first = stage.put(vec![1; SPILL_BYTES as usize].into(), 0);
        let second = stage.put(vec![2; 9].into(), 0);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        drop(first);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert_eq!(stage.disk_bytes(), 9);
        assert_eq!(second.load().unwrap(), vec![2; 9]);
    }

    #[test]
    fn beyond_the_disk_budget_memory_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::open(&dir.path().join("stage"), 0, 4).unwrap();
        let _kept = stage.put(vec![1; 8].into(), 0);
        assert_eq!((stage.memory_bytes(), stage.disk_bytes()), (8, 0));
    }
}
