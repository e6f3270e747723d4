//! Reading a log: in sequence for the dispatcher, and single records for a resend.
//!
//! Left out on purpose: waiting. A reader returns what is durable now; [`crate::GroupLog::durable`] tells when
//! there is more.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use weir_model::{Seq, SeqRanges};

use crate::catalog::{Catalog, View, read_seal};
use crate::disk::{Disk, DiskFile, OsDisk};
use crate::frame::FILE_HEADER_BYTES;
use crate::walk::{Found, Step, Walker};

/// Bytes asked of the disk at once: few enough that a sync of the log does not wait long behind them, and enough for the
/// disk to be busy. New traffic's p99 beside a backlog was twice as much with 2 MiB.
const BLOCK_BYTES: usize = 256 << 10;
/// The same for single records.
const FETCH_BLOCK_BYTES: usize = 64 << 10;

/// A record as it was appended. The bytes are slices of the block that was read: keeping one record keeps its
/// block in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the log.
    pub seq: Seq,
    /// When it was appended, in nanoseconds since 1970.
    pub time_ns: u64,
    /// The first piece, as given to append.
    pub header: Bytes,
    /// The second piece, as given to append.
    pub payload: Bytes,
}

impl From<Found> for Stored {
    fn from(found: Found) -> Self {
        let (header, payload) = (found.header, found.payload);
        Self { seq: Seq(found.head.seq), time_ns: found.head.time_ns, header, payload }
    }
}

/// Why a log could not be read: the disk refused. Damage is no error, see [`Reader::take_damaged`].
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct ReadError {
    /// The segment file.
    pub path: PathBuf,
    /// What the disk said.
    pub source: io::Error,
}

/// A cursor over the durable records of one log, with its own file handles. It never holds up the writer.
#[derive(Debug)]
pub struct Reader<D: Disk = OsDisk> {
    catalog: Arc<Catalog<D>>,
    next: u64,
    open: Option<OpenSegment<D::File>>,
    damaged: SeqRanges,
    /// It takes what is still in memory. Of several such readers each gets a part from there and the rest from the disk.
    follows: bool,
}

#[derive(Debug)]
struct OpenSegment<F> {
    first: u64,
    walker: Walker<F>,
    /// It was sealed already: what is read is backlog.
    sealed: bool,
    /// Pages below were given back to the kernel.
    forgotten: u64,
}

impl<F: DiskFile> OpenSegment<F> {
    /// From here on what is read is read once. A sync of the log must not wait behind the megabytes that a kernel reads ahead,
    /// and hotter pages must not be pushed out.
    fn seal(&mut self, cached: bool) {
        self.walker.file.read_once(cached);
        // What had stayed for the reader is given back as a whole, when it has passed it.
        (self.sealed, self.forgotten) = (true, if cached { u64::MAX } else { self.walker.at });
    }
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new(catalog: Arc<Catalog<D>>, from: Seq) -> Self {
        Self { catalog, next: from.0, open: None, damaged: SeqRanges::new(), follows: false }
    }

    /// As [`Self::new`], for the reader that goes along with what is appended.
    pub(crate) fn following(catalog: Arc<Catalog<D>>, from: Seq) -> Self {
        Self { follows: true, ..Self::new(catalog, from) }
    }

    /// The number that the next record will have, or one below it.
    #[must_use]
    pub fn position(&self) -> Seq {
        Seq(self.next)
    }

    /// Reads on: up to about `bytes_max` bytes and at least one record, where one is durable; nothing at the
    /// end. Blocks on the disk. Trimmed records are passed over in silence, damaged ones are noted.
    ///
    /// # Errors
    /// [`ReadError`]; the position stays, so that a further call tries again.
    pub fn read(&mut self, bytes_max: usize) -> Result<Vec<Stored>, ReadError> {
        if !self.follows {
            return self.read_below(u64::MAX, bytes_max);
        }
        let records = self.read_unread(bytes_max);
        let records = if records.is_empty() { self.read_below(u64::MAX, bytes_max)? } else { records };
        self.catalog.kept.lock().read(self.next);
        Ok(records)
    }

    /// What is next, if it is still in memory.
    fn read_unread(&mut self, bytes_max: usize) -> Vec<Stored> {
        let mut records = Vec::new();
        let mut unread = self.catalog.unread.lock();
        unread.take(self.next, bytes_max, &mut records);
        match records.last() {
            Some(last) => {
                self.next = last.seq.0 + 1;
                // Where the disk would have to be read on is found by the index, when it comes to that.
                self.open = None;
            }
            // Records are added under this lock once they are durable, so none falls between.
            None if self.next >= self.catalog.next() => unread.caught_up(),
            None => {}
        }
        records
    }

    /// The numbers of damaged records passed since the last call. They will never be read: count them as lost,
    /// and as done when trimming.
    pub fn take_damaged(&mut self) -> SeqRanges {
        std::mem::take(&mut self.damaged)
    }

