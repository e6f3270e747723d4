//! Drives the real [`Dispatcher`] and [`Collector`] through seeded disorder: nodes crash, journals lose what was
//! not synced, connections break, commits land late or in part, sinks leave the group and come back. After each step the rules are checked by name;
//! in the end everything heals and every batch must be stored exactly once.
//!
//! `WEIR_SIM_SEEDS` says how many seeds are run. Left out on purpose: the order of batches within a tag.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_model::{Epoch, Incarnation, LogId, NodeId, PartId, Seq};
use weir_transit::{
    Collector, CollectorConfig, CollectorOutput, Dispatcher, DispatcherConfig, DispatcherOutput,
    JournalRecord, Partition, Placement, Recovered, Resolution, StageKey, ToEdge, ToSink,
};

const BATCHES: u64 = 40;
const EDGES: usize = 2;
const CHAOS: Duration = Duration::from_secs(30);
const HEALED: Duration = Duration::from_secs(180);

/// A fault planted in the driver, which the checks must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    Nothing,
    DurableTooEarly,
    ResolveWithoutFence,
}

#[derive(Debug)]
enum Event {
    Tick,
    Control { edge: usize, sink: usize, session: Epoch, message: ToSink },
    Batch { edge: usize, sink: usize, session: Epoch, seq: Seq, done: Vec<Partition> },
    Answer { edge: usize, sink: usize, session: Epoch, message: ToEdge },
    EdgeHearsOfBreak { edge: usize, life: u32, sink: usize, session: Epoch },
    SinkHearsOfBreak { edge: usize, sink: usize, life: u32, session: Epoch },
    Synced { edge: usize, life: u32, records: usize },
    EdgeStarts(usize),
    SinkStarts(usize),
    SinkCrashes { sink: usize, life: u32 },
    Lands { part: PartId, sink: usize, life: u32, partition: Option<Partition> },
    Reports { part: PartId, sink: usize, life: u32 },
    Resolves { sink: usize, life: u32, log: Arc<LogId>, part: PartId, token: Bytes },
}

struct Edge {
    log: Arc<LogId>,
    life: u32,
    dispatcher: Option<Dispatcher>,
    // Whether the record of this start is durable: no session before.
    started: bool,
    offered: u64,
    durable: Vec<Bytes>,
    unsynced: Vec<Bytes>,
    // What `durable` says.
    recovered: Recovered,
    last_session: Epoch,
    // The sinks of the group, as this edge's topology has them.
    members: Vec<NodeId>,
}

struct Sink {
    name: NodeId,
    life: u32,
    collector: Option<Collector>,
    payloads: BTreeMap<StageKey, (usize, Seq, Vec<Partition>)>,
}

#[derive(Default)]
struct StoredPart {
    batches: Vec<(usize, Seq, Vec<Partition>)>,
    wanted: BTreeSet<Partition>,
    landed: BTreeSet<Partition>,
    complete: bool,
    fenced: bool,
}

struct ByTag(Vec<NodeId>);

impl Placement for ByTag {
    fn owner(&self, tag: &str, live: &dyn Fn(&NodeId) -> bool) -> Option<NodeId> {
        let first: usize = tag.parse().unwrap();
        let candidates = (0..self.0.len()).map(|step| &self.0[(first + step) % self.0.len()]);
        candidates.into_iter().find(|node| live(node)).cloned()
    }
}

fn partitions(seq: u64) -> Vec<Partition> {
    let name = |n: u64| Partition::from(format!("p{}", n % 3));
    if seq.is_multiple_of(5) { vec![name(seq), name(seq + 1)] } else { vec![name(seq)] }
}

