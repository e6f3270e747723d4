//! Quota, trimming, full disks, failing disks, and what opening costs.

use std::sync::atomic::Ordering;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::sim::{Counting, Keep};
use crate::{AppendError, OsDisk};

#[test]
fn the_quota_refuses_and_a_trim_makes_room() {
    let disk = FaultyDisk::new();
    let options = Options { quota_bytes: 16_000, ..small() };
    let (mut log, _) = open(&disk, options);
    let mut n = 0;
    let refused = loop {
        match log.append(&[numbered(n, 200)], n) {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
        log.sync().unwrap();
    };
    assert!(matches!(refused, AppendError::Full { bytes, quota: 16_000 } if bytes > 15_500), "{refused}");
    assert!(log.depth().bytes <= 16_000);
    trim(&mut log, &range(0..n / 2), 0).unwrap();
    fill(&mut log, n..n + 5, 200);
    let (found, _) = contents(&log);
    assert!((n / 2..n + 5).all(|seq| found.contains_key(&seq)));
    assert!(log.depth().first > Seq(0) && log.depth().first <= Seq(n / 2));
}

#[test]
fn a_log_that_is_done_gives_its_last_segment_back_too() {
    for prepared in [false, true] {
        let disk = FaultyDisk::new();
        let (mut log, _) = open(&disk, small());
        fill(&mut log, 0..20, 100);
        if prepared {
            prepare(&log).unwrap();
        }
        trim(&mut log, &range(0..20), 0).unwrap();
        let depth = log.depth();
        assert_eq!((depth.records, depth.first, depth.next, depth.oldest_ns), (0, Seq(20), Seq(20), None));
        // The number lives on in the new segment's name, or in its header.
        assert_eq!(open(&disk.after_crash(Keep::Nothing), small()).1.next, Seq(20));
        assert_eq!(open(&disk, small()).1.next, Seq(20));
    }
}

#[test]
fn a_segment_stays_until_its_successor_is_on_the_disk() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..14, 100);
    prepare(&log).unwrap();
    // Begins a segment, and is not synced yet: beside it all that is older is let go of.
    log.append(&[numbered(14, 100)], 0).unwrap();
    assert_eq!(log.depth().next, Seq(14));
    disk.record_history();
    Sweeper::new(Arc::clone(log.catalog()), 0).trim(&range(0..14)).unwrap();
    for (state, seed) in
        disk.history().iter().chain([&disk]).flat_map(|state| (0..300).map(move |n| (state, n)))
    {
        let crashed = state.copy();
        crashed.crash(&mut SmallRng::seed_from_u64(seed));
        let opened = Log::open(&Arc::new(crashed), Path::new(DIR), small(), Incarnation(8), 0).unwrap();
        assert_eq!(opened.1.incarnation, Incarnation(7), "it has no segment any more");
        assert!((Seq(14)..=Seq(15)).contains(&opened.1.next), "{}", opened.1.next);
    }
    log.sync().unwrap();
    Sweeper::new(Arc::clone(log.catalog()), 0).trim(&range(0..14)).unwrap();
    assert_eq!(log.depth().first, Seq(14));
}

#[test]
fn segments_inside_the_committed_set_go_and_others_stay() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..60, 100);
    let segments = log.catalog().finished();
    let middle = &segments[1];
    trim(&mut log, &range(1..middle.segment.end), 0).unwrap();
    let (found, damaged) = contents(&log);
    assert!(damaged.is_empty());
    assert!(!found.contains_key(&middle.first) && found.contains_key(&0));
    assert_eq!(found.len() as u64, 60 - (middle.segment.end - middle.first));
    let (log, recovery) = open(&disk, small());
    assert_eq!((recovery.first, recovery.next), (Seq(0), Seq(60)));
    assert_eq!(contents(&log).0, found);
}

#[test]
fn a_full_disk_refuses_undoes_and_recovers() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..20, 100);
    // Room for half a record: the write begins and cannot end.
    disk.set_capacity(Some(disk.used_bytes() + 50));
    let before = disk.files();
    for _ in 0..3 {
        assert!(matches!(log.append(&[numbered(20, 100)], 0), Err(AppendError::DiskFull)));
    }
    assert_eq!(disk.files(), before, "nothing of the refused record stays");
    trim(&mut log, &range(0..14), 0).unwrap();
    fill(&mut log, 20..25, 100);
    let (log, recovery) = open(&disk, small());
    assert_eq!((recovery.next, recovery.torn_bytes), (Seq(25), 0));
    assert!(contents(&log).1.is_empty());
}

#[test]
fn a_failed_write_is_undone() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..3, 100);
    disk.fail_write_in(0);
    assert!(matches!(log.append(&[numbered(9, 100), numbered(9, 100)], 0), Err(AppendError::Io(_))));
    fill(&mut log, 3..5, 100);
    let (found, damaged) = contents(&log);
    assert_eq!((found.len(), damaged.is_empty()), (5, true));
    assert!(!found.values().any(|(header, _)| header == "h9"));
}

