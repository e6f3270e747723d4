//! The same chunk in several batches: which of those that are staged has the right to it, and what the store has.
//!
//! A sender that got no answer sends a chunk to another edge, so it comes twice, in batches of two logs. The batch
//! that came first has the right to the chunk; the others wait until it is committed, and are then repeats, or
//! until it goes, and the next one takes its place. Left out on purpose: edges, parts, payloads.

use std::collections::BTreeSet;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use weir_model::Fingerprint;

use crate::collector::StageKey;
use crate::recent::RecentBounds;
use crate::window::Window;

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

/// A staged batch that holds a chunk. They go in this order: a half-done batch first, for another of its chunk would
/// store what the store has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(u64);

impl Turn {
    // Keys count from 0, so the highest bit is free.
    const WHOLE: u64 = 1 << 63;

    fn new(whole: bool, key: StageKey) -> Self {
        Self(key.0 | if whole { Self::WHOLE } else { 0 })
    }

    fn key(self) -> StageKey {
        StageKey(self.0 & !Self::WHOLE)
    }
}

#[derive(Debug)]
pub(crate) struct Twins {
    bounds: RecentBounds,
    // Since when.
    stored: Window<Duration>,
    // Who holds a chunk. Mostly one does, and hundreds of thousands of chunks may be staged.
    first: HashMap<Fingerprint, Turn, RandomState>,
    behind: HashMap<Fingerprint, BTreeSet<Turn>, RandomState>,
}

impl Twins {
    pub(crate) fn new(bounds: RecentBounds) -> Self {
        Self { bounds, stored: Window::default(), first: HashMap::default(), behind: HashMap::default() }
    }

    /// A batch is staged.
    pub(crate) fn arrive(&mut self, key: StageKey, whole: bool, chunks: &[Fingerprint]) {
        let turn = Turn::new(whole, key);
        for chunk in chunks {
            match self.first.entry(*chunk) {
                Entry::Vacant(free) => _ = free.insert(turn),
                // It stands twice in one batch.
                Entry::Occupied(first) if *first.get() == turn => {}
                Entry::Occupied(mut first) => {
                    let later = turn.max(*first.get());
                    *first.get_mut() = turn.min(*first.get());
                    self.behind.entry(*chunk).or_default().insert(later);
                }
            }
        }
    }

    /// What a staged batch may do now.
    pub(crate) fn judge(&self, key: StageKey, chunks: &[Fingerprint]) -> Verdict {
        let mut keep = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let stored = self.stored.get(chunk).is_some();
            if !stored && self.first.get(chunk).is_some_and(|first| first.key() != key) {
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
            let Entry::Occupied(mut first) = self.first.entry(*chunk) else { continue };
            let mut behind = self.behind.remove(chunk).unwrap_or_default();
            behind.retain(|turn| turn.key() != key);
            if first.get().key() != key {
                others.insert(first.get().key());
            } else if let Some(next) = behind.pop_first() {
                others.insert(next.key());
                first.insert(next);
            } else {
                first.remove();
            }
            others.extend(behind.iter().map(|turn| turn.key()));
            if !behind.is_empty() {
                self.behind.insert(*chunk, behind);
            }
        }
        others
    }

    /// The staged batches that hold some of these chunks.
    pub(crate) fn holders(&self, chunks: &[Fingerprint]) -> BTreeSet<StageKey> {
        let of =
            |chunk| self.first.get(chunk).into_iter().chain(self.behind.get(chunk).into_iter().flatten());
        chunks.iter().flat_map(of).map(|turn| turn.key()).collect()
    }

    /// The store has these chunks.
    pub(crate) fn stored(&mut self, chunks: impl IntoIterator<Item = Fingerprint>, now: Duration) {
        for chunk in chunks {
            if self.stored.get(&chunk).is_none() {
                self.stored.push(chunk, now);
            }
            if self.stored.len() > self.bounds.chunks {
                self.stored.pop();
            }
        }
        self.tick(now);
    }

    /// Forgets what is older than the window, or beyond its number.
    pub(crate) fn tick(&mut self, now: Duration) {
        let window = Duration::from_secs(self.bounds.seconds.into());
        while let Some(since) = self.stored.oldest()
            && (*since + window < now || self.stored.len() > self.bounds.chunks)
        {
            self.stored.pop();
        }
    }

    /// How many chunks of the store are known.
    pub(crate) fn len(&self) -> usize {
        self.stored.known()
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
    fn each_has_its_turn_whichever_leaves() {
        let mut twins = twins();
        let one = [chunk(1)];
        (0..4).for_each(|key| twins.arrive(StageKey(key), true, &one));
        let keys = |keys: &[u64]| keys.iter().copied().map(StageKey).collect::<BTreeSet<_>>();
        assert_eq!(twins.leave(StageKey(2), &one), keys(&[0, 1, 3]));
        assert_eq!(twins.leave(StageKey(0), &one), keys(&[1, 3]));
        assert_eq!(twins.judge(StageKey(3), &one), Verdict::Wait);
        assert_eq!(twins.judge(StageKey(1), &one), Verdict::Commit { keep: vec![true] });
        assert_eq!(twins.leave(StageKey(1), &one), keys(&[3]));
        assert_eq!(twins.holders(&one), keys(&[3]));
        assert_eq!(twins.leave(StageKey(3), &one), keys(&[]));
        assert!(twins.first.is_empty() && twins.behind.is_empty());
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