fn token(_: &PartId, partitions: &[Partition]) -> Bytes {
    partitions.join(" ").into()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

struct Sim {
    rng: StdRng,
    plant: Plant,
    now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    event_count: u64,
    edges: Vec<Edge>,
    sinks: Vec<Sink>,
    // The session of each connection, by edge and sink, and when its three streams are next free.
    connections: BTreeMap<(usize, usize), Epoch>,
    streams: BTreeMap<(usize, usize, u8), Duration>,
    parts: BTreeMap<PartId, StoredPart>,
    stored: BTreeMap<(usize, Seq, Partition), PartId>,
    broken: Option<String>,
    partials: usize,
    orphans: usize,
}

impl Sim {
    fn new(seed: u64, plant: Plant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let edges = (0..EDGES).map(|n| Edge {
            log: Arc::new(LogId {
                edge: NodeId::new(&format!("e{n}")).unwrap(),
                group: "g".parse().unwrap(),
                incarnation: Incarnation(7),
            }),
            life: 0,
            dispatcher: None,
            started: false,
            offered: 0,
            durable: Vec::new(),
            unsynced: Vec::new(),
            recovered: Recovered::default(),
            last_session: Epoch(0),
            members: Vec::new(),
        });
        let sinks = (0..rng.random_range(2..=3)).map(|n| Sink {
            name: NodeId::new(&format!("s{n}")).unwrap(),
            life: 0,
            collector: None,
            payloads: BTreeMap::new(),
        });
        let mut sim = Self {
            edges: edges.collect(),
            sinks: sinks.collect(),
            rng,
            plant,
            now: Duration::ZERO,
            events: BTreeMap::new(),
            event_count: 0,
            connections: BTreeMap::new(),
            streams: BTreeMap::new(),
            parts: BTreeMap::new(),
            stored: BTreeMap::new(),
            broken: None,
            partials: 0,
            orphans: 0,
        };
        for edge in 0..EDGES {
            sim.edges[edge].members = sim.names();
            sim.after(0, Event::EdgeStarts(edge));
        }
        (0..sim.sinks.len()).for_each(|sink| sim.after(0, Event::SinkStarts(sink)));
        sim.after(1, Event::Tick);
        sim
    }

    fn names(&self) -> Vec<NodeId> {
        self.sinks.iter().map(|sink| sink.name.clone()).collect()
    }

    fn run(mut self) -> Result<Self, String> {
        while let Some((at, event)) = self.events.pop_first() {
            self.now = at.0;
            self.step(event);
            self.pump();
            if let Some(broken) = self.broken {
                return Err(format!("{broken}, at {:?}", self.now));
            }
            if self.now > CHAOS && self.all_stored() {
                return Ok(self);
            }
            if self.now > HEALED {
                let states: Vec<_> =
                    self.edges.iter().map(|e| e.dispatcher.as_ref().map(Dispatcher::status)).collect();
                return Err(format!("liveness: not all is stored; {states:?}"));
            }
        }
        Err("no events are left".into())
    }

    fn check(&mut self, holds: bool, rule: &str, facts: impl std::fmt::Debug) {
        if !holds && self.broken.is_none() {
            self.broken = Some(format!("{rule}: {facts:?}"));
        }
    }

    fn after(&mut self, millis: u64, event: Event) {
        self.event_count += 1;
        self.events.insert((self.now + ms(millis), self.event_count), event);
    }

    fn later(&mut self, millis_max: u64, event: Event) {
        let delay = self.rng.random_range(1..=millis_max);
        self.after(delay, event);
    }

    // Each stream of a connection keeps its order.
    fn travel(&mut self, stream: (usize, usize, u8), event: Event) {
        let arrival = self.now + ms(self.rng.random_range(1..=80));
        let free = self.streams.entry(stream).or_default();
        *free = arrival.max(*free);
        self.event_count += 1;
        self.events.insert((*free, self.event_count), event);
    }

    fn open(&self, edge: usize, sink: usize, session: Epoch) -> bool {
        self.connections.get(&(edge, sink)) == Some(&session)
    }

    fn all_stored(&self) -> bool {
        self.edges.iter().enumerate().all(|(edge, state)| {
            state.dispatcher.as_ref().is_some_and(|d| d.done().covers(0..BATCHES) && d.is_idle())
                && (0..BATCHES).all(|seq| {
                    partitions(seq).into_iter().all(|p| self.stored.contains_key(&(edge, Seq(seq), p)))
                })
        })
    }

    fn step(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Tick => self.tick(),
            Event::Control { edge, sink, session, message } if self.open(edge, sink, session) => {
                let log = self.edges[edge].log.clone();
                let Some(collector) = &mut self.sinks[sink].collector else { return };
                match message {
                    ToSink::Hello { session, .. } => {
                        let stands = collector.hello(&log, session);
                        self.check(stands, "the newest session stands", (edge, sink, session));
                    }
                    ToSink::Promise { part } => collector.promised(&log, &part),
                    ToSink::Refuse { part, gone } => collector.refused(&log, &part, &gone),
                    ToSink::Resolve { part, token } => collector.resolve(&log, part, token),
                }
            }
            Event::Batch { edge, sink, session, seq, done } if self.open(edge, sink, session) => {
                let log = &self.edges[edge].log;
                let state = &mut self.sinks[sink];
                let Some(collector) = &mut state.collector else { return };
                let mut left = partitions(seq.0);
                left.retain(|p| !done.contains(p));
                if let Some(key) = collector.batch(log, session, seq, 100, left.clone(), now) {
                    state.payloads.insert(key, (edge, seq, left));
                }
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
                let log = self.edges[edge].log.clone();
                if let Some(collector) = self.living(sink, life) {
                    collector.disconnected(&log, session);
                }
            }
            Event::Synced { edge, life, records } => self.synced(edge, life, records),
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
            Event::Resolves { sink, life, log, part, token } => {
                if self.living(sink, life).is_some() {
                    // Some stores can settle a part only where it was written.
                    let elsewhere = part.sink != self.sinks[sink].name && self.rng.random_bool(0.2);
                    let resolution =
                        if elsewhere { Resolution::NotHere } else { self.resolve(&part, &token) };
                    if let Some(collector) = self.living(sink, life) {
                        collector.resolved(&log, part, resolution);
                    }
                }
            }
        }
    }

    fn living(&mut self, sink: usize, life: u32) -> Option<&mut Collector> {
        let state = &mut self.sinks[sink];
        if state.life == life { state.collector.as_mut() } else { None }
    }

    fn tick(&mut self) {
        let now = self.now;
        for edge in &mut self.edges {
            let Some(dispatcher) = &mut edge.dispatcher else { continue };
            dispatcher.tick(now);
            for _ in 0..self.rng.random_range(0..=2) {
                if edge.offered < BATCHES && dispatcher.wants_more() {
                    dispatcher.offer(Seq(edge.offered), (edge.offered % 4).to_string().into(), 100);
                    edge.offered += 1;
                }
            }
        }
        self.sinks.iter_mut().filter_map(|sink| sink.collector.as_mut()).for_each(|c| c.tick(now));
        for edge in 0..EDGES {
            for sink in 0..self.sinks.len() {
                let chaos = now < CHAOS;
                if chaos && self.rng.random_bool(0.01) {
                    self.cut(edge, sink);
                } else if self.rng.random_bool(0.1) {
                    self.connect(edge, sink);
                }
            }
            if self.rng.random_bool(0.01) {
                self.change_members(edge);
            }
            if now < CHAOS && self.edges[edge].dispatcher.is_some() && self.rng.random_bool(0.004) {
                self.crash_edge(edge);
            }
        }
        for sink in 0..self.sinks.len() {
            if now < CHAOS && self.sinks[sink].collector.is_some() && self.rng.random_bool(0.006) {
                if self.rng.random_bool(0.3) {
                    self.sinks[sink].collector.as_mut().unwrap().drain();
                    let life = self.sinks[sink].life;
                    self.later(4000, Event::SinkCrashes { sink, life });
                } else {
                    self.crash_sink(sink);
                }
            }
        }
        self.after(50, Event::Tick);
    }

    // Another topology: a part of the sinks in any order; all of them once the disorder is over.
    fn change_members(&mut self, edge: usize) {
        let mut members = self.names();
        if self.now < CHAOS {
            let count = members.len();
            members.rotate_left(self.rng.random_range(0..count));
            members.truncate(self.rng.random_range(1..=count));
        }
        let state = &mut self.edges[edge];
        state.members.clone_from(&members);
        if let Some(dispatcher) = &mut state.dispatcher {
            dispatcher.adopt(members.clone(), Box::new(ByTag(members)));
        }
    }

    fn connect(&mut self, edge: usize, sink: usize) {
        if self.connections.contains_key(&(edge, sink)) || self.sinks[sink].collector.is_none() {
            return;
        }
        let state = &mut self.edges[edge];
        let Some(dispatcher) = state.dispatcher.as_mut().filter(|_| state.started) else { return };
        let Some((session, message)) = dispatcher.greet(&self.sinks[sink].name) else { return };
        let last = std::mem::replace(&mut state.last_session, session);
        self.check(last < session, "T6 epochs go forward", (edge, last, session));
        self.connections.insert((edge, sink), session);
        self.travel((edge, sink, 0), Event::Control { edge, sink, session, message });
    }

    // Each side hears of it in its own time, or only when the other connects anew.
    fn cut(&mut self, edge: usize, sink: usize) {
        let Some(session) = self.connections.remove(&(edge, sink)) else { return };
        let (life, sink_life) = (self.edges[edge].life, self.sinks[sink].life);
        self.later(300, Event::EdgeHearsOfBreak { edge, life, sink, session });
        self.later(300, Event::SinkHearsOfBreak { edge, sink, life: sink_life, session });
    }

    fn crash_edge(&mut self, edge: usize) {
        (0..self.sinks.len()).for_each(|sink| self.cut(edge, sink));
        let state = &mut self.edges[edge];
        state.dispatcher = None;
        // A disk may have got some of what nobody waited for.
        let kept = self.rng.random_range(0..=state.unsynced.len());
        state.unsynced.truncate(kept);
        state.durable.append(&mut state.unsynced);
        self.later(4000, Event::EdgeStarts(edge));
    }

    fn start_edge(&mut self, edge: usize) {
        let config = DispatcherConfig { waiting_batches_max: 8, ..DispatcherConfig::default() };
        let state = &mut self.edges[edge];
        let sinks = state.members.clone();
        state.recovered = Recovered::default();
        for record in &state.durable {
            state.recovered.replay(JournalRecord::decode(record).unwrap());
        }
        (state.life, state.started, state.offered) = (state.life + 1, false, 0);
        let (log, placement) = ((*state.log).clone(), Box::new(ByTag(sinks.clone())));
        state.dispatcher =
            Some(Dispatcher::new(config, log, sinks, placement, state.recovered.clone(), self.now));
    }

    fn synced(&mut self, edge: usize, life: u32, records: usize) {
        let state = &mut self.edges[edge];
        let Some(dispatcher) = state.dispatcher.as_mut().filter(|_| state.life == life) else { return };
        for record in state.unsynced.drain(..records) {
            state.recovered.replay(JournalRecord::decode(&record).unwrap());
            state.durable.push(record);
        }
        state.started = true;
        if self.plant != Plant::DurableTooEarly {
            dispatcher.journaled(records);
        }
    }

    fn crash_sink(&mut self, sink: usize) {
        (0..EDGES).for_each(|edge| self.cut(edge, sink));
        self.sinks[sink].collector = None;
        self.sinks[sink].payloads.clear();
        self.later(9000, Event::SinkStarts(sink));
    }

    fn start_sink(&mut self, sink: usize) {
        let parallel_parts = self.rng.random_range(1..=2);
        let config = CollectorConfig {
            part_bytes: 500,
            part_age: ms(400),
            stage_bytes: 3000,
            partitions_max: 2,
            parallel_parts,
            prepare_timeout: Duration::from_secs(3),
        };
        let state = &mut self.sinks[sink];
        state.life += 1;
        let incarnation = Incarnation(state.life.into());
        state.collector = Some(Collector::new(config, state.name.clone(), incarnation, Box::new(token)));
    }

    fn land(&mut self, part: PartId, sink: usize, life: u32, partition: Option<&Partition>) {
        let alive = self.living(sink, life).is_some();
        if !alive && self.rng.random_bool(0.5) {
            return; // it died with its caller
        }
        let stored = self.parts.get_mut(&part).expect("begun");
        if stored.fenced {
            if alive {
                self.crash_sink(sink); // told that its life is over
            }
            return;
        }
        self.orphans += usize::from(!alive);
        stored.landed.extend(partition.cloned());
        stored.complete = stored.landed == stored.wanted;
        let complete = stored.complete;
        for (edge, seq, names) in stored.batches.clone() {
            let promise = self.edges[edge].recovered.promises.get(&part);
            let promised = promise.is_some_and(|(ranges, _)| ranges.contains(seq));
            self.check(promised, "T1 and T2: a commit needs a durable promise", (&part, edge, seq));
            for name in names.into_iter().filter(|name| Some(name) == partition) {
                let before = self.stored.insert((edge, seq, name.clone()), part.clone());
                self.check(before.is_none(), "stored at most once", (edge, seq, name, before, &part));
            }
        }
        if complete {
            self.later(1500, Event::Reports { part, sink, life });
        }
    }

    fn resolve(&mut self, part: &PartId, token: &[u8]) -> Resolution {
        let stored = self.parts.entry(part.clone()).or_default();
        if stored.complete {
            return Resolution::Committed;
        }
        stored.fenced = self.plant != Plant::ResolveWithoutFence;
        if stored.landed.is_empty() {
            return Resolution::Void;
        }
        self.partials += 1;
        let landed: Vec<Partition> = stored.landed.iter().cloned().collect();
        let named = std::str::from_utf8(token).unwrap().split(' ').collect::<BTreeSet<_>>();
        let known = landed.iter().all(|name| named.contains(name.as_ref()));
        self.check(known, "a token names its part's partitions", part);
        Resolution::Partial(landed)
    }

    // Does what the machines ask for until none asks for more.
    fn pump(&mut self) {
        for edge in 0..EDGES {
            let mut records = 0;
            while let Some(output) = self.edges[edge].dispatcher.as_mut().and_then(Dispatcher::poll_output) {
                let index = |sinks: &[Sink], name| sinks.iter().position(|s| s.name == name).unwrap();
                match output {
                    DispatcherOutput::Send { sink, session, seq, done, .. } => {
                        let sink = index(&self.sinks, sink);
                        self.travel((edge, sink, 1), Event::Batch { edge, sink, session, seq, done });
                    }
                    DispatcherOutput::Control { sink, session, message } => {
                        let sink = index(&self.sinks, sink);
                        self.travel((edge, sink, 0), Event::Control { edge, sink, session, message });
                    }
                    DispatcherOutput::Journal(record) => {
                        let state = &mut self.edges[edge];
                        state.unsynced.push(record.encode());
                        records += 1;
                        if self.plant == Plant::DurableTooEarly {
                            state.dispatcher.as_mut().unwrap().journaled(1);
                        }
                    }
                    DispatcherOutput::Trim => {}
                    DispatcherOutput::HangUp { sink } | DispatcherOutput::Gone { sink } => {
                        let sink = index(&self.sinks, sink);
                        self.cut(edge, sink);
                    }
                }
            }
            if records > 0 {
                // Syncs are in order, each of what came since the last.
                let life = self.edges[edge].life;
                self.travel((edge, usize::MAX, 3), Event::Synced { edge, life, records });
            }
        }
        for sink in 0..self.sinks.len() {
            while let Some(output) = self.sinks[sink].collector.as_mut().and_then(Collector::poll_output) {
                self.obey(sink, output);
            }
        }
    }

    fn obey(&mut self, sink: usize, output: CollectorOutput) {
        let life = self.sinks[sink].life;
        let edge_of = |edges: &[Edge], log: &LogId| edges.iter().position(|e| *e.log == *log).unwrap();
        match output {
            CollectorOutput::Control { log, session, message } => {
                let edge = edge_of(&self.edges, &log);
                self.travel((edge, sink, 2), Event::Answer { edge, sink, session, message });
            }
            CollectorOutput::Commit { part, keys, partitions } => {
                let batches = keys.iter().map(|key| self.sinks[sink].payloads[key].clone()).collect();
                let stored = self.parts.entry(part.clone()).or_default();
                let first = stored.batches.is_empty();
                stored.batches = batches;
                stored.wanted = partitions.iter().cloned().collect();
                self.check(first, "T4 a part id is one set", &part);
                if partitions.is_empty() {
                    let part = part.clone();
                    self.later(2500, Event::Lands { part, sink, life, partition: None });
                }
                for name in partitions {
                    let part = part.clone();
                    self.later(2500, Event::Lands { part, sink, life, partition: Some(name) });
                }
            }
            CollectorOutput::Resolve { log, part, token } => {
                self.later(500, Event::Resolves { sink, life, log, part, token });
            }
            CollectorOutput::Discard(keys) => {
                for key in keys {
                    let known = self.sinks[sink].payloads.remove(&key).is_some();
                    self.check(known, "a payload is discarded once", (sink, key));
                }
            }
            CollectorOutput::Disconnect { log, session } => {
                let edge = edge_of(&self.edges, &log);
                if self.open(edge, sink, session) {
                    self.cut(edge, sink);
                }
            }
        }
    }
}

fn seeds() -> u64 {
    std::env::var("WEIR_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn every_batch_is_stored_exactly_once_through_crashes_and_cuts() {
    let (mut partials, mut orphans) = (0, 0);
    for seed in 0..seeds() {
        let sim =
            Sim::new(seed, Plant::Nothing).run().unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        partials += sim.partials;
        orphans += sim.orphans;
    }
    assert!(partials > 0 && orphans > 0, "the disorder has no teeth: {partials} partials, {orphans} orphans");
}

#[test]
fn a_fault_in_the_driver_is_found() {
    for (plant, rule) in
        [(Plant::DurableTooEarly, "T1 and T2"), (Plant::ResolveWithoutFence, "stored at most once")]
    {
        let found = (0..300).any(|seed| Sim::new(seed, plant).run().is_err_and(|e| e.contains(rule)));
        assert!(found, "{plant:?} was not found");
    }
}
