//! The memory of an edge, and how its connections share what is left of it for messages that are on no disk yet.
//!
//! The limit is the whole process's. What it takes besides messages (logs, links, what the allocator keeps) is measured now
//! and then; the rest is given out before it is taken. Who may hold how much depends on how much is free: all connections
//! of one source together twice as much, and one of them as much as they all lack of that. So nobody ever takes all; a
//! source alone gets two thirds, and crowds from a few places leave as much as they have to those from another. (Dynamic
//! thresholds: Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", IEEE/ACM
//! Transactions on Networking 6(2), 1998; here on two levels.) The last eighth is for one connection at a time, to finish a
//! message that is larger than all this, so that all of them together never wait for ever. Pure but for atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Changes smaller than this are not told to the others.
const GRAIN: usize = 16 << 10;
/// The part by which what was measured may fall each time.
const FALL: usize = 16;
/// What a busy edge takes besides messages, or a bit more. It is set aside before it is measured: what an idle edge has left
/// is not to be given to those who keep it.
const BUSY: usize = 96 << 20;

#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicUsize,
    /// What the process takes besides messages, as it was measured.
    besides: AtomicUsize,
    used: AtomicUsize,
    /// Whether one has the right to finish.
    finisher: AtomicBool,
    /// What the finisher holds beyond what it would have got.
    beyond: AtomicUsize,
}

/// Bytes held by all connections of one source.
pub(crate) type OfSource = Arc<AtomicUsize>;

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            besides: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            finisher: AtomicBool::new(false),
            beyond: AtomicUsize::new(0),
        })
    }

    pub(crate) fn resize(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes held by all.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// So many bytes of the process are in RAM. More besides messages counts at once, less by and by: what is held may not
    /// have been filled yet. To be told every tenth of a second or so.
    pub(crate) fn measure(&self, resident: usize) {
        let (seen, before) = (resident.saturating_sub(self.used()), self.besides.load(Ordering::Relaxed));
        self.besides.store(seen.max(before - before / FALL), Ordering::Relaxed);
    }

    /// What connections may hold: what the rest leaves of the limit, but for a sixteenth that may be taken between two
    /// measurements; half of the limit in any case.
    fn total(&self) -> usize {
        let limit = self.limit.load(Ordering::Relaxed);
        let besides = self.besides.load(Ordering::Relaxed).max(BUSY);
        (limit - limit / 16).saturating_sub(besides).max(limit / 2)
    }
}

/// What one connection holds; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Holding {
    budget: Arc<Budget>,
    source: OfSource,
    bytes: usize,
    /// What it held when it got the right to finish.
    finishes_from: Option<usize>,
}

/// How much more a connection may hold.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Allowance {
    Yes(usize),
    /// As the one that may go beyond its share until its message is complete.
    Finish(usize),
    No,
}

impl Holding {
    pub(crate) fn new(budget: Arc<Budget>, source: OfSource) -> Self {
        Self { budget, source, bytes: 0, finishes_from: None }
    }

