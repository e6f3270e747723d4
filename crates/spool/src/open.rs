//! Opening a log: which files are ours, where the log ends, what a crash or a bad disk left behind.
//!
//! It reads the header and the seal of every segment and goes through the last one alone, so that it costs
//! O(segments). A segment with a successor was durable before that was made; of the last one nothing is certain,
//! its seal included. (A seal may be missing elsewhere too: it only saves time.) A log that was closed ends in an empty segment, so there the last one costs nothing. Nothing here needs an operator to delete anything: what cannot be used is renamed and reported.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_model::{Incarnation, Seq, SeqRanges};

use crate::catalog::{Catalog, NEXT, Segment, read_seal, segment_first, segment_name};
use crate::disk::{Disk, DiskFile};
use crate::frame::{FILE_HEADER_BYTES, FileHeader, FileKind, HeaderFound};
use crate::tail::{Loss, Recovered, Tail, WriteFailure};

/// The file that says which log this is.
const META: &str = "log.meta";

/// What was found when a log was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The log's identity: kept since it was made, or new.
    pub incarnation: Incarnation,
    /// The oldest number that is still there, or `next`.
    pub first: Seq,
    /// The number of the next record.
    pub next: Seq,
    /// Records known to be lost: in the last segment they were durable and are unreadable now, or their numbers
    /// lie below [`crate::Options::next_at_least`]. Damage in older segments shows when they are read.
    pub damaged: SeqRanges,
    /// Bytes behind the last sound record that were cut off: writes that no sync had confirmed.
    pub torn_bytes: u64,
    /// Files that are not of this log or not readable at all, renamed to `*.damaged`.
    pub set_aside: Vec<String>,
}

/// Why a log or a journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes there.
    #[error("{} is in use by {}", dir.display(), holder(.pid))]
    Locked {
        /// The log's directory.
        dir: PathBuf,
        /// Who has it, where the lock file tells.
        pid: Option<u32>,
    },
    /// The file is of a format that this version cannot read: a newer Weir wrote it. Nothing was changed.
    #[error("{} has format version {found}; this program reads version 1", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u8,
    },
    /// The disk refused.
    #[error("cannot open {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// For `map_err`: an [`OpenError::Io`] at `path`.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> OpenError {
    |source| OpenError::Io { path: path.into(), source }
}

/// A log's files, opened.
pub(crate) struct Opened<D: Disk> {
    pub(crate) catalog: Arc<Catalog<D>>,
    /// The last segment.
    pub(crate) tail: Tail<D::File>,
    pub(crate) recovery: Recovery,
}

/// Opens the log in `dir`, or makes one whose identity is `fresh`.
pub(crate) fn open<D: Disk>(
    disk: &Arc<D>,
    dir: &Path,
    next_at_least: Seq,
    fresh: Incarnation,
    now_ns: u64,
) -> Result<Opened<D>, OpenError> {
    disk.create_dir(dir).map_err(at(dir))?;
    // A killed process may have left names that we see and a power cut would not leave.
    disk.sync_dir(dir).map_err(at(dir))?;
    name_next(&**disk, dir)?;
    let mut segments = Vec::new();
    for name in disk.names(dir).map_err(at(dir))? {
        if let Some(first) = segment_first(&name) {
            segments.push(Candidate {
                first,
                header: read_header(&**disk, &dir.join(&name), FileKind::Segment)?,
            });
        }
    }
    segments.sort_by_key(|candidate| candidate.first);

    let meta = read_header(&**disk, &dir.join(META), FileKind::Meta)?;
    // The segments repeat the identity, so that neither alone is needed. Without segments the log has been
    // emptied by another hand; its numbers begin anew, so its identity must too.
    let by_header = || segments.iter().find_map(|s| s.header).map(|header| header.incarnation);
    let known = meta.map(|header| header.incarnation).or_else(by_header).filter(|_| !segments.is_empty());
    let incarnation = known.unwrap_or(fresh);

    let mut aside = Aside { disk: &**disk, dir, names: Vec::new() };
    let mut ours = Vec::new();
    for candidate in segments {
        let foreign = candidate
            .header
            .is_some_and(|header| (header.incarnation, header.first) != (incarnation, candidate.first));
        if known.is_none() && is_half_made(&**disk, &dir.join(segment_name(candidate.first)))? {
            // The log's very first segment; nobody was ever told of it.
            disk.remove(&dir.join(segment_name(candidate.first))).map_err(at(dir))?;
        } else if foreign || known.is_none() {
            aside.put(candidate.first)?;
        } else {
            ours.push(candidate);
        }
    }

    let Last { tail, next } = open_last(&**disk, dir, &mut ours, incarnation, &mut aside)?;
    let mut recovery = Recovery {
        incarnation,
        first: Seq(0),
        next: Seq(next),
        damaged: SeqRanges::new(),
        torn_bytes: 0,
        set_aside: aside.names,
    };
    let catalog = Catalog::new(Arc::clone(disk), dir.to_owned(), incarnation, next);
    let mut tail = match tail {
        Some((tail, loss)) => {
            (recovery.damaged, recovery.torn_bytes) = (loss.damaged, loss.torn_bytes);
            tail
        }
        None => begin_segment(&catalog, next, now_ns).map_err(|failure| at(dir)(failure.into_inner()))?,
    };
    if known.is_some() && next_at_least.0 > next {
        recovery.damaged.insert_range(next..next_at_least.0);
        recovery.next = next_at_least;
    }
    tail.next = recovery.next.0;
    catalog.set_next(tail.next);
    catalog.put(tail.first, growing(&tail, true));
    let ends: Vec<u64> = ours.iter().skip(1).map(|s| s.first).chain([tail.first]).collect();
    for (candidate, end) in ours.iter().zip(ends) {
        let path = catalog.path(candidate.first);
        catalog.put(candidate.first, sealed(&catalog, candidate, end).map_err(at(path))?);
    }
    if meta.is_none_or(|header| header.incarnation != incarnation) {
        write_meta(&**disk, dir, incarnation, now_ns).map_err(at(dir.join(META)))?;
    }
    recovery.first = catalog.depth().first;
    Ok(Opened { catalog: Arc::new(catalog), tail, recovery })
}

