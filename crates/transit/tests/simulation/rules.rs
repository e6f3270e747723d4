//! The rules by their names, and what a run covered.

use std::collections::BTreeMap;
use std::fmt;

/// What must hold after each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// An acknowledged chunk is on its edge's disk, or in the store.
    AcknowledgedIsDurable,
    /// In the end everything acknowledged is stored, but for what a policy dropped.
    AcknowledgedIsStored,
    /// No chunk is twice in one partition.
    StoredOnce,
    /// What lands in the store was promised to that very part, on the edge's disk (T1, T2, T3).
    CommitNeedsPromise,
    /// A part is committed with one set of batches (T4).
    PartIsOneSet,
    /// A session number is above all before it (T6).
    EpochsForward,
    /// What an edge trims is stored, or was dropped by its policy.
    TrimmedIsStored,
    /// What was dropped by policy is not stored by that edge afterwards.
    DroppedStaysOut,
    /// Without faults, batches of one edge and tag are stored in their order.
    OrderPerTag,
    /// What machines hold in memory stays within their bounds.
    BoundedMemory,
    /// A payload is discarded once, and the newest session stands.
    Bookkeeping,
    /// After everything has healed, all is stored in the end.
    Liveness,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AcknowledgedIsDurable => "acknowledged is durable",
            Self::AcknowledgedIsStored => "acknowledged is stored in the end",
            Self::StoredOnce => "stored once",
            Self::CommitNeedsPromise => "commit needs a durable promise",
            Self::PartIsOneSet => "a part id is one set",
            Self::EpochsForward => "epochs go forward",
            Self::TrimmedIsStored => "trimmed is stored",
            Self::DroppedStaysOut => "dropped stays out",
            Self::OrderPerTag => "order per tag",
            Self::BoundedMemory => "bounded memory",
            Self::Bookkeeping => "bookkeeping",
            Self::Liveness => "liveness",
        })
    }
}

/// How often what happened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    /// All that a large enough number of seeds must bring about.
    const ALL: [&str; 19] = [
        "steps",
        "edge crashes",
        "sink crashes",
        "drains",
        "cuts",
        "member changes",
        "clock jumps",
        "full disks",
        "lost records",
        "lost batches",
        "late commits",
        "partial parts",
        "fenced lives",
        "resends",
        "known to the edge",
        "known to the sink",
        "cut batches",
        "known to another edge",
        "dropped by policy",
    ];

    pub(crate) fn count(&mut self, what: &'static str, times: u64) {
        if times > 0 {
            *self.0.entry(what).or_default() += times;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, times)| self.count(what, *times));
    }

    pub(crate) fn missing(&self) -> Vec<&'static str> {
        Self::ALL.into_iter().filter(|what| !self.0.contains_key(what)).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = self.0.iter().map(|(what, times)| format!("{times} {what}")).collect();
        f.write_str(&counts.join(", "))
    }
}
