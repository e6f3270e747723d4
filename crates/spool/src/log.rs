//! The log itself: append, sync, roll. One caller, no threads, no clock.
//!
//! Left out on purpose: waiting, group commit and locks (see [`crate::GroupLog`]), removing what is committed (see
//! `sweep.rs`), and what to do when the quota is reached (the edge's policy).

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_model::{Incarnation, Seq, SeqRanges};

use crate::catalog::{Catalog, Depth};
use crate::disk::{Disk, DiskFile};
use crate::frame::{RECORD_BYTES_MAX, Record};
use crate::open::{OpenError, Recovery, begin_segment, open};
use crate::reader::{Fetched, ReadError, Reader, fetch};
use crate::tail::{Tail, WriteFailure};

/// The bounds of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A segment that has reached so many bytes is sealed and a new one begun. What has been committed is
    /// given back in whole segments. At most an eighth of the quota is taken.
    pub segment_bytes: u64,
    /// Bytes on disk above which appends are refused with [`AppendError::Full`].
    pub quota_bytes: u64,
    /// Room held ready so that trimming works on a full disk. 0: none.
    pub reserve_bytes: u64,
    /// Bytes of records that may wait for the committer; who brings more waits (back-pressure). It is also the
    /// most that one sync covers.
    pub queue_bytes: u32,
    /// The smallest number that the next record may have: one above the highest that the owner has ever named
    /// to anybody, by its journal. If the log ends below it, records are lost and are reported so, and their
    /// numbers are not used again.
    pub next_at_least: Seq,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            quota_bytes: 16 << 30,
            reserve_bytes: 1 << 20,
            queue_bytes: 16 << 20,
            next_at_least: Seq(0),
        }
    }
}

impl Options {
    fn segment_bytes(&self) -> u64 {
        self.segment_bytes.min(self.quota_bytes / 8)
    }
}

