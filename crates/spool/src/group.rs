//! The log for async callers: one committer thread, whose syncs are shared by all who wait.
//!
//! While a sync runs, appends gather in a queue that is bounded in bytes; the next sync takes them all. What takes the
//! kernel long and nobody waits for is done by a second thread: removing files, giving pages back.
//! Left out on purpose: policies for a full log, and retries after a failed sync.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use weir_model::{Incarnation, Seq, SeqRanges};

use crate::catalog::{Catalog, Depth};
use crate::disk::{DirLock, Disk, DiskFile, LockFailure, OsDisk};
use crate::frame::Record;
use crate::log::{AppendError, Log, Options, Sealed};
use crate::open::{OpenError, Recovery};
use crate::reader::{Fetched, ReadError, Reader, Stored, fetch};
use crate::sweep::Sweeper;

/// A handle on one log. Clones share it; when the last is dropped, the log is flushed and sealed.
#[derive(Debug)]
pub struct GroupLog<D: Disk = OsDisk> {
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    queue_bytes: u32,
    durable: watch::Receiver<Seq>,
    poisoned: watch::Receiver<bool>,
    catalog: Arc<Catalog<D>>,
}

impl<D: Disk> Clone for GroupLog<D> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
            room: Arc::clone(&self.room),
            queue_bytes: self.queue_bytes,
            durable: self.durable.clone(),
            poisoned: self.poisoned.clone(),
            catalog: Arc::clone(&self.catalog),
        }
    }
}

/// What the second thread does.
enum Sweep<F> {
    /// What is left to do for a sealed segment, and for the one after the next.
    Sealed(Sealed<F>),
    Trim(SeqRanges, Option<oneshot::Sender<()>>),
}

enum Command {
    Append { record: Record, answer: oneshot::Sender<Result<Seq, AppendError>>, _room: OwnedSemaphorePermit },
    Trim(SeqRanges, Option<oneshot::Sender<()>>),
    SetQuota(u64),
    Close { answer: oneshot::Sender<()> },
}

impl GroupLog {
    /// Opens the log in `dir`, or makes one, and starts its committer thread.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it; else as [`Log::open`].
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        let disk = OsDisk;
        disk.create_dir(dir).map_err(crate::open::at(dir))?;
        let lock = DirLock::take(dir).map_err(|failure| match failure {
            LockFailure::Held(pid) => OpenError::Locked { dir: dir.to_owned(), pid },
            LockFailure::Io(path, source) => OpenError::Io { path, source },
        })?;
        Self::start(disk, dir, options, lock)
    }
}

