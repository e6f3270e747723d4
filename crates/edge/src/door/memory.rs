//! The memory that all connections of a node share, for messages that are on no disk yet.
//!
//! Up to half of the budget anyone may hold what it needs. Above it only those that hold less than an equal share are
//! read on, so a few greedy connections cannot starve many modest ones; and one connection at a time may finish a message
//! that is larger than its share, as far as the whole budget reaches, so that all of them together never wait for ever.
//! Pure but for atomics.

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

/// Whether a connection may be read.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Allowance {
    Yes,
    /// Yes, as the one that may go beyond its share until its message is complete.
    Finish,
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

    /// Whether more may be read. `unfinished`: it has part of a message, which others' bytes must not keep from its end.
    pub(crate) fn allowance(&self, unfinished: bool) -> Allowance {
        let budget = &self.budget;
        let total = budget.total.load(Ordering::Relaxed);
        let soft = total / 2;
        if budget.used() <= soft {
            self.let_go();
            return Allowance::Yes;
        }
        let share = soft / budget.holders.load(Ordering::Relaxed).max(1);
        if self.bytes <= share {
            return Allowance::Yes;
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
        if may && budget.used() <= total { Allowance::Finish } else { Allowance::No }
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
        let budget = Budget::new(64 * MIB);
        let mut greedy = Holding::new(budget.clone());
        greedy.set(30 * MIB);
        assert_eq!(greedy.allowance(true), Allowance::Yes, "nobody else needs it");
        let mut modest = Holding::new(budget.clone());
        modest.set(4 * MIB);
        assert_eq!(modest.allowance(true), Allowance::Yes, "less than a share");
        assert_eq!(greedy.allowance(false), Allowance::No, "nothing to finish");
        assert_eq!(greedy.allowance(true), Allowance::Finish);
        let mut third = Holding::new(budget.clone());
        third.set(20 * MIB);
        assert_eq!(third.allowance(true), Allowance::No, "one at a time");
        greedy.let_go();
        assert_eq!(third.allowance(true), Allowance::Finish);
        drop(third);
        assert_eq!(greedy.allowance(true), Allowance::Finish, "who is gone lets go");
        greedy.set(61 * MIB);
        assert_eq!(greedy.allowance(true), Allowance::No, "nobody goes beyond the whole");
        modest.set(MIB);
        assert_eq!(greedy.allowance(true), Allowance::Finish);
        drop((greedy, modest));
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.holders.load(Ordering::Relaxed), 0);
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
