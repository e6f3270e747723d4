//! The handle for async callers: shared syncs, readers behind what is durable, the lock, closing.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;

use super::*;
use crate::sim::Counting;
use crate::{AppendError, GroupLog, OpenError};

fn on(disk: &FaultyDisk) -> GroupLog<FaultyDisk> {
    GroupLog::open_on(disk.clone(), Path::new(DIR), small()).unwrap().0
}

fn payload(n: u64) -> Bytes {
    Bytes::from(n.to_be_bytes().to_vec())
}

#[tokio::test]
async fn appends_that_wait_share_a_sync() {
    let disk = FaultyDisk::new();
    let counting = Counting::new(disk.clone());
    let (log, _) = GroupLog::open_on(counting.clone(), Path::new(DIR), small()).unwrap();
    let counts = counting.counts();
    let before = counts.syncs.load(Ordering::Relaxed);
    disk.hold_syncs();
    let appends = join_all((0..32).map(|n| log.append(Bytes::new(), payload(n))));
    // Polled behind the appends, when all of them are in the queue.
    let release = async { disk.release_syncs() };
    let (seqs, ()) = futures_util::join!(appends, release);
    let syncs = counts.syncs.load(Ordering::Relaxed) - before;
    assert!(syncs <= 3, "{syncs} syncs for 32 appends");
    let seqs: Vec<_> = seqs.into_iter().map(|seq| seq.unwrap().0).collect();
    assert_eq!(seqs, (0..32).collect::<Vec<_>>(), "in the order of the calls");
    assert_eq!(*log.durable().borrow(), Seq(32));
}

#[tokio::test]
async fn nothing_is_answered_or_read_before_the_sync() {
    let disk = FaultyDisk::new();
    let log = on(&disk);
    log.append(Bytes::new(), payload(0)).await.unwrap();
    disk.hold_syncs();
    let append = tokio::spawn({
        let log = log.clone();
        async move { log.append(Bytes::new(), payload(1)).await }
    });
    // Written and not synced.
    while disk.pending().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut reader = log.reader(Seq(0));
    assert_eq!(drain(&mut reader, 1000).0.len(), 1);
    assert!(!append.is_finished());
    assert_eq!(*log.durable().borrow(), Seq(1));
    assert_eq!(log.fetch(&range(0..2)).unwrap().missing, range(1..2));
    disk.release_syncs();
    assert_eq!(append.await.unwrap().unwrap(), Seq(1));
    assert_eq!(drain(&mut reader, 1000).0.into_keys().collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_failed_sync_is_answered_to_all_who_waited() {
    let disk = FaultyDisk::new();
    let log = on(&disk);
    log.append(Bytes::new(), payload(0)).await.unwrap();
    disk.fail_sync_in(0);
    let answers = join_all((0..4).map(|n| log.append(Bytes::new(), payload(n)))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(AppendError::Poisoned))), "{answers:?}");
    assert_eq!(*log.durable().borrow(), Seq(1));
    assert_eq!(log.depth().records, 1);
}

#[tokio::test]
async fn a_full_log_refuses_in_order_and_takes_again_after_a_trim() {
    let disk = FaultyDisk::new();
    let options = Options { quota_bytes: 4_000, ..small() };
    let (log, _) = GroupLog::open_on(disk, Path::new(DIR), options).unwrap();
    // Two at a time: what one sync covers lies in one segment.
    let mut answers = Vec::new();
    for _ in 0..30 {
        answers.extend(join_all((0..2).map(|_| log.append(Bytes::new(), vec![0; 100].into()))).await);
    }
    let taken = answers.iter().take_while(|answer| answer.is_ok()).count();
    assert!((20..40).contains(&taken), "{taken}");
    assert!(answers[taken..].iter().all(|answer| matches!(answer, Err(AppendError::Full { .. }))));
    // What a policy may give up are whole segments, the oldest first.
    let finished = log.finished();
    let (first, bytes) = finished[0].clone();
    assert!(finished.len() > 2 && first.start == 0 && finished[1].0.start == first.end);
    let (told, tells) = tokio::sync::oneshot::channel();
    let before = log.depth();
    log.trim_and_tell(range(first.clone()), told);
    tells.await.unwrap();
    assert_eq!((log.depth().first, log.depth().bytes), (Seq(first.end), before.bytes - bytes));
    let (told, tells) = tokio::sync::oneshot::channel();
    log.trim_and_tell(range(0..taken as u64), told);
    tells.await.unwrap();
    assert_eq!(log.append(Bytes::new(), payload(0)).await.unwrap(), Seq(taken as u64));
}

#[tokio::test]
async fn a_sealed_segment_gives_its_pages_back() {
    let disk = Counting::new(FaultyDisk::new());
    let counts = disk.counts();
    let (log, _) = GroupLog::open_on(disk, Path::new(DIR), small()).unwrap();
    for n in 0..20 {
        log.append(payload(n), vec![0; 200].into()).await.unwrap();
    }
    let sealed: u64 = log.finished().iter().map(|(_, bytes)| bytes).sum();
    assert!(sealed > 2 * small().segment_bytes);
    // By another thread, which has ended when the log is closed.
    log.close().await;
    assert_eq!(counts.forgotten_bytes.load(Ordering::Relaxed), sealed);
}