    fn read_below(&mut self, below: u64, bytes_max: usize) -> Result<Vec<Stored>, ReadError> {
        let mut out = Vec::new();
        while out.is_empty() && self.next < below {
            let Some(view) = self.catalog.at_or_after(self.next).filter(|view| view.first < below) else {
                break;
            };
            self.next = self.next.max(view.first);
            self.read_view(&view, below, bytes_max, &mut out)?;
        }
        Ok(out)
    }

    /// Reads on in the segment, which may be trimmed meanwhile.
    pub(crate) fn read_view(
        &mut self,
        view: &View,
        below: u64,
        bytes_max: usize,
        out: &mut Vec<Stored>,
    ) -> Result<(), ReadError> {
        let mut missing = SeqRanges::new();
        let read = self
            .enter(view, bytes_max)
            .and_then(|()| self.read_segment(view, below, bytes_max, out, &mut missing));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.insert_range(self.next..view.segment.end.min(below));
                self.next = view.segment.end;
            }
            other => other.map_err(|source| ReadError { path: self.catalog.path(view.first), source })?,
        }
        // What is missing in a segment that is still there was taken or damaged by another hand: it is lost.
        if !missing.is_empty() && self.catalog.has(view.first) {
            self.damaged.insert_all(&missing);
        }
        Ok(())
    }

    /// Opens the segment, or goes on in it.
    fn enter(&mut self, view: &View, bytes_max: usize) -> io::Result<()> {
        let block_bytes = bytes_max.min(BLOCK_BYTES);
        let sealed = view.segment.index.is_none();
        if let Some(open) = self.open.as_mut().filter(|open| open.first == view.first) {
            open.walker.end = view.segment.data_end;
            open.walker.block_bytes = block_bytes;
            if sealed && !open.sealed {
                open.seal(self.catalog.kept.lock().has(view.first));
            }
            return Ok(());
        }
        let file = self.catalog.disk.open_read(&self.catalog.path(view.first))?;
        let salt = self.catalog.salt(view.first);
        let at = if self.next == view.first {
            None
        } else if let Some(index) = &view.segment.index {
            index.lock().at_or_before(self.next)
        } else {
            read_seal(&file, salt)?.and_then(|(_, seal)| seal.index.at_or_before(self.next))
        };
        let at = at.unwrap_or(FILE_HEADER_BYTES as u64);
        let walker = Walker::new(file, salt, at..view.segment.data_end, block_bytes);
        let open = self.open.insert(OpenSegment { first: view.first, walker, sealed: false, forgotten: at });
        if sealed {
            open.seal(self.catalog.kept.lock().has(view.first));
        }
        Ok(())
    }

    fn read_segment(
        &mut self,
        view: &View,
        below: u64,
        bytes_max: usize,
        out: &mut Vec<Stored>,
        missing: &mut SeqRanges,
    ) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let mut bytes = 0;
        while self.next < below && (out.is_empty() || bytes < bytes_max as u64) {
            let step = match open.walker.step() {
                // What has been read is handed out; the next call meets the error again.
                Err(_) if !out.is_empty() => break,
                step => step?,
            };
            match step {
                // Either before the place that was asked for, or bytes of an older try.
                Step::Record(found) if found.head.seq < self.next => {}
                Step::Record(found) if found.head.seq < view.segment.end => {
                    missing.insert_range(self.next..found.head.seq.min(below));
                    self.next = found.head.seq + 1;
                    if found.head.seq < below {
                        bytes += found.head.frame_bytes();
                        out.push(found.into());
                    }
                }
                Step::Damage { .. } => {}
                Step::Record(_) | Step::Seal { .. } | Step::End => {
                    missing.insert_range(self.next..view.segment.end.min(below));
                    self.next = view.segment.end;
                    break;
                }
            }
        }
        let read = open.walker.at;
        if open.sealed && read > open.forgotten {
            open.walker.file.forget(open.forgotten, read - open.forgotten);
            open.forgotten = read;
        }
        if self.next >= view.segment.end && open.sealed {
            self.open = None;
        }
        Ok(())
    }
}

/// Records read again, and those that could not be.
#[derive(Debug, Default)]
pub struct Fetched {
    /// What was asked for and is there, in order.
    pub records: Vec<Stored>,
    /// What was asked for and is not: trimmed, damaged, or not durable.
    pub missing: SeqRanges,
}

/// Reads the records `wanted`.
pub(crate) fn fetch<D: Disk>(catalog: &Arc<Catalog<D>>, wanted: &SeqRanges) -> Result<Fetched, ReadError> {
    let mut fetched = Fetched { records: Vec::new(), missing: wanted.clone() };
    for range in wanted.iter() {
        let mut reader = Reader::new(Arc::clone(catalog), Seq(range.start));
        loop {
            let read = reader.read_below(range.end, FETCH_BLOCK_BYTES)?;
            if read.is_empty() {
                break;
            }
            for record in read {
                fetched.missing.remove_range(record.seq.0..record.seq.0 + 1);
                fetched.records.push(record);
            }
        }
    }
    Ok(fetched)
}
