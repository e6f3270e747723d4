//! Whether a node can do its work, and why not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use weir_model::NodeId;

/// What a node says of itself. Clones are handles to the same.
///
/// A node is ready while every condition holds, and not before there is one.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    role: String,
    name: NodeId,
    version: String,
    began: Instant,
    conditions: Mutex<BTreeMap<String, Result<(), String>>>,
    notes: Mutex<BTreeMap<String, String>>,
    revision: Mutex<Option<String>>,
}

/// The answer of `/health`.
#[derive(Serialize)]
pub(crate) struct Alive<'a> {
    status: &'static str,
    role: &'a str,
    name: &'a NodeId,
    version: &'a str,
    uptime_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    notes: BTreeMap<String, String>,
}

/// The answer of `/ready`.
#[derive(Serialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    conditions: Vec<Condition>,
    notes: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Condition {
    name: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Health {
    /// A node that has just begun: alive, and not ready.
    #[must_use]
    pub fn new(role: &str, name: NodeId, version: &str) -> Self {
        Self(Arc::new(Inner {
            role: role.to_owned(),
            name,
            version: version.to_owned(),
            began: Instant::now(),
            conditions: Mutex::default(),
            notes: Mutex::default(),
            revision: Mutex::default(),
        }))
    }

    /// Says whether the condition `name` holds, or why it does not.
    pub fn set_condition(&self, name: &str, state: Result<(), String>) {
        self.0.conditions.lock().insert(name.to_owned(), state);
    }

    /// Forgets the condition `name`, because its subject is gone.
    pub fn remove_condition(&self, name: &str) {
        self.0.conditions.lock().remove(name);
    }

    /// Says something that a human should know of and that keeps the node from nothing; `None` takes it back.
    pub fn set_note(&self, name: &str, note: Option<String>) {
        let mut notes = self.0.notes.lock();
        match note {
            Some(note) => notes.insert(name.to_owned(), note),
            None => notes.remove(name),
        };
    }

    /// Says which revision of the topology the node runs.
    pub fn set_revision(&self, revision: &str) {
        *self.0.revision.lock() = Some(revision.to_owned());
    }

    /// Which revision of the topology the node runs.
    #[must_use]
    pub fn revision(&self) -> Option<String> {
        self.0.revision.lock().clone()
    }

    /// What a human should know of.
    #[must_use]
    pub fn notes(&self) -> BTreeMap<String, String> {
        self.0.notes.lock().clone()
    }

    /// The conditions, and why those that do not hold do not.
    #[must_use]
    pub fn conditions(&self) -> BTreeMap<String, Result<(), String>> {
        self.0.conditions.lock().clone()
    }

    /// Whether every condition holds, and there is one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let conditions = self.0.conditions.lock();
        !conditions.is_empty() && conditions.values().all(Result::is_ok)
    }

    /// Why the node is not ready: every condition that does not hold, with its reason; none if it is.
    #[must_use]
    pub fn ailment(&self) -> Option<String> {
        let conditions = self.0.conditions.lock();
        if conditions.is_empty() {
            return Some("it is still starting".to_owned());
        }
        let broken: Vec<String> = conditions
            .iter()
            .filter_map(|(name, state)| Some(format!("{name}: {}", state.as_ref().err()?)))
            .collect();
        (!broken.is_empty()).then(|| broken.join("; "))
    }

    /// How long the node has been up.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// What the node does: `edge`, `sink`, `standalone`.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.0.role
    }

    /// What the node is called.
    #[must_use]
    pub fn name(&self) -> &NodeId {
        &self.0.name
    }

    /// Which program it runs.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.version
    }

    pub(crate) fn alive(&self) -> Alive<'_> {
        let Inner { role, name, version, .. } = &*self.0;
        let uptime_seconds = self.uptime().as_secs();
        let (revision, notes) = (self.revision(), self.notes());
        Alive { status: "alive", role, name, version, uptime_seconds, revision, notes }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let conditions: Vec<_> = self
            .0
            .conditions
            .lock()
            .iter()
            .map(|(name, state)| Condition {
                name: name.clone(),
                ok: state.is_ok(),
                reason: state.as_ref().err().cloned(),
            })
            .collect();
        Readiness {
            ready: !conditions.is_empty() && conditions.iter().all(|c| c.ok),
            conditions,
            notes: self.notes(),
        }
    }
}
