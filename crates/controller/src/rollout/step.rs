//! What reports and time do to a roll-out.

use std::fmt::Write as _;

use jiff::Timestamp;
use weir_model::NodeId;

use super::policy::passed;
use super::{OnFailure, Phase, Rollout, Seen, View};

/// Most failures that a reason names; the rest is counted.
const NAMED_MAX: usize = 3;

/// What is watched of one node that has been told to apply the revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    /// Since when it could have applied the revision: since its wave began, or since it came back.
    told: Timestamp,
    /// Its errors in a second before.
    errors_before: f64,
    gone: Option<Timestamp>,
    unwell: Option<Timestamp>,
    erring: Option<Timestamp>,
}

/// How a node does.
enum Verdict {
    /// It runs the revision and is well.
    Well,
    /// Nobody waits for it.
    Absent,
    /// Too early to say.
    Open,
    /// It failed, and why.
    Failed(String),
}

impl Rollout {
    /// Takes note of the time and of what is known of the nodes, and moves on if that allows or demands it. Returns
    /// whether the phase changed.
    pub fn step(&mut self, view: &View, now: Timestamp) -> bool {
        match &self.phase {
            Phase::Applying { .. } | Phase::Settling { .. } | Phase::Waiting { .. } => {
                self.advance(view, now)
            }
            Phase::RollingBack { since, reason } => {
                let (since, reason) = (*since, reason.clone());
                self.retreat(view, since, reason, now)
            }
            _ => false,
        }
    }

    /// Releases the current wave: from now on its nodes are assigned the revision.
    pub(super) fn begin_wave(&mut self, view: &View, now: Timestamp) {
        self.phase = Phase::Applying { since: now };
        let nodes: Vec<NodeId> = self.released().cloned().collect();
        for node in nodes {
            let seen = view.get(&node).filter(|seen| seen.connected);
            // Earlier waves were judged when they began, unless this is a new try.
            if self.watched.contains_key(&node) && seen.is_some_and(|seen| self.runs(seen)) {
                continue;
            }
            set(&mut self.absent, &node, seen.is_none());
            set(&mut self.ailing, &node, seen.is_some_and(|seen| seen.ailment.is_some()));
            let errors_before = seen.map_or(0.0, |seen| seen.errors_per_second);
            self.watched.insert(node, Watch::new(now, errors_before));
        }
    }

    fn advance(&mut self, view: &View, now: Timestamp) -> bool {
        let (mut failed, mut open, mut awaited) = (Vec::new(), false, 0);
        let current: Vec<NodeId> =
            self.waves.get(self.wave).map(|wave| wave.nodes.clone()).unwrap_or_default();
        let released: Vec<NodeId> = self.released().cloned().collect();
        for node in released {
            let verdict = self.judge(&node, view.get(&node), now);
            match verdict {
                Verdict::Failed(why) => failed.push((node, why)),
                Verdict::Open => open = true,
                Verdict::Well | Verdict::Absent => {}
            }
        }
        for node in &current {
            awaited += usize::from(!self.absent.contains(node));
        }
        if failed.len() > self.policy.failures_max as usize {
            self.fail(worded(&failed), now);
            return true;
        }
        match self.phase {
            Phase::Applying { .. } if awaited == 0 => {
                let label = &self.waves[self.wave].label;
                self.fail(
                    format!("no node of the wave \"{label}\" is connected: nothing could be proven"),
                    now,
                );
                true
            }
            Phase::Applying { .. } if !open => {
                self.phase = Phase::Settling { since: now };
                true
            }
            Phase::Settling { .. } if open => {
                // Somebody is not well, or away, and it is too early to say more: the watch begins again.
                self.phase = Phase::Settling { since: now };
                false
            }
            Phase::Settling { since } if passed(since, self.policy.settle_seconds, now) => {
                self.next(view, now);
                true
            }
            _ => false,
        }
    }

    fn next(&mut self, view: &View, now: Timestamp) {
        if self.wave + 1 >= self.waves.len() {
            self.phase = Phase::Done { at: now };
        } else if self.policy.approval {
            self.phase = Phase::Waiting { since: now };
        } else {
            self.wave += 1;
            self.begin_wave(view, now);
        }
    }

    fn fail(&mut self, reason: String, now: Timestamp) {
        self.phase = if self.policy.on_failure == OnFailure::RollBack && self.from.is_some() {
            Phase::RollingBack { since: now, reason }
        } else {
            Phase::Halted { since: now, reason }
        };
    }

