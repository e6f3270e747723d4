//! A sink: the real [`Collector`], and what its driver keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use weir_model::{Epoch, Incarnation, LogId, NodeId, PartId, Seq, SeqRanges};
use weir_transit::{
    Arrival, Collector, CollectorConfig, CollectorOutput, Partition, RecentBounds, StageKey, ToEdge, ToSink,
};

use crate::plant::Plant;
use crate::rules::Rule;
use crate::world::{EDGES, Event, World, fingerprint, ms};

pub(crate) const STAGE_BYTES: u64 = 3_000;
/// How long a sink waits for an edge.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Sink {
    pub(crate) name: NodeId,
    pub(crate) life: u32,
    pub(crate) collector: Option<Collector>,
    payloads: BTreeMap<StageKey, Staged>,
    /// The sessions that the collector knows of.
    sessions: BTreeMap<Arc<LogId>, Epoch>,
    // By its own clock: when it was last told the time, and since when it has no session with an edge.
    ticked: Duration,
    alone_since: BTreeMap<usize, Duration>,
    prepared: BTreeMap<PartId, Duration>,
    skew: Duration,
    // What was asked of each edge, and whether it promised; for a plant.
    asked: BTreeMap<PartId, BTreeMap<usize, (SeqRanges, bool)>>,
}

/// A batch as a sink keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Staged {
    pub(crate) edge: usize,
    pub(crate) seq: Seq,
    pub(crate) done: Vec<Partition>,
    pub(crate) chunks: Vec<usize>,
}

impl Sink {
    pub(crate) fn new(n: usize) -> Self {
        Self {
            name: NodeId::new(&format!("s{n}")).unwrap(),
            life: 0,
            collector: None,
            payloads: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ticked: Duration::ZERO,
            alone_since: BTreeMap::new(),
            prepared: BTreeMap::new(),
            skew: Duration::ZERO,
            asked: BTreeMap::new(),
        }
    }

    /// The collector has heard that a session is over.
    pub(crate) fn lose(&mut self, edge: usize, log: &LogId, session: Epoch) {
        let before = self.sessions.len();
        self.sessions.retain(|known, of| **known != *log || *of != session);
        if self.sessions.len() < before {
            self.alone_since.insert(edge, self.ticked);
        }
    }
}

fn token(_: &PartId, partitions: &[Partition]) -> Bytes {
    partitions.join(" ").into()
}

impl World {
    pub(crate) fn living(&mut self, sink: usize, life: u32) -> Option<&mut Collector> {
        let state = &mut self.sinks[sink];
        if state.life == life { state.collector.as_mut() } else { None }
    }

    pub(crate) fn start_sink(&mut self, sink: usize) {
        let aware = self.plant != Plant::UnawareOfEdges;
        let parallel_parts = if self.calm { 1 } else { self.rng.random_range(1..=2) };
        let config = CollectorConfig {
            part_bytes: 500,
            part_age: ms(400),
            stage_bytes: STAGE_BYTES,
            ahead_bytes: STAGE_BYTES,
            ahead_chunks: 8,
            partitions_max: 2,
            parallel_parts,
            prepare_timeout: PATIENCE,
            edges: self.edges.iter().map(|edge| edge.log_id.edge.clone()).filter(|_| aware).collect(),
            recent: RecentBounds::default(),
        };
        let state = &mut self.sinks[sink];
        state.life += 1;
        state.ticked = self.now + state.skew;
        state.alone_since = (0..EDGES).map(|edge| (edge, state.ticked)).collect();
        let incarnation = Incarnation(state.life.into());
        state.collector = Some(Collector::new(config, state.name.clone(), incarnation, Box::new(token)));
    }

    pub(crate) fn crash_sink(&mut self, sink: usize) {
        self.covered.count("sink crashes", 1);
        (0..EDGES).for_each(|edge| self.cut(edge, sink));
        let state = &mut self.sinks[sink];
        let repeated = state.collector.take().map_or(0, |collector| collector.status().repeated);
        (state.payloads, state.sessions, state.asked, state.prepared) = Default::default();
        self.covered.count("known to the sink", repeated);
        self.later(9_000, Event::SinkStarts(sink));
    }

    pub(crate) fn tick_sink(&mut self, sink: usize) {
        if self.strikes(0.001) {
            self.covered.count("clock jumps", 1);
            self.sinks[sink].skew += ms(self.rng.random_range(500..20_000));
        }
        let now = self.now + self.sinks[sink].skew;
        let Some(collector) = &mut self.sinks[sink].collector else { return };
        collector.tick(now);
        self.sinks[sink].ticked = now;
        if self.strikes(0.006) {
            if self.rng.random_bool(0.3) {
                self.covered.count("drains", 1);
                let life = self.sinks[sink].life;
                if let Some(collector) = &mut self.sinks[sink].collector {
                    collector.drain();
                }
                self.later(4_000, Event::SinkCrashes { sink, life });
            } else {
                self.crash_sink(sink);
            }
        }
    }

    /// Whether a sink has waited in vain for an edge to come back, as long as it should for this part.
    pub(crate) fn has_given_up(&self, sink: usize, part: &PartId, edge: usize) -> bool {
        let state = &self.sinks[sink];
        let now = self.now + state.skew;
        let too_long = state.prepared.get(part).is_some_and(|since| now >= *since + 2 * PATIENCE);
        state.alone_since.get(&edge).is_some_and(|since| too_long || now >= *since + PATIENCE)
    }

