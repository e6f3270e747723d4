//! A roll-out: how one revision reaches a fleet, wave by wave, and how it is called back.
//!
//! A [`Rollout`] is a value. It is told what the agents report and what time it is ([`Rollout::step`]), and says
//! which revision each node ought to run ([`Rollout::assigned`]). What must hold:
//!
//! | | rule |
//! |---|---|
//! | R1 | **one wave at a time**: no node gets the revision before every awaited node of the earlier waves runs it and stayed well for `settle` |
//! | R2 | **a failure stops it**: after a refusal, a lost node, lost health or rising errors no further node gets the revision |
//! | R3 | **back means all**: in a roll-back every node is assigned the revision from before |
//! | R4 | **it ends**: every wave has a time limit; nothing waits for a node for ever |
//!
//! `tests/simulation.rs` checks them with thousands of nodes that answer late, refuse, vanish and come back.
//! Left out on purpose: how a text travels, and who may start what.

mod policy;
mod step;
mod waves;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_model::NodeId;

pub use policy::{OnFailure, Policy, PolicyError};
pub use waves::{By, Member, Place, Wave, WaveError, members, waves};

use step::Watch;

/// A revision, by number and content: the number is for people, the hash is what is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct RevisionRef {
    /// Counted from 1.
    pub number: u64,
    /// SHA-256 of the text, in hex.
    pub hash: String,
}

/// What is known of a node, as far as a roll-out cares.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// Whether its agent is connected now.
    pub connected: bool,
    /// Hash of the revision that it runs.
    pub applied: Option<String>,
    /// Hash of the revision that it refused last, and why.
    pub refused: Option<(String, String)>,
    /// Why it cannot do its work, if it cannot.
    pub ailment: Option<String>,
    /// Errors in a second, over its last report.
    pub errors_per_second: f64,
}

/// What is known of all nodes.
pub type View = BTreeMap<NodeId, Seen>;

/// Where a roll-out stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// The nodes of the current wave are told to apply the revision.
    Applying {
        /// Since when.
        since: Timestamp,
    },
    /// They run it, and are watched for a while.
    Settling {
        /// Since when all of them are well.
        since: Timestamp,
    },
    /// The wave is through; a person must approve the next.
    Waiting {
        /// Since when.
        since: Timestamp,
    },
    /// Stopped. Nodes that have the revision keep it; no other gets it.
    Halted {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: String,
    },
    /// Every node is told to go back.
    RollingBack {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: String,
    },
    /// Every node that could be reached runs the revision from before.
    RolledBack {
        /// Since when.
        at: Timestamp,
        /// Why.
        reason: String,
        /// Nodes that did not say so in time; they go back when they return.
        #[schema(value_type = Vec<String>)]
        missing: Vec<NodeId>,
    },
    /// The revision is the fleet's.
    Done {
        /// Since when.
        at: Timestamp,
    },
    /// Given up for a later roll-out.
    Superseded {
        /// Since when.
        at: Timestamp,
        /// The later one.
        by: u64,
    },
}

impl Phase {
    /// Whether nothing more will happen by itself or by hand.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self, Self::RolledBack { .. } | Self::Done { .. } | Self::Superseded { .. })
    }

    /// One word for people and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Applying { .. } => "applying",
            Self::Settling { .. } => "settling",
            Self::Waiting { .. } => "waiting for approval",
            Self::Halted { .. } => "halted",
            Self::RollingBack { .. } => "rolling back",
            Self::RolledBack { .. } => "rolled back",
            Self::Done { .. } => "done",
            Self::Superseded { .. } => "superseded",
        }
    }
}

/// A request that does not fit the roll-out's phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is in another phase.
    #[error("roll-out {id} is {phase}: it cannot {request} now")]
    Phase {
        /// Which.
        id: u64,
        /// Its phase.
        phase: &'static str,
        /// What was asked.
        request: &'static str,
    },
    /// There is no revision from before.
    #[error("roll-out {id} is the first of this fleet: there is no earlier revision to go back to")]
    NoWayBack {
        /// Which.
        id: u64,
    },
}

/// One roll-out, from its start to its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rollout {
    /// Counted from 1.
    pub id: u64,
    /// What is rolled out.
    pub to: RevisionRef,
    /// What the fleet ran before; none in the first roll-out.
    pub from: Option<RevisionRef>,
    /// Who started it.
    pub author: String,
    /// When.
    pub started: Timestamp,
    /// How.
    pub policy: Policy,
    /// Who, in which order.
    pub waves: Vec<Wave>,
    /// The current wave, counted from 0.
    pub wave: usize,
    /// Tries of the current wave: a node is told again, though it refused before.
    #[serde(default)]
    pub attempt: u32,
    /// Where it stands.
    pub phase: Phase,
    /// Nodes that were not connected when their wave began: nobody waits for them.
    pub absent: BTreeSet<NodeId>,
    /// Nodes that were unwell before they got the revision: their health says nothing about it.
    pub ailing: BTreeSet<NodeId>,
    /// What is watched of the nodes that have the revision. A new leader begins anew.
    #[serde(skip)]
    watched: HashMap<NodeId, Watch>,
    /// Each node's wave. Built when needed.
    #[serde(skip)]
    index: HashMap<NodeId, usize>,
}

