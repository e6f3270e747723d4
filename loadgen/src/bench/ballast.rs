//! A neighbour on the same disk: a thread that writes as many bytes a second as a sink does, and nothing else.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context;

/// A file is synced and left at this size, as a store does with a part.
const FILE_BYTES: usize = 64 << 20;
/// Bytes after which the kernel is asked to write them out, as the file store does.
const STEP_BYTES: usize = 1 << 20;

/// The thread; it ends, and its files go, with this.
#[derive(Debug)]
pub(super) struct Ballast {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
    dir: PathBuf,
}

impl Ballast {
    /// Writes so many bytes a second into files below `dir`.
    pub(super) fn start(dir: &Path, bytes_per_second: f64) -> anyhow::Result<Self> {
        let dir = dir.join("ballast");
        fs::create_dir_all(&dir)?;
        let stop = Arc::<AtomicBool>::default();
        let thread = {
            let (stop, dir) = (stop.clone(), dir.clone());
            std::thread::Builder::new()
                .name("ballast".to_owned())
                .spawn(move || write(&stop, &dir, bytes_per_second))?
        };
        Ok(Self { stop, thread: Some(thread), dir })
    }

    /// Ends it; tells why it could not write.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.join().context("writing the ballast")
    }

    fn join(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let written = thread.join().map_err(|_| io::Error::other("its thread died"))?;
        fs::remove_dir_all(&self.dir)?;
        written
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn write(stop: &AtomicBool, dir: &Path, bytes_per_second: f64) -> io::Result<()> {
    let (begun, step) = (Instant::now(), vec![b'x'; STEP_BYTES]);
    let mut written = 0_usize;
    for number in 0.. {
        let mut file = File::create(dir.join(format!("{number:06}")))?;
        for _ in 0..FILE_BYTES / STEP_BYTES {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            file.write_all(&step)?;
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            written += STEP_BYTES;
            let due = begun + Duration::from_secs_f64(written as f64 / bytes_per_second.max(1.0));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        file.sync_data()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_writes_at_its_pace_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        let ballast = Ballast::start(dir.path(), 200e6).unwrap();
        // The second file is there when the first is full.
        while !dir.path().join("ballast/000001").exists() {
            std::thread::yield_now();
        }
        assert!(begun.elapsed() > Duration::from_millis(300), "{:?}", begun.elapsed());
        ballast.end().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
