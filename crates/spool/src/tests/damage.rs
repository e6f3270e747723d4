//! What reading and opening make of bytes that the disk has spoilt.

use super::*;
use crate::inspect::{self, Item};
use crate::{DiskFile, OsDisk};

/// Where record `n` of a fixed layout begins: 44 bytes of file header, records of equal length.
fn place(n: u64, frame: u64) -> u64 {
    44 + n * frame
}

#[test]
fn a_damaged_body_costs_one_record() {
    check_flip(44 + 3 + 5, 3..4);
}

#[test]
fn a_damaged_length_costs_one_record() {
    check_flip(4, 3..4);
}

#[test]
fn a_damaged_magic_costs_one_record() {
    check_flip(0, 3..4);
}

fn check_flip(byte_in_frame: u64, lost: std::ops::Range<u64>) {
    for reopen in [false, true] {
        let disk = FaultyDisk::new();
        let (mut log, _) = open(&disk, small());
        let frame = numbered(3, 100).frame_bytes();
        fill(&mut log, 0..9, 100);
        let segment = Path::new(DIR).join("00000000000000000000.seg");
        disk.flip_bit(&segment, (place(3, frame) + byte_in_frame) * 8 + 1);
        if reopen {
            let (reopened, recovery) = open(&disk, small());
            assert_eq!(recovery.damaged, range(lost.clone()));
            assert_eq!((recovery.next, recovery.torn_bytes), (Seq(9), 0));
            log = reopened;
        }
        let (found, damaged) = contents(&log);
        assert_eq!(damaged, range(lost.clone()));
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6, 7, 8]);
        // It can still be appended to, and the damage stays the same.
        fill(&mut log, 9..12, 100);
        assert_eq!(contents(&log).1, range(lost.clone()));
        let fetched = log.fetch(&range(2..5)).unwrap();
        assert_eq!(fetched.records.iter().map(|r| r.seq.0).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(fetched.missing, range(lost.clone()));
    }
}

#[test]
fn an_unreadable_sector_costs_its_records() {
    let disk = FaultyDisk::new();
    let options = Options { segment_bytes: 60_000, ..small() };
    let (mut log, _) = open(&disk, options.clone());
    fill(&mut log, 0..40, 1000);
    let segment = Path::new(DIR).join("00000000000000000000.seg");
    disk.make_unreadable(&segment, 8192..8192 + 4096);
    let frame = numbered(30, 1000).frame_bytes();
    // A page of 4096 bytes is given up, and whatever record touches it.
    let lost = range((8192 - 44) / frame..(8192 + 4096 - 44) / frame + 1);
    assert_eq!(contents(&log).1, lost);
    let (log, recovery) = open(&disk, options);
    assert_eq!(recovery.damaged, lost);
    assert_eq!(contents(&log).0.len() as u64, 40 - lost.len());
}

#[test]
fn a_read_that_fails_costs_nothing_wherever_it_strikes() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, Options { segment_bytes: 4 << 20, quota_bytes: 64 << 20, ..small() });
    // Several blocks for each call, and several segments.
    fill(&mut log, 0..100, 100_000);
    for good in 0..60 {
        disk.fail_read_in(good);
        let (mut reader, mut failed) = (log.reader(Seq(0)), false);
        let mut found = Vec::new();
        loop {
            match reader.read(1 << 20) {
                Ok(records) if records.is_empty() => break,
                Ok(records) => found.extend(records.iter().map(|record| record.seq.0)),
                Err(_) => failed = true,
            }
        }
        assert_eq!(found, (0..100).collect::<Vec<_>>(), "the read after {good} failed");
        assert!(reader.take_damaged().is_empty(), "the read after {good} failed");
        assert!(failed || good > 0, "the first read has nothing to hand out");
        disk.heal();
    }
}

