//! The chunks that a group log has taken lately: [`Recent`] with those who wait for each other, and its file.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use weir_model::{BatchHeader, Fingerprint, GroupId, Seq, SeqRanges};
use weir_spool::{GroupLog, Journal, JournalError, ReadError, Recovery};
use weir_telemetry::names;
use weir_transit::{Claim, Recent, RecentBounds, RecentRecord, RecordError, Recovered};

/// How often what is new is written beside the log, at least.
pub(crate) const SAVE_EVERY: Duration = Duration::from_secs(1);
/// It is written as soon as the log has grown by so many bytes, for a start reads what is not written down from the log: half
/// a second's work. Each save is a sync more beside the log's own: written four times as often, acknowledgements were later.
const SAVE_BYTES: u64 = 512 << 20;
/// The file is rewritten when it is this many times as long as it need be, and longer than [`FILE_BYTES`].
const REWRITE_AT: u64 = 2;
const FILE_BYTES: u64 = 1 << 20;
/// Bytes of the log read at once when a start looks for chunks that the file lacks.
const READ_BYTES: usize = 4 << 20;

/// Which chunks a log has, and which are on their way into it.
pub(crate) struct Repeats {
    recent: Mutex<Recent>,
    settled: Notify,
    // Bytes that the log has grown by since the last save, and whether they are many.
    grown: AtomicU64,
    much: Notify,
}

/// Why the window of recent chunks cannot be had.
#[derive(Debug)]
pub(crate) enum OpenFailed {
    Journal(weir_spool::OpenError),
    Record(RecordError),
    Log(ReadError),
}

/// Opens the window beside `log`: what its file says, and what the log holds that the file lacks.
pub(crate) fn open(
    dir: &std::path::Path,
    log: &GroupLog,
    recovery: &Recovery,
    recovered: &Recovered,
    bounds: RecentBounds,
) -> Result<(Arc<Repeats>, Journal), OpenFailed> {
    let (journal, replay) = Journal::open(dir, "recent").map_err(OpenFailed::Journal)?;
    if replay.damaged > 0 {
        warn!(dir = %dir.display(), records = replay.damaged, "recent chunks are damaged: retries of them would be stored again");
    }
    let records: Result<Vec<_>, _> =
        replay.records.iter().map(|record| RecentRecord::decode(record)).collect();
    let records = records.map_err(OpenFailed::Record)?;
    let mut recent = Recent::new(bounds, log.incarnation(), records);
    let missing = recent.missing(recovery.first.0..recovery.next.0);
    for range in missing.iter() {
        let mut reader = log.reader(Seq(range.start));
        while reader.position().0 < range.end {
            let records = reader.read(READ_BYTES).map_err(OpenFailed::Log)?;
            if records.is_empty() {
                break;
            }
            for stored in records.iter().filter(|stored| stored.seq.0 < range.end) {
                // What does not decode is set aside when it is to be sent.
                let Ok(header) = BatchHeader::decode(&stored.header) else { continue };
                recent.note(stored.seq, &header.fingerprints(), seconds(header.received_ns));
            }
        }
    }
    // A retry of what was dropped is welcome.
    let dropped = recovered.dropped_below(recovery.first);
    if !dropped.is_empty() {
        recent.drop_batches(&dropped);
    }
    recent.tick(now());
    let recent = Mutex::new(recent);
    let repeats = Repeats { recent, settled: Notify::new(), grown: AtomicU64::new(0), much: Notify::new() };
    Ok((Arc::new(repeats), journal))
}

/// Chunks that were claimed. What is not reported as stored is free again when this is dropped.
pub(crate) struct Claimed<'a> {
    repeats: &'a Repeats,
    chunks: Vec<Fingerprint>,
}

impl Claimed<'_> {
    pub(crate) fn stored(mut self, seq: Seq, received_ns: i64) {
        let chunks = std::mem::take(&mut self.chunks);
        self.repeats.lock().stored(seq, &chunks, seconds(received_ns));
        self.repeats.settled.notify_waiters();
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if !self.chunks.is_empty() {
            self.repeats.lock().release(&self.chunks);
            self.repeats.settled.notify_waiters();
        }
    }
}

impl Repeats {
    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the chunks of one batch; what is [`Claim::Mine`] is held by the guard.
    pub(crate) fn claim(&self, chunks: &[Fingerprint]) -> (Vec<Claim>, Claimed<'_>) {
        let claims = self.lock().claim(chunks);
        let mine = claims.iter().zip(chunks).filter(|(claim, _)| **claim == Claim::Mine);
        let chunks = mine.map(|(_, chunk)| *chunk).collect();
        (claims, Claimed { repeats: self, chunks })
    }

