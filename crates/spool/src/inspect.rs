//! A look into a log's directory from outside: read-only, also while its owner writes.
//!
//! Left out on purpose: repair. What is damaged stays as it is; opening the log decides.

use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use weir_model::{Incarnation, Seq, SeqRanges};

use crate::catalog::{NEXT, read_seal, segment_first, segment_name};
use crate::disk::{Disk, DiskFile, OsDisk};
use crate::frame::{FILE_HEADER_BYTES, FileHeader, FileKind};
use crate::journal::read_all;
use crate::open::{OpenError, at, read_header};
use crate::reader::Stored;
use crate::walk::{Step, Walker};

const BLOCK_BYTES: usize = 1 << 20;

/// One segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The file.
    pub path: PathBuf,
    /// The number of its first record.
    pub first: Seq,
    /// One above its last record's number, where its seal tells.
    pub end: Option<Seq>,
    /// Bytes of the file.
    pub bytes: u64,
    /// Whose log it belongs to; `None`: the header is damaged.
    pub incarnation: Option<Incarnation>,
}

/// What stands at some place of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A sound record, and its place.
    Record {
        /// The bytes of the file that it takes.
        at: Range<u64>,
        /// The record.
        record: Stored,
    },
    /// Bytes that are no sound record.
    Damage {
        /// The bytes.
        at: Range<u64>,
        /// The record's number, where only its body is damaged.
        seq: Option<Seq>,
    },
    /// The end of a segment, not (yet) whole: being written, or torn by a crash. Where another segment follows, it is the
    /// seal, and no record.
    Unfinished {
        /// The bytes.
        at: Range<u64>,
    },
}

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Segment files.
    pub segments: u64,
    /// Sound records.
    pub records: u64,
    /// Bytes of their headers and payloads.
    pub bytes: u64,
    /// Places that are damaged: file and bytes.
    pub damage: Vec<(PathBuf, Range<u64>)>,
    /// Numbers that are missing within segments.
    pub missing: SeqRanges,
    /// Bytes at the ends of segments that are not (yet) a whole record or seal.
    pub unfinished_bytes: u64,
}

impl Report {
    /// Whether nothing is damaged or missing.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.missing.is_empty()
    }
}

/// The segments in `dir`, oldest first.
///
/// # Errors
/// [`OpenError`]: the directory or a file cannot be read, or is of a newer format.
pub fn segments(dir: &Path) -> Result<Vec<SegmentInfo>, OpenError> {
    let names = OsDisk.names(dir).map_err(at(dir))?;
    let mut segments: Vec<_> =
        names.into_iter().filter_map(|name| Some((segment_first(&name)?, name))).collect();
    // After a power cut the last one may not have its name yet.
    let next = read_header(&OsDisk, &dir.join(NEXT), FileKind::Segment)?;
    if let Some(header) = next.filter(|next| segments.iter().all(|(first, _)| *first != next.first)) {
        segments.push((header.first, NEXT.to_owned()));
    }
    describe(dir, segments)
}

/// The segments in `dir` that were set aside as damaged when the log was opened.
///
/// # Errors
/// As for [`segments`].
pub fn set_aside(dir: &Path) -> Result<Vec<SegmentInfo>, OpenError> {
    let names = OsDisk.names(dir).map_err(at(dir))?;
    let first = |name: &str| segment_first(name.strip_suffix(".damaged")?.get(..segment_name(0).len())?);
    describe(dir, names.into_iter().filter_map(|name| Some((first(&name)?, name))).collect())
}

/// The records of the journal `name` in `dir`, oldest first; none where there is no such journal. What is damaged is left out.
///
/// # Errors
/// As for [`segments`].
pub fn journal(dir: &Path, name: &str) -> Result<Vec<Bytes>, OpenError> {
    let path = dir.join(format!("{name}.journal"));
    let Some(header) = read_header(&OsDisk, &path, FileKind::Journal)? else { return Ok(Vec::new()) };
    let end = OsDisk.open_read(&path).and_then(|file| file.bytes()).map_err(at(&path))?;
    read_all(&OsDisk, &path, &header, end).map_err(at(&path))
}

fn describe(dir: &Path, mut names: Vec<(u64, String)>) -> Result<Vec<SegmentInfo>, OpenError> {
    names.sort_unstable();
    let mut found = Vec::with_capacity(names.len());
    for (first, name) in names {
        let path = dir.join(name);
        let header = read_header(&OsDisk, &path, FileKind::Segment)?;
        let file = match OsDisk.open_read(&path) {
            Ok(file) => file,
            // The owner has just trimmed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(OpenError::Io { path, source }),
        };
        let seal = header.map(|header| read_seal(&file, header.salt())).transpose().map_err(at(&path))?;
        found.push(SegmentInfo {
            first: Seq(first),
            end: seal.flatten().map(|(_, seal)| Seq(seal.end)),
            bytes: file.bytes().map_err(at(&path))?,
            incarnation: header.map(|header| header.incarnation),
            path,
        });
    }
    // A damaged header's identity is that of its neighbours.
    let known = found.iter().find_map(|segment| segment.incarnation).or(meta(dir)?);
    for segment in &mut found {
        segment.incarnation = segment.incarnation.or(known);
    }
    Ok(found)
}

