//! Bytes of format v1 that must open for ever, and that this code still writes.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::*;
use crate::inspect::{self, Item};
use crate::{JournalFile, OsDisk};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

/// The log and journal that stand in `golden/v1`: a sealed segment, and one that a crash left open.
fn write() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let options = Options { segment_bytes: 300, ..small() };
    let incarnation = Incarnation(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    let (mut log, _) =
        Log::open(&Arc::new(disk.clone()), Path::new(DIR), options, incarnation, 1_000_000_007).unwrap();
    for n in 0..6 {
        log.append(&[numbered(2 * n, 30), numbered(2 * n + 1, 0)], 1_000_000_100 + n).unwrap();
        log.sync().unwrap();
    }
    let (mut journal, _) =
        JournalFile::open(&Arc::new(disk.clone()), Path::new(DIR), "edge", 42, 1_000_000_007).unwrap();
    journal.append(&[Bytes::from_static(b"one"), Bytes::from_static(b"two")], 1_000_000_200).unwrap();
    disk
}

fn files(disk: &FaultyDisk) -> BTreeMap<String, Vec<u8>> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let files = disk.files();
    files.iter().map(|(path, bytes)| (name(path), bytes.clone())).filter(|(_, b)| !b.is_empty()).collect()
}

#[test]
fn v1_is_still_what_is_written() {
    let written = files(&write());
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(golden()).unwrap();
        for (name, bytes) in &written {
            std::fs::write(golden().join(name), bytes).unwrap();
        }
    }
    assert!(written.len() >= 4);
    for (name, bytes) in written {
        let golden = std::fs::read(golden().join(&name)).unwrap();
        assert!(bytes == golden, "{name} is written differently now");
    }
}

#[test]
fn v1_opens() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut seen = 0;
    inspect::visit(dir.path(), Seq(3), |_, item| {
        assert!(matches!(item, Item::Record { record, .. } if record.seq == Seq(3 + seen)));
        seen += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(seen, 9);
    let report = inspect::verify(dir.path()).unwrap();
    assert_eq!((report.records, report.is_sound()), (12, true));

    let opened = Log::open(&Arc::new(OsDisk), dir.path(), small(), Incarnation(1), 0).unwrap();
    assert_eq!(opened.1.incarnation.to_string(), "0123456789abcdef0123456789abcdef");
    assert_eq!((opened.1.first, opened.1.next, opened.1.torn_bytes), (Seq(0), Seq(12), 0));
    let (found, damaged) = contents(&opened.0);
    assert!(damaged.is_empty());
    for n in 0..12 {
        let expected = numbered(n, if n % 2 == 0 { 30 } else { 0 });
        assert_eq!(found[&n], (expected.header, expected.payload));
    }
    let (_, replay) = JournalFile::open(&Arc::new(OsDisk), dir.path(), "edge", 1, 0).unwrap();
    assert_eq!(replay.records, [&b"one"[..], b"two"]);
}

#[test]
fn a_later_version_is_refused_and_left_alone() {
    let disk = write();
    let meta = Path::new(DIR).join("log.meta");
    let mut header = disk.files()[&meta].clone();
    header[7] = 2;
    let crc = crc32c::crc32c(&header[..40]);
    header[40..].copy_from_slice(&crc.to_le_bytes());
    let file = disk.open(&meta).unwrap();
    crate::DiskFile::write_at(&file, &mut [std::io::IoSlice::new(&header)], 0).unwrap();
    let before = disk.files();
    let refused = Log::open(&Arc::new(disk.clone()), Path::new(DIR), small(), Incarnation(1), 0).unwrap_err();
    assert!(matches!(refused, crate::OpenError::Version { found: 2, .. }));
    assert_eq!(disk.files(), before);
}

#[test]
fn inspect_tells_damage_from_an_unfinished_end() {
    let dir = tempfile::tempdir().unwrap();
    for (name, mut bytes) in files(&write()) {
        if name == "00000000000000000000.seg" {
            bytes[44 + 44] ^= 1;
        } else if name.ends_with(".seg") {
            bytes.pop();
        }
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let report = inspect::verify(dir.path()).unwrap();
    assert_eq!((report.records, report.damage.len()), (10, 1));
    assert_eq!(report.missing, range(0..1));
    assert!(report.unfinished_bytes > 0 && !report.is_sound());
}

#[test]
fn inspect_sees_what_a_power_cut_leaves_of_a_roll() {
    let written = files(&write());
    let mut segments: Vec<_> = written.iter().filter(|(name, _)| name.ends_with(".seg")).collect();
    let (last, bytes) = segments.pop().unwrap();
    let (before, sealed) = segments.pop().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in &written {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    // The seal is torn, and the last segment's name is not there yet.
    std::fs::write(dir.path().join(before), &sealed[..sealed.len() - 9]).unwrap();
    std::fs::remove_file(dir.path().join(last)).unwrap();
    std::fs::write(dir.path().join("next.seg"), bytes).unwrap();
    let report = inspect::verify(dir.path()).unwrap();
    assert_eq!((report.records, report.is_sound()), (12, true), "{report:?}");
    assert!(report.unfinished_bytes > 0);

    let (log, recovery) = Log::open(&Arc::new(OsDisk), dir.path(), small(), Incarnation(1), 0).unwrap();
    assert_eq!((recovery.next, recovery.set_aside.len(), recovery.torn_bytes), (Seq(12), 0, 0));
    assert_eq!((contents(&log).0.len(), dir.path().join(last).exists()), (12, true));
}

#[test]
fn a_prepared_file_that_was_not_used_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files(&write()) {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    // Nothing; no header; the header of a segment that was begun elsewhere then.
    let header = &std::fs::read(dir.path().join("00000000000000000000.seg")).unwrap()[..44];
    for leftover in [b"", &[0; 300][..], header] {
        std::fs::write(dir.path().join("next.seg"), leftover).unwrap();
        assert_eq!(inspect::verify(dir.path()).unwrap().records, 12);
        let (log, recovery) = Log::open(&Arc::new(OsDisk), dir.path(), small(), Incarnation(1), 0).unwrap();
        assert_eq!((recovery.next, recovery.set_aside.len()), (Seq(12), 0));
        assert_eq!((contents(&log).0.len(), dir.path().join("next.seg").exists()), (12, false));
    }
}