/// Why nothing was appended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The log is as large as it may be. There is room again after a trim.
    #[error("the log holds {bytes} bytes of its quota of {quota}")]
    Full {
        /// Bytes on disk now.
        bytes: u64,
        /// Bytes allowed.
        quota: u64,
    },
    /// The disk is full. The log goes on as soon as there is room.
    #[error("the disk is full")]
    DiskFull,
    /// A sync failed, or a failed write could not be undone: whether the last records are on disk is unknown,
    /// and no append succeeds before the log is opened again.
    #[error("what is on disk is unknown since a failure; the log must be opened again")]
    Poisoned,
    /// The record is longer than any may be, or than the quota.
    #[error("a record of {bytes} bytes is longer than {limit}")]
    TooLarge {
        /// Bytes of the record.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The write failed and was undone. The next one may work.
    #[error("the write failed and was undone")]
    Io(#[source] Arc<io::Error>),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// A sync failed. The log is poisoned: open it again.
#[derive(Debug, thiserror::Error)]
#[error("cannot sync {}", path.display())]
pub struct SyncError {
    /// The log's directory.
    pub path: PathBuf,
    /// What the disk said; `None` if an earlier sync had failed.
    pub source: Option<io::Error>,
}

/// A segment that was just sealed.
#[derive(Debug)]
pub(crate) struct Sealed<F> {
    pub(crate) file: F,
    pub(crate) bytes: u64,
    /// Its pages stay: see [`Kept`](crate::kept::Kept).
    pub(crate) stays: bool,
}

/// A segmented, append-only log of opaque records, each under a number that is never used twice.
#[derive(Debug)]
pub struct Log<D: Disk> {
    catalog: Arc<Catalog<D>>,
    options: Options,
    /// The segment that grows; none after a seal whose successor found no room.
    tail: Option<Tail<D::File>>,
    next: u64,
    durable: u64,
    poisoned: bool,
    /// The tail was begun and has not been synced since.
    begun: bool,
    /// The segment sealed last.
    sealed: Option<Sealed<D::File>>,
}

impl<D: Disk> Log<D> {
    /// Opens the log in `dir`, or makes one whose identity is `new_incarnation`. The caller sees to it that
    /// nobody else writes there. `now_ns` is the time, in nanoseconds since 1970, here and everywhere.
    ///
    /// # Errors
    /// [`OpenError`]; the files are as they were, or better.
    pub fn open(
        disk: &Arc<D>,
        dir: &Path,
        options: Options,
        new_incarnation: Incarnation,
        now_ns: u64,
    ) -> Result<(Self, Recovery), OpenError> {
        let opened = open(disk, dir, options.next_at_least, new_incarnation, now_ns)?;
        let next = opened.recovery.next.0;
        let (catalog, tail) = (opened.catalog, Some(opened.tail));
        let log =
            Self { catalog, options, tail, next, durable: next, poisoned: false, begun: false, sealed: None };
        Ok((log, opened.recovery))
    }

    /// Appends all records or none, and returns their numbers. They are not durable before [`Self::sync`].
    ///
    /// # Errors
    /// [`AppendError`]; nothing was appended.
    pub fn append(&mut self, records: &[Record], now_ns: u64) -> Result<Range<Seq>, AppendError> {
        let mut bytes = 0;
        for record in records {
            self.admit(record, bytes)?;
            bytes += record.frame_bytes();
        }
        let start = Seq(self.next);
        if records.is_empty() {
            return Ok(start..start);
        }
        // All of one append goes into one segment, so that a failure leaves all of it out.
        if self
            .tail
            .as_ref()
            .is_some_and(|tail| tail.end >= self.options.segment_bytes() && tail.next > tail.first)
        {
            self.roll(now_ns)?;
        }
        self.ensure_tail(now_ns)?;
        let Some(tail) = &mut self.tail else { return Err(AppendError::Closed) };
        if let Err(failure) = tail.append(records, self.durable, now_ns) {
            return Err(self.refusal(failure));
        }
        self.next = tail.next;
        let (end, oldest_ns) = (tail.end, tail.oldest_ns);
        self.catalog.change(tail.first, |segment| {
            segment.bytes = end;
            segment.oldest_ns = oldest_ns;
        });
        Ok(start..Seq(self.next))
    }

    /// Whether `record`, appended behind `ahead` bytes of others, would be refused by its size alone.
    ///
    /// # Errors
    /// [`AppendError::Full`], [`AppendError::TooLarge`] or [`AppendError::Poisoned`].
    pub fn admit(&self, record: &Record, ahead: u64) -> Result<(), AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        let quota = self.options.quota_bytes;
        let limit = RECORD_BYTES_MAX.min(quota);
        if record.body_bytes() > limit {
            return Err(AppendError::TooLarge { bytes: record.body_bytes(), limit });
        }
        let bytes = self.catalog.bytes();
        if bytes + ahead + record.frame_bytes() > quota {
            return Err(AppendError::Full { bytes, quota });
        }
        Ok(())
    }

    /// Makes all appended records durable. Returns the number below which all is durable; only now may anybody
    /// be told.
    ///
    /// # Errors
    /// [`SyncError`]: the log is poisoned.
    pub fn sync(&mut self) -> Result<Seq, SyncError> {
        if self.poisoned {
            return Err(SyncError { path: self.catalog.dir.clone(), source: None });
        }
        if let Some(tail) = self.tail.as_ref().filter(|_| self.begun || self.durable < self.next) {
            if let Err(source) = tail.sync() {
                self.poisoned = true;
                return Err(SyncError { path: self.catalog.dir.clone(), source: Some(source) });
            }
            self.publish();
        }
        Ok(Seq(self.durable))
    }

    /// Begins a new segment if the last has grown and is done altogether, so that it can be given back.
    pub fn finish(&mut self, committed: &SeqRanges, now_ns: u64) {
        let worth_it = self.options.segment_bytes() / 4;
        let done = |tail: &&Tail<D::File>| tail.end >= worth_it && committed.covers(tail.first..tail.next);
        if self.durable == self.next && self.tail.as_ref().filter(done).is_some() {
            // On a full disk there may be no room for a new segment; then the old one is kept, and the next call tries again.
            let _ = self.roll(now_ns).and_then(|()| self.ensure_tail(now_ns)).map(|()| self.sync());
        }
    }

    /// Syncs and seals the last segment and begins an empty one, so that the next opening goes through nothing.
    ///
    /// # Errors
    /// [`SyncError`] if what was appended could not be made durable. Without room for the seal or the new
    /// segment it is an end as after a crash, which loses nothing either.
    pub fn close(mut self, now_ns: u64) -> Result<(), SyncError> {
        self.sync()?;
        if self.tail.as_ref().is_some_and(|tail| tail.next > tail.first) {
            let _ = self.roll(now_ns).and_then(|()| self.ensure_tail(now_ns)).map(|()| self.sync());
            let _ = self.sealed.map(|sealed| sealed.file.sync());
        }
        Ok(())
    }

    /// A cursor over the durable records from `from` on.
    #[must_use]
    pub fn reader(&self, from: Seq) -> Reader<D> {
        Reader::new(Arc::clone(&self.catalog), from)
    }

    /// Reads single records again.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn fetch(&self, seqs: &SeqRanges) -> Result<Fetched, ReadError> {
        fetch(&self.catalog, seqs)
    }

    /// Changes how much the log may hold. What is above a smaller quota stays until it is trimmed.
    pub fn set_quota(&mut self, quota_bytes: u64) {
        self.options.quota_bytes = quota_bytes;
    }

    /// How much the log holds.
    #[must_use]
    pub fn depth(&self) -> Depth {
        self.catalog.depth()
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// The segment sealed last, once: its seal is to be synced.
    pub(crate) fn take_sealed(&mut self) -> Option<Sealed<D::File>> {
        self.sealed.take()
    }

    pub(crate) fn catalog(&self) -> &Arc<Catalog<D>> {
        &self.catalog
    }

    /// Finishes the last segment. Its records are durable before the next one can exist; its seal need not be, for it
    /// only saves time.
    fn roll(&mut self, now_ns: u64) -> Result<(), AppendError> {
        self.sync().map_err(|_| AppendError::Poisoned)?;
        let Some(tail) = &mut self.tail else { return Ok(()) };
        let bytes = tail.seal(now_ns).map_err(|failure| self.refusal(failure))?;
        if let Some(tail) = self.tail.take() {
            let stays = self.catalog.kept.lock().seal(tail.first, tail.next, bytes);
            self.catalog.change(tail.first, |segment| {
                segment.bytes = bytes;
                segment.index = None;
            });
            self.sealed = Some(Sealed { file: tail.file, bytes, stays });
        }
        Ok(())
    }

    fn ensure_tail(&mut self, now_ns: u64) -> Result<(), AppendError> {
        if self.tail.is_none() {
            let begun = begin_segment(&self.catalog, self.next, now_ns);
            self.tail = Some(begun.map_err(|failure| match failure {
                // A disk that takes no new file any more: whoever opens the log again will see what it still has.
                WriteFailure::Undone(error) if is_gone(&error) => self.refusal(WriteFailure::Unknown(error)),
                failure => self.refusal(failure),
            })?);
            self.begun = true;
        }
        Ok(())
    }

    /// Tells readers what is durable now.
    fn publish(&mut self) {
        self.durable = self.next;
        self.begun = false;
        if let Some(tail) = &self.tail {
            let (end, data_end) = (tail.next, tail.end);
            self.catalog.change(tail.first, |segment| {
                (segment.end, segment.data_end, segment.settled) = (end, data_end, true);
            });
        }
        self.catalog.set_next(self.durable);
    }

    /// What a failed write means to the caller, and to the log.
    fn refusal(&mut self, failure: WriteFailure) -> AppendError {
        match failure {
            WriteFailure::Undone(error) if is_full(&error) => AppendError::DiskFull,
            WriteFailure::Undone(error) => AppendError::Io(Arc::new(error)),
            WriteFailure::Unknown(_) => {
                self.poisoned = true;
                AppendError::Poisoned
            }
        }
    }
}

/// Whether the disk itself has failed, or the kernel has given it up.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ReadOnlyFilesystem
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Whether more room would help.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
