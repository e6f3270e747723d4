//! The small journal beside a log: records of the owner's, replayed when it opens, rewritten when it has grown.
//!
//! It takes its room on the disk ahead of its use, for itself and for the copy that a rewrite makes, so that
//! promises and commits are still written on a full disk. Left out on purpose: what the records mean.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use tokio::sync::oneshot;
use weir_model::Incarnation;

use crate::disk::{Disk, DiskFile, OsDisk};
use crate::frame::{FILE_HEADER_BYTES, FileHeader, FileKind, RECORD_BYTES_MAX, Record};
use crate::group::now_ns;
use crate::log::is_full;
use crate::open::{OpenError, at, read_header};
use crate::tail::{Recovered, Tail, WriteFailure};
use crate::walk::{Step, Walker};

/// Room that a journal takes ahead, in bytes: so much it can grow on a full disk.
const AHEAD_BYTES: u64 = 1 << 20;
const BLOCK_BYTES: usize = 256 << 10;

/// What a journal held when it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// The records, oldest first.
    pub records: Vec<Bytes>,
    /// Records that had been durable and are unreadable. Promises may be among them: call a human.
    pub damaged: u64,
    /// Bytes cut off at the end, of appends that were never answered.
    pub torn_bytes: u64,
}

/// Why a journal did not take records.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The disk is full, and the room taken ahead is used up. A rewrite or a trim of the log may help.
    #[error("the disk is full")]
    DiskFull,
    /// A sync failed, or a failed write could not be undone: what is on disk is unknown. Open the journal again.
    #[error("what is on disk is unknown since a failure; the journal must be opened again")]
    Poisoned,
    /// One record is longer than any may be.
    #[error("a journal record of {bytes} bytes is longer than {limit}")]
    TooLarge {
        /// Bytes of the record.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The write failed and was undone; what was there before holds.
    #[error("the write failed and was undone")]
    Io(#[source] Arc<io::Error>),
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        if is_full(&error) { Self::DiskFull } else { Self::Io(Arc::new(error)) }
    }
}

/// The journal's engine: one caller, no threads, no clock.
#[derive(Debug)]
pub struct JournalFile<D: Disk> {
    disk: Arc<D>,
    dir: PathBuf,
    name: String,
    incarnation: Incarnation,
    tail: Tail<D::File>,
    /// Room taken in the current file, in bytes.
    allocated: u64,
    /// The file of the next rewrite, with its room.
    spare: Option<D::File>,
    poisoned: bool,
}

