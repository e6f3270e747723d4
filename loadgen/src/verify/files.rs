//! Events in files: a directory tree of JSON lines, plain or compressed.
//!
//! The HDFS source shares the names and the line reader; a file's name alone decides how it is read.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::judge::{Judge, Place};

/// Bytes read at once.
const BUFFER_BYTES: usize = 1 << 18;

/// How a file is written, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Lines.
    Plain,
    /// Lines in gzip, perhaps of several members.
    Gzip,
    /// Lines in Zstandard, perhaps of several frames.
    Zstd,
}

impl Form {
    /// The form of a file called `name`; none when it is not for us.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let forms = [(".jsonl", Self::Plain), (".jsonl.gz", Self::Gzip), (".jsonl.zst", Self::Zstd)];
        forms.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, form)| form)
    }
}

/// Whether `name` says that it is not, or not yet, part of the store.
pub(crate) fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// Shows all events below `root` to `judge`.
///
/// # Errors
/// Something cannot be read; `NotFound` when it went away meanwhile, which is worth another try.
pub(crate) fn read(root: &Path, judge: &mut Judge<'_>) -> anyhow::Result<()> {
    let mut found = Vec::new();
    list(root, &mut found)?;
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (path, form) in found {
        let shown = path.display().to_string();
        let file = fs::File::open(&path).with_context(|| shown.clone())?;
        lines(file, form, &shown, judge).context(shown)?;
    }
    Ok(())
}

fn list(directory: &Path, found: &mut Vec<(PathBuf, Form)>) -> anyhow::Result<()> {
    let context = || directory.display().to_string();
    for entry in fs::read_dir(directory).with_context(context)? {
        let entry = entry.with_context(context)?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        if is_hidden(&name) {
            continue;
        }
        if entry.file_type().with_context(context)?.is_dir() {
            list(&path, found)?;
        } else if let Some(form) = Form::of(&name) {
            found.push((path, form));
        }
    }
    Ok(())
}

/// Shows all lines of one file to `judge`. What cannot be decompressed is a finding, not an error.
///
/// # Errors
/// What `file` says, except the kinds that decompressors use for damaged input.
pub(crate) fn lines(file: impl Read, form: Form, shown: &str, judge: &mut Judge<'_>) -> io::Result<()> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    if file.fill_buf()?.is_empty() {
        return Ok(()); // opened for writing, nothing flushed yet: not even a header
    }
    let mut reader: Box<dyn BufRead + '_> = match form {
        Form::Plain => Box::new(file),
        Form::Gzip => {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(file)))
        }
        Form::Zstd => Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(file)?)),
    };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let place = Place::Line(shown, number);
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => judge.event(&line, place),
            Err(error) if form != Form::Plain && is_damage(error.kind()) => {
                judge.damaged(place, &error);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The kinds of error that decompressors report for damaged or cut input.
fn is_damage(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    matches!(kind, InvalidData | InvalidInput | Other | UnexpectedEof)
}
