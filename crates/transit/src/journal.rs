//! What an edge must remember of its promises, as records of the journal beside a group log.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use weir_model::{PartId, Seq, SeqRanges};

use crate::Partition;
use crate::record::{self, RecordError};

/// One record. Replayed in order, they give [`Recovered`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JournalRecord {
    /// The edge has begun for the n-th time on this log: the high half of its epochs.
    Started {
        /// Counted from 1.
        times: u32,
    },
    /// These batches are promised to this part.
    Promised {
        /// The part.
        part: PartId,
        /// Its batches of this log.
        ranges: SeqRanges,
        /// What the store needs to settle it.
        token: Bytes,
    },
    /// The part is in the store.
    Committed {
        /// The part.
        part: PartId,
    },
    /// The part will never be in the store.
    Released {
        /// The part.
        part: PartId,
    },
    /// Only these partitions of the part are in the store; its batches go out again without them.
    HalfDone {
        /// The part.
        part: PartId,
        /// Its partitions that are stored.
        done: Vec<Partition>,
    },
    /// These batches need nothing more (a snapshot's summary of all committed parts).
    Done {
        /// The batches.
        ranges: SeqRanges,
    },
    /// These batches were dropped by policy before any store had them: they need nothing more either.
    Dropped {
        /// The batches.
        ranges: SeqRanges,
    },
    /// These batches lack everything but these partitions (a snapshot's form of [`JournalRecord::HalfDone`]).
    Lacking {
        /// The batch.
        seq: Seq,
        /// Its partitions that are stored.
        done: Vec<Partition>,
    },
}

impl JournalRecord {
    /// The record as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        record::encode(self)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`RecordError`] when the version is unknown or the bytes are no record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        record::decode(bytes)
    }
}

/// What the journal says of the time before this start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// How often the edge had begun on this log.
    pub times_started: u32,
    /// Batches that need nothing more.
    pub done: SeqRanges,
    /// Those of them that were dropped by policy: no store has them.
    pub dropped: SeqRanges,
    /// Promises whose parts are in doubt.
    pub promises: BTreeMap<PartId, (SeqRanges, Bytes)>,
    /// Batches of which some partitions are stored.
    pub half_done: BTreeMap<Seq, Vec<Partition>>,
}

impl Recovered {
    /// Replays one record.
    pub fn replay(&mut self, record: JournalRecord) {
        match record {
            JournalRecord::Started { times } => self.times_started = self.times_started.max(times),
            JournalRecord::Promised { part, ranges, token } => {
                self.promises.insert(part, (ranges, token));
            }
            JournalRecord::Committed { part } => {
                if let Some((ranges, _)) = self.promises.remove(&part) {
                    self.settle(&ranges);
                }
            }
            JournalRecord::Released { part } => {
                self.promises.remove(&part);
            }
            JournalRecord::HalfDone { part, done } => {
                if let Some((ranges, _)) = self.promises.remove(&part) {
                    for seq in ranges.seqs() {
                        add_partitions(self.half_done.entry(seq).or_default(), &done);
                    }
                }
            }
            JournalRecord::Done { ranges } => self.settle(&ranges),
            JournalRecord::Dropped { ranges } => {
                self.settle(&ranges);
                self.dropped.insert_all(&ranges);
            }
            JournalRecord::Lacking { seq, done } => {
                add_partitions(self.half_done.entry(seq).or_default(), &done);
            }
        }
    }

    fn settle(&mut self, ranges: &SeqRanges) {
        self.done.insert_all(ranges);
        self.half_done.retain(|&seq, _| !ranges.contains(seq));
    }

    /// Batches that were dropped by policy: those of which the journal says so, and those of which it says nothing
    /// and which lie below `first`, the beginning of a log that only gives up what is committed or dropped.
    #[must_use]
    pub fn dropped_below(&self, first: Seq) -> SeqRanges {
        let mut dropped = SeqRanges::new();
        dropped.insert_range(0..first.0);
        dropped.remove_all(&self.done);
        self.promises.values().for_each(|(ranges, _)| dropped.remove_all(ranges));
        dropped.insert_all(&self.dropped);
        dropped
    }

    /// The shortest journal that replays to this.
    #[must_use]
    pub fn snapshot(&self) -> Vec<JournalRecord> {
        let mut records = vec![
            JournalRecord::Started { times: self.times_started },
            JournalRecord::Done { ranges: self.done.clone() },
        ];
        if !self.dropped.is_empty() {
            records.push(JournalRecord::Dropped { ranges: self.dropped.clone() });
        }
        records.extend(
            self.half_done.iter().map(|(&seq, done)| JournalRecord::Lacking { seq, done: done.clone() }),
        );
        records.extend(self.promises.iter().map(|(part, (ranges, token))| JournalRecord::Promised {
            part: part.clone(),
            ranges: ranges.clone(),
            token: token.clone(),
        }));
        records
    }
}

/// Adds those of `more` that are not there yet.
pub(crate) fn add_partitions(done: &mut Vec<Partition>, more: &[Partition]) {
    for partition in more {
        if !done.contains(partition) {
            done.push(partition.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_model::{Incarnation, NodeId};

    use super::*;

    fn part(number: u64) -> PartId {
        PartId { sink: NodeId::new("s1").unwrap(), incarnation: Incarnation(1), number }
    }

    fn promised(number: u64, range: std::ops::Range<u64>) -> JournalRecord {
        let ranges = range.map(Seq).collect();
        JournalRecord::Promised { part: part(number), ranges, token: Bytes::from_static(b"t") }
    }

    #[test]
    fn a_snapshot_replays_to_the_same() {
        let mut recovered = Recovered::default();
        for record in [
            JournalRecord::Started { times: 3 },
            promised(0, 0..4),
            promised(1, 4..6),
            promised(2, 6..8),
            promised(3, 8..9),
            JournalRecord::Committed { part: part(0) },
            JournalRecord::HalfDone { part: part(1), done: vec!["x".into()] },
            JournalRecord::Released { part: part(2) },
            JournalRecord::Dropped { ranges: (20..22).map(Seq).collect() },
        ] {
            let bytes = record.encode();
            recovered.replay(JournalRecord::decode(&bytes).unwrap());
        }
        assert_eq!(recovered.done.iter().collect::<Vec<_>>(), vec![0..4, 20..22]);
        assert_eq!(recovered.dropped.iter().collect::<Vec<_>>(), vec![20..22]);
        assert_eq!(recovered.promises.keys().collect::<Vec<_>>(), vec![&part(3)]);
        assert_eq!(recovered.half_done.keys().collect::<Vec<_>>(), vec![&Seq(4), &Seq(5)]);

        let mut again = Recovered::default();
        for record in recovered.snapshot() {
            again.replay(record);
        }
        assert_eq!(again, recovered);
    }

    #[test]
    fn what_is_committed_is_no_longer_half_done() {
        let mut recovered = Recovered::default();
        recovered.replay(promised(0, 0..2));
        recovered.replay(JournalRecord::HalfDone { part: part(0), done: vec!["x".into()] });
        recovered.replay(promised(1, 0..1));
        recovered.replay(JournalRecord::Committed { part: part(1) });
        assert_eq!(recovered.half_done.keys().collect::<Vec<_>>(), vec![&Seq(1)]);
    }

    #[test]
    fn strangers_are_refused() {
        assert!(matches!(JournalRecord::decode(b""), Err(RecordError::Version(None))));
        assert!(matches!(JournalRecord::decode(b"\x09x"), Err(RecordError::Version(Some(9)))));
        assert!(matches!(JournalRecord::decode(b"\x01\xc1"), Err(RecordError::Malformed(_))));
    }
}
