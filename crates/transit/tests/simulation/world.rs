//! The world: its clock, its scheduler, and who is connected to whom. What the actors do is in their own files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_model::{Epoch, Fingerprint, LogId, NodeId, PartId, Seq};
use weir_transit::{Dispatcher, Partition, Placement, ToEdge, ToSink};

use crate::edge::Edge;
use crate::plant::Plant;
use crate::rules::{Coverage, Rule};
use crate::sender::Chunk;
use crate::sink::Sink;
use crate::store::Store;

pub(crate) const EDGES: usize = 2;
/// When the disorder ends, and when all must be well again.
pub(crate) const CHAOS: Duration = Duration::from_secs(30);
const HEALED: Duration = Duration::from_secs(240);

#[derive(Debug)]
pub(crate) enum Event {
    Tick,
    Chunks { edge: usize, chunks: Vec<usize> },
    LogSynced { edge: usize, life: u32, end: u64 },
    JournalSynced { edge: usize, life: u32, records: usize },
    RecentSaved { edge: usize, life: u32 },
    Control { edge: usize, sink: usize, session: Epoch, message: ToSink },
    Batch { edge: usize, sink: usize, session: Epoch, seq: Seq, done: Vec<Partition>, recall: bool },
    Answer { edge: usize, sink: usize, session: Epoch, message: ToEdge },
    EdgeHearsOfBreak { edge: usize, life: u32, sink: usize, session: Epoch },
    SinkHearsOfBreak { edge: usize, sink: usize, life: u32, session: Epoch },
    EdgeStarts(usize),
    SinkStarts(usize),
    SinkCrashes { sink: usize, life: u32 },
    Lands { part: PartId, sink: usize, life: u32, partition: Option<Partition> },
    Reports { part: PartId, sink: usize, life: u32 },
    Resolves { sink: usize, life: u32, log: Arc<LogId>, part: PartId, token: Bytes },
    Fences(PartId),
}

pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) plant: Plant,
    pub(crate) telling: bool,
    /// Nothing goes wrong; then batches keep their order.
    pub(crate) calm: bool,
    pub(crate) now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    event_count: u64,
    pub(crate) edges: Vec<Edge>,
    pub(crate) sinks: Vec<Sink>,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) store: Store,
    // The session of each connection, by edge and sink, and when its streams are next free.
    pub(crate) connections: BTreeMap<(usize, usize), Epoch>,
    streams: BTreeMap<(usize, usize, u8), Duration>,
    broken: Option<String>,
    pub(crate) covered: Coverage,
}

pub(crate) struct ByTag(pub(crate) Vec<NodeId>);

impl Placement for ByTag {
    fn owner(&self, tag: &str, live: &dyn Fn(&NodeId) -> bool) -> Option<NodeId> {
        let first: usize = tag.parse().unwrap();
        let candidates = (0..self.0.len()).map(|step| &self.0[(first + step) % self.0.len()]);
        candidates.into_iter().find(|node| live(node)).cloned()
    }
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn fingerprint(chunk: usize) -> Fingerprint {
    Fingerprint(chunk as u64, !(chunk as u64))
}

impl World {
    pub(crate) fn new(seed: u64, plant: Plant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let calm = seed % 10 == 9;
        let sinks: Vec<Sink> = (0..rng.random_range(2..=3)).map(Sink::new).collect();
        let members: Vec<NodeId> = sinks.iter().map(|sink| sink.name.clone()).collect();
        let edges =
            (0..EDGES).map(|n| Edge::new(n, members.clone(), !calm && rng.random_bool(0.2))).collect();
        let chunks = Chunk::all(&mut rng, calm);
        let mut world = Self {
            rng,
            plant,
            telling: false,
            calm,
            now: Duration::ZERO,
            events: BTreeMap::new(),
            event_count: 0,
            edges,
            sinks,
            chunks,
            store: Store::default(),
            connections: BTreeMap::new(),
            streams: BTreeMap::new(),
            broken: None,
            covered: Coverage::default(),
        };
        (0..EDGES).for_each(|edge| world.after(0, Event::EdgeStarts(edge)));
        (0..world.sinks.len()).for_each(|sink| world.after(0, Event::SinkStarts(sink)));
        world.after(1, Event::Tick);
        world
    }

    pub(crate) fn run(mut self) -> Result<Self, String> {
        while let Some((at, event)) = self.events.pop_first() {
            self.now = at.0;
            self.covered.count("steps", 1);
            if self.telling && !matches!(event, Event::Tick) {
                println!("{:>9?} {event:?}", self.now);
            }
            self.step(event);
            self.pump();
            self.look_at_bounds();
            if let Some(broken) = self.broken {
                return Err(format!("{broken}, at {:?}", self.now));
            }
            if self.now > CHAOS && self.is_all_well() {
                self.look_at_the_end();
                return self.broken.take().map_or(Ok(self), Err);
            }
            if self.now > HEALED {
                let edges: Vec<_> =
                    self.edges.iter().map(|e| e.dispatcher.as_ref().map(Dispatcher::status)).collect();
                let open: Vec<_> = (0..self.chunks.len()).filter(|&n| !self.is_settled(n)).collect();
                let logs: Vec<_> = self
                    .edges
                    .iter()
                    .map(|e| (e.synced, e.log.len(), e.dispatcher.as_ref().map(|d| d.done().clone())))
                    .collect();
                let sinks: Vec<_> =
                    self.sinks.iter().map(|s| s.collector.as_ref().map(|c| c.status())).collect();
                return Err(format!(
                    "{}: chunks {open:?} are not settled; {edges:?}; {sinks:?}; {logs:?}",
                    Rule::Liveness
                ));
            }
        }
        Err("no events are left".into())
    }

