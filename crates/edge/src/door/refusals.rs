//! What is refused at a listener: counted by reason, and told in the log, but not once for each of a flood.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::warn;
use weir_telemetry::{Counter, names};

/// Time between two lines of the same reason.
const QUIET: Duration = Duration::from_secs(10);

/// The refusals of one listener.
pub(crate) struct Refusals {
    listener: String,
    // By reason; reasons are words of the program, so the map is small for ever.
    reasons: Mutex<HashMap<&'static str, Reason>>,
}

struct Reason {
    counter: Counter,
    gate: Gate,
}

impl Refusals {
    pub(crate) fn new(listener: &str) -> Self {
        Self { listener: listener.to_owned(), reasons: Mutex::default() }
    }

    /// Counts one, and logs it unless the last line of this reason is too recent.
    pub(crate) fn note(&self, reason: &'static str, peer: &dyn Display, detail: impl Display) {
        let Ok(mut reasons) = self.reasons.lock() else { return };
        let known = reasons.entry(reason).or_insert_with(|| Reason {
            counter: names::FORWARD_REFUSED_TOTAL.with([self.listener.as_str(), reason]),
            gate: Gate::default(),
        });
        known.counter.increment(1);
        let Some(silent) = known.gate.pass(Instant::now()) else { return };
        drop(reasons);
        warn!(listener = self.listener, %peer, reason, silent, "refused a sender: {detail}");
    }
}

/// Lets one line through in [`QUIET`]; it says how many were kept back before it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    last: Option<Instant>,
    silent: u64,
}

impl Gate {
    /// How many were silent since the last, if this one may be told.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<u64> {
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