#[test]
fn damage_in_a_sealed_segment_is_found_when_read() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..60, 100);
    let segment = Path::new(DIR).join("00000000000000000000.seg");
    let seal_at_end = disk.files()[&segment].len() as u64 - 20;
    let frame = numbered(3, 100).frame_bytes();
    for (bit, lost) in [(seal_at_end * 8, None), (8, None), (place(5, frame) * 8, Some(5))] {
        disk.flip_bit(&segment, bit);
        let (log, recovery) = open(&disk, small());
        assert!(recovery.damaged.is_empty(), "opening reads no sealed segment");
        let (found, damaged) = contents(&log);
        assert_eq!(damaged, lost.into_iter().map(Seq).collect());
        assert_eq!(found.len(), 60 - lost.iter().len());
        // From the middle, by the index or without it.
        assert_eq!(drain(&mut log.reader(Seq(11)), 300).0.len(), 49);
    }
}

#[test]
fn a_removed_segment_is_reported_and_passed() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..60, 100);
    let second = log.catalog().finished()[1].clone();
    disk.remove(&log.catalog().path(second.first)).unwrap();
    let (found, damaged) = contents(&log);
    assert_eq!(damaged, range(second.first..second.segment.end));
    assert_eq!(found.len() as u64, 60 - damaged.len());
}

#[test]
fn what_is_trimmed_under_a_reader_is_no_damage() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..60, 100);
    let view = log.catalog().finished()[0].clone();
    // One has the file open, the other is about to open it.
    let mut readers = [log.reader(Seq(0)), log.reader(Seq(0))];
    assert!(!readers[0].read(1).unwrap().is_empty() && readers[0].position().0 < view.segment.end);
    trim(&mut log, &range(0..view.segment.end), 0).unwrap();
    for reader in &mut readers {
        let mut found = Vec::new();
        reader.read_view(&view, u64::MAX, 1 << 20, &mut found).unwrap();
        assert!(found.len() < 5 && reader.position().0 == view.segment.end, "{found:?}");
        let (rest, damaged) = drain(reader, 300);
        assert!(damaged.is_empty(), "{damaged:?}");
        assert_eq!(rest.len() as u64, 60 - view.segment.end);
    }
}

#[test]
fn foreign_and_rotten_segments_are_set_aside() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..30, 100);
    drop(log);
    let last = Path::new(DIR).join("00000000000000000099.seg");
    let file = disk.create(&last).unwrap();
    crate::DiskFile::write_at(&file, &mut [std::io::IoSlice::new(&[0x5a; 500])], 0).unwrap();
    let (mut log, recovery) = open(&disk, small());
    assert_eq!(recovery.set_aside, ["00000000000000000099.seg.damaged"]);
    // Whatever it was, its numbers may have been used.
    assert_eq!(recovery.next, Seq(99));
    log.append(&[numbered(99, 10)], 0).unwrap();
    log.sync().unwrap();
    assert_eq!(contents(&log).0.len(), 31);
    assert_eq!(open(&disk, small()).1.incarnation, Incarnation(7));
}

#[test]
fn an_emptied_directory_is_a_new_log() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..3, 10);
    disk.remove(&Path::new(DIR).join("00000000000000000000.seg")).unwrap();
    let fresh = Incarnation(8);
    let opened = Log::open(&Arc::new(disk.clone()), Path::new(DIR), small(), fresh, 0).unwrap();
    assert_eq!((opened.1.incarnation, opened.1.next), (fresh, Seq(0)));
    drop(opened);
    assert_eq!(open(&disk, small()).1.incarnation, fresh);
}

#[test]
fn identity_survives_the_loss_of_either_copy() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..3, 10);
    for name in ["log.meta", "00000000000000000000.seg"] {
        disk.flip_bit(&Path::new(DIR).join(name), 90);
        let opened = Log::open(&Arc::new(disk.clone()), Path::new(DIR), small(), Incarnation(8), 0).unwrap();
        assert_eq!((opened.1.incarnation, opened.1.next), (Incarnation(7), Seq(3)), "{name}");
        assert_eq!(contents(&opened.0).0.len(), 3);
    }
}

