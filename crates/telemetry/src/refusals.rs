//! What a node refuses: counted by reason, and told in the log, but not once for each of a flood.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use metrics::Counter;
use parking_lot::Mutex;

/// Time between two lines of the same reason.
const QUIET: Duration = Duration::from_secs(10);

/// The refusals at one place.
pub struct Refusals {
    counter: Box<dyn Fn(&'static str) -> Counter + Send + Sync>,
    // By reason; reasons are words of the program, so the map is small for ever.
    reasons: Mutex<HashMap<&'static str, (Counter, Gate)>>,
}

impl Refusals {
    /// `counter` gives the counter of a reason, and is asked once for each.
    pub fn new(counter: impl Fn(&'static str) -> Counter + Send + Sync + 'static) -> Self {
        Self { counter: Box::new(counter), reasons: Mutex::default() }
    }

    /// Counts one. If it may be told in the log: how many of this reason were silent since the last line.
    pub fn note(&self, reason: &'static str) -> Option<u64> {
        let mut reasons = self.reasons.lock();
        let new = || ((self.counter)(reason), Gate::default());
        let (counter, gate) = reasons.entry(reason).or_insert_with(new);
        counter.increment(1);
        gate.pass(Instant::now())
    }
}

impl std::fmt::Debug for Refusals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refusals").finish_non_exhaustive()
    }
}

/// Lets one line through in ten seconds; it says how many were kept back before it.
#[derive(Debug, Default)]
pub struct Gate {
    last: Option<Instant>,
    silent: u64,
}

impl Gate {
    /// How many were silent since the last, if this one may be told.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < QUIET) {
            self.silent += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_tells_of_the_others() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(gate.pass(at(0)), Some(0));
        assert_eq!(gate.pass(at(1)), None);
        assert_eq!(gate.pass(at(9)), None);
        assert_eq!(gate.pass(at(10)), Some(2));
        assert_eq!(gate.pass(at(100)), Some(0));
    }
}
