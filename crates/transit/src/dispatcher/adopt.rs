//! A change of the group's sinks while batches are on their way.
//!
//! A sink that is left out gets nothing more. What it has and was not promised is taken back at once; what was promised
//! it may finish, and only then is it let go. Left out on purpose: the order of a tag's batches across the change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weir_model::{Epoch, NodeId, Seq};

use super::{Dispatcher, DispatcherOutput, Link, Placement, Sink};

impl Dispatcher {
    /// Goes on with these sinks and this placement, as a new epoch.
    ///
    /// A sink that is not among them leaves: [`DispatcherOutput::Gone`] says when nothing binds it any more. One that
    /// comes back before that begins a new session, which [`DispatcherOutput::HangUp`] asks for.
    pub fn adopt(&mut self, sinks: impl IntoIterator<Item = NodeId>, placement: Box<dyn Placement>) {
        let wanted: BTreeSet<NodeId> = sinks.into_iter().collect();
        self.placement = placement;
        let known: Vec<NodeId> = self.sinks.keys().cloned().collect();
        for name in known {
            self.set_leaving(&name, !wanted.contains(&name));
        }
        let now = self.now;
        for name in wanted {
            // It owns no tag before it has answered.
            self.sinks.entry(name).or_insert_with(|| Sink::new(now, false));
        }
        self.count_live();
        self.place_waiting();
        self.let_go();
    }

    fn set_leaving(&mut self, name: &NodeId, leaving: bool) {
        let Some(sink) = self.sinks.get_mut(name) else { return };
        if std::mem::replace(&mut sink.leaving, leaving) == leaving {
            return;
        }
        if leaving {
            for seq in std::mem::take(&mut sink.in_flight) {
                self.wait_again(seq);
            }
        } else if !matches!(sink.link, Link::Down { .. }) {
            // It still holds what was taken back. Sent again in one session, that could cross with a refusal.
            self.disconnected(name, None);
            self.outputs.push_back(DispatcherOutput::HangUp { sink: name.clone() });
        }
    }

    /// Forgets sinks that leave and are bound by no promise.
    pub(super) fn let_go(&mut self) {
        let promised = |name: &NodeId| self.promises.keys().any(|part| part.sink == *name);
        let gone: Vec<NodeId> = self
            .sinks
            .iter()
            .filter(|(name, sink)| sink.leaving && !promised(name))
            .map(|(name, _)| name.clone())
            .collect();
        for sink in gone {
            // What it was asked to settle is asked of another.
            self.disconnected(&sink, None);
            self.sinks.remove(&sink);
            self.outputs.push_back(DispatcherOutput::Gone { sink });
        }
    }

    /// Counts anew which sinks are live; says whether that changed.
    pub(super) fn count_live(&mut self) -> bool {
        let mut changed = false;
        for sink in self.sinks.values_mut() {
            let live = !sink.leaving
                && match sink.link {
                    Link::Up { draining, .. } => !draining,
                    Link::Down { since } | Link::Greeting { since, .. } => {
                        sink.live && self.now < since + self.config.failover_after
                    }
                };
            changed |= live != sink.live;
            sink.live = live;
        }
        changed
    }

    /// A new epoch: every waiting batch is placed again.
    pub(super) fn place_waiting(&mut self) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.unsettled = self.now;
        let all: Vec<Seq> = std::mem::take(&mut self.waiting).into_values().flatten().collect();
        self.waiting_count -= all.len();
        let before: BTreeMap<Seq, _> =
            all.iter().filter_map(|seq| Some((*seq, self.batches.get(seq)?.place.clone()))).collect();
        for (seq, before) in before {
            self.wait_again(seq);
            let moved = self.batches.get(&seq).is_some_and(|batch| batch.place != before);
            self.failovers += u64::from(moved);
        }
    }
}

impl Sink {
    /// A sink that was not reached yet.
    pub(super) fn new(now: Duration, live: bool) -> Self {
        Self {
            link: Link::Down { since: now },
            live,
            leaving: false,
            window_total: 0,
            sent_total: 0,
            in_flight_bytes: 0,
            in_flight: BTreeSet::new(),
        }
    }
}
