//! A token bucket: so many units each second, and so many at once after a rest. Pure; time is an argument.
//!
//! It is kept as one number, the moment at which everything taken so far is paid for. That makes it an atomic that many
//! connections share without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weir_topology::Rate;

const SECOND_NS: u128 = 1_000_000_000;

/// Nanoseconds since some fixed moment; the same moment for all calls to one bucket.
pub(crate) type Nanos = u64;

#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: u64,
    burst_ns: Nanos,
    paid_at: AtomicU64,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(rate: Rate) -> Self {
        let per_second = rate.per_second.max(1);
        Self { per_second, burst_ns: cost(rate.burst, per_second), paid_at: AtomicU64::new(0) }
    }

    /// Takes whatever is asked for, into debt where that is needed: an amount larger than the burst must pass too. How
    /// long nothing more should be taken.
    pub(crate) fn take(&self, now: Nanos, amount: u64) -> Duration {
        let cost = cost(amount, self.per_second);
        let mut paid_at = self.paid_at.load(Ordering::Relaxed);
        loop {
            let after = paid_at.max(now).saturating_add(cost);
            match self.paid_at.compare_exchange_weak(paid_at, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Duration::from_nanos((after - now).saturating_sub(self.burst_ns)),
                Err(current) => paid_at = current,
            }
        }
    }

    /// Takes the amount if the bucket is not empty; says whether it did. What is larger than what is left passes once,
    /// into debt.
    pub(crate) fn try_take(&self, now: Nanos, amount: u64) -> bool {
        let cost = cost(amount, self.per_second);
        let mut paid_at = self.paid_at.load(Ordering::Relaxed);
        loop {
            let ahead = paid_at.saturating_sub(now);
            if ahead >= self.burst_ns {
                return false;
            }
            let after = paid_at.max(now).saturating_add(cost);
            match self.paid_at.compare_exchange_weak(paid_at, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(current) => paid_at = current,
            }
        }
    }
}

fn cost(amount: u64, per_second: u64) -> Nanos {
    // A century at most: the sum with a time never overflows.
    (u128::from(amount) * SECOND_NS / u128::from(per_second)).min(SECOND_NS * 3_155_760_000) as Nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn bucket(per_second: u64, burst: u64) -> Bucket {
        Bucket::new(Rate { per_second, burst })
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let bucket = bucket(1000, 100);
        assert_eq!(bucket.take(0, 100), Duration::ZERO);
        assert_eq!(bucket.take(0, 50), Duration::from_millis(50));
        // Half of it is paid for.
        assert_eq!(bucket.take(25 * MS, 0), Duration::from_millis(25));
        assert_eq!(bucket.take(50 * MS, 0), Duration::ZERO);
        // A long rest fills it up to the burst and no further.
        assert_eq!(bucket.take(1_000_000 * MS, 101), Duration::from_millis(1));
    }

    #[test]
    fn trying_takes_nothing_from_an_empty_bucket() {
        let bucket = bucket(1000, 100);
        assert!(bucket.try_take(0, 60));
        assert!(bucket.try_take(0, 60), "what is left is enough to begin");
        for _ in 0..5 {
            assert!(!bucket.try_take(0, 1));
        }
        assert!(!bucket.try_take(20 * MS, 1), "the debt is paid, and nothing more is in it");
        assert!(bucket.try_take(21 * MS, 1));
    }

    #[test]
    fn over_a_long_time_the_rate_holds() {
        let bucket = bucket(10_000, 500);
        let (mut now, mut passed) = (0, 0);
        while now < 10_000 * MS {
            if bucket.try_take(now, 7) {
                passed += 7;
            }
            now += MS / 10;
        }
        assert!((100_000..=100_507).contains(&passed), "{passed}");
    }

    #[test]
    fn no_amount_is_too_large() {
        let bucket = bucket(1, 1);
        assert!(bucket.take(0, u64::MAX) > Duration::from_secs(1_000_000_000));
        assert!(bucket.take(u64::MAX / 2, u64::MAX) > Duration::ZERO);
        assert!(bucket.try_take(u64::MAX, 1) || !bucket.try_take(u64::MAX, 1));
    }
}