    /// Tells how much this connection holds now.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes != 0 && bytes.abs_diff(self.bytes) < GRAIN {
            return;
        }
        for sum in [&self.budget.used, &*self.source] {
            if bytes >= self.bytes {
                sum.fetch_add(bytes - self.bytes, Ordering::Relaxed);
            } else {
                sum.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            }
        }
        self.bytes = bytes;
        if let Some(from) = self.finishes_from {
            self.budget.beyond.store(bytes.saturating_sub(from), Ordering::Relaxed);
        }
    }

    /// How many bytes more may be held, of those that are `wanted`. `unfinished`: it has part of a message, which others'
    /// bytes must not keep from its end.
    pub(crate) fn allowance(&mut self, wanted: usize, unfinished: bool) -> Allowance {
        let budget = &self.budget;
        let (total, used) = (budget.total(), budget.used());
        // The finisher has the last eighth for itself, and takes nothing from the others' part.
        let regular = used.saturating_sub(budget.beyond.load(Ordering::Relaxed));
        let free = (total - total / 8).saturating_sub(regular).min(total.saturating_sub(used));
        // A quarter of what it lacks: then it holds as much as its source lacks of twice of what is still free.
        let lacks = (2 * free).saturating_sub(self.source.load(Ordering::Relaxed) + self.bytes);
        let left = lacks / 4;
        // Less than a grain is nothing to go on with: such a connection asks for the right to finish.
        if left >= wanted.min(GRAIN) {
            self.let_go();
            return Allowance::Yes(wanted.min(left));
        }
        if self.finishes_from.is_none() {
            if !unfinished || budget.finisher.swap(true, Ordering::Relaxed) {
                return Allowance::No;
            }
            self.finishes_from = Some(self.bytes);
        }
        // Beyond the whole it waits, and keeps its right: either others' messages reach the disk, or its time is over.
        if used < total { Allowance::Finish(wanted.min(total - used)) } else { Allowance::No }
    }

    /// Gives up the right to finish, once the message is complete.
    pub(crate) fn let_go(&mut self) {
        if self.finishes_from.take().is_some() {
            self.budget.beyond.store(0, Ordering::Relaxed);
            self.budget.finisher.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.let_go();
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// One with this much, from a source of its own.
    fn holding(budget: &Arc<Budget>, bytes: usize) -> Holding {
        let mut holding = Holding::new(budget.clone(), OfSource::default());
        holding.set(bytes);
        holding
    }

    /// One bite, without the right to finish; whether it got one.
    fn bite(holding: &mut Holding) -> bool {
        let Allowance::Yes(more) = holding.allowance(128 << 10, false) else { return false };
        holding.set(holding.bytes + more);
        true
    }

    fn fill(holding: &mut Holding) {
        while bite(holding) {}
    }

    /// What is to be had of 128 MiB.
    const TOTAL: usize = 64 * MIB;

    #[test]
    fn nobody_takes_all_and_one_may_finish() {
        use Allowance::{Finish, No};
        let budget = Budget::new(2 * TOTAL);
        let mut greedy = holding(&budget, 0);
        fill(&mut greedy);
        let half = TOTAL / 8 * 7 / 2;
        assert!(greedy.bytes.abs_diff(half) < 256 << 10, "one from one source: {}", greedy.bytes);
        assert_eq!(greedy.allowance(MIB, false), No, "nothing to finish");
        assert_eq!(greedy.allowance(MIB, true), Finish(MIB));
        greedy.set(greedy.bytes + 8 * MIB);
        assert_eq!(greedy.allowance(MIB, true), Finish(MIB));
        let mut other = holding(&budget, 0);
        fill(&mut other);
        assert!(other.bytes > 12 * MIB, "who finishes takes nothing from others: {}", other.bytes);
        assert_eq!(other.allowance(MIB, true), No, "one at a time");
        greedy.let_go();
        assert_eq!(other.allowance(MIB, true), Finish(MIB));
        drop(other);
        assert_eq!(greedy.allowance(64 * MIB, true), Finish(TOTAL - greedy.bytes), "who is gone lets go");
        greedy.set(TOTAL);
        assert_eq!(greedy.allowance(MIB, true), No, "nobody goes beyond the whole");
        greedy.set(TOTAL - 3 * MIB);
        assert_eq!(greedy.allowance(4 * MIB, true), Finish(3 * MIB), "the last eighth too");
        greedy.set(MIB);
        assert_eq!(greedy.allowance(TOTAL, true), Allowance::Yes((TOTAL / 8 * 7 - 2 * MIB) / 2));
        assert!(!budget.finisher.load(Ordering::Relaxed), "who gets its share needs no right");
        drop(greedy);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.beyond.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn crowds_leave_something_to_a_few_from_elsewhere() {
        for sources in 1..=7 {
            let budget = Budget::new(2 * TOTAL);
            let mut crowds: Vec<Holding> = Vec::new();
            let of: Vec<_> = (0..sources).map(|_| OfSource::default()).collect();
            crowds.extend(
                (0..200 * sources).map(|index| Holding::new(budget.clone(), of[index % sources].clone())),
            );
            while crowds.iter_mut().filter_map(|one| bite(one).then_some(())).count() > 0 {}
            let few = OfSource::default();
            let mut few = [(); 2].map(|()| Holding::new(budget.clone(), few.clone()));
            few.iter_mut().for_each(fill);
            let (got, equal) = (few[0].bytes + few[1].bytes, TOTAL / (sources + 1));
            assert!(got >= equal / 4, "beside {sources} crowds {got} bytes, {equal} are an equal part");
            assert!(budget.used() < TOTAL - TOTAL / 8);
        }
    }

    #[test]
    fn a_greedy_one_leaves_something_to_others_of_its_source() {
        let budget = Budget::new(2 * TOTAL);
        let source = OfSource::default();
        let mut both = [(); 2].map(|()| Holding::new(budget.clone(), source.clone()));
        both.iter_mut().for_each(fill);
        assert!(both[1].bytes >= both[0].bytes / 5, "{both:?}");
    }

    #[test]
    fn what_the_process_takes_besides_is_not_given_out() {
        let budget = Budget::new(512 * MIB);
        assert_eq!(budget.total(), 384 * MIB, "it takes something as soon as it has work");
        budget.measure(120 * MIB);
        assert_eq!(budget.total(), 360 * MIB);
        let _holding = holding(&budget, 60 * MIB);
        budget.measure(180 * MIB);
        assert_eq!(budget.total(), 360 * MIB, "what is held is no part of it");
        // Held, and not filled yet: that does not count as if the rest had shrunk.
        budget.measure(128 * MIB);
        assert_eq!(budget.total(), 367 * MIB + MIB / 2);
        budget.measure(400 * MIB);
        assert_eq!(budget.total(), 256 * MIB, "so much is theirs in any case");
        for _ in 0..100 {
            budget.measure(170 * MIB);
        }
        assert_eq!(budget.total(), 370 * MIB);
    }

    #[test]
    fn small_changes_stay_untold() {
        let budget = Budget::new(MIB);
        let mut holding = holding(&budget, 100);
        assert_eq!(budget.used(), 0);
        holding.set(GRAIN + 1);
        assert_eq!(budget.used(), GRAIN + 1);
        holding.set(GRAIN - 50);
        assert_eq!(budget.used(), GRAIN + 1);
        holding.set(0);
        assert_eq!(budget.used(), 0);
    }
}
