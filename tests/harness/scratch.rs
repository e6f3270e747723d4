//! A test's own directory, and the frame that a test runs in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::paths::target;

/// A fresh directory below `target/scratch`, removed at the end, but kept where something failed (or always, with
/// `WEIR_TEST_KEEP=1`).
///
/// It lies below `target/` and not in the system's temporary directory, which may be memory.
#[derive(Debug)]
pub struct Scratch {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// Runs a test in a directory of its own.
    ///
    /// # Panics
    /// If the test fails: with the whole chain of causes and the directory that was kept.
    pub fn run(name: &str, test: impl FnOnce(&Scratch) -> Result<()>) {
        let scratch = Scratch::new(name).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        if let Err(error) = test(&scratch) {
            let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
            // The panic passes `scratch` on its way out, which therefore keeps its directory.
            panic!("{name}: {}", causes.join("\nbecause "));
        }
    }

    /// A fresh directory whose name begins with `name`. Kept if the thread panics; prefer [`Scratch::run`].
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn new(name: &str) -> Result<Scratch> {
        let parent = target().join("scratch");
        fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
        let dir = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&parent)?;
        Ok(Scratch { path: dir.path().to_owned(), dir: Some(dir) })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory within, created if it is missing.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file within, such as a configuration, and gives its path.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let keep = std::thread::panicking() || std::env::var_os("WEIR_TEST_KEEP").is_some();
        if let Some(dir) = self.dir.take().filter(|_| keep) {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_only_after_a_failure() {
        let mut sound = PathBuf::new();
        Scratch::run("sound", |scratch| {
            sound = scratch.write("file", "text")?;
            Ok(())
        });
        assert!(!sound.exists());

        let failed = std::sync::Mutex::new(PathBuf::new());
        let panic = std::panic::catch_unwind(|| {
            Scratch::run("failed", |scratch| {
                *failed.lock().unwrap() = scratch.write("file", "text")?;
                anyhow::bail!("on purpose")
            });
        });
        assert!(panic.is_err());
        let failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        assert_eq!(fs::read_to_string(&*failed).unwrap(), "text");
        fs::remove_dir_all(failed.parent().unwrap()).unwrap();
    }
}