impl<D: Disk> GroupLog<D> {
    /// As [`GroupLog::open`], on a disk of one's own and without the lock on the directory.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_on(disk: D, dir: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        Self::start(disk, dir, options, ())
    }

    fn start(
        disk: D,
        dir: &Path,
        options: Options,
        lock: impl Send + 'static,
    ) -> Result<(Self, Recovery), OpenError> {
        let (queue_bytes, reserve_bytes) = (options.queue_bytes.max(1), options.reserve_bytes);
        let (log, recovery) =
            Log::open(&Arc::new(disk), dir, options, Incarnation(rand::random()), now_ns())?;
        let (commands, queue) = mpsc::channel();
        let (durable_tx, durable) = watch::channel(recovery.next);
        let (poisoned_tx, poisoned) = watch::channel(false);
        let catalog = Arc::clone(log.catalog());
        let sweeper = Sweeper::new(Arc::clone(&catalog), reserve_bytes);
        let (sweeps, jobs) = mpsc::channel();
        let sweeping = std::thread::Builder::new()
            .name("weir-log-sweep".into())
            .spawn(move || sweep(sweeper, &jobs))
            .map_err(crate::open::at(dir))?;
        std::thread::Builder::new()
            .name("weir-log".into())
            .spawn(move || {
                let closing = commit(log, &queue, &durable_tx, &poisoned_tx, &sweeps);
                drop(sweeps);
                // Nobody else may have the directory before the last file is gone.
                let _ = sweeping.join();
                drop(lock);
                for answer in closing {
                    let _ = answer.send(());
                }
            })
            .map_err(crate::open::at(dir))?;
        let room = Arc::new(Semaphore::new(queue_bytes as usize));
        Ok((Self { commands, room, queue_bytes, durable, poisoned, catalog }, recovery))
    }

    /// Appends a record and waits until it is durable. Records of one caller that awaits each are in order.
    ///
    /// If the future is dropped, the record may be in the log or not.
    ///
    /// # Errors
    /// [`AppendError`]; the record is not in the log, except after `Poisoned` and `Closed`, when a later
    /// opening may find it.
    pub async fn append(&self, header: Bytes, payload: Bytes) -> Result<Seq, AppendError> {
        let record = Record::new(header, payload);
        let bytes = u32::try_from(record.frame_bytes()).unwrap_or(u32::MAX).min(self.queue_bytes);
        let closed = || AppendError::Closed;
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Append { record, answer, _room: room }).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Everything below the watched number is durable, damaged or trimmed.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Seq> {
        self.durable.clone()
    }

    /// Waits until the log is poisoned: what is on disk is unknown since a failure, and no append succeeds before
    /// the log is opened again. Never returns where that does not happen.
    pub async fn poisoned(&self) {
        let mut poisoned = self.poisoned.clone();
        if poisoned.wait_for(|poisoned| *poisoned).await.is_err() {
            // The log was closed, in good order.
            std::future::pending::<()>().await;
        }
    }

    /// A cursor over the durable records from `from` on. Its reads block: keep them off the async threads.
    #[must_use]
    pub fn reader(&self, from: Seq) -> Reader<D> {
        Reader::following(Arc::clone(&self.catalog), from)
    }

    /// Reads single records again, for a resend: all of `seqs` at once, so bound the set by what memory can
    /// take. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn fetch(&self, seqs: &SeqRanges) -> Result<Fetched, ReadError> {
        fetch(&self.catalog, seqs)
    }

    /// Lets go, some time soon, of the segments whose records are all in `committed` (all that was ever
    /// committed, not only what is new; damaged numbers belong in there too).
    pub fn trim(&self, committed: SeqRanges) {
        // A closed log is trimmed after it is opened again.
        let _ = self.commands.send(Command::Trim(committed, None));
    }

    /// As [`Self::trim`]; `told` hears when it is done, or is dropped if the log is closed.
    pub fn trim_and_tell(&self, committed: SeqRanges, told: oneshot::Sender<()>) {
        let _ = self.commands.send(Command::Trim(committed, Some(told)));
    }

    /// The numbers and bytes of each finished segment, oldest first: what a trim can give back.
    #[must_use]
    pub fn finished(&self) -> Vec<(Range<u64>, u64)> {
        let views = self.catalog.finished();
        views.into_iter().map(|view| (view.first..view.segment.end, view.segment.bytes)).collect()
    }

    /// Changes, some time soon, how much the log may hold.
    pub fn set_quota(&self, quota_bytes: u64) {
        // A closed log is opened with a quota again.
        let _ = self.commands.send(Command::SetQuota(quota_bytes));
    }

    /// How much the log holds.
    #[must_use]
    pub fn depth(&self) -> Depth {
        self.catalog.depth()
    }

    /// The log's identity.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.catalog.incarnation
    }

    /// Makes all queued appends durable, seals the log and gives its lock back. Later appends, on any clone,
    /// answer `Closed`; readers read on.
    pub async fn close(self) {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands.send(Command::Close { answer });
        // An error means that the committer is gone already, by another clone's close.
        let _ = answered.await;
    }
}

