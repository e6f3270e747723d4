//! Keeps the journal of promises beside a group log: records in order, durable before anybody is told.
//!
//! Left out on purpose: what the records mean, and when the journal is long enough for a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::error;

use weir_spool::{Journal, JournalError};

use crate::ship::Input;

/// How often a journal looks whether a full disk has room again.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// What the journal of promises is to do.
pub(crate) enum JournalJob {
    /// Put this record behind the others.
    Append(Bytes),
    /// Put this snapshot in the place of all records that were handed in before it.
    Rewrite(Vec<Bytes>),
}

/// Appends in order; what waits together shares one sync. On a full disk records wait here, and a snapshot, which takes
/// the room kept for it, stands for all of them.
pub(crate) async fn keep_journal(
    journal: Journal,
    mut queue: mpsc::UnboundedReceiver<JournalJob>,
    inbox: mpsc::Sender<Input>,
    size: Arc<AtomicU64>,
) {
    let mut jobs = Vec::new();
    let mut records: Vec<Bytes> = Vec::new();
    loop {
        let got = queue.recv_many(&mut jobs, 1024);
        let patience = if records.is_empty() { Duration::MAX } else { FULL_RETRY };
        if let Ok(0) = tokio::time::timeout(patience, got).await {
            break;
        }
        let mut outcome = Ok(());
        let mut durable = 0;
        for job in jobs.drain(..) {
            match job {
                JournalJob::Append(record) => records.push(record),
                JournalJob::Rewrite(snapshot) => {
                    outcome = journal.rewrite(snapshot).await;
                    if outcome.is_ok() {
                        durable += std::mem::take(&mut records).len();
                    }
                }
            }
            if outcome.as_ref().is_err_and(|error| !matches!(error, JournalError::DiskFull)) {
                break;
            }
        }
        if !records.is_empty() && !matches!(outcome, Err(JournalError::Poisoned)) {
            outcome = journal.append(records.clone()).await;
            if outcome.is_ok() {
                durable += std::mem::take(&mut records).len();
            }
        }
        size.store(journal.bytes(), Ordering::Relaxed);
        let told = match outcome {
            Ok(()) => Ok(()),
            Err(JournalError::DiskFull) => {
                tokio::time::sleep(FULL_RETRY).await;
                inbox.send(Input::JournalFull).await
            }
            Err(error) => {
                error!(%error, "the journal cannot be written");
                inbox.send(Input::JournalFailed).await
            }
        };
        if told.is_err() || durable > 0 && inbox.send(Input::Journaled(durable)).await.is_err() {
            break;
        }
    }
    journal.close().await;
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weir_spool::sim::FaultyDisk;

    use super::*;

    const RECORDS: usize = 40;

    /// A journal on a disk that has no more room than the journal took ahead, and more records than go into that.
    /// Gives what was durable when the disk was full.
    async fn fill(disk: &FaultyDisk) -> (mpsc::UnboundedSender<JournalJob>, mpsc::Receiver<Input>, usize) {
        let dir = Path::new("/log");
        weir_spool::Disk::create_dir(disk, dir).unwrap();
        let (journal, _) = Journal::open_on(disk.clone(), dir, "promises").unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
        let (jobs, queue) = mpsc::unbounded_channel();
        let (inbox, mut inputs) = mpsc::channel(64);
        tokio::spawn(keep_journal(journal, queue, inbox, Arc::default()));
        let mut durable = 0;
        for _ in 0..RECORDS {
            jobs.send(JournalJob::Append(Bytes::from(vec![7; 64 << 10]))).unwrap();
            match inputs.recv().await.unwrap() {
                Input::Journaled(records) => durable += records,
                Input::JournalFull => break,
                _ => panic!("only a full disk is in its way"),
            }
        }
        assert!((1..RECORDS).contains(&durable), "{durable} of {RECORDS} were durable");
        (jobs, inputs, durable)
    }

    async fn until_durable(inputs: &mut mpsc::Receiver<Input>, wanted: usize) {
        let mut durable = 0;
        while durable < wanted {
            match inputs.recv().await.unwrap() {
                Input::Journaled(records) => durable += records,
                Input::JournalFull => {}
                _ => panic!("only a full disk is in its way"),
            }
        }
        assert_eq!(durable, wanted);
    }

    #[tokio::test]
    async fn on_a_full_disk_records_wait_for_room() {
        let disk = FaultyDisk::new();
        let (_jobs, mut inputs, _) = fill(&disk).await;
        disk.set_capacity(None);
        until_durable(&mut inputs, 1).await;
    }

    #[tokio::test]
    async fn on_a_full_disk_a_snapshot_stands_for_what_waits() {
        let disk = FaultyDisk::new();
        let (jobs, mut inputs, durable) = fill(&disk).await;
        jobs.send(JournalJob::Append(Bytes::from_static(b"another"))).unwrap();
        jobs.send(JournalJob::Rewrite(vec![Bytes::from_static(b"all of it")])).unwrap();
        jobs.send(JournalJob::Append(Bytes::from_static(b"later"))).unwrap();
        until_durable(&mut inputs, 3).await;
        let (_, replay) = Journal::open_on(disk.copy(), Path::new("/log"), "promises").unwrap();
        assert_eq!(replay.records, ["all of it", "later"], "after {durable} that were durable before");
    }

    #[tokio::test]
    async fn a_refused_sync_is_told_once_and_for_all() {
        let disk = FaultyDisk::new();
        let dir = Path::new("/log");
        weir_spool::Disk::create_dir(&disk, dir).unwrap();
        let (journal, _) = Journal::open_on(disk.clone(), dir, "promises").unwrap();
        let (jobs, queue) = mpsc::unbounded_channel();
        let (inbox, mut inputs) = mpsc::channel(64);
        tokio::spawn(keep_journal(journal, queue, inbox, Arc::default()));
        disk.fail_sync_in(0);
        jobs.send(JournalJob::Append(Bytes::from_static(b"a promise"))).unwrap();
        assert!(matches!(inputs.recv().await, Some(Input::JournalFailed)));
    }
}