/// Gives the segment its name that was begun in the prepared file and had it in memory alone when the power went. In one
/// without a header nothing was answered for, nor in one that another was begun in place of.
fn name_next<D: Disk>(disk: &D, dir: &Path) -> Result<(), OpenError> {
    let next = dir.join(NEXT);
    let header = read_header(disk, &next, FileKind::Segment)?;
    let named = header.map(|header| segment_name(header.first));
    let names = disk.names(dir).map_err(at(dir))?;
    match named.filter(|name| !names.contains(name)) {
        Some(name) => {
            disk.rename(&next, &dir.join(name)).map_err(at(&next))?;
            disk.sync_dir(dir).map_err(at(dir))
        }
        None if names.iter().any(|name| name == NEXT) => disk.remove(&next).map_err(at(&next)),
        None => Ok(()),
    }
}

/// Begins the segment with `first`: in the prepared file, so that its first sync makes all of it durable, or, where there is
/// none, in a new one that is durable now, its name included.
pub(crate) fn begin_segment<D: Disk>(
    catalog: &Catalog<D>,
    first: u64,
    now_ns: u64,
) -> Result<Tail<D::File>, WriteFailure> {
    let header = FileHeader { incarnation: catalog.incarnation, first, time_ns: now_ns };
    let path = catalog.path(first);
    if let Some(file) = catalog.prepared.lock().take() {
        let next = catalog.dir.join(NEXT);
        let begun = Tail::begin(file, FileKind::Segment, header);
        if let Ok(tail) = begun.and_then(|tail| catalog.disk.rename(&next, &path).map(|()| tail)) {
            catalog.put(first, growing(&tail, false));
            return Ok(tail);
        }
    }
    let tail = catalog.disk.create(&path).and_then(|file| Tail::begin(file, FileKind::Segment, header));
    let tail = tail.map_err(|error| {
        // Half a header harms nobody, but it takes a place on a full disk.
        let _ = catalog.disk.remove(&path);
        WriteFailure::Undone(error)
    })?;
    // The header is durable before a frame can follow it, so that a long file without one is damage.
    tail.sync().and_then(|()| catalog.disk.sync_dir(&catalog.dir)).map_err(WriteFailure::Unknown)?;
    catalog.put(first, growing(&tail, true));
    Ok(tail)
}

/// The entry of a segment that grows and of which all is durable.
fn growing<F: DiskFile>(tail: &Tail<F>, settled: bool) -> Segment {
    Segment {
        end: tail.next,
        data_end: tail.end,
        bytes: tail.end,
        settled,
        oldest_ns: tail.oldest_ns,
        index: Some(Arc::clone(&tail.index)),
    }
}

fn is_half_made<D: Disk>(disk: &D, path: &Path) -> Result<bool, OpenError> {
    let bytes = disk.open_read(path).and_then(|file| file.bytes()).map_err(at(path))?;
    Ok(bytes <= FILE_HEADER_BYTES as u64)
}

