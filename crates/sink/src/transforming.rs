//! A part on its way to the store: its group's transforms are applied to each batch, once, whatever the store needs to
//! take it.
//!
//! What comes out is staged beside what came in, within the same bounds. Left out on purpose: what a step does.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use tracing::{error, warn};

use weir_shape::transform::{Transform, transform};
use weir_store::{Backend, Part, PartBatch};

use crate::life::Backoff;
use crate::stage::Stage;

/// What it takes.
#[derive(Clone)]
pub(crate) struct Transforming {
    pub(crate) steps: Arc<[Transform]>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) stage: Stage,
}

/// Events of a part that do not get to the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shed {
    /// Dropped by a step.
    pub(crate) filtered: u64,
    /// Not to be read, in damaged batches.
    pub(crate) damaged: u64,
}

impl Transforming {
    /// The part as the store is to take it: without batches that have no event left, and with those partitions alone that
    /// have one. A partition that is left out leaves nothing in the store; settled after a death it counts as not stored,
    /// and another sink drops its events again.
    pub(crate) async fn part(self, part: Part, backoff: &mut Backoff) -> (Part, Shed) {
        loop {
            let (this, given) = (self.clone(), part.clone());
            match tokio::task::spawn_blocking(move || this.try_part(given)).await {
                Ok(Ok(done)) => return done,
                Ok(Err(error)) => {
                    warn!(part = %part.id, %error, "a staged batch cannot be read; trying again");
                }
                Err(error) => error!(part = %part.id, %error, "transforming a part failed; trying again"),
            }
            backoff.wait().await;
        }
    }

    fn try_part(&self, mut part: Part) -> std::io::Result<(Part, Shed)> {
        let (mut shed, mut batches, mut partitions) = (Shed::default(), Vec::new(), BTreeSet::new());
        for batch in part.batches {
            let payload = batch.payload.load()?;
            let done = transform(&self.steps, hostname(), &batch.header, &payload);
            shed.filtered += done.dropped;
            if let Some((lost, error)) = done.damage {
                let error = &error as &dyn std::error::Error;
                error!(batch = %batch.id, tag = %batch.header.tag, lost, error, "a damaged batch is passed over");
                shed.damaged += lost;
            }
            if done.payload.is_empty() {
                continue;
            }
            let due = self.backend.partitions(&done.header).into_iter().filter(|p| !batch.done.contains(p));
            partitions.extend(due);
            let (header, payload) = (Arc::new(done.header), self.stage.put(done.payload, 0));
            batches.push(PartBatch { header, payload, ..batch });
        }
        part.batches = batches;
        part.partitions = partitions.into_iter().collect();
        Ok((part, shed))
    }
}

/// What this machine is called.
fn hostname() -> &'static str {
    static HOSTNAME: OnceLock<String> = OnceLock::new();
    HOSTNAME.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_model::{BatchHeader, BatchId, Encoding, Incarnation, LogId, MinuteTally, PartId, Seq};
    use weir_shape::transform::{Field, Pattern};
    use weir_store::memory::MemoryBackend;

    use super::*;

    /// Entries of records `{"a": n}`, in the minutes 0 to 9.
    fn batch(seq: u64, tag: &str, numbers: &[u8]) -> PartBatch {
        let log = LogId {
            edge: "edge-1".parse().unwrap(),
            group: "g".parse().unwrap(),
            incarnation: Incarnation(1),
        };
        let entry = |n: &u8| [b"\x92\x05\x81\xa1a", &[*n][..]].concat();
        let payload: Vec<u8> = numbers.iter().flat_map(entry).collect();
        let minute = MinuteTally { minute: 0, events: numbers.len() as u64, bytes: 0, digest: 0 };
        let header = BatchHeader {
            tag: tag.into(),
            encoding: Encoding::Plain,
            received_ns: 0,
            chunks: Vec::new(),
            unpacked_bytes: payload.len() as u64,
            minutes: vec![minute],
        };
        let id = BatchId { log: Arc::new(log), seq: Seq(seq) };
        PartBatch { id, header: header.into(), done: Vec::new(), payload: Arc::new(Bytes::from(payload)) }
    }

    async fn through(batches: Vec<PartBatch>) -> (Part, Shed) {
        let dir = tempfile::tempdir().unwrap();
        let steps = [Transform::Filter {
            field: Field::parse("a").unwrap(),
            pattern: Pattern::parse("7").unwrap(),
            drop: true,
        }];
        let transforming = Transforming {
            steps: Arc::new(steps),
            backend: Arc::new(MemoryBackend::new(true)),
            stage: Stage::open(&dir.path().join("stage"), 1 << 20, 0).unwrap(),
        };
        let id = PartId { sink: "s".parse().unwrap(), incarnation: Incarnation(1), number: 1 };
        let partitions = batches.iter().map(|batch| batch.header.tag.clone()).collect();
        transforming.part(Part { id, partitions, batches }, &mut Backoff::default()).await
    }

    #[tokio::test]
    async fn what_has_no_event_left_is_no_part_of_the_part() {
        let (part, shed) =
            through(vec![batch(1, "x", &[7, 7]), batch(2, "y", &[7, 1]), batch(3, "z", &[2])]).await;
        assert_eq!(shed, Shed { filtered: 3, damaged: 0 });
        assert_eq!(part.partitions.iter().map(|p| &**p).collect::<Vec<_>>(), ["y", "z"]);
        let left: Vec<_> = part.batches.iter().map(|batch| (batch.id.seq.0, batch.header.events())).collect();
        assert_eq!(left, [(2, 1), (3, 1)]);
        assert_eq!(part.batches[0].payload.load().unwrap(), &b"\x92\x05\x81\xa1a\x01"[..]);
    }

    #[tokio::test]
    async fn a_part_may_come_out_empty_and_is_committed_as_any() {
        let (part, shed) = through(vec![batch(1, "x", &[7, 7])]).await;
        assert_eq!((part.batches.len(), part.partitions.len(), shed.filtered), (0, 0, 2));
        let store = MemoryBackend::new(true).begin(&part.id.sink, part.id.incarnation).await.unwrap();
        assert_eq!(store.commit(&part).await.unwrap().events, 0);
    }

    #[tokio::test]
    async fn a_partition_that_was_done_is_not_asked_for_again() {
        let mut again = batch(1, "x", &[1]);
        again.done = vec!["x".into()];
        let (part, _) = through(vec![again, batch(2, "y", &[1])]).await;
        assert_eq!(part.partitions.iter().map(|p| &**p).collect::<Vec<_>>(), ["y"]);
    }

    #[tokio::test]
    async fn damage_is_counted_apart() {
        let mut cut = batch(1, "x", &[1, 2, 7]);
        cut.payload = Arc::new(Bytes::from_static(b"\x92\x05\x81\xa1a\x01\xc1"));
        let (part, shed) = through(vec![cut]).await;
        assert_eq!((shed, part.batches[0].header.events()), (Shed { filtered: 0, damaged: 2 }, 1));
    }
}
