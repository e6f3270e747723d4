//! Adding up a batch by minute of event time.

use std::collections::BTreeMap;

use weir_model::MinuteTally;

use crate::scan::EventTime;

/// Most distinct minutes of event time in one message: 45 days of one event each minute.
///
/// Usual messages span one minute or two. A tally goes into the batch's header, so their number must not follow
/// from hostile times: a message with more is refused like one that inflates too far ([`crate::Fault::TooManyMinutes`]).
pub const MINUTES_MAX: usize = 65_536;

/// The tallies of one batch in the making.
#[derive(Debug)]
pub struct Tally {
    received_minute: i64,
    /// The minute of the last event. Events come mostly in order, so it is mostly that of the next one too.
    current: MinuteTally,
    others: BTreeMap<i64, MinuteTally>,
    overfull: bool,
}

impl Tally {
    /// Of no event yet. `received_ns` is the time of events without one.
    #[must_use]
    pub fn new(received_ns: i64) -> Self {
        let received_minute = received_ns.div_euclid(60_000_000_000);
        Self { received_minute, current: empty(received_minute), others: BTreeMap::new(), overfull: false }
    }

    /// Counts an event of so many bytes; `digest` is the XXH3-64 of them.
    #[inline]
    pub fn add(&mut self, time: EventTime, bytes: usize, digest: u64) {
        let minute = match time {
            EventTime::Received => self.received_minute,
            EventTime::At { secs, .. } => secs.div_euclid(60),
        };
        if minute != self.current.minute {
            self.turn_to(minute);
        }
        self.current.events += 1;
        self.current.bytes += bytes as u64;
        self.current.digest = self.current.digest.wrapping_add(digest);
    }

    #[cold]
    fn turn_to(&mut self, minute: i64) {
        if self.current.events > 0 {
            self.others.insert(self.current.minute, self.current);
        }
        self.overfull |= self.others.len() >= MINUTES_MAX && !self.others.contains_key(&minute);
        if self.overfull {
            // The message is going to be refused; until its end is reached nothing more is kept.
            self.others.clear();
        }
        self.current = self.others.remove(&minute).unwrap_or(empty(minute));
    }

    /// The tallies in ascending order; `None` when there are more than [`MINUTES_MAX`].
    #[must_use]
    pub fn finish(mut self) -> Option<Vec<MinuteTally>> {
        if self.current.events > 0 {
            self.others.insert(self.current.minute, self.current);
        }
        (!self.overfull).then(|| self.others.into_values().collect())
    }
}

fn empty(minute: i64) -> MinuteTally {
    MinuteTally { minute, events: 0, bytes: 0, digest: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> EventTime {
        EventTime::At { secs, nanos: 0 }
    }

    #[test]
    fn minutes_come_out_sorted_whatever_the_order() {
        let mut tally = Tally::new(600_000_000_000);
        for (time, digest) in
            [(at(61), 1), (at(-1), 2), (EventTime::Received, u64::MAX), (at(119), 4), (at(659), 8)]
        {
            tally.add(time, 10, digest);
        }
        let minute = |minute, events, digest| MinuteTally { minute, events, bytes: 10 * events, digest };
        assert_eq!(tally.finish().unwrap(), [minute(-1, 1, 2), minute(1, 2, 5), minute(10, 2, 7)]);
    }

    #[test]
    fn the_number_of_minutes_is_bounded() {
        let mut tally = Tally::new(0);
        for minute in 0..MINUTES_MAX as i64 {
            tally.add(at(60 * minute), 1, 1);
        }
        tally.add(at(0), 1, 1);
        assert_eq!(tally.finish().unwrap().len(), MINUTES_MAX);

        let mut tally = Tally::new(0);
        for minute in 0..3 * MINUTES_MAX as i64 {
            tally.add(at(60 * minute), 1, 1);
            assert!(tally.others.len() <= MINUTES_MAX);
        }
        assert_eq!(tally.finish(), None);
    }
}
