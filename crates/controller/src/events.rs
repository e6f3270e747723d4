//! What happens, for whoever watches: the last thousand events, and those to come.

use std::collections::VecDeque;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;
use utoipa::ToSchema;

/// Events that are kept for those who come late or were cut off.
const KEPT: usize = 1000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Event {
    /// Rises, from one leader to the next too as far as their clocks agree: microseconds since 1970, or one more than
    /// the event before has.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// What, such as `agent.refused` or `rollout.done`.
    pub kind: String,
    /// To whom or what, such as a node's name.
    pub subject: String,
    /// For people.
    pub text: String,
}

/// The stream of events.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<(u64, VecDeque<Event>)>,
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Mutex::new((0, VecDeque::with_capacity(KEPT))), sender: broadcast::Sender::new(KEPT) }
    }
}

impl Events {
    /// Tells everyone.
    pub fn tell(&self, kind: &str, subject: &str, text: impl Into<String>, now: Timestamp) {
        let mut kept = self.kept.lock();
        kept.0 = u64::try_from(now.as_microsecond()).unwrap_or(0).max(kept.0 + 1);
        let event = Event {
            id: kept.0,
            at: now,
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            text: text.into(),
        };
        if kept.1.len() == KEPT {
            kept.1.pop_front();
        }
        kept.1.push_back(event.clone());
        // Nobody listens: nothing lost. Within the lock, so that the order is that of the ids.
        let _ = self.sender.send(event);
    }

    /// The kept events after `after`, and all to come. A receiver that is too slow misses some and is told so.
    #[must_use]
    pub fn subscribe(&self, after: u64) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self.kept.lock();
        (kept.1.iter().filter(|event| event.id > after).cloned().collect(), self.sender.subscribe())
    }

    /// How many watch.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.sender.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_comers_miss_nothing_that_is_kept() {
        let events = Events::default();
        for n in 0..KEPT + 5 {
            events.tell("k", "s", n.to_string(), Timestamp::UNIX_EPOCH);
        }
        let (kept, mut later) = events.subscribe(0);
        assert_eq!((kept.len(), kept[0].id, kept[KEPT - 1].id), (KEPT, 6, 1005));
        assert_eq!(events.subscribe(1004).0.len(), 1);
        events.tell("k", "s", "later", Timestamp::UNIX_EPOCH);
        assert_eq!(later.try_recv().unwrap().id, 1006);
        // Who comes from another leader misses nothing of this one.
        let (at, clock_put_back) = (Timestamp::from_second(5).unwrap(), Timestamp::from_second(4).unwrap());
        events.tell("k", "s", "at its time", at);
        events.tell("k", "s", "in order", clock_put_back);
        assert_eq!(later.try_recv().unwrap().id, 5_000_000);
        assert_eq!(later.try_recv().unwrap().id, 5_000_001);
    }
}
