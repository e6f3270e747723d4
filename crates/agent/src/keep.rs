//! The last good revision, on disk: what a node starts with when no controller answers.
//!
//! The file is the topology's text and one last line, a comment to TOML: `# weir revision <number> <sha-256>`. So every
//! tool that reads a topology reads it, and damage is seen.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::talk::Revision;

/// What the last line begins with.
const MARK: &str = "# weir revision ";

/// A revision that this node ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub revision: Revision,
    /// Its text.
    pub text: String,
}

/// Why a kept revision is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The disk failed.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The file is damaged, or somebody else's.
    #[error("{} is not a kept revision ({detail}); remove it, and the controller gives a new one", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: &'static str,
    },
}

/// SHA-256 of a text, in hex.
#[must_use]
pub fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what an agent kept in `path`; none if there is nothing.
///
/// # Errors
/// [`KeepError`].
pub fn load(path: &Path) -> Result<Option<Kept>, KeepError> {
    let whole = match fs::read_to_string(path) {
        Ok(whole) => whole,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeepError::Disk { path: path.into(), source }),
    };
    let content = |detail| KeepError::Content { path: path.into(), detail };
    let (text, mark) = whole.rsplit_once(MARK).ok_or_else(|| content("its last line is missing"))?;
    let (number, kept_hash) =
        mark.trim_end().split_once(' ').ok_or_else(|| content("its last line is damaged"))?;
    let number = number.parse().map_err(|_| content("its last line is damaged"))?;
    // A text that ends within a line got an end of line; its hash tells which it was.
    let text = match text.strip_suffix('\n') {
        Some(shorter) if hash(text) != kept_hash => shorter,
        _ => text,
    };
    if hash(text) != kept_hash {
        return Err(content("its text does not have its hash"));
    }
    Ok(Some(Kept { revision: Revision { number, hash: kept_hash.to_owned() }, text: text.to_owned() }))
}

/// Writes a revision beside the old one, syncs it and puts it in its place: a crash leaves one or the other.
pub(crate) fn keep(path: &Path, kept: &Kept) -> Result<(), KeepError> {
    let Kept { revision, text } = kept;
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let whole = format!("{text}{end}{MARK}{} {}\n", revision.number, revision.hash);
    let write = || {
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(whole.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    write().map_err(|source| KeepError::Disk { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> Kept {
        Kept { revision: Revision { number: 3, hash: hash(text) }, text: text.to_owned() }
    }

    #[test]
    fn version_1_is_these_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("topology.toml");
        assert_eq!(load(&path).unwrap(), None);
        keep(&path, &kept("abc")).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "abc\n# weir revision 3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
        );
        for text in ["abc", "a = \"b\"\n", "", "a\n\n", "# weir revision 7 x\nb\n"] {
            keep(&path, &kept(text)).unwrap();
            assert_eq!(load(&path).unwrap(), Some(kept(text)), "{text:?}");
        }
        assert!(!dir.path().join("topology.new").exists());
    }

    #[test]
    fn damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("topology.toml");
        keep(&path, &kept("text\n")).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let cases = [
            (good.replace("text", "tixt"), "hash"),
            (good.replace("revision 3", "revision x"), "last line is damaged"),
            (good[..22].to_owned(), "last line is damaged"),
            ("text\n".to_owned(), "last line is missing"),
        ];
        for (damaged, said) in cases {
            fs::write(&path, damaged).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("remove it"), "{error}");
        }
    }
}
