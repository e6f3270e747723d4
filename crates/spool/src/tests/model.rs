//! Random operations on a log and on a map, compared after each.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::AppendError;

#[derive(Debug, Clone, Copy)]
enum Op {
    Append { records: u64, bytes: usize },
    Sync,
    Crash { seed: u64 },
    Reopen { cleanly: bool },
    Trim { below: u8, but: u8 },
    FlipBit { segment: u8, bit: u32 },
    Capacity { room: Option<u16> },
    FailWrite { after: u8 },
    FailSync { after: u8 },
    ReadFrom { seq: u8, bytes_max: u16 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (1u64..5, 8usize..400).prop_map(|(records, bytes)| Op::Append { records, bytes }),
        8 => Just(Op::Sync),
        2 => any::<u64>().prop_map(|seed| Op::Crash { seed }),
        2 => any::<bool>().prop_map(|cleanly| Op::Reopen { cleanly }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(below, but)| Op::Trim { below, but }),
        1 => (any::<u8>(), any::<u32>()).prop_map(|(segment, bit)| Op::FlipBit { segment, bit }),
        1 => proptest::option::of(any::<u16>()).prop_map(|room| Op::Capacity { room }),
        1 => (0u8..4).prop_map(|after| Op::FailWrite { after }),
        1 => (0u8..4).prop_map(|after| Op::FailSync { after }),
        3 => (any::<u8>(), 1u16..4000).prop_map(|(seq, bytes_max)| Op::ReadFrom { seq, bytes_max }),
    ];
    prop::collection::vec(op, 1..80)
}

