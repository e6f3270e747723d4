//! The memory that all connections of a node share, for messages that are on no disk yet.
//!
//! Memory is asked for before it is taken. Up to half of the budget anyone gets what it needs. Above it only those that hold
//! less than an equal share get more, up to that share, so a few greedy connections cannot starve many modest ones; and
//! one connection at a time may finish a message that is larger than its share, as far as the whole budget reaches, so that
//! all of them together never wait for ever. Pure but for atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Changes smaller than this are not told to the others.
const GRAIN: usize = 16 << 10;
/// Nobody has the right to finish.
const NOBODY: usize = 0;

#[derive(Debug)]
pub(crate) struct Budget {
    total: AtomicUsize,
    used: AtomicUsize,
    holders: AtomicUsize,
    finisher: AtomicUsize,
    next_id: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self {
            total: AtomicUsize::new(total),
            used: AtomicUsize::new(0),
            holders: AtomicUsize::new(0),
            finisher: AtomicUsize::new(NOBODY),
            next_id: AtomicUsize::new(1),
        })
    }

    pub(crate) fn resize(&self, total: usize) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// Bytes held by all.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// What one connection holds; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Holding {
    budget: Arc<Budget>,
    id: usize,
    bytes: usize,
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
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        let id = budget.next_id.fetch_add(1, Ordering::Relaxed);
        Self { budget, id, bytes: 0 }
    }

    /// Tells how much this connection holds now.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes != 0 && bytes.abs_diff(self.bytes) < GRAIN {
            return;
        }
        let budget = &self.budget;
        match (self.bytes, bytes) {
            (0, 0) => return,
            (0, _) => _ = budget.holders.fetch_add(1, Ordering::Relaxed),
            (_, 0) => _ = budget.holders.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        if bytes >= self.bytes {
            budget.used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            budget.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// How many bytes more may be held, of those that are `wanted`. `unfinished`: it has part of a message, which others'
    /// bytes must not keep from its end.
    pub(crate) fn allowance(&self, wanted: usize, unfinished: bool) -> Allowance {
        let budget = &self.budget;
        let (total, used) = (budget.total.load(Ordering::Relaxed), budget.used());
        let soft = total / 2;
        if used + wanted <= soft {
            self.let_go();
            return Allowance::Yes(wanted);
        }
        let share = soft / budget.holders.load(Ordering::Relaxed).max(1);
        // Less than a grain is no share to go on with: such a connection asks for the right to finish.
        let left = share.saturating_sub(self.bytes);
        if left > 0 && left >= GRAIN.min(share) {
            return Allowance::Yes(wanted.min(left));
        }
        let finisher = budget.finisher.load(Ordering::Relaxed);
        let may = finisher == self.id
            || unfinished
                && finisher == NOBODY
                && budget
                    .finisher
                    .compare_exchange(NOBODY, self.id, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok();
        // Beyond the whole it waits, and keeps its right: either others' messages reach the disk, or its time is over.
        if may && used < total { Allowance::Finish(wanted.min(total - used)) } else { Allowance::No }
    }

    /// Gives up the right to finish, once the message is complete.
    pub(crate) fn let_go(&self) {
        if self.budget.finisher.load(Ordering::Relaxed) == self.id {
            self.budget.finisher.store(NOBODY, Ordering::Relaxed);
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn above_half_an_equal_share_counts() {
        use Allowance::{Finish, No, Yes};
        let budget = Budget::new(64 * MIB);
        let mut greedy = Holding::new(budget.clone());
        assert_eq!(greedy.allowance(33 * MIB, true), Yes(32 * MIB), "half of all");
        greedy.set(30 * MIB);
        assert_eq!(greedy.allowance(MIB, true), Yes(MIB), "nobody else needs it");
        let mut modest = Holding::new(budget.clone());
        modest.set(4 * MIB);
        assert_eq!(modest.allowance(MIB, true), Yes(MIB), "less than a share");
        assert_eq!(modest.allowance(20 * MIB, true), Yes(12 * MIB), "a share and no more");
        assert_eq!(greedy.allowance(MIB, false), No, "nothing to finish");
        assert_eq!(greedy.allowance(MIB, true), Finish(MIB));
        let mut third = Holding::new(budget.clone());
        third.set(20 * MIB);
        assert_eq!(third.allowance(MIB, true), No, "one at a time");
        greedy.let_go();
        assert_eq!(third.allowance(MIB, true), Finish(MIB));
        drop(third);
        assert_eq!(greedy.allowance(64 * MIB, true), Finish(30 * MIB), "who is gone lets go");
        greedy.set(60 * MIB);
        assert_eq!(greedy.allowance(MIB, true), No, "nobody goes beyond the whole");
        modest.set(MIB);
        assert_eq!(greedy.allowance(MIB, true), Finish(MIB));
        drop((greedy, modest));
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.holders.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_has_all_but_a_crumb_of_its_share_may_finish() {
        let budget = Budget::new(4 * MIB);
        let mut both = [(); 2].map(|()| Holding::new(budget.clone()));
        both.iter_mut().for_each(|one| one.set(MIB - 100));
        assert_eq!(both[0].allowance(MIB, true), Allowance::Finish(MIB));
        assert_eq!(both[1].allowance(MIB, true), Allowance::No);
    }

    #[test]
    fn small_changes_stay_untold() {
        let budget = Budget::new(MIB);
        let mut holding = Holding::new(budget.clone());
        holding.set(100);
        assert_eq!(budget.used(), 0);
        holding.set(GRAIN + 1);
        assert_eq!(budget.used(), GRAIN + 1);
        holding.set(GRAIN - 50);
        assert_eq!(budget.used(), GRAIN + 1);
        holding.set(0);
        assert_eq!(budget.used(), 0);
    }
}