#[tokio::test]
async fn a_segment_stays_for_the_reader_that_will_soon_want_it() {
    let disk = Counting::new(FaultyDisk::new());
    let counts = disk.counts();
    let (log, _) = GroupLog::open_on(disk, Path::new(DIR), small()).unwrap();
    let append_until_finished = async |segments: usize| {
        while log.finished().len() < segments {
            log.append(payload(0), vec![0; 200].into()).await.unwrap();
        }
        log.finished().into_iter().next_back().unwrap()
    };
    log.append(payload(0), vec![0; 200].into()).await.unwrap();
    assert_eq!(log.reader(Seq(0)).read(1).unwrap().len(), 1);
    let (_, first) = append_until_finished(1).await;
    // Nobody has read on.
    let (range, second) = append_until_finished(2).await;
    // This one passes both, and reads in the third.
    assert_eq!(log.reader(Seq(range.end)).read(1).unwrap().len(), 1);
    append_until_finished(3).await;
    log.close().await;
    assert_eq!(counts.forgotten_bytes.load(Ordering::Relaxed), first + second);
}

#[tokio::test]
async fn more_than_the_queue_holds_goes_through() {
    let options = Options { queue_bytes: 500, ..small() };
    let (log, _) = GroupLog::open_on(FaultyDisk::new(), Path::new(DIR), options).unwrap();
    let answers =
        join_all((0..50u64).map(|n| log.append(payload(n), vec![1; 300 * (n as usize % 3)].into()))).await;
    assert!(answers.iter().all(Result::is_ok));
    let (found, _) = drain(&mut log.reader(Seq(0)), 1000);
    assert_eq!(found.len(), 50);
}

#[tokio::test]
async fn closing_seals_and_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovery) = GroupLog::open(dir.path(), Options::default()).unwrap();
    for n in 0..10 {
        log.append(payload(n), Bytes::from(vec![7; 100_000])).await.unwrap();
    }
    let mut reader = log.reader(Seq(4));
    let refused = GroupLog::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    let other = log.clone();
    log.close().await;
    assert!(matches!(other.append(Bytes::new(), Bytes::new()).await, Err(AppendError::Closed)));
    assert_eq!(drain(&mut reader, 250_000).0.len(), 6);

    let (log, again) = GroupLog::open(dir.path(), Options::default()).unwrap();
    assert_eq!((again.incarnation, again.first, again.next), (recovery.incarnation, Seq(0), Seq(10)));
    let (found, damaged) = drain(&mut log.reader(Seq(0)), 1 << 20);
    assert!(damaged.is_empty() && (0..10).all(|n| found[&n].0 == payload(n)));
    let report = crate::inspect::verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.records, report.bytes), (10, 10 * 100_008));
    // The last handle's end is an end as well.
    drop(log);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while let Err(error) = GroupLog::open(dir.path(), Options::default()) {
        assert!(std::time::Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_follow_writers_through_rolls_and_trims() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 20_000, ..Options::default() };
    let (log, _) = GroupLog::open(dir.path(), options).unwrap();
    let writers = (0..4u8).map(|writer| {
        let log = log.clone();
        tokio::spawn(async move {
            for n in 0..100u32 {
                let header = Bytes::from(vec![writer, n as u8]);
                log.append(header, vec![writer; 10 + (n as usize * 37) % 2000].into()).await.unwrap();
            }
        })
    });
    let reading = tokio::task::spawn_blocking({
        let log = log.clone();
        move || {
            let mut reader = log.reader(Seq(0));
            let mut last = [None; 4];
            let mut count = 0u64;
            while count < 400 {
                let durable = log.durable();
                for stored in reader.read(5_000).unwrap() {
                    assert_eq!(stored.seq, Seq(count));
                    assert!(stored.seq < log.depth().next);
                    let writer = stored.header[0];
                    assert!(stored.payload.iter().all(|&byte| byte == writer));
                    assert!(last[writer as usize].replace(stored.header[1]) < Some(stored.header[1]));
                    count += 1;
                }
                log.trim(range(0..count));
                if *durable.borrow() == Seq(count) {
                    std::thread::yield_now();
                }
            }
            assert!(reader.take_damaged().is_empty());
        }
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    reading.await.unwrap();
    // Asked behind the trims, so they are done.
    let (told, tells) = tokio::sync::oneshot::channel();
    log.trim_and_tell(range(0..400), told);
    tells.await.unwrap();
    assert!(log.depth().first >= Seq(350), "{:?}", log.depth());
}

#[tokio::test]
async fn the_next_file_is_made_ready_beside_the_log() {
    let disk = FaultyDisk::new();
    let log = on(&disk);
    let next = Path::new(DIR).join("next.seg");
    for n in 0.. {
        log.append(Bytes::new(), vec![0; 300].into()).await.unwrap();
        // Segments end at 2000 bytes: one was begun, and two that the second thread made ready.
        if n > 20 && disk.files().contains_key(&next) {
            break;
        }
        assert!(n < 10_000, "no file is made ready");
        tokio::task::yield_now().await;
    }
    log.close().await;
    assert!(!disk.files().contains_key(&next), "an empty file was left behind");
}