impl<D: Disk> JournalFile<D> {
    /// Opens the journal `name` in `dir`, or makes one. `dir` exists, and the caller sees to it that nobody
    /// else writes there. `fresh` is a random number for a new journal.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        disk: &Arc<D>,
        dir: &Path,
        name: &str,
        fresh: u128,
        now_ns: u64,
    ) -> Result<(Self, Replay), OpenError> {
        let path = dir.join(format!("{name}.journal"));
        let header = read_header(&**disk, &path, FileKind::Journal)?;
        let mut replay = Replay::default();
        let mut recovered = None;
        if let Some(header) = header {
            let file = disk.open(&path).map_err(at(&path))?;
            if let Recovered::Tail(tail, loss) =
                Tail::recover(file, FileKind::Journal, header, true).map_err(at(&path))?
            {
                replay.damaged = loss.damaged.len();
                replay.torn_bytes = loss.torn_bytes;
                replay.records = read_all(&**disk, &path, &header, tail.end).map_err(at(&path))?;
                recovered = Some((tail, header.incarnation));
            }
        } else if let Ok(file) = disk.open_read(&path) {
            // A header is durable before the file has its name, so this is damage, whatever it held.
            drop(file);
            replay.damaged = 1;
            disk.rename(&path, &dir.join(format!("{name}.journal.damaged"))).map_err(at(&path))?;
        }
        let (tail, incarnation) = match recovered {
            Some(found) => found,
            None => {
                let header = FileHeader { incarnation: Incarnation(fresh), first: 0, time_ns: now_ns };
                let temporary = dir.join(temporary_name(name));
                let tail = disk
                    .create(&temporary)
                    .and_then(|file| Tail::begin(file, FileKind::Journal, header))
                    .and_then(|tail| tail.sync().map(|()| tail))
                    .map_err(at(&temporary))?;
                disk.rename(&temporary, &path).map_err(at(&path))?;
                (tail, header.incarnation)
            }
        };
        disk.sync_dir(dir).map_err(at(dir))?;
        let (dir, name) = (dir.to_owned(), name.to_owned());
        let mut journal = Self {
            disk: Arc::clone(disk),
            dir,
            name,
            incarnation,
            tail,
            allocated: 0,
            spare: None,
            poisoned: false,
        };
        journal.take_room();
        Ok((journal, replay))
    }

    /// Appends all records or none, durably.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn append(&mut self, records: &[Bytes], now_ns: u64) -> Result<(), JournalError> {
        self.check(records)?;
        let records: Vec<_> = records.iter().map(|r| Record::new(Bytes::new(), r.clone())).collect();
        let synced = self.tail.next;
        let appended = self.tail.append(&records, synced, now_ns);
        match appended.and_then(|()| self.tail.sync().map_err(WriteFailure::Unknown)) {
            Ok(()) => {}
            Err(WriteFailure::Undone(error)) => return Err(error.into()),
            Err(WriteFailure::Unknown(_)) => {
                self.poisoned = true;
                return Err(JournalError::Poisoned);
            }
        }
        if self.tail.end + AHEAD_BYTES / 2 > self.allocated {
            self.take_room();
        }
        Ok(())
    }

    /// Puts `snapshot` in the place of all records, at once and durably.
    ///
    /// # Errors
    /// [`JournalError`]; except after `Poisoned` the journal holds what it held.
    pub fn rewrite(&mut self, snapshot: &[Bytes], now_ns: u64) -> Result<(), JournalError> {
        self.check(snapshot)?;
        let temporary = self.dir.join(temporary_name(&self.name));
        let header = FileHeader { incarnation: self.incarnation, first: self.tail.next, time_ns: now_ns };
        let file = self.spare.take().map_or_else(|| self.disk.create(&temporary), Ok)?;
        let mut tail = Tail::begin(file, FileKind::Journal, header)?;
        let records: Vec<_> = snapshot.iter().map(|r| Record::new(Bytes::new(), r.clone())).collect();
        tail.append(&records, tail.next, now_ns).map_err(WriteFailure::into_inner)?;
        tail.sync()?;
        let path = self.dir.join(format!("{}.journal", self.name));
        self.disk.rename(&temporary, &path)?;
        self.tail = tail;
        if self.disk.sync_dir(&self.dir).is_err() {
            self.poisoned = true;
            return Err(JournalError::Poisoned);
        }
        self.take_room();
        Ok(())
    }

    /// Bytes of the journal: the owner rewrites it when they are many.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tail.end
    }

    fn check(&self, records: &[Bytes]) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        let long = records.iter().map(|record| record.len() as u64).find(|&bytes| bytes > RECORD_BYTES_MAX);
        long.map_or(Ok(()), |bytes| Err(JournalError::TooLarge { bytes, limit: RECORD_BYTES_MAX }))
    }

    /// Takes room for this file and the next one. Where the disk has none, the journal goes on as it can.
    fn take_room(&mut self) {
        let upto = self.tail.end + AHEAD_BYTES;
        if self.tail.file.allocate(upto).is_ok() {
            self.allocated = upto;
        }
        let spare = self
            .spare
            .take()
            .map_or_else(|| self.disk.create(&self.dir.join(temporary_name(&self.name))), Ok);
        self.spare = spare.and_then(|file| file.allocate(AHEAD_BYTES).map(|()| file)).ok();
    }
}

fn temporary_name(name: &str) -> String {
    format!("{name}.journal.tmp")
}

pub(crate) fn read_all<D: Disk>(
    disk: &D,
    path: &Path,
    header: &FileHeader,
    end: u64,
) -> io::Result<Vec<Bytes>> {
    let file = disk.open_read(path)?;
    let mut walker = Walker::new(file, header.salt(), FILE_HEADER_BYTES as u64..end, BLOCK_BYTES);
    let mut records = Vec::new();
    loop {
        match walker.step()? {
            // Copied: a small record must not keep a whole block in memory.
            Step::Record(found) => records.push(Bytes::copy_from_slice(&found.payload)),
            Step::Damage { .. } => {}
            Step::Seal { .. } | Step::End => return Ok(records),
        }
    }
}

