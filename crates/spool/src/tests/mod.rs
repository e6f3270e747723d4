//! Tests of the whole crate, by question; the false disks are in `sim.rs`.

mod crash;
mod damage;
mod golden;
mod group;
mod journal;
mod model;
mod room;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use weir_model::{Incarnation, Seq, SeqRanges};

use crate::sim::FaultyDisk;
use crate::sweep::Sweeper;
use crate::{Disk, Log, Options, Reader, Record, Recovery};

const DIR: &str = "/log";

fn small() -> Options {
    Options { segment_bytes: 2000, quota_bytes: 1 << 20, reserve_bytes: 0, ..Options::default() }
}

fn record(header: &str, payload: impl Into<Bytes>) -> Record {
    Record::new(Bytes::copy_from_slice(header.as_bytes()), payload.into())
}

/// A record whose payload tells which one it is.
fn numbered(n: u64, payload_bytes: usize) -> Record {
    let mut payload = n.to_be_bytes().to_vec();
    payload.resize(payload_bytes.max(8), n as u8);
    record(&format!("h{n}"), payload)
}

fn open(disk: &FaultyDisk, options: Options) -> (Log<FaultyDisk>, Recovery) {
    Log::open(&Arc::new(disk.clone()), Path::new(DIR), options, Incarnation(7), 1_000).unwrap()
}

/// What a [`GroupLog`](crate::GroupLog) does beside the log, at once.
fn prepare(log: &Log<FaultyDisk>) -> std::io::Result<()> {
    Sweeper::new(Arc::clone(log.catalog()), 0).prepare()
}

/// As a [`GroupLog`](crate::GroupLog) trims, at once.
fn trim(log: &mut Log<FaultyDisk>, committed: &SeqRanges, now_ns: u64) -> std::io::Result<()> {
    log.finish(committed, now_ns);
    Sweeper::new(Arc::clone(log.catalog()), 64).trim(committed)
}

fn fill(log: &mut Log<FaultyDisk>, numbers: std::ops::Range<u64>, payload_bytes: usize) {
    for n in numbers {
        let seqs = log.append(&[numbered(n, payload_bytes)], 2_000 + n).unwrap();
        assert_eq!(seqs.start, Seq(n));
        log.sync().unwrap();
    }
}

type Contents = BTreeMap<u64, (Bytes, Bytes)>;

/// Everything from `from` on, and the numbers reported as damaged.
fn drain<D: Disk>(reader: &mut Reader<D>, bytes_max: usize) -> (Contents, SeqRanges) {
    let mut contents = Contents::new();
    let mut damaged = SeqRanges::new();
    loop {
        let read = reader.read(bytes_max).unwrap();
        damaged.insert_all(&reader.take_damaged());
        if read.is_empty() {
            return (contents, damaged);
        }
        for stored in read {
            let old = contents.insert(stored.seq.0, (stored.header, stored.payload));
            assert!(old.is_none(), "{} was read twice", stored.seq);
        }
    }
}

fn contents<D: Disk>(log: &Log<D>) -> (Contents, SeqRanges) {
    drain(&mut log.reader(Seq(0)), 1000)
}

fn range(members: std::ops::Range<u64>) -> SeqRanges {
    let mut set = SeqRanges::new();
    set.insert_range(members);
    set
}
