//! Senders: each chunk is sent until it is acknowledged, and sometimes again, through any edge.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use weir_transit::Partition;

use crate::world::{EDGES, Event, World, ms};

const CHUNKS: usize = 40;
pub(crate) const TAGS: usize = 4;

pub(crate) struct Chunk {
    pub(crate) tag: usize,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) acked: bool,
    tries: u32,
    next_try: Duration,
}

impl Chunk {
    pub(crate) fn all(rng: &mut StdRng, calm: bool) -> Vec<Self> {
        let name = |n: usize| Partition::from(format!("p{}", n % 3));
        let chunk = |n: usize| {
            let tag = n % TAGS;
            let partitions = match n {
                _ if calm => vec![name(tag)],
                n if n.is_multiple_of(5) => vec![name(n), name(n + 1)],
                n => vec![name(n)],
            };
            let next_try = ms(rng.random_range(0..22_000));
            Self { tag, partitions, acked: false, tries: 0, next_try }
        };
        (0..CHUNKS).map(chunk).collect()
    }
}

impl World {
    pub(crate) fn send_chunks(&mut self) {
        for tag in 0..TAGS {
            let mut due = Vec::new();
            for n in (tag..CHUNKS).step_by(TAGS) {
                // Some are sent again for no reason that an edge can see: the answer got lost, say.
                let again = self.chunks[n].acked && self.strikes(0.004);
                if due.len() < 3 && (again || !self.chunks[n].acked && self.chunks[n].next_try <= self.now) {
                    due.push(n);
                }
            }
            if due.is_empty() {
                continue;
            }
            // Mostly each alone; sometimes as single events that the edge packs.
            if self.calm || self.rng.random_bool(0.6) {
                due.truncate(1);
            }
            for &n in &due {
                self.covered.count("resends", u64::from(self.chunks[n].tries > 0));
                self.chunks[n].tries += 1;
                let patience = if self.calm { 60_000 } else { self.rng.random_range(200..3_000) };
                self.chunks[n].next_try = self.now + ms(patience);
            }
            let edge = if self.calm { tag % EDGES } else { self.rng.random_range(0..EDGES) };
            self.travel((edge, 1000 + tag, 5), Event::Chunks { edge, chunks: due });
        }
    }

    /// An edge acknowledges a chunk; the answer may get lost.
    pub(crate) fn acknowledge(&mut self, edge: usize, chunk: usize) {
        let durable = self.edges[edge].durable_chunks.contains(&chunk) || self.is_stored(chunk);
        self.uphold(crate::rules::Rule::AcknowledgedIsDurable, durable, (edge, chunk));
        if !self.strikes(0.3) {
            self.chunks[chunk].acked = true;
        }
    }
}