    fn retreat(&mut self, view: &View, since: Timestamp, reason: String, now: Timestamp) -> bool {
        let Some(from) = &self.from else { return false };
        let back = |node: &NodeId| {
            view.get(node).is_some_and(|seen| seen.connected && seen.applied.as_ref() == Some(&from.hash))
        };
        // Who was away all the time has nothing to go back from.
        let missing: Vec<NodeId> = self
            .released()
            .filter(|node| !back(node) && (is_connected(view, node) || !self.absent.contains(*node)))
            .cloned()
            .collect();
        if missing.is_empty() || passed(since, self.policy.apply_seconds, now) {
            self.phase = Phase::RolledBack { at: now, reason, missing };
            return true;
        }
        false
    }

    fn runs(&self, seen: &Seen) -> bool {
        seen.applied.as_ref() == Some(&self.to.hash)
    }

    fn judge(&mut self, node: &NodeId, seen: Option<&Seen>, now: Timestamp) -> Verdict {
        let errors = seen.map_or(0.0, |seen| seen.errors_per_second);
        let mut watch = *self.watched.entry(node.clone()).or_insert_with(|| Watch::new(now, errors));
        let verdict = self.judge_watched(node, seen, &mut watch, now);
        self.watched.insert(node.clone(), watch);
        verdict
    }

    fn judge_watched(
        &mut self,
        node: &NodeId,
        seen: Option<&Seen>,
        watch: &mut Watch,
        now: Timestamp,
    ) -> Verdict {
        let policy = &self.policy;
        let Some(seen) = seen.filter(|seen| seen.connected) else {
            if self.absent.contains(node) {
                return Verdict::Absent;
            }
            let gone = *watch.gone.get_or_insert(now);
            if passed(gone, policy.lost_seconds, now) {
                return Verdict::Failed(format!("lost for {} s", policy.lost_seconds));
            }
            return Verdict::Open;
        };
        if self.absent.remove(node) || watch.gone.take().is_some() {
            watch.told = now;
        }
        if let Some((hash, why)) = &seen.refused
            && *hash == self.to.hash
            && !self.runs(seen)
        {
            return Verdict::Failed(format!("refused: {why}"));
        }
        if !self.runs(seen) {
            if passed(watch.told, policy.apply_seconds, now) {
                return Verdict::Failed(format!("did not apply it within {} s", policy.apply_seconds));
            }
            return Verdict::Open;
        }
        let lasts = |since: &mut Option<Timestamp>, bad: bool| match bad {
            true => Some(passed(*since.get_or_insert(now), policy.unwell_seconds, now)),
            false => {
                *since = None;
                None
            }
        };
        let ailment = seen.ailment.as_ref().filter(|_| !self.ailing.contains(node));
        let unwell = lasts(&mut watch.unwell, ailment.is_some());
        let erring = lasts(&mut watch.erring, policy.rising(watch.errors_before, seen.errors_per_second));
        match (unwell, erring) {
            (Some(true), _) => Verdict::Failed(format!("unwell: {}", ailment.map_or("", String::as_str))),
            (_, Some(true)) => Verdict::Failed(format!(
                "{:.1} errors/s, {:.1} before",
                seen.errors_per_second, watch.errors_before
            )),
            (None, None) => Verdict::Well,
            _ => Verdict::Open,
        }
    }
}

impl Watch {
    fn new(told: Timestamp, errors_before: f64) -> Self {
        Self { told, errors_before, gone: None, unwell: None, erring: None }
    }
}

fn is_connected(view: &View, node: &NodeId) -> bool {
    view.get(node).is_some_and(|seen| seen.connected)
}

fn set(nodes: &mut std::collections::BTreeSet<NodeId>, node: &NodeId, member: bool) {
    if member {
        nodes.insert(node.clone());
    } else {
        nodes.remove(node);
    }
}

fn worded(failed: &[(NodeId, String)]) -> String {
    let mut words = String::new();
    for (node, why) in failed.iter().take(NAMED_MAX) {
        let comma = if words.is_empty() { "" } else { "; " };
        let _ = write!(words, "{comma}{node} {why}");
    }
    if failed.len() > NAMED_MAX {
        let _ = write!(words, "; and {} more", failed.len() - NAMED_MAX);
    }
    words
}