    pub(crate) fn hear_edge(&mut self, edge: usize, sink: usize, message: ToSink) {
        let log = self.edges[edge].log_id.clone();
        let state = &mut self.sinks[sink];
        let Some(collector) = &mut state.collector else { return };
        match message {
            ToSink::Hello { session, .. } => {
                let stands = collector.hello(&log, session);
                state.sessions.insert(log, session);
                state.alone_since.remove(&edge);
                self.uphold(Rule::Bookkeeping, stands, ("the newest session stands", edge, sink, session));
            }
            ToSink::Promise { part } => {
                if let Some((_, promised)) = state.asked.get_mut(&part).and_then(|asked| asked.get_mut(&edge))
                {
                    *promised = true;
                }
                collector.promised(&log, &part);
            }
            ToSink::Refuse { part, gone } => collector.refused(&log, &part, &gone),
            ToSink::Resolve { part, token } => collector.resolve(&log, part, token),
            ToSink::Recalled { part, stored, elsewhere } => {
                self.covered.count("known to another edge", (stored.len() + elsewhere.len()) as u64);
                collector.recalled(&log, &part, &stored, &elsewhere);
            }
        }
    }

    pub(crate) fn stage(
        &mut self,
        edge: usize,
        sink: usize,
        session: Epoch,
        seq: Seq,
        done: Vec<Partition>,
        recall: bool,
    ) {
        let chunks = self.edges[edge].log[seq.0 as usize].chunks.clone();
        let names: BTreeSet<Partition> =
            chunks.iter().flat_map(|&chunk| self.chunks[chunk].partitions.iter().cloned()).collect();
        let partitions = names.into_iter().filter(|name| !done.contains(name)).collect();
        let (log, now) = (self.edges[edge].log_id.clone(), self.now + self.sinks[sink].skew);
        let blind = self.plant == Plant::BlindToTwins;
        let arrival = Arrival {
            seq,
            bytes: 100 * chunks.len() as u64,
            partitions,
            chunks: chunks.iter().filter(|_| !blind).map(|&chunk| fingerprint(chunk)).collect(),
            half_done: !done.is_empty(),
            recall,
        };
        let state = &mut self.sinks[sink];
        let Some(collector) = &mut state.collector else { return };
        if let Some(key) = collector.batch(&log, session, arrival, now) {
            state.payloads.insert(key, Staged { edge, seq, done, chunks });
        }
    }

    pub(crate) fn pump_sink(&mut self, sink: usize) {
        while let Some(output) = self.sinks[sink].collector.as_mut().and_then(Collector::poll_output) {
            self.obey(sink, output);
        }
    }

    fn obey(&mut self, sink: usize, output: CollectorOutput) {
        match output {
            CollectorOutput::Control { log, session, message } => {
                let edge = self.edge_of(&log);
                if let ToEdge::Prepare { part, ranges, .. } = &message {
                    let asked = self.sinks[sink].asked.entry(part.clone()).or_default();
                    asked.insert(edge, (ranges.clone(), false));
                    let ticked = self.sinks[sink].ticked;
                    self.sinks[sink].prepared.insert(part.clone(), ticked);
                    if self.plant == Plant::CommitWithoutPromise
                        && let Some(collector) = &mut self.sinks[sink].collector
                    {
                        collector.promised(&log, part);
                    }
                }
                self.travel((edge, sink, 2), Event::Answer { edge, sink, session, message });
            }
            CollectorOutput::Commit { part, keys, partitions } => {
                let batches = keys.iter().map(|key| self.sinks[sink].payloads[key].clone()).collect();
                self.begin(sink, &part, batches, &partitions);
            }
            CollectorOutput::Resolve { log, part, token } => {
                let life = self.sinks[sink].life;
                self.later(500, Event::Resolves { sink, life, log, part, token });
            }
            CollectorOutput::Cut { key, keep } => {
                self.covered.count("cut batches", 1);
                if let Some(staged) = self.sinks[sink].payloads.get_mut(&key) {
                    let mut keep = keep.iter();
                    staged.chunks.retain(|_| *keep.next().unwrap());
                }
            }
            CollectorOutput::Discard(keys) => {
                for key in keys {
                    let known = self.sinks[sink].payloads.remove(&key).is_some();
                    self.uphold(Rule::Bookkeeping, known, ("a payload is discarded once", sink, key));
                }
            }
            CollectorOutput::Disconnect { log, session } => {
                let edge = self.edge_of(&log);
                self.sinks[sink].lose(edge, &log, session);
                if self.plant == Plant::PartWithoutSilentEdge {
                    self.write_without(sink, edge);
                }
                if self.open(edge, sink, session) {
                    self.cut(edge, sink);
                }
            }
        }
    }

    // The plant: the others' batches are written under the id that was to hold the silent one's too.
    fn write_without(&mut self, sink: usize, silent: usize) {
        for (part, asked) in std::mem::take(&mut self.sinks[sink].asked) {
            let lacks = asked.get(&silent).is_some_and(|(_, promised)| !promised);
            let mut batches = Vec::new();
            for (&edge, (ranges, promised)) in asked.iter().filter(|_| lacks) {
                let seqs = ranges.seqs().filter(|_| *promised);
                batches.extend(seqs.map(|seq| Staged {
                    edge,
                    seq,
                    done: Vec::new(),
                    chunks: self.edges[edge].log[seq.0 as usize].chunks.clone(),
                }));
            }
            if !batches.is_empty() {
                let names: BTreeSet<Partition> = batches
                    .iter()
                    .flat_map(|b| {
                        b.chunks.iter().flat_map(|&chunk| self.chunks[chunk].partitions.iter().cloned())
                    })
                    .collect();
                self.begin(sink, &part, batches, &names.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