/// The log, and what must be true of it.
struct World {
    disk: FaultyDisk,
    log: Option<Log<FaultyDisk>>,
    rng: SmallRng,
    /// Records answered for, and not given up since.
    kept: Contents,
    /// Appended and not answered for: a crash may keep them or not.
    floating: Contents,
    trimmed: SeqRanges,
    /// One above the highest number that anybody was told.
    told: u64,
    /// Bits flipped: so many records may be missing, each reported or at the very end.
    flips: usize,
    lost: BTreeSet<u64>,
    /// Most records that one sync has covered.
    group_max: usize,
    records: u64,
    /// A segment may have its name in memory alone: a crash and a flip in its header together take all of it.
    unnamed: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            disk: FaultyDisk::new(),
            log: None,
            rng: SmallRng::seed_from_u64(1),
            kept: Contents::new(),
            floating: Contents::new(),
            trimmed: SeqRanges::new(),
            told: 0,
            flips: 0,
            lost: BTreeSet::new(),
            group_max: 1,
            records: 0,
            unnamed: false,
        };
        world.reopen();
        world
    }

    fn log(&mut self) -> &mut Log<FaultyDisk> {
        self.log.as_mut().unwrap()
    }

    fn reopen(&mut self) {
        self.log = None;
        self.disk.heal();
        self.disk.set_capacity(None);
        let options = Options { next_at_least: Seq(self.told), ..small() };
        let (log, recovery) = open(&self.disk, options);
        assert_eq!(recovery.incarnation, Incarnation(7));
        assert!(recovery.next.0 >= self.told);
        self.log = Some(log);
        let (found, _) = contents(self.log());
        // What was not answered for is in or out now, and stays so.
        let floating = std::mem::take(&mut self.floating);
        self.group_max = self.group_max.max(floating.len());
        for (seq, record) in floating {
            if let Some(read) = found.get(&seq) {
                assert_eq!(*read, record);
                self.kept.insert(seq, record);
            }
        }
        self.told = recovery.next.0;
        self.unnamed = false;
    }

    /// As a [`GroupLog`](crate::GroupLog) does after each command.
    fn prepare(&mut self) {
        if self.unnamed || self.log().take_sealed().is_some() {
            self.unnamed = prepare(self.log()).is_err();
        }
    }

    /// Everything that was answered for can be read, but for what bit flips took.
    fn check(&mut self, from: u64, bytes_max: usize) {
        let (found, damaged) = drain(&mut self.log().reader(Seq(from)), bytes_max);
        for (seq, record) in &found {
            assert_eq!(self.kept.get(seq), Some(record), "{seq} was read and not durable, or is another");
        }
        for &seq in self.kept.keys().filter(|&&seq| seq >= from && !found.contains_key(&seq)) {
            if !self.trimmed.contains(Seq(seq)) {
                self.lost.insert(seq);
                let reported = damaged.contains(Seq(seq));
                assert!(reported || self.flips > 0, "{seq} is missing without a word");
            }
        }
        // One flip costs one record, or what shared its sync, where nothing behind it proves that it was durable.
        let bound = self.flips * self.group_max;
        assert!(self.lost.len() <= bound, "{:?} lost by {} flips", self.lost, self.flips);
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Append { records, bytes } => {
                let next = self.records;
                let group: Vec<_> = (next..next + records).map(|n| numbered(n, bytes)).collect();
                match self.log().append(&group, 0) {
                    Ok(seqs) => {
                        self.records += records;
                        for (seq, record) in (seqs.start.0..).zip(group) {
                            assert!(!self.kept.contains_key(&seq) && seq >= self.told, "{seq} is used twice");
                            self.floating.insert(seq, (record.header, record.payload));
                        }
                    }
                    Err(AppendError::Poisoned) => self.reopen(),
                    Err(AppendError::DiskFull | AppendError::Io(_)) => self.disk.set_capacity(None),
                    Err(error) => panic!("{error}"),
                }
                self.prepare();
                // A roll may have synced what floated.
                let durable = self.log().depth().next.0;
                self.settle(durable);
            }
            Op::Sync => match self.log().sync() {
                Ok(durable) => self.settle(durable.0),
                Err(_) => self.reopen(),
            },
            Op::Crash { seed } => {
                self.disk.crash(&mut SmallRng::seed_from_u64(seed));
                self.reopen();
            }
            Op::Reopen { cleanly: false } => self.reopen(),
            Op::Reopen { cleanly: true } => {
                let _ = self.log.take().unwrap().close(0);
                self.reopen();
            }
            Op::Trim { below, but } => {
                self.trimmed.insert_range(0..u64::from(below).min(self.told));
                let mut committed = self.trimmed.clone();
                committed.remove_range(u64::from(but)..u64::from(but) + 1);
                let _ = trim(self.log(), &committed, 0);
                self.prepare();
                let durable = self.log().depth().next.0;
                self.settle(durable);
            }
            Op::FlipBit { .. } if self.unnamed => {}
            Op::FlipBit { segment, bit } => {
                // Not in `log.meta`: with both copies of its identity gone, a log is a new one.
                let files = self.disk.files();
                let files: Vec<_> = files
                    .iter()
                    .filter(|(path, bytes)| path.extension().is_some_and(|e| e == "seg") && !bytes.is_empty())
                    .collect();
                let (path, bytes) = files[segment as usize % files.len()];
                self.disk.flip_bit(path, u64::from(bit) % (bytes.len() as u64 * 8));
                self.flips += 1;
            }
            Op::Capacity { room } => {
                let used = self.disk.used_bytes();
                self.disk.set_capacity(room.map(|room| used + u64::from(room % 2000)));
            }
            Op::FailWrite { after } => self.disk.fail_write_in(u32::from(after)),
            Op::FailSync { after } => self.disk.fail_sync_in(u32::from(after)),
            Op::ReadFrom { seq, bytes_max } => self.check(u64::from(seq), usize::from(bytes_max)),
        }
    }

    fn settle(&mut self, durable: u64) {
        let floating = self.floating.split_off(&durable);
        self.group_max = self.group_max.max(self.floating.len());
        self.kept.extend(std::mem::replace(&mut self.floating, floating));
        self.told = self.told.max(durable);
    }
}

proptest! {
    #[test]
    fn a_log_is_a_map_that_survives(ops in ops()) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.check(0, 500);
        let mut rng = world.rng.clone();
        world.disk.crash(&mut rng);
        world.reopen();
        world.check(0, 500);
    }
}
