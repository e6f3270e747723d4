//! Chunks that nobody can decode, however often they come: kept aside as they are, and acknowledged (R46).
//!
//! A sender repeats a refused chunk for ever, at one edge after the other, and nothing behind it moves. The third time it
//! is written to `<data_dir>/quarantine/`, whole and synced, and its sender goes on.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use weir_forward::Refused;
use xxhash_rust::xxh3::Xxh3;

/// So often a chunk is refused before it is kept.
const PATIENCE: u8 = 3;
/// Chunks whose refusals are counted; at this bound counting begins anew.
const COUNTED_MAX: usize = 4096;
/// Bytes in the directory above which nothing more is kept, and such chunks are refused as before.
const BYTES_MAX: u64 = 1 << 30;

/// What is known of refused chunks, for all listeners of an edge.
pub(crate) struct Quarantine {
    dir: PathBuf,
    refusals: Mutex<HashMap<u64, u8>>,
}

impl Quarantine {
    /// `dir` is made when it is needed.
    pub(crate) fn new(dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { dir, refusals: Mutex::default() })
    }

    /// Counts a refusal. Once it has happened too often the message is kept; where it lies then.
    pub(crate) async fn refuse(&self, refused: Refused) -> Option<PathBuf> {
        let chunk = refused.chunk.as_ref()?;
        let mut hash = Xxh3::new();
        hash.update(chunk);
        hash.update(refused.tag.as_bytes());
        let key = hash.digest();
        {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if refusals.len() >= COUNTED_MAX && !refusals.contains_key(&key) {
                refusals.clear();
            }
            let count = refusals.entry(key).or_default();
            *count = count.saturating_add(1);
            if *count < PATIENCE {
                return None;
            }
        }
        let dir = self.dir.clone();
        let kept = tokio::task::spawn_blocking(move || keep(&dir, key, &refused.message)).await;
        match kept {
            Ok(Ok(path)) => Some(path),
            Ok(Err(error)) => {
                tracing::error!(%error, dir = %self.dir.display(), "a chunk that does not decode cannot be kept; it is refused again");
                None
            }
            Err(_) => None,
        }
    }
}

fn keep(dir: &Path, key: u64, message: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("{key:016x}.msgpack"));
    if path.exists() {
        return Ok(path);
    }
    let used: u64 =
        fs::read_dir(dir)?.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum();
    if used + message.len() as u64 > BYTES_MAX {
        return Err(io::Error::other(format!(
            "the quarantine holds {used} bytes already; look at it and empty it"
        )));
    }
    let unfinished = path.with_extension("tmp");
    let mut file = File::create(&unfinished)?;
    file.write_all(message)?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(path)
}
