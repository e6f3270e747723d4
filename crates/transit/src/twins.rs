//! The same chunk in several batches: which of those that are staged has the right to it, and what the store has.
//!
//! A sender that got no answer sends a chunk to another edge, so it comes twice, in batches of two logs. The batch
//! that came first has the right to the chunk; the others wait until it is committed, and are then repeats, or
//! until it goes, and the next one takes its place. Left out on purpose: edges, parts, payloads.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use weir_model::Fingerprint;

use crate::collector::StageKey;
use crate::recent::RecentBounds;

/// What a staged batch may do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Be committed, with those of its chunks for which it says so; all of them mostly.
    Commit { keep: Vec<bool> },
    /// Wait for another batch.
    Wait,
    /// Nothing: the store has all of it.
    Repeated,
}

/// A half-done batch goes first: another of its chunk would store what the store has of it.
type Turn = (bool, StageKey);

#[derive(Debug)]
pub(crate) struct Twins {
    bounds: RecentBounds,
    stored: HashSet<Fingerprint>,
    order: VecDeque<(Fingerprint, Duration)>,
    holders: HashMap<Fingerprint, BTreeSet<Turn>>,
}

impl Twins {
    pub(crate) fn new(bounds: RecentBounds) -> Self {
        Self { bounds, stored: HashSet::new(), order: VecDeque::new(), holders: HashMap::new() }
    }

    /// A batch is staged.
    pub(crate) fn arrive(&mut self, key: StageKey, whole: bool, chunks: &[Fingerprint]) {
        for chunk in chunks {
            self.holders.entry(*chunk).or_default().insert((whole, key));
        }
    }

    /// What a staged batch may do now.
    pub(crate) fn judge(&self, key: StageKey, chunks: &[Fingerprint]) -> Verdict {
        let mut keep = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let stored = self.stored.contains(chunk);
            let first = self.holders.get(chunk).and_then(BTreeSet::first);
            if !stored && first.is_some_and(|(_, first)| *first != key) {
                return Verdict::Wait;
            }
            keep.push(!stored);
        }
        if !chunks.is_empty() && keep.iter().all(|keep| !keep) {
            Verdict::Repeated
        } else {
            Verdict::Commit { keep }
        }
    }

    /// A batch is staged no more. Gives those that may be judged otherwise now.
    pub(crate) fn leave(&mut self, key: StageKey, chunks: &[Fingerprint]) -> BTreeSet<StageKey> {
        let mut others = BTreeSet::new();
        for chunk in chunks {
            let Some(holders) = self.holders.get_mut(chunk) else { continue };
            holders.retain(|(_, holder)| *holder != key);
            others.extend(holders.iter().map(|(_, holder)| *holder));
            if holders.is_empty() {
                self.holders.remove(chunk);
            }
        }
        others
    }

    /// The staged batches that hold some of these chunks.
    pub(crate) fn holders(&self, chunks: &[Fingerprint]) -> BTreeSet<StageKey> {
        let holders = chunks.iter().filter_map(|chunk| self.holders.get(chunk)).flatten();
        holders.map(|(_, holder)| *holder).collect()
    }

    /// The store has these chunks.
    pub(crate) fn stored(&mut self, chunks: impl IntoIterator<Item = Fingerprint>, now: Duration) {
        for chunk in chunks {
            if self.stored.insert(chunk) {
                self.order.push_back((chunk, now));
            }
        }
        self.tick(now);
    }

    /// Forgets what is older than the window, or beyond its number.
    pub(crate) fn tick(&mut self, now: Duration) {
        let window = Duration::from_secs(self.bounds.seconds.into());
        while let Some((chunk, since)) = self.order.front()
            && (*since + window < now || self.order.len() > self.bounds.chunks)
        {
            self.stored.remove(chunk);
            self.order.pop_front();
        }
    }

    /// How many chunks of the store are known.
    pub(crate) fn len(&self) -> usize {
        self.stored.len()
    }

    /// How long chunks are known.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(self.bounds.seconds.into())
    }
}

/// The chunks of a staged batch, shared.
pub(crate) type Chunks = Arc<[Fingerprint]>;

#[cfg(test)]
mod tests {
    use super::*;

    fn twins() -> Twins {
        Twins::new(RecentBounds { seconds: 10, chunks: 3 })
    }

    fn chunk(n: u64) -> Fingerprint {
        Fingerprint(n, n)
    }

    #[test]
    fn the_first_has_the_right_until_it_goes() {
        let mut twins = twins();
        let (one, two) = ([chunk(1), chunk(2)], [chunk(2), chunk(3)]);
        twins.arrive(StageKey(0), true, &one);
        twins.arrive(StageKey(1), true, &two);
        assert_eq!(twins.judge(StageKey(0), &one), Verdict::Commit { keep: vec![true, true] });
        assert_eq!(twins.judge(StageKey(1), &two), Verdict::Wait);
        assert_eq!(twins.leave(StageKey(0), &one), BTreeSet::from([StageKey(1)]));
        assert_eq!(twins.judge(StageKey(1), &two), Verdict::Commit { keep: vec![true, true] });
    }

    #[test]
    fn what_the_store_has_is_left_out() {
        let mut twins = twins();
        let (one, two) = ([chunk(1)], [chunk(1), chunk(2)]);
        twins.arrive(StageKey(0), true, &one);
        twins.arrive(StageKey(1), true, &two);
        twins.stored(one, Duration::ZERO);
        assert_eq!(twins.judge(StageKey(0), &one), Verdict::Repeated);
        assert_eq!(twins.judge(StageKey(1), &two), Verdict::Commit { keep: vec![false, true] });
    }

    #[test]
    fn a_half_done_batch_goes_first() {
        let mut twins = twins();
        twins.arrive(StageKey(0), true, &[chunk(1)]);
        twins.arrive(StageKey(1), false, &[chunk(1)]);
        assert_eq!(twins.judge(StageKey(0), &[chunk(1)]), Verdict::Wait);
        assert_eq!(twins.holders(&[chunk(1)]), BTreeSet::from([StageKey(0), StageKey(1)]));
    }

    #[test]
    fn the_window_is_bounded() {
        let mut twins = twins();
        twins.stored((0..5).map(chunk), Duration::ZERO);
        assert_eq!(twins.len(), 3);
        twins.tick(Duration::from_secs(11));
        assert_eq!(twins.len(), 0);
    }
}