/// What a roll-out is made of.
#[derive(Debug, Clone)]
pub struct Start {
    /// Counted from 1.
    pub id: u64,
    /// What is rolled out.
    pub to: RevisionRef,
    /// What the fleet runs.
    pub from: Option<RevisionRef>,
    /// Who asks.
    pub author: String,
    /// How.
    pub policy: Policy,
    /// Who, in which order; one wave at least.
    pub waves: Vec<Wave>,
}

impl Rollout {
    /// Begins with the first wave.
    #[must_use]
    pub fn start(start: Start, view: &View, now: Timestamp) -> Self {
        let Start { id, to, from, author, policy, waves } = start;
        let mut rollout = Self {
            id,
            to,
            from,
            author,
            started: now,
            policy,
            waves,
            wave: 0,
            attempt: 0,
            phase: Phase::Applying { since: now },
            absent: BTreeSet::new(),
            ailing: BTreeSet::new(),
            watched: HashMap::new(),
            index: HashMap::new(),
        };
        rollout.reindex();
        rollout.begin_wave(view, now);
        rollout
    }

    /// Goes on after it was read back: a new leader gives everyone time to report.
    #[must_use]
    pub fn resumed(mut self, now: Timestamp) -> Self {
        self.reindex();
        match &mut self.phase {
            Phase::Applying { since } | Phase::Settling { since } | Phase::RollingBack { since, .. } => {
                *since = now;
            }
            _ => {}
        }
        self
    }

    /// The revision that `node` ought to run; none if this fleet has none for it yet.
    #[must_use]
    pub fn assigned(&self, node: &NodeId) -> Option<&RevisionRef> {
        let forward = match self.phase {
            Phase::Done { .. } => true,
            Phase::RollingBack { .. } | Phase::RolledBack { .. } | Phase::Superseded { .. } => false,
            _ => self.index.get(node).is_some_and(|wave| *wave <= self.wave),
        };
        if forward { Some(&self.to) } else { self.from.as_ref() }
    }

    /// What the fleet runs when this roll-out is over: the new revision if it is done, else that from before.
    #[must_use]
    pub fn stable(&self) -> Option<&RevisionRef> {
        if matches!(self.phase, Phase::Done { .. }) { Some(&self.to) } else { self.from.as_ref() }
    }

    /// The nodes that have been told to apply the revision.
    pub fn released(&self) -> impl Iterator<Item = &NodeId> {
        self.waves.iter().take(self.wave + 1).flat_map(|wave| &wave.nodes)
    }

    /// Stops where it is.
    ///
    /// # Errors
    /// [`RequestError::Phase`] when it is not under way.
    pub fn halt(&mut self, reason: String, now: Timestamp) -> Result<(), RequestError> {
        match self.phase {
            Phase::Applying { .. } | Phase::Settling { .. } | Phase::Waiting { .. } => {
                self.phase = Phase::Halted { since: now, reason };
                Ok(())
            }
            _ => Err(self.not_now("be halted")),
        }
    }

    /// Tries the current wave again.
    ///
    /// # Errors
    /// [`RequestError::Phase`] when it is not halted.
    pub fn resume(&mut self, view: &View, now: Timestamp) -> Result<(), RequestError> {
        if !matches!(self.phase, Phase::Halted { .. }) {
            return Err(self.not_now("be resumed"));
        }
        self.attempt += 1;
        self.begin_wave(view, now);
        Ok(())
    }

    /// Begins the next wave.
    ///
    /// # Errors
    /// [`RequestError::Phase`] when it does not wait for an approval.
    pub fn approve(&mut self, view: &View, now: Timestamp) -> Result<(), RequestError> {
        if !matches!(self.phase, Phase::Waiting { .. }) {
            return Err(self.not_now("be approved"));
        }
        self.wave += 1;
        self.begin_wave(view, now);
        Ok(())
    }

    /// Tells every node to go back.
    ///
    /// # Errors
    /// [`RequestError`] when it is over, on its way back, or the first.
    pub fn roll_back(&mut self, reason: String, now: Timestamp) -> Result<(), RequestError> {
        if self.phase.ended() || matches!(self.phase, Phase::RollingBack { .. }) {
            return Err(self.not_now("be rolled back"));
        }
        if self.from.is_none() {
            return Err(RequestError::NoWayBack { id: self.id });
        }
        self.phase = Phase::RollingBack { since: now, reason };
        Ok(())
    }

    /// Gives it up for roll-out `by`, which goes on from the same earlier revision.
    ///
    /// # Errors
    /// [`RequestError::Phase`] while it is under way: halt it first.
    pub fn supersede(&mut self, by: u64, now: Timestamp) -> Result<(), RequestError> {
        match self.phase {
            Phase::Halted { .. } => {
                self.phase = Phase::Superseded { at: now, by };
                Ok(())
            }
            _ if self.phase.ended() => Ok(()),
            _ => Err(self.not_now("make room for another")),
        }
    }

    fn not_now(&self, request: &'static str) -> RequestError {
        RequestError::Phase { id: self.id, phase: self.phase.word(), request }
    }

    fn reindex(&mut self) {
        let named = |(number, wave): (usize, &Wave)| {
            wave.nodes.iter().map(move |node| (node.clone(), number)).collect::<Vec<_>>()
        };
        self.index = self.waves.iter().enumerate().flat_map(named).collect();
    }
}
