//! A node's data directory, which belongs to one process at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};

/// The right to use a data directory. It ends with the process, however that ends: nobody has to remove a file.
#[derive(Debug)]
pub(crate) struct DataDir {
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing, and takes it.
    pub(crate) fn take(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the data directory {}", dir.display()))?;
        let path = dir.join("lock");
        let context = || format!("cannot lock the data directory by {}", path.display());
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut lock = open.with_context(context)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let holder = holder.trim();
                bail!(
                    "the data directory {} is in use by {}; stop that first, or give this node another `data_dir`",
                    dir.display(),
                    if holder.is_empty() {
                        "another process".to_owned()
                    } else {
                        format!("process {holder}")
                    }
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
        // The number only helps a human: on a full disk the lock must hold without it.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self { _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = std::env::temp_dir().join(format!("weir-data-dir-{}", std::process::id()));
        let first = DataDir::take(&dir).unwrap();
        let refused = DataDir::take(&dir).unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by process {}", std::process::id())), "{refused}");
        drop(first);
        drop(DataDir::take(&dir).unwrap());
        fs::remove_dir_all(&dir).unwrap();
    }
}
