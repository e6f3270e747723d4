//! The segments of one log as its writer and its readers share them.
//!
//! Left out on purpose: writing. What stands here is durable, or it is not told.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use weir_model::{Incarnation, Seq};

use crate::disk::{Disk, DiskFile};
use crate::frame::{FILE_HEADER_BYTES, FileHeader, Salt, Seal, SparseIndex, TRAILER_BYTES};
use crate::kept::Kept;
use crate::unread::Unread;
use crate::walk::read_around;

/// How much one log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Bytes of all segment files, what is being written included.
    pub bytes: u64,
    /// Durable records that have not been trimmed; damaged ones count.
    pub records: u64,
    /// When the oldest record was appended, in nanoseconds since 1970; `None` in an empty log.
    pub oldest_ns: Option<u64>,
    /// The oldest record's number, or `next` in an empty log.
    pub first: Seq,
    /// Every number below is durable, damaged or trimmed.
    pub next: Seq,
}

/// One segment file.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    /// The numbers `first..end` are durable here.
    pub(crate) end: u64,
    /// The frames of those numbers end here, in bytes from the beginning of the file.
    pub(crate) data_end: u64,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// A crash leaves it, its number with it: segments before it may go.
    pub(crate) settled: bool,
    pub(crate) oldest_ns: Option<u64>,
    /// The index of a segment that still grows; a sealed one has its index in its seal.
    pub(crate) index: Option<Arc<Mutex<SparseIndex>>>,
}

/// A segment as a reader sees it.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) first: u64,
    pub(crate) segment: Segment,
}

/// All segments by their first number.
#[derive(Debug)]
pub(crate) struct Catalog<D: Disk> {
    pub(crate) disk: Arc<D>,
    pub(crate) dir: PathBuf,
    pub(crate) incarnation: Incarnation,
    /// For the one reader that follows the log.
    pub(crate) unread: Mutex<Unread>,
    /// The same, of segments.
    pub(crate) kept: Mutex<Kept>,
    /// The file [`NEXT`], empty, its name durable: the next segment begins there without waiting for the disk.
    pub(crate) prepared: Mutex<Option<D::File>>,
    segments: Mutex<Segments>,
}

#[derive(Debug, Default)]
struct Segments {
    by_first: BTreeMap<u64, Segment>,
    next: u64,
    bytes: u64,
}

impl<D: Disk> Catalog<D> {
    pub(crate) fn new(disk: Arc<D>, dir: PathBuf, incarnation: Incarnation, next: u64) -> Self {
        let segments = Segments { next, ..Segments::default() };
        let (unread, kept, prepared) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { disk, dir, incarnation, unread, kept, prepared, segments: Mutex::new(segments) }
    }

    pub(crate) fn path(&self, first: u64) -> PathBuf {
        self.dir.join(segment_name(first))
    }

    pub(crate) fn salt(&self, first: u64) -> Salt {
        FileHeader { incarnation: self.incarnation, first, time_ns: 0 }.salt()
    }

    pub(crate) fn put(&self, first: u64, segment: Segment) {
        let mut segments = self.segments.lock();
        segments.bytes += segment.bytes;
        let replaced = segments.by_first.insert(first, segment);
        segments.bytes -= replaced.map_or(0, |segment| segment.bytes);
    }

    pub(crate) fn take(&self, first: u64) -> Option<Segment> {
        let mut segments = self.segments.lock();
        let taken = segments.by_first.remove(&first)?;
        segments.bytes -= taken.bytes;
        Some(taken)
    }

    pub(crate) fn change(&self, first: u64, change: impl FnOnce(&mut Segment)) {
        let segments = &mut *self.segments.lock();
        if let Some(segment) = segments.by_first.get_mut(&first) {
            segments.bytes -= segment.bytes;
            change(segment);
            segments.bytes += segment.bytes;
        }
    }

    /// Bytes of all segment files.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.lock().bytes
    }

    /// Every number below is durable, damaged or trimmed.
    pub(crate) fn next(&self) -> u64 {
        self.segments.lock().next
    }

    pub(crate) fn set_next(&self, next: u64) {
        self.segments.lock().next = next;
    }

    /// The finished segments, oldest first: behind each is one that a crash leaves, so that the numbers go on.
    pub(crate) fn finished(&self) -> Vec<View> {
        let segments = self.segments.lock();
        let last =
            segments.by_first.iter().rfind(|(_, segment)| segment.settled).map_or(0, |(&first, _)| first);
        let view = |(&first, segment): (&u64, &Segment)| View { first, segment: segment.clone() };
        segments.by_first.range(..last).map(view).collect()
    }

    /// Whether there is a segment that begins with `first`: a trimmed one leaves before its file goes.
    pub(crate) fn has(&self, first: u64) -> bool {
        self.segments.lock().by_first.contains_key(&first)
    }

    /// The segment that holds `seq`, or the first behind it that holds anything.
    pub(crate) fn at_or_after(&self, seq: u64) -> Option<View> {
        let segments = self.segments.lock();
        let holder = segments.by_first.range(..=seq).next_back().filter(|(_, segment)| segment.end > seq);
        let later = || segments.by_first.range(seq..).find(|(first, segment)| segment.end > **first);
        let (&first, segment) = holder.or_else(later)?;
        Some(View { first, segment: segment.clone() })
    }

    pub(crate) fn depth(&self) -> Depth {
        let segments = self.segments.lock();
        let mut filled = segments.by_first.iter().filter(|(first, segment)| segment.end > **first);
        let oldest = filled.next();
        Depth {
            bytes: segments.bytes,
            records: segments.by_first.iter().map(|(first, segment)| segment.end - first).sum(),
            oldest_ns: oldest.and_then(|(_, segment)| segment.oldest_ns),
            first: Seq(oldest.map_or(segments.next, |(&first, _)| first)),
            next: Seq(segments.next),
        }
    }
}

/// The name of the file into which the next segment goes, until it is known with which number that begins.
pub(crate) const NEXT: &str = "next.seg";

/// The file name of the segment that begins with `first`.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:020}.seg")
}

/// The first number of the segment file `name`, if it is one.
pub(crate) fn segment_first(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    if digits.len() != 20 { None } else { digits.parse().ok() }
}

/// The seal of a segment file, with the place where it begins; `None` where there is no sound one.
pub(crate) fn read_seal<F: DiskFile>(file: &F, salt: Salt) -> io::Result<Option<(u64, Seal)>> {
    let bytes = file.bytes()?;
    let Some(trailer_at) = bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
    let mut trailer = [0; TRAILER_BYTES];
    let got = read_around(file, &mut trailer, trailer_at)?;
    let Some(len) = Seal::bytes_by_trailer(&trailer[..got]) else { return Ok(None) };
    let Some(at) = bytes.checked_sub(len).filter(|&at| at >= FILE_HEADER_BYTES as u64) else {
        return Ok(None);
    };
    // A damaged trailer may claim anything; an index never needs more than this.
    if len > SEAL_BYTES_MAX {
        return Ok(None);
    }
    let mut seal = BytesMut::zeroed(len as usize);
    let got = read_around(file, &mut seal, at)?;
    Ok(Seal::decode(&seal[..got], salt).map(|seal| (at, seal)))
}

/// Longest seal that is believed, in bytes: the index of a segment of 64 GiB.
const SEAL_BYTES_MAX: u64 = 16 << 20;