/// The committer thread. Returns who waits for its end.
fn commit<D: Disk>(
    mut log: Log<D>,
    queue: &mpsc::Receiver<Command>,
    durable: &watch::Sender<Seq>,
    poisoned: &watch::Sender<bool>,
    sweeps: &mpsc::Sender<Sweep<D::File>>,
) -> Vec<oneshot::Sender<()>> {
    let mut closing = Vec::new();
    while let Some(first) = closing.is_empty().then(|| queue.recv().ok()).flatten() {
        let mut appends = Vec::new();
        let mut others = Vec::new();
        for command in std::iter::once(first).chain(queue.try_iter()) {
            match command {
                Command::Append { record, answer, _room } => appends.push((record, answer, _room)),
                other => others.push(other),
            }
        }
        commit_group(&mut log, appends, durable);
        for command in others {
            match command {
                Command::Trim(committed, told) => {
                    log.finish(&committed, now_ns());
                    let _ = sweeps.send(Sweep::Trim(committed, told));
                }
                Command::SetQuota(quota_bytes) => log.set_quota(quota_bytes),
                Command::Close { answer } => closing.push(answer),
                Command::Append { .. } => {}
            }
        }
        if let Some(sealed) = log.take_sealed() {
            let _ = sweeps.send(Sweep::Sealed(sealed));
        }
        if log.is_poisoned() {
            poisoned.send_replace(true);
        }
    }
    // A failed sync was answered to those whom it concerns; there is nobody left to tell.
    let _ = log.close(now_ns());
    closing
}

/// The second thread; it ends with the committer.
fn sweep<D: Disk>(mut sweeper: Sweeper<D>, jobs: &mpsc::Receiver<Sweep<D::File>>) {
    for job in jobs {
        match job {
            Sweep::Sealed(Sealed { file, bytes, stays }) => {
                // Without it the next segment is begun as the first one was.
                let _ = sweeper.prepare();
                // Its records are durable already; pages are only given back when they are on the disk.
                let _ = file.sync();
                if !stays {
                    file.forget(0, bytes);
                }
                sweeper.forget_passed();
            }
            Sweep::Trim(committed, told) => {
                // What the disk would not remove is asked for again by the next trim.
                let _ = sweeper.trim(&committed);
                if let Some(told) = told {
                    let _ = told.send(());
                }
            }
        }
    }
    sweeper.end();
}

type Waiting = (Record, oneshot::Sender<Result<Seq, AppendError>>, OwnedSemaphorePermit);

/// Appends what fits, syncs once, and answers everybody.
fn commit_group<D: Disk>(log: &mut Log<D>, group: Vec<Waiting>, durable: &watch::Sender<Seq>) {
    let mut records: Vec<Record> = Vec::with_capacity(group.len());
    let mut waiting = Vec::with_capacity(group.len());
    let (mut bytes, mut full) = (0, None);
    for (record, answer, room) in group {
        // Behind a record that found no room none gets in, or one sender's records would change places.
        match full.clone().map_or_else(|| log.admit(&record, bytes), Err) {
            Ok(()) => {
                bytes += record.frame_bytes();
                records.push(record);
                waiting.push((answer, room));
            }
            Err(error) => {
                if matches!(error, AppendError::Full { .. }) {
                    full = Some(error.clone());
                }
                let _ = answer.send(Err(error));
            }
        }
    }
    if records.is_empty() {
        return;
    }
    let now = now_ns();
    let appended = log.append(&records, now).and_then(|seqs| match log.sync() {
        Ok(_) => Ok(seqs),
        Err(_) => Err(AppendError::Poisoned),
    });
    match appended {
        Ok(seqs) => {
            remember(log.catalog(), records, seqs.start.0, now);
            // Readers first: who hears of its record may ask for it at once.
            durable.send_replace(seqs.end);
            for ((answer, _room), seq) in waiting.into_iter().zip(seqs.start.0..) {
                let _ = answer.send(Ok(Seq(seq)));
            }
        }
        Err(error) => {
            for (answer, _room) in waiting {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

/// Keeps what has just become durable for the reader, if that one keeps up.
fn remember<D: Disk>(catalog: &Catalog<D>, records: Vec<Record>, first: u64, time_ns: u64) {
    let mut unread = catalog.unread.lock();
    if unread.is_keeping() {
        for (Record { header, payload, .. }, seq) in records.into_iter().zip(first..) {
            unread.add(Stored { seq: Seq(seq), time_ns, header, payload });
        }
    }
}

/// The wall clock: it only dates records, nothing is ordered by it.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
