//! The journal: replay, rewrites, room of its own on a full disk.

use super::*;
use crate::{Journal, JournalError, JournalFile, Replay};

fn open_file(disk: &FaultyDisk) -> (JournalFile<FaultyDisk>, Replay) {
    JournalFile::open(&Arc::new(disk.clone()), Path::new(DIR), "edge", 5, 0).unwrap()
}

fn texts<const N: usize>(all: [&'static str; N]) -> Vec<Bytes> {
    all.map(Bytes::from).to_vec()
}

#[tokio::test]
async fn what_was_answered_is_replayed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, replay) = Journal::open(dir.path(), "edge").unwrap();
    assert_eq!(replay, Replay::default());
    journal.append(texts(["a", "b"])).await.unwrap();
    let (first, second) = futures_util::join!(journal.append(texts(["c"])), journal.append(texts(["", "d"])));
    first.and(second).unwrap();
    let grown = journal.bytes();
    journal.clone().close().await;
    assert!(matches!(journal.append(texts(["e"])).await, Err(JournalError::Closed)));

    let (journal, replay) = Journal::open(dir.path(), "edge").unwrap();
    assert_eq!(replay.records, texts(["a", "b", "c", "", "d"]));
    let (_, last) = futures_util::join!(journal.rewrite(texts(["snapshot"])), journal.append(texts(["f"])));
    last.unwrap();
    assert!(journal.bytes() < grown);
    journal.close().await;
    let (_journal, replay) = Journal::open(dir.path(), "edge").unwrap();
    assert_eq!(replay, Replay { records: texts(["snapshot", "f"]), ..Replay::default() });
}

#[test]
fn it_is_written_and_rewritten_on_a_full_disk() {
    let disk = FaultyDisk::new();
    let (mut journal, _) = open_file(&disk);
    disk.set_capacity(Some(disk.used_bytes()));
    let record = vec![Bytes::from(vec![1; 1000])];
    for _ in 0..900 {
        journal.append(&record, 0).unwrap();
    }
    journal.rewrite(&record, 0).unwrap();
    for _ in 0..900 {
        journal.append(&record, 0).unwrap();
    }
    journal.rewrite(&record, 0).unwrap();
    // The rewrites gave back what they replaced, so it can go on for ever; what is more than it took ahead
    // is refused, and nothing is lost by that.
    let refused = loop {
        if let Err(error) = journal.append(&record, 0) {
            break error;
        }
    };
    assert!(matches!(refused, JournalError::DiskFull), "{refused}");
    journal.rewrite(&texts(["a", "b"]), 0).unwrap();
    journal.append(&texts(["c"]), 0).unwrap();
    assert_eq!(open_file(&disk).1.records, texts(["a", "b", "c"]));
}

#[test]
fn a_failed_rewrite_leaves_what_was_there() {
    let disk = FaultyDisk::new();
    let (mut journal, _) = open_file(&disk);
    journal.append(&texts(["a", "b"]), 0).unwrap();
    disk.fail_write_in(1);
    assert!(matches!(journal.rewrite(&texts(["x"]), 0), Err(JournalError::Io(_))));
    disk.fail_sync_in(0);
    assert!(journal.rewrite(&texts(["x"]), 0).is_err());
    journal.append(&texts(["c"]), 0).unwrap();
    journal.rewrite(&texts(["y"]), 0).unwrap();
    journal.append(&texts(["z"]), 0).unwrap();
    let crashed = disk.after_crash(crate::sim::Keep::Nothing);
    assert_eq!(open_file(&crashed).1.records, texts(["y", "z"]));
}

#[test]
fn a_failed_sync_poisons_it() {
    let disk = FaultyDisk::new();
    let (mut journal, _) = open_file(&disk);
    disk.fail_sync_in(0);
    assert!(matches!(journal.append(&texts(["a"]), 0), Err(JournalError::Poisoned)));
    assert!(matches!(journal.append(&texts(["b"]), 0), Err(JournalError::Poisoned)));
    assert!(matches!(journal.rewrite(&texts(["b"]), 0), Err(JournalError::Poisoned)));
}

#[test]
fn damage_is_counted_and_the_rest_replayed() {
    let disk = FaultyDisk::new();
    let (mut journal, _) = open_file(&disk);
    for text in ["a", "b", "c"] {
        journal.append(&texts([text]), 0).unwrap();
    }
    disk.flip_bit(&Path::new(DIR).join("edge.journal"), (44 + 45 + 44) * 8);
    let replay = open_file(&disk).1;
    assert_eq!(replay, Replay { records: texts(["a", "c"]), damaged: 1, torn_bytes: 0 });
}
