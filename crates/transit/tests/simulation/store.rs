//! The store: parts that land partition by partition, also after their sink's death, unless they were fenced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::Rng;
use weir_model::{LogId, PartId, Seq};
use weir_transit::{Partition, Resolution};

use crate::plant::Plant;
use crate::rules::Rule;
use crate::sink::Staged;
use crate::world::{Event, World};

#[derive(Default)]
pub(crate) struct Store {
    parts: BTreeMap<PartId, Part>,
    /// Which part each chunk's events in a partition came with.
    pub(crate) stored: BTreeMap<(usize, Partition), PartId>,
    // The last number that each edge and tag has in a partition.
    last: BTreeMap<(usize, usize, Partition), Seq>,
}

#[derive(Default)]
struct Part {
    batches: Vec<Staged>,
    wanted: BTreeSet<Partition>,
    landed: BTreeSet<Partition>,
    complete: bool,
    fenced: bool,
    /// Chunks of it that these edges had too, when they were given up after a wait; why.
    unasked: BTreeMap<(usize, usize), &'static str>,
    /// Chunks of which two batches were half done.
    torn: BTreeSet<usize>,
}

impl Store {
    pub(crate) fn fence(&mut self, part: &PartId) {
        self.parts.entry(part.clone()).or_default().fenced = true;
    }
}

impl World {
    /// A sink has the store commit a part; it lands some time, or never.
    pub(crate) fn begin(&mut self, sink: usize, part: &PartId, batches: Vec<Staged>, wanted: &[Partition]) {
        let (mut unasked, mut torn) = (BTreeMap::new(), BTreeSet::new());
        for &chunk in batches.iter().flat_map(|batch| &batch.chunks) {
            let half_done = |other: &usize| {
                let state = &self.edges[*other];
                state.dispatcher.as_ref().is_some_and(|dispatcher| {
                    let of_chunk = |seq: Seq| state.log[seq.0 as usize].chunks.contains(&chunk);
                    dispatcher.half_done().any(of_chunk)
                })
            };
            let holders = self.holders(chunk);
            if holders.iter().filter(|other| half_done(other)).count() > 1 {
                torn.insert(chunk);
            }
            for &other in holders.iter().filter(|other| self.has_given_up(sink, part, **other)) {
                let knows = self.edges[other].members.contains(&self.sinks[sink].name);
                let why =
                    if knows { "doubled by an edge out of reach" } else { "doubled by another topology" };
                unasked.insert((chunk, other), why);
            }
        }
        let stored = self.store.parts.entry(part.clone()).or_default();
        let first = stored.batches.is_empty() || stored.fenced;
        (stored.batches, stored.unasked, stored.torn) = (batches, unasked, torn);
        stored.wanted = wanted.iter().cloned().collect();
        self.uphold(Rule::PartIsOneSet, first, part);
        let life = self.sinks[sink].life;
        let mut partitions: Vec<Option<Partition>> = wanted.iter().cloned().map(Some).collect();
        if partitions.is_empty() {
            partitions.push(None);
        }
        // A store that is slow, or hangs for a while.
        let most = if self.calm {
            200
        } else if self.rng.random_bool(0.1) {
            9_000
        } else {
            2_500
        };
        for partition in partitions {
            self.later(most, Event::Lands { part: part.clone(), sink, life, partition });
        }
    }

    pub(crate) fn land(&mut self, part: PartId, sink: usize, life: u32, partition: Option<&Partition>) {
        let alive = self.living(sink, life).is_some();
        if !alive && self.rng.random_bool(0.5) {
            return; // it died with its caller
        }
        let stored = self.store.parts.get_mut(&part).expect("begun");
        if stored.fenced {
            if alive {
                self.covered.count("fenced lives", 1);
                self.crash_sink(sink); // told that its life is over
            }
            return;
        }
        stored.landed.extend(partition.cloned());
        stored.complete = stored.landed == stored.wanted;
        let (complete, batches) = (stored.complete, stored.batches.clone());
        self.covered.count("late commits", u64::from(!alive));
        for Staged { edge, seq, done, chunks } in batches {
            let state = &self.edges[edge];
            let promise = state.recovered.promises.get(&part);
            let promised = promise.is_some_and(|(ranges, _)| ranges.contains(seq));
            let dropped = state.dropped.contains(seq);
            self.uphold(Rule::CommitNeedsPromise, promised, (&part, edge, seq));
            self.uphold(Rule::DroppedStaysOut, !dropped, (&part, edge, seq));
            let Some(name) = partition.filter(|name| !done.contains(name)) else { continue };
            for chunk in chunks {
                if !self.chunks[chunk].partitions.contains(name) {
                    continue;
                }
                let key = (chunk, name.clone());
                let Some(before) = self.store.stored.insert(key, part.clone()) else { continue };
                // What stays open, see `crates/README.md`: of the two parts one was committed by a sink that could not
                // ask the other's edge, or each was cut short by a death.
                let (one, other) = (&self.store.parts[&before], &self.store.parts[&part]);
                let of =
                    |part: &Part| part.batches.iter().find(|b| b.chunks.contains(&chunk)).map(|b| b.edge);
                let unasked = |part: &Part, edge: Option<usize>| {
                    edge.and_then(|edge| part.unasked.get(&(chunk, edge)).copied())
                };
                if let Some(why) = unasked(one, Some(edge)).or(unasked(other, of(one))) {
                    self.covered.count(why, 1);
                } else if one.torn.contains(&chunk) || other.torn.contains(&chunk) {
                    self.covered.count("doubled by two half-done batches", 1);
                } else {
                    self.uphold(Rule::StoredOnce, false, (chunk, edge, seq, name, &before, &part));
                }
            }
            if self.calm {
                let tag = self.edges[edge].log[seq.0 as usize].tag;
                let last = self.store.last.insert((edge, tag, name.clone()), seq);
                self.uphold(Rule::OrderPerTag, last.is_none_or(|last| last < seq), (edge, tag, last, seq));
            }
        }
        if complete {
            self.later(if self.calm { 50 } else { 1_500 }, Event::Reports { part, sink, life });
        }
    }

    /// A member of the group settles a part.
    pub(crate) fn settle(&mut self, sink: usize, life: u32, log: &Arc<LogId>, part: PartId, token: &[u8]) {
        if self.living(sink, life).is_none() {
            return;
        }
        // Some stores can settle a part only where it was written.
        let elsewhere = part.sink != self.sinks[sink].name && self.rng.random_bool(0.2);
        let resolution = if elsewhere { Resolution::NotHere } else { self.resolve(&part, token) };
        if let Some(collector) = self.living(sink, life) {
            collector.resolved(log, part, resolution);
        }
    }

    fn resolve(&mut self, part: &PartId, token: &[u8]) -> Resolution {
        let stored = self.store.parts.entry(part.clone()).or_default();
        if stored.complete {
            return Resolution::Committed;
        }
        let landed: Vec<Partition> = stored.landed.iter().cloned().collect();
        match self.plant {
            Plant::NoFence => {}
            Plant::LookBeforeFence => self.later(3_000, Event::Fences(part.clone())),
            _ => stored.fenced = true,
        }
        if landed.is_empty() {
            return Resolution::Void;
        }
        self.covered.count("partial parts", 1);
        let named = std::str::from_utf8(token).unwrap().split(' ').collect::<BTreeSet<_>>();
        let known = landed.iter().all(|name| named.contains(name.as_ref()));
        self.uphold(Rule::Bookkeeping, known, ("a token names its part's partitions", part));
        Resolution::Partial(landed)
    }
}
