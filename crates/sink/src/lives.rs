//! One life after the other: a sink begins anew when another member has fenced it, and when a revision gives it another
//! store, other limits or nothing to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use weir_link::Connection;
use weir_model::{Incarnation, NodeId};
use weir_store::{Backend, Store};
use weir_telemetry::{Health, TagTable};
use weir_topology::Group;
use weir_transit::{CollectorConfig, RecentBounds};

use crate::front::Front;
use crate::life::{self, Backoff, End, LifeParts};
use crate::stage::{CHUNK_BYTES, Stage};

/// What a sink is to do.
#[derive(Clone)]
pub(crate) enum Duty {
    /// Serve a group.
    Serve(Arc<Job>),
    /// Nothing: its group goes on without it.
    Idle,
}

/// What may lie in spill files while the store has its hands full.
const AHEAD_BYTES: u64 = 512 << 20;

/// A group and its store.
pub(crate) struct Job {
    pub(crate) group: Group,
    /// The edges of the topology, when the job was given.
    pub(crate) edges: BTreeSet<NodeId>,
    pub(crate) backend: Arc<dyn Backend>,
}

impl Job {
    /// Whether a life on this job can go on with `group`: nothing is different that it was begun with.
    pub(crate) fn suits(&self, group: &Group) -> bool {
        let Group { id, store, part, stage, transforms, .. } = &self.group;
        (id, store, part, stage, transforms)
            == (&group.id, &group.store, &group.part, &group.stage, &group.transforms)
    }

    fn collector(&self) -> CollectorConfig {
        let Group { part, stage, .. } = &self.group;
        let traits = self.backend.traits();
        CollectorConfig {
            part_bytes: part.bytes.0,
            part_age: part.age,
            stage_bytes: stage.memory.0 + stage.disk.0,
            ahead_bytes: stage.memory.0 + AHEAD_BYTES,
            ahead_chunks: usize::try_from(stage.memory.0 / CHUNK_BYTES).unwrap_or(usize::MAX),
            partitions_max: traits.partitions_max,
            parallel_parts: traits.parallel_parts,
            edges: self.edges.clone(),
            recent: RecentBounds {
                seconds: u32::try_from(self.group.repeats.window.as_secs()).unwrap_or(u32::MAX),
                chunks: usize::try_from(self.group.repeats.chunks).unwrap_or(usize::MAX),
            },
            ..CollectorConfig::default()
        }
    }
}

/// What all lives of a process share.
pub(crate) struct Lives {
    pub(crate) sink: NodeId,
    pub(crate) stage: Stage,
    pub(crate) tags: TagTable,
    pub(crate) health: Health,
    pub(crate) front: Arc<Front>,
    pub(crate) connections: mpsc::Receiver<Connection>,
    pub(crate) duty: watch::Receiver<Duty>,
    pub(crate) stop: CancellationToken,
}

/// Lives until told to stop.
pub(crate) async fn lives(mut all: Lives) {
    loop {
        let duty = all.duty.borrow_and_update().clone();
        let Duty::Serve(job) = duty else {
            info!("nothing to do: the topology has not this sink; edges are refused");
            all.front.shut(true);
            tokio::select! {
                changed = all.duty.changed() => if changed.is_err() { return },
                () = all.stop.cancelled() => return,
            }
            all.front.shut(false);
            continue;
        };
        all.stage.resize(job.group.stage.memory.0, job.group.stage.disk.0);
        let incarnation = Incarnation(rand::random());
        let Some(store) = begin(&mut all, &job, incarnation).await else {
            if all.stop.is_cancelled() {
                return;
            }
            continue;
        };
        info!(%incarnation, group = %job.group.id, "the store is there: a life begins");
        let end = life::live(LifeParts {
            sink: &all.sink,
            group: &job.group.id,
            transforms: job.group.transforms.clone().into(),
            config: job.collector(),
            backend: job.backend.clone(),
            store,
            incarnation,
            stage: &all.stage,
            tags: &all.tags,
            connections: &mut all.connections,
            duty: &mut all.duty,
            stop: &all.stop,
        })
        .await;
        if end == End::Stopped && all.stop.is_cancelled() {
            return;
        }
    }
}

/// The store of a life; none when there is something else to do before it can be reached.
async fn begin(all: &mut Lives, job: &Job, incarnation: Incarnation) -> Option<Arc<dyn Store>> {
    let mut backoff = Backoff::default();
    loop {
        let begun = tokio::select! {
            begun = job.backend.begin(&all.sink, incarnation) => begun,
            _ = all.duty.changed() => return None,
            () = all.stop.cancelled() => return None,
        };
        match begun {
            Ok(store) => {
                all.health.set_condition("store", Ok(()));
                return Some(store);
            }
            Err(error) => {
                all.health.set_condition("store", Err(error.to_string()));
                if backoff.is_worth_a_line() {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the store cannot be reached; edges keep their batches until it can"
                    );
                }
                tokio::select! {
                    () = backoff.wait() => {}
                    _ = all.duty.changed() => return None,
                    () = all.stop.cancelled() => return None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_model::{Epoch, LogId, Seq};
    use weir_store::memory::MemoryBackend;
    use weir_transit::{Arrival, Collector, CollectorOutput, ToEdge};

    use super::*;

    // Its store takes nothing, and an edge sends all that it may.
    #[test]
    fn a_sink_whose_store_stands_still_takes_half_a_gigabyte_beyond_its_memory() {
        let text = "version = 1\n[cluster]\nname = \"test\"\n[[edge]]\nname = \"edge-1\"\nrack = \"r1\"\n\
                    [[group]]\nid = \"g\"\nsink = [{ name = \"s\", rack = \"r1\", address = \"127.0.0.1:1\" }]\n\
                    [group.stage]\nmemory = \"1MiB\"\n[group.store]\nkind = \"file\"\npath = \"/srv\"\n\
                    [[route]]\nmatch = \"**\"\ngroups = [\"g\"]\n";
        let (topology, _) = weir_topology::parse_topology(text, "test").unwrap();
        let group = topology.groups[0].clone();
        let job = Job { group, edges: BTreeSet::new(), backend: Arc::new(MemoryBackend::new(true)) };
        let config = job.collector();
        assert_eq!(config.ahead_chunks as u64, (1 << 20) / CHUNK_BYTES, "chunks for which memory has room");

        let log = LogId {
            edge: "edge-1".parse().unwrap(),
            group: "g".parse().unwrap(),
            incarnation: Incarnation(1),
        };
        let log = Arc::new(log);
        let token = |_: &_, _: &[_]| Bytes::new();
        let mut collector = Collector::new(config, "s".parse().unwrap(), Incarnation(1), Box::new(token));
        assert!(collector.hello(&log, Epoch(1)));
        let (mut sent, mut may) = (0, 0);
        for seq in 0.. {
            while let Some(output) = collector.poll_output() {
                if let CollectorOutput::Control {
                    message: ToEdge::Welcome { window: total, .. } | ToEdge::Window { total },
                    ..
                } = output
                {
                    may = total;
                }
            }
            if sent >= may {
                break;
            }
            let (bytes, partitions) = (1 << 20, vec!["".into()]);
            let arrival = Arrival { seq: Seq(seq), bytes, partitions, ..Arrival::default() };
            collector.batch(&log, Epoch(1), arrival, std::time::Duration::ZERO).unwrap();
            sent += bytes;
        }
        let half = 512 << 20;
        // Credit is told in steps of a sixteenth; what is on its way is a quarter.
        assert!((half - half / 16..half + half / 4).contains(&sent), "{} MiB", sent >> 20);
    }
}