    /// Waits until something that was pending is settled, whichever it is: claim again then. Made before the
    /// claim, so that nothing is missed.
    pub(crate) fn settled(&self) -> tokio::sync::futures::Notified<'_> {
        self.settled.notified()
    }

    /// The log has grown.
    pub(crate) fn appended(&self, bytes: u64) {
        let before = self.grown.fetch_add(bytes, Ordering::Relaxed);
        if before < SAVE_BYTES && before + bytes >= SAVE_BYTES {
            self.much.notify_one();
        }
    }

    /// The batch that holds this chunk.
    pub(crate) fn seq_of(&self, chunk: &Fingerprint) -> Option<Seq> {
        self.lock().seq_of(chunk)
    }

    /// These chunks, those of them that the log took lately with their batches.
    pub(crate) fn find(&self, chunks: &[Fingerprint]) -> Vec<(Fingerprint, Option<Seq>)> {
        let recent = self.lock();
        chunks.iter().map(|chunk| (*chunk, recent.seq_of(chunk))).collect()
    }

    /// The log holds this batch; gives its chunks.
    pub(crate) fn note(&self, seq: Seq, header: &BatchHeader) -> Vec<Fingerprint> {
        let chunks = header.fingerprints();
        self.lock().note(seq, &chunks, seconds(header.received_ns));
        chunks
    }

    /// These batches left the log, and no store has them.
    pub(crate) fn drop_batches(&self, seqs: &SeqRanges) {
        self.lock().drop_batches(seqs);
    }

    /// Goes on with another window; says whether it is another.
    pub(crate) fn set_bounds(&self, bounds: RecentBounds) -> bool {
        self.lock().set_bounds(bounds)
    }

    /// The part of `done` that may be trimmed.
    pub(crate) fn trimmable(&self, done: &SeqRanges) -> SeqRanges {
        self.lock().trimmable(done)
    }
}

/// Writes what is new beside the log, so often or when it is much, until told to stop; then once more.
pub(crate) async fn keep_saved(
    group: GroupId,
    repeats: Arc<Repeats>,
    journal: Journal,
    every: Duration,
    stop: CancellationToken,
) {
    let mut next = Instant::now() + every;
    let mut failed = false;
    loop {
        let stopping = tokio::select! {
            () = tokio::time::sleep_until(next) => false,
            () = repeats.much.notified() => false,
            () = stop.cancelled() => true,
        };
        next = Instant::now() + every;
        repeats.grown.store(0, Ordering::Relaxed);
        let (records, bytes) = {
            let mut recent = repeats.lock();
            recent.tick(now());
            names::RECENT_CHUNKS.with([group.as_str()]).set(recent.len() as f64);
            (recent.unsaved(), recent.snapshot_bytes())
        };
        if !records.is_empty() {
            let records: Vec<Bytes> = records.into_iter().map(|record| record.encode()).collect();
            let outcome = match journal.append(records).await {
                // A full disk must not keep the log from being trimmed, which is what will make room.
                Ok(()) if journal.bytes() > FILE_BYTES.max(REWRITE_AT * bytes) => {
                    let snapshot = repeats.lock().snapshot();
                    journal.rewrite(snapshot.into_iter().map(|record| record.encode()).collect()).await
                }
                other => other,
            };
            repeats.lock().saved();
            if let Err(error) = outcome
                && !std::mem::replace(&mut failed, !matches!(error, JournalError::DiskFull))
            {
                error!(%group, %error, "recent chunks cannot be written: after a restart of this edge, retries of them would be stored again");
            }
        }
        if stopping {
            break;
        }
    }
    journal.close().await;
}

/// Seconds since 1970 of a header's time.
fn seconds(received_ns: i64) -> u32 {
    u32::try_from(received_ns / 1_000_000_000).unwrap_or(0)
}

fn now() -> u32 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use weir_spool::Options;

    use super::*;

    // As long as nothing but its size tells that it is time.
    #[tokio::test]
    async fn what_is_new_is_written_as_soon_as_it_is_much() {
        let dir = tempfile::tempdir().unwrap();
        let (log, recovery) = GroupLog::open(dir.path(), Options::default()).unwrap();
        let bounds = RecentBounds::default();
        let (repeats, journal) =
            open(dir.path(), &log, &recovery, &Recovered::default(), bounds).ok().unwrap();
        let (stop, never) = (CancellationToken::new(), Duration::from_secs(3600));
        let group = GroupId::new("g").unwrap();
        let saver = tokio::spawn(keep_saved(group, repeats.clone(), journal, never, stop.clone()));
        let all = |end: u64| SeqRanges::from_iter((0..end).map(Seq));
        let saved = async |end: u64| {
            let began = Instant::now();
            while repeats.trimmable(&all(end)) != all(end) {
                assert!(began.elapsed() < Duration::from_secs(30), "not saved");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // More than once, so that the count begins anew.
        for seq in 0..3 {
            repeats.lock().note(Seq(seq), &[Fingerprint(seq, 1)], 0);
            repeats.appended(SAVE_BYTES / 2);
            tokio::task::yield_now().await;
            assert_eq!(repeats.trimmable(&all(seq + 1)), all(seq), "it is not much yet");
            repeats.appended(SAVE_BYTES / 2);
            saved(seq + 1).await;
        }
        stop.cancel();
        saver.await.unwrap();
    }
}
