//! What the store does with directories: making them last, and removing a life's staging directory.
//!
//! Left out on purpose: what the files hold.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What the name of a staging directory begins with once its life is over.
pub(crate) const FENCED: &str = "fenced-";

/// How often a directory is emptied again because something was made in it meanwhile. Its name is gone by then, so
/// that can only be what was under way before.
const REMOVALS_MAX: usize = 100;

/// Where the staging directories of a sink's lives are.
pub(crate) fn lives(root: &Path, sink: &str) -> PathBuf {
    root.join("_weir").join("staging").join(sink)
}

/// Makes what lately happened to the names in `directories`, and to their own names up to `root`, outlast a crash
/// of the machine. Each directory is synced, new or not: another attempt may have made it and died before it did this.
pub(crate) fn sync_up_to<'a>(root: &Path, directories: impl Iterator<Item = &'a Path>) -> io::Result<()> {
    let mut all = BTreeSet::new();
    for directory in directories {
        all.extend(directory.ancestors().take_while(|ancestor| ancestor.starts_with(root)));
    }
    all.into_iter().try_for_each(sync)
}

/// Makes the name of `root` outlast a crash of the machine, as far as what it lies in can be synced: we may not look
/// into all of that, and read-only file systems have no such call.
pub(crate) fn sync_above(root: &Path) -> io::Result<()> {
    for ancestor in root.ancestors().skip(1) {
        let directory = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match sync(directory) {
            Err(error) if !matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput) => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether there is something at `path`.
pub(crate) fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Ends the life `name` whose staging directory is in `lives`: when this returns, no file of it can be linked any
/// more. May be done by several at once, and again.
///
/// The rename keeps new files out, and removing a file stops even a link of it that has begun: the kernel links no
/// file whose last name is gone.
pub(crate) fn fence(lives: &Path, name: &str) -> io::Result<()> {
    let fenced = lives.join(format!("{FENCED}{name}"));
    absent_is_fine(fs::rename(lives.join(name), &fenced))?;
    remove_flat(&fenced)
}

/// Removes a directory that holds only files.
fn remove_flat(directory: &Path) -> io::Result<()> {
    for _ in 0..REMOVALS_MAX {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            absent_is_fine(fs::remove_file(entry?.path()))?;
        }
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            done => return absent_is_fine(done),
        }
    }
    Err(io::Error::new(ErrorKind::DirectoryNotEmpty, "files keep appearing in a directory that has no name"))
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