#[test]
fn a_disk_that_takes_no_new_segment_poisons_until_reopened() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    let mut n = 0;
    let refused = loop {
        disk.heal();
        // Of an append that begins a segment the first write is the seal of the last one.
        disk.fail_write_in(1);
        match log.append(&[numbered(n, 100)], 0) {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
        log.sync().unwrap();
    };
    assert!(matches!(refused, AppendError::Poisoned), "{refused}");
    disk.heal();
    assert!(matches!(log.append(&[numbered(n, 100)], 0), Err(AppendError::Poisoned)));
    drop(log);
    assert_eq!(open(&disk, small()).1.next, Seq(n));
}

#[test]
fn a_refused_record_does_not_come_back() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..3, 100);
    // Half of two records is one whole record.
    disk.fail_write_in(0);
    assert!(matches!(log.append(&[numbered(3, 100), numbered(4, 100)], 0), Err(AppendError::Io(_))));
    for operations in 0..=disk.pending().len() {
        let crashed = disk.after_crash(Keep::Prefix { operations, bytes: 0 });
        assert_eq!(open(&crashed, small()).1.next, Seq(3));
    }
    // Where that cannot be promised, nothing more is.
    disk.fail_write_in(0);
    disk.fail_sync_in(0);
    assert!(matches!(log.append(&[numbered(3, 100)], 0), Err(AppendError::Poisoned)));
    assert!(matches!(log.append(&[numbered(3, 100)], 0), Err(AppendError::Poisoned)));
}

#[test]
fn a_failed_sync_poisons_until_reopened() {
    for at in 0..3 {
        let disk = FaultyDisk::new();
        let (mut log, _) = open(&disk, small());
        fill(&mut log, 0..11, 100);
        // The roll's sync, the new segment's, its directory's.
        disk.fail_sync_in(at);
        let mut n = 11;
        let failed = loop {
            let failed = log.append(&[numbered(n, 100)], 0).is_err() || log.sync().is_err();
            if failed {
                break n;
            }
            n += 1;
        };
        assert!(matches!(log.append(&[numbered(n, 100)], 0), Err(AppendError::Poisoned)));
        assert!(log.sync().is_err());
        // Readers see what was durable, no more.
        assert_eq!(contents(&log).0.len() as u64, failed);
        // The cache shows the lost bytes; reopened, the log must not believe it.
        let (mut log, recovery) = open(&disk, small());
        assert!(recovery.next.0 >= failed);
        let next = recovery.next.0;
        fill(&mut log, next..next + 1, 100);
        let crashed = disk.after_crash(Keep::Nothing);
        let (log, recovery) = open(&crashed, small());
        assert_eq!((recovery.next, contents(&log).0.len() as u64), (Seq(next + 1), next + 1));
    }
}

#[test]
fn a_prepared_file_spares_a_roll_its_syncs() {
    // Header, name and records, or all at once.
    for (prepared, syncs_of_a_roll) in [(false, 3), (true, 1)] {
        let disk = Counting::new(FaultyDisk::new());
        let opened = Log::open(&Arc::new(disk.clone()), Path::new(DIR), small(), Incarnation(7), 0);
        let (mut log, counts) = (opened.unwrap().0, disk.counts());
        let mut most = 0;
        for n in 0..60 {
            if prepared {
                Sweeper::new(Arc::clone(log.catalog()), 0).prepare().unwrap();
            }
            let before = counts.syncs.load(Ordering::Relaxed);
            log.append(&[numbered(n, 100)], n).unwrap();
            log.sync().unwrap();
            most = most.max(counts.syncs.load(Ordering::Relaxed) - before);
        }
        assert!(log.catalog().finished().len() >= 3);
        assert_eq!(most, syncs_of_a_roll);
    }
}

#[test]
fn oversized_records_are_refused() {
    let (mut log, _) = open(&FaultyDisk::new(), Options { quota_bytes: 10_000, ..small() });
    let long = record("", vec![0; 10_001]);
    assert!(matches!(log.append(&[long], 0), Err(AppendError::TooLarge { bytes: 10_001, limit: 10_000 })));
}

#[test]
fn ten_gibibytes_open_by_a_few_bytes_per_segment() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Counting::new(OsDisk);
    let open = |disk: &Counting<OsDisk>| {
        let options = Options { quota_bytes: 1 << 40, reserve_bytes: 0, ..Options::default() };
        Log::open(&Arc::new(disk.clone()), dir.path(), options, Incarnation(7), 0).unwrap()
    };
    // 160 sealed segments of 64 MiB each, all holes but for header, one record and seal.
    let segments = 160;
    let (log, _) = open(&disk);
    let catalog = log.catalog();
    for first in 1..=segments {
        let mut tail = crate::open::begin_segment(catalog, first, 0).ok().unwrap();
        tail.append(&[numbered(first, 8)], first, 5).unwrap();
        tail.end = 64 << 20;
        tail.seal(0).unwrap();
    }
    // As a closed log ends.
    crate::open::begin_segment(catalog, segments + 1, 0).ok().unwrap();
    drop(log);
    std::fs::remove_file(dir.path().join("00000000000000000000.seg")).unwrap();

    let disk = Counting::new(OsDisk);
    let (log, recovery) = open(&disk);
    assert_eq!((recovery.first, recovery.next), (Seq(1), Seq(segments + 1)));
    assert!(log.depth().bytes >= 10 << 30, "{} bytes", log.depth().bytes);
    let read = disk.counts().read_bytes.load(Ordering::Relaxed);
    assert!(read < segments * 300, "{read} bytes were read");
}