fn meta(dir: &Path) -> Result<Option<Incarnation>, OpenError> {
    Ok(read_header(&OsDisk, &dir.join("log.meta"), FileKind::Meta)?.map(|header| header.incarnation))
}

/// Shows every record in `dir` with a number of at least `from`, and every damaged place, to `see`, until it
/// breaks off.
///
/// # Errors
/// [`OpenError`], as for [`segments`].
pub fn visit(
    dir: &Path,
    from: Seq,
    see: impl FnMut(&SegmentInfo, Item) -> ControlFlow<()>,
) -> Result<(), OpenError> {
    visit_segments(&segments(dir)?, from, see)
}

/// As [`visit`], for these segments.
///
/// # Errors
/// As for [`segments`].
pub fn visit_segments(
    segments: &[SegmentInfo],
    from: Seq,
    mut see: impl FnMut(&SegmentInfo, Item) -> ControlFlow<()>,
) -> Result<(), OpenError> {
    for (i, segment) in segments.iter().enumerate() {
        let successor = segments.get(i + 1).map(|next| next.first);
        let mut expected = segment.first;
        let ends_before = segments.get(i + 1).is_some_and(|next| next.first <= from);
        if ends_before {
            continue;
        }
        let file = match OsDisk.open_read(&segment.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(OpenError::Io { path: segment.path.clone(), source }),
        };
        let incarnation = segment.incarnation.unwrap_or(Incarnation(0));
        let salt = FileHeader { incarnation, first: segment.first.0, time_ns: 0 }.salt();
        let mut walker = Walker::new(file, salt, FILE_HEADER_BYTES as u64..segment.bytes, BLOCK_BYTES);
        loop {
            let item = match walker.step().map_err(at(&segment.path))? {
                // A number that was there already: bytes of an older try that was given up, or that some other hand put there.
                // Recovery and the reader pass it over.
                Step::Record(found) if found.head.seq < expected.0 => {
                    let at = found.at..found.at + found.head.frame_bytes();
                    Item::Damage { at, seq: Some(Seq(found.head.seq)) }
                }
                Step::Record(found) if found.head.seq < from.0 => {
                    expected = Seq(found.head.seq + 1);
                    continue;
                }
                Step::Record(found) => {
                    expected = Seq(found.head.seq + 1);
                    let at = found.at..found.at + found.head.frame_bytes();
                    Item::Record { at, record: found.into() }
                }
                // Trimmed while we read: nothing is lost.
                Step::Damage { .. } if !segment.path.exists() => break,
                // What is behind all the segment's records is the seal, torn.
                Step::Damage { bytes, .. }
                    if bytes.end == segment.bytes && successor.is_none_or(|next| next == expected) =>
                {
                    Item::Unfinished { at: bytes }
                }
                Step::Damage { bytes, head } => {
                    Item::Damage { at: bytes, seq: head.map(|head| Seq(head.seq)) }
                }
                Step::Seal { .. } | Step::End => break,
            };
            if see(segment, item).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads everything in `dir` and checks it.
///
/// # Errors
/// [`OpenError`], as for [`segments`]; damage is no error but stands in the report.
pub fn verify(dir: &Path) -> Result<Report, OpenError> {
    let segments = segments(dir)?;
    let mut report = Report { segments: segments.len() as u64, ..Report::default() };
    let mut present = SeqRanges::new();
    let mut ends: Vec<Range<u64>> = Vec::new();
    visit(dir, Seq(0), |segment, item| {
        match item {
            Item::Record { record, .. } => {
                report.records += 1;
                report.bytes += (record.header.len() + record.payload.len()) as u64;
                present.insert(record.seq);
                ends.push(segment.first.0..record.seq.0 + 1);
            }
            Item::Damage { at, .. } => report.damage.push((segment.path.clone(), at)),
            Item::Unfinished { at } => report.unfinished_bytes += at.end - at.start,
        }
        // One range for a segment is enough.
        if ends.len() > 1 && ends[ends.len() - 2].start == ends[ends.len() - 1].start {
            ends.swap_remove(ends.len() - 2);
        }
        ControlFlow::Continue(())
    })?;
    let sealed = segments.iter().filter_map(|s| s.end.map(|end| s.first.0..end.0));
    ends.into_iter().chain(sealed).for_each(|range| report.missing.insert_range(range));
    report.missing.remove_all(&present);
    Ok(report)
}