struct Candidate {
    first: u64,
    /// `None`: damaged.
    header: Option<FileHeader>,
}

struct Aside<'a, D> {
    disk: &'a D,
    dir: &'a Path,
    names: Vec<String>,
}

impl<D: Disk> Aside<'_, D> {
    fn put(&mut self, first: u64) -> Result<(), OpenError> {
        let from = segment_name(first);
        let taken = self.disk.names(self.dir).map_err(at(self.dir))?;
        // An older one of that name may be somebody's only copy.
        let to = (0u32..)
            .map(|n| if n == 0 { format!("{from}.damaged") } else { format!("{from}.{n}.damaged") })
            .find(|name| !taken.contains(name))
            .unwrap_or_default();
        self.disk.rename(&self.dir.join(&from), &self.dir.join(&to)).map_err(at(self.dir.join(&from)))?;
        self.disk.sync_dir(self.dir).map_err(at(self.dir))?;
        self.names.push(to);
        Ok(())
    }
}

/// Where the log ends.
struct Last<F> {
    /// The last segment that holds anything, with what it lost.
    tail: Option<(Tail<F>, Loss)>,
    next: u64,
}

/// Finds the end of the log: the last segment that holds anything leaves `ours` and becomes the tail.
fn open_last<D: Disk>(
    disk: &D,
    dir: &Path,
    ours: &mut Vec<Candidate>,
    incarnation: Incarnation,
    aside: &mut Aside<'_, D>,
) -> Result<Last<D::File>, OpenError> {
    // Numbers below this were used, in a segment that is lost.
    let mut floor = 0;
    while let Some(candidate) = ours.last() {
        let first = candidate.first;
        let path = dir.join(segment_name(first));
        let header = FileHeader { incarnation, first, time_ns: candidate.header.map_or(0, |h| h.time_ns) };
        let file = disk.open(&path).map_err(at(&path))?;
        let sound = candidate.header.is_some();
        match Tail::recover(file, FileKind::Segment, header, sound).map_err(at(&path))? {
            Recovered::Tail(tail, loss) => {
                ours.pop();
                let next = tail.next.max(floor);
                return Ok(Last { tail: Some((tail, loss)), next });
            }
            Recovered::HalfMade => disk.remove(&path).map_err(at(&path))?,
            Recovered::Rotten => aside.put(first)?,
        }
        floor = floor.max(first);
        ours.pop();
    }
    Ok(Last { tail: None, next: floor })
}

/// A finished segment, by its seal; where that is damaged, by its length and its successor's name.
fn sealed<D: Disk>(catalog: &Catalog<D>, candidate: &Candidate, end: u64) -> io::Result<Segment> {
    let file = catalog.disk.open_read(&catalog.path(candidate.first))?;
    let bytes = file.bytes()?;
    let created_ns = candidate.header.map(|header| header.time_ns);
    Ok(match read_seal(&file, catalog.salt(candidate.first))? {
        Some((at, seal)) => {
            let oldest_ns = Some(seal.oldest_ns);
            Segment { end: seal.end, data_end: at, bytes, settled: true, oldest_ns, index: None }
        }
        None => Segment { end, data_end: bytes, bytes, settled: true, oldest_ns: created_ns, index: None },
    })
}

/// The header of the file at `path`: `None` if there is no such file or its header is damaged.
pub(crate) fn read_header<D: Disk>(
    disk: &D,
    path: &Path,
    kind: FileKind,
) -> Result<Option<FileHeader>, OpenError> {
    let file = match disk.open_read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(OpenError::Io { path: path.to_owned(), source }),
    };
    let mut bytes = [0; FILE_HEADER_BYTES];
    let got = crate::walk::read_around(&file, &mut bytes, 0).map_err(at(path))?;
    match FileHeader::decode(&bytes[..got], kind) {
        HeaderFound::Sound(header) => Ok(Some(header)),
        HeaderFound::Damaged => Ok(None),
        HeaderFound::Version(found) => Err(OpenError::Version { path: path.to_owned(), found }),
    }
}

fn write_meta<D: Disk>(disk: &D, dir: &Path, incarnation: Incarnation, now_ns: u64) -> io::Result<()> {
    let header = FileHeader { incarnation, first: 0, time_ns: now_ns };
    let temporary = dir.join("log.meta.tmp");
    Tail::begin(disk.create(&temporary)?, FileKind::Meta, header)?.sync()?;
    disk.rename(&temporary, &dir.join(META))?;
    disk.sync_dir(dir)
}