/// A handle on a journal for async callers; clones share it. Appends that arrive while a sync runs share the
/// next one.
#[derive(Debug, Clone)]
pub struct Journal {
    commands: mpsc::Sender<Command>,
    bytes: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Command {
    Append { records: Vec<Bytes>, answer: oneshot::Sender<Result<(), JournalError>> },
    Rewrite { snapshot: Vec<Bytes>, answer: oneshot::Sender<Result<(), JournalError>> },
    Close { answer: oneshot::Sender<()> },
}

impl Journal {
    /// Opens the journal `name` in `dir`, or makes one, and starts its thread. `dir` is the directory of a
    /// [`crate::GroupLog`] that this process holds open: its lock covers the journal.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: &Path, name: &str) -> Result<(Self, Replay), OpenError> {
        Self::open_on(OsDisk, dir, name)
    }

    /// As [`Self::open`], on a disk of one's own.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_on<D: Disk>(disk: D, dir: &Path, name: &str) -> Result<(Self, Replay), OpenError> {
        let (file, replay) = JournalFile::open(&Arc::new(disk), dir, name, rand::random(), now_ns())?;
        let (commands, queue) = mpsc::channel();
        let bytes = Arc::new(AtomicU64::new(file.bytes()));
        let shown = Arc::clone(&bytes);
        std::thread::Builder::new()
            .name("weir-journal".into())
            .spawn(move || commit(file, &queue, &shown))
            .map_err(at(dir))?;
        Ok((Self { commands, bytes }, replay))
    }

    /// Appends all records or none; returns when they are durable. Calls take effect in the order in which
    /// they are first polled. If the future is dropped, the records may be there or not.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn append(&self, records: Vec<Bytes>) -> Result<(), JournalError> {
        self.ask(|answer| Command::Append { records, answer }).await
    }

    /// Puts `snapshot` in the place of everything appended by calls before this one.
    ///
    /// # Errors
    /// [`JournalError`]; except after `Poisoned` the journal holds what it held.
    pub async fn rewrite(&self, snapshot: Vec<Bytes>) -> Result<(), JournalError> {
        self.ask(|answer| Command::Rewrite { snapshot, answer }).await
    }

    /// Bytes of the journal: the owner rewrites it when they are many.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits for what is queued and stops the thread. Later calls, on any clone, answer `Closed`.
    pub async fn close(self) {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands.send(Command::Close { answer });
        let _ = answered.await;
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), JournalError>>) -> Command,
    ) -> Result<(), JournalError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).map_err(|_| JournalError::Closed)?;
        answered.await.map_err(|_| JournalError::Closed)?
    }
}

/// The journal's thread.
fn commit<D: Disk>(mut file: JournalFile<D>, queue: &mpsc::Receiver<Command>, bytes: &AtomicU64) {
    let mut group = Group::default();
    while let Ok(first) = queue.recv() {
        for command in std::iter::once(first).chain(queue.try_iter()) {
            match command {
                Command::Append { records, answer } => {
                    group.records.extend(records);
                    group.answers.push(answer);
                }
                Command::Rewrite { snapshot, answer } => {
                    group.commit(&mut file, bytes);
                    let outcome = file.rewrite(&snapshot, now_ns());
                    bytes.store(file.bytes(), Ordering::Relaxed);
                    let _ = answer.send(outcome);
                }
                Command::Close { answer } => {
                    group.commit(&mut file, bytes);
                    drop(file);
                    let _ = answer.send(());
                    return;
                }
            }
        }
        group.commit(&mut file, bytes);
    }
}

#[derive(Default)]
struct Group {
    records: Vec<Bytes>,
    answers: Vec<oneshot::Sender<Result<(), JournalError>>>,
}

impl Group {
    fn commit<D: Disk>(&mut self, file: &mut JournalFile<D>, bytes: &AtomicU64) {
        if self.answers.is_empty() {
            return;
        }
        let outcome = file.append(&self.records, now_ns());
        self.records.clear();
        bytes.store(file.bytes(), Ordering::Relaxed);
        for answer in self.answers.drain(..) {
            let _ = answer.send(outcome.clone());
        }
    }
}