    /// The only way to complain: a rule by its name, and the facts.
    pub(crate) fn uphold(&mut self, rule: Rule, holds: bool, facts: impl Debug) {
        if !holds && self.broken.is_none() {
            self.broken = Some(format!("{rule}: {facts:?}"));
        }
    }

    pub(crate) fn after(&mut self, millis: u64, event: Event) {
        self.event_count += 1;
        self.events.insert((self.now + ms(millis), self.event_count), event);
    }

    pub(crate) fn later(&mut self, millis_max: u64, event: Event) {
        let delay = self.rng.random_range(1..=millis_max);
        self.after(delay, event);
    }

    /// Each stream of a connection, and each file of a disk, keeps its order.
    pub(crate) fn travel(&mut self, stream: (usize, usize, u8), event: Event) {
        let arrival = self.now + ms(self.rng.random_range(1..=80));
        let free = self.streams.entry(stream).or_default();
        *free = arrival.max(*free);
        self.event_count += 1;
        self.events.insert((*free, self.event_count), event);
    }

    /// Whether something goes wrong now, with this probability.
    pub(crate) fn strikes(&mut self, probability: f64) -> bool {
        self.now < CHAOS && !self.calm && self.rng.random_bool(probability)
    }

    pub(crate) fn open(&self, edge: usize, sink: usize, session: Epoch) -> bool {
        self.connections.get(&(edge, sink)) == Some(&session)
    }

    pub(crate) fn edge_of(&self, log: &LogId) -> usize {
        self.edges.iter().position(|edge| *edge.log_id == *log).unwrap()
    }

    pub(crate) fn sink_of(&self, name: &NodeId) -> usize {
        self.sinks.iter().position(|sink| sink.name == *name).unwrap()
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::Chunks { edge, chunks } => self.take_chunks(edge, &chunks),
            Event::LogSynced { edge, life, end } => self.log_synced(edge, life, end),
            Event::JournalSynced { edge, life, records } => self.journal_synced(edge, life, records),
            Event::RecentSaved { edge, life } => self.recent_saved(edge, life),
            Event::Control { edge, sink, session, message } if self.open(edge, sink, session) => {
                self.hear_edge(edge, sink, message);
            }
            Event::Batch { edge, sink, session, seq, done, recall } if self.open(edge, sink, session) => {
                self.stage(edge, sink, session, seq, done, recall);
            }
            Event::Answer { edge, sink, session, message } if self.open(edge, sink, session) => {
                let name = self.sinks[sink].name.clone();
                if let Some(dispatcher) = &mut self.edges[edge].dispatcher {
                    dispatcher.handle(&name, session, message);
                }
            }
            Event::Control { .. } | Event::Batch { .. } | Event::Answer { .. } => {}
            Event::EdgeHearsOfBreak { edge, life, sink, session } => {
                let name = self.sinks[sink].name.clone();
                let state = &mut self.edges[edge];
                if state.life == life
                    && let Some(dispatcher) = &mut state.dispatcher
                {
                    dispatcher.disconnected(&name, Some(session));
                }
            }
            Event::SinkHearsOfBreak { edge, sink, life, session } => {
                let log = self.edges[edge].log_id.clone();
                if let Some(collector) = self.living(sink, life) {
                    collector.disconnected(&log, session);
                    self.sinks[sink].lose(edge, &log, session);
                }
            }
            Event::EdgeStarts(edge) => self.start_edge(edge),
            Event::SinkStarts(sink) => self.start_sink(sink),
            Event::SinkCrashes { sink, life } => {
                if self.living(sink, life).is_some() {
                    self.crash_sink(sink);
                }
            }
            Event::Lands { part, sink, life, partition } => self.land(part, sink, life, partition.as_ref()),
            Event::Reports { part, sink, life } => {
                if let Some(collector) = self.living(sink, life) {
                    collector.committed(&part);
                }
            }
            Event::Resolves { sink, life, log, part, token } => self.settle(sink, life, &log, part, &token),
            Event::Fences(part) => self.store.fence(&part),
        }
    }

    fn tick(&mut self) {
        self.send_chunks();
        for edge in 0..EDGES {
            self.tick_edge(edge);
            for sink in 0..self.sinks.len() {
                if self.strikes(0.01) {
                    self.cut(edge, sink);
                } else if self.rng.random_bool(if self.calm { 1.0 } else { 0.1 }) {
                    self.connect(edge, sink);
                }
            }
            if !self.calm && self.rng.random_bool(0.006) {
                self.change_members(edge);
            }
            if self.edges[edge].dispatcher.is_some() && self.strikes(0.004) {
                self.crash_edge(edge);
            }
        }
        for sink in 0..self.sinks.len() {
            self.tick_sink(sink);
        }
        self.after(50, Event::Tick);
    }