#[test]
fn numbers_that_were_told_are_not_used_again() {
    let disk = FaultyDisk::new();
    let (mut log, _) = open(&disk, small());
    fill(&mut log, 0..3, 100);
    let frame = numbered(0, 100).frame_bytes();
    // The last record rots: nothing in the log proves that it was ever there.
    disk.flip_bit(&Path::new(DIR).join("00000000000000000000.seg"), (place(2, frame) + 60) * 8);
    let told = Options { next_at_least: Seq(3), ..small() };
    let (mut log, recovery) = open(&disk, told.clone());
    assert_eq!((recovery.next, recovery.torn_bytes), (Seq(3), frame));
    assert_eq!(recovery.damaged, range(2..3));
    fill(&mut log, 3..6, 100);
    let (found, damaged) = contents(&log);
    assert_eq!((found.len(), damaged), (5, range(2..3)));
    let (log, recovery) = open(&disk, told);
    assert_eq!((recovery.next, recovery.damaged), (Seq(6), range(2..3)));
    assert_eq!(contents(&log).0.len(), 5);
}

#[test]
fn a_segment_that_is_trimmed_while_it_is_inspected_is_no_damage() {
    for (trimmed, damaged) in [(true, false), (false, true)] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 4 << 20, quota_bytes: 64 << 20, ..small() };
        let (mut log, _) = Log::open(&Arc::new(OsDisk), dir.path(), options, Incarnation(1), 0).unwrap();
        for n in 0..60 {
            log.append(&[numbered(n, 100_000)], n).unwrap();
        }
        log.sync().unwrap();
        let (mut seen, mut places) = (0, 0);
        inspect::visit(dir.path(), Seq(0), |segment, item| {
            match item {
                Item::Record { record, .. } => {
                    seen += 1;
                    if record.seq == Seq(0) {
                        // As a trim does: the name first, then the bytes. Or as some other hand would.
                        let file = OsDisk.open(&segment.path).unwrap();
                        if trimmed {
                            OsDisk.remove(&segment.path).unwrap();
                        }
                        file.truncate(200).unwrap();
                    }
                }
                Item::Damage { .. } | Item::Unfinished { .. } => places += 1,
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(places > 0, damaged, "{places} places, trimmed: {trimmed}");
        assert!((20..60).contains(&seen), "the first block and the second segment: {seen}");
    }
}

#[test]
fn a_record_that_is_there_again_is_shown_once_and_as_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(&Arc::new(OsDisk), dir.path(), small(), Incarnation(1), 0).unwrap();
    for n in 0..3 {
        log.append(&[numbered(n, 100)], n).unwrap();
    }
    log.sync().unwrap();
    let frame = numbered(0, 100).frame_bytes();
    let file = OsDisk.open(&dir.path().join("00000000000000000000.seg")).unwrap();
    // The first one in the third one's place, and in the place behind it.
    let first = file.read_block(usize::try_from(frame).unwrap(), place(0, frame)).unwrap();
    file.truncate(place(2, frame)).unwrap();
    let twice = &mut [std::io::IoSlice::new(&first), std::io::IoSlice::new(&first)];
    file.write_at(twice, place(2, frame)).unwrap();
    for from in [0, 1] {
        let (mut seen, mut damage) = (Vec::new(), Vec::new());
        inspect::visit(dir.path(), Seq(from), |_, item| {
            match item {
                Item::Record { record, .. } => seen.push(record.seq.0),
                Item::Damage { at, seq } => damage.push((at, seq)),
                Item::Unfinished { at } => panic!("{at:?}"),
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen, Vec::from_iter(from..2));
        let again = |n| (place(n, frame)..place(n + 1, frame), Some(Seq(0)));
        assert_eq!(damage, [again(2), again(3)]);
    }
}