    fn connect(&mut self, edge: usize, sink: usize) {
        if self.connections.contains_key(&(edge, sink)) || self.sinks[sink].collector.is_none() {
            return;
        }
        let state = &mut self.edges[edge];
        let Some(dispatcher) = state.dispatcher.as_mut().filter(|_| state.started) else { return };
        let Some((session, message)) = dispatcher.greet(&self.sinks[sink].name) else { return };
        let last = std::mem::replace(&mut state.last_session, session);
        self.uphold(Rule::EpochsForward, last < session, (edge, last, session));
        self.connections.insert((edge, sink), session);
        self.travel((edge, sink, 0), Event::Control { edge, sink, session, message });
    }

    /// Each side hears of it in its own time, or only when the other connects anew.
    pub(crate) fn cut(&mut self, edge: usize, sink: usize) {
        let Some(session) = self.connections.remove(&(edge, sink)) else { return };
        self.covered.count("cuts", 1);
        let (life, sink_life) = (self.edges[edge].life, self.sinks[sink].life);
        self.later(300, Event::EdgeHearsOfBreak { edge, life, sink, session });
        self.later(300, Event::SinkHearsOfBreak { edge, sink, life: sink_life, session });
    }

    // Another topology: a part of the sinks in any order; all of them once the disorder is over.
    fn change_members(&mut self, edge: usize) {
        let mut members: Vec<NodeId> = self.sinks.iter().map(|sink| sink.name.clone()).collect();
        if self.now < CHAOS {
            let count = members.len();
            members.rotate_left(self.rng.random_range(0..count));
            members.truncate(self.rng.random_range(1..=count));
        }
        self.covered.count("member changes", 1);
        let state = &mut self.edges[edge];
        state.members.clone_from(&members);
        if let Some(dispatcher) = &mut state.dispatcher {
            dispatcher.adopt(members.clone(), Box::new(ByTag(members)));
        }
    }

    // Does what the machines ask for until none asks for more.
    fn pump(&mut self) {
        (0..EDGES).for_each(|edge| self.pump_edge(edge));
        (0..self.sinks.len()).for_each(|sink| self.pump_sink(sink));
    }

    fn look_at_bounds(&mut self) {
        for edge in 0..EDGES {
            let state = &self.edges[edge];
            let Some((dispatcher, recent)) = state.dispatcher.as_ref().zip(state.recent.as_ref()) else {
                continue;
            };
            let (waiting, chunks, all) = (dispatcher.status().waiting, recent.len(), state.log.len());
            let holds = waiting <= all && chunks <= self.chunks.len();
            self.uphold(Rule::BoundedMemory, holds, (edge, waiting, chunks));
        }
        for sink in 0..self.sinks.len() {
            let Some(status) = self.sinks[sink].collector.as_ref().map(|c| c.status()) else { continue };
            // Credit is shared among those who are there, so a late comer adds its share; and one batch may go alone.
            let most = crate::sink::STAGE_BYTES * 2 + 300 * EDGES as u64;
            let nothing_left = status.batches > 0 || (status.bytes, status.chunks) == (0, 0);
            self.uphold(Rule::BoundedMemory, status.bytes <= most && nothing_left, (sink, status));
        }
    }

    /// Whether the chunk's sender knows, and the store has it or a policy has dropped it.
    fn is_settled(&self, chunk: usize) -> bool {
        let dropped = self.edges.iter().any(|edge| edge.dropped_chunks.contains(&chunk));
        self.chunks[chunk].acked && (self.is_stored(chunk) || dropped)
    }

    pub(crate) fn is_stored(&self, chunk: usize) -> bool {
        let partitions = &self.chunks[chunk].partitions;
        partitions.iter().all(|p| self.store.stored.contains_key(&(chunk, p.clone())))
    }

    fn is_all_well(&self) -> bool {
        let idle = |edge: &Edge| {
            edge.synced == edge.log.len() as u64
                && edge.dispatcher.as_ref().is_some_and(|d| d.is_idle() && d.done().covers(0..edge.synced))
        };
        self.edges.iter().all(idle) && (0..self.chunks.len()).all(|chunk| self.is_settled(chunk))
    }

    fn look_at_the_end(&mut self) {
        for chunk in 0..self.chunks.len() {
            let settled = self.is_settled(chunk);
            self.uphold(Rule::AcknowledgedIsStored, settled, chunk);
        }
        let repeated: u64 =
            self.sinks.iter().filter_map(|s| s.collector.as_ref()).map(|c| c.status().repeated).sum();
        self.covered.count("known to the sink", repeated);
    }

    /// The edges that have, or had, this chunk.
    pub(crate) fn holders(&self, chunk: usize) -> BTreeSet<usize> {
        (0..EDGES).filter(|&edge| self.edges[edge].log.iter().any(|b| b.chunks.contains(&chunk))).collect()
    }
}
