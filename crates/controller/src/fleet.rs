//! The agents, as they last reported. Kept in memory: whoever counts is connected, and says it again.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use weir_agent::talk::{Hello, LogDepth, Refused, Report};
use weir_model::NodeId;

use crate::rollout::{RevisionRef, Seen, View};

/// Most agents that are remembered. Names come from certificates of the cluster, so this is reached by no fleet.
const AGENTS_MAX: usize = 20_000;

/// Agents that may come back in a second, on average, when all were lost at once.
const RETURNS_PER_SECOND: usize = 200;

/// Reports in a second that the fleet is paced to.
const REPORTS_PER_SECOND: usize = 400;

/// The bounds of the time between two reports of an agent.
const REPORT_MS: (usize, usize) = (2000, 30_000);

/// The bounds of the time within which agents come back.
const RETURN_MS: (usize, usize) = (1000, 120_000);

/// A revision that a node did not take.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Refusal {
    /// Which.
    pub revision: RevisionRef,
    /// Why.
    pub reason: String,
}

/// How much a log holds that no store has yet.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Depth {
    /// Whose log.
    pub group: String,
    /// Its bytes.
    pub bytes: f64,
    /// Age of its oldest batch.
    pub oldest_seconds: f64,
}

/// A node's agent.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Agent {
    /// The node's name, from its certificate.
    #[schema(value_type = String)]
    pub name: NodeId,
    /// `edge` or `sink`.
    pub role: String,
    /// Where it stands.
    pub rack: String,
    /// The version of its program.
    pub version: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Since when it is, or is not.
    pub since: Timestamp,
    /// When it last reported.
    pub reported: Option<Timestamp>,
    /// Where it connects from.
    pub address: String,
    /// What it runs.
    pub applied: Option<RevisionRef>,
    /// What it refused.
    pub refused: Option<Refusal>,
    /// Why it cannot do its work, if it cannot.
    pub ailment: Option<String>,
    /// Its logs.
    pub logs: Vec<Depth>,
    /// Events that it takes in or stores.
    pub events_per_second: f64,
    /// Bytes of them.
    pub bytes_per_second: f64,
    /// Errors.
    pub errors_per_second: f64,
    /// How long its process runs.
    pub uptime_seconds: u64,
}

/// What a report changed, as an event for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    Applied(u64),
    Refused(u64, String),
    Unwell(String),
    Well,
}

struct Entry {
    agent: Agent,
    session: u64,
    replaced: CancellationToken,
}

/// All agents.
#[derive(Default)]
pub struct Fleet {
    agents: Mutex<BTreeMap<NodeId, Entry>>,
    sessions: std::sync::atomic::AtomicU64,
    /// Counts changes, so that whoever waits for one need not poll.
    changed: watch::Sender<u64>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("agents", &self.agents.lock().len()).finish_non_exhaustive()
    }
}

impl Fleet {
    /// An agent connected. Its name's earlier connection, if there is one, is told to end. Returns the session's
    /// number, and what says that it was replaced; none when there are too many agents.
    pub(crate) fn connected(
        &self,
        name: &NodeId,
        hello: Hello,
        address: SocketAddr,
        now: Timestamp,
    ) -> Option<(u64, CancellationToken)> {
        let session = self.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let replaced = CancellationToken::new();
        let agent = Agent {
            name: name.clone(),
            role: hello.role,
            rack: hello.rack,
            version: hello.version,
            connected: true,
            since: now,
            reported: None,
            address: address.to_string(),
            applied: hello.applied.map(Into::into),
            refused: None,
            ailment: None,
            logs: Vec::new(),
            events_per_second: 0.0,
            bytes_per_second: 0.0,
            errors_per_second: 0.0,
            uptime_seconds: 0,
        };
        let mut agents = self.agents.lock();
        if agents.len() >= AGENTS_MAX && !agents.contains_key(name) {
            return None;
        }
        let entry = Entry { agent, session, replaced: replaced.clone() };
        if let Some(old) = agents.insert(name.clone(), entry) {
            old.replaced.cancel();
        }
        drop(agents);
        self.touch();
        Some((session, replaced))
    }

    /// Its session ended. Returns false if it is not the one that counts.
    pub(crate) fn lost(&self, name: &NodeId, session: u64, now: Timestamp) -> bool {
        let mut agents = self.agents.lock();
        let Some(entry) = agents.get_mut(name).filter(|entry| entry.session == session) else { return false };
        entry.agent.connected = false;
        entry.agent.since = now;
        drop(agents);
        self.touch();
        true
    }

    pub(crate) fn reported(&self, name: &NodeId, session: u64, report: Report, now: Timestamp) -> Vec<News> {
        let mut agents = self.agents.lock();
        let Some(entry) = agents.get_mut(name).filter(|entry| entry.session == session) else {
            return Vec::new();
        };
        let agent = &mut entry.agent;
        let mut news = Vec::new();
        let applied: Option<RevisionRef> = report.applied.map(Into::into);
        let refused = report.refused.map(Refusal::from);
        if applied != agent.applied
            && let Some(applied) = &applied
        {
            news.push(News::Applied(applied.number));
        }
        if refused != agent.refused
            && let Some(refused) = &refused
        {
            news.push(News::Refused(refused.revision.number, refused.reason.clone()));
        }
        match (&agent.ailment, &report.ailment) {
            (old, Some(ailment)) if old.as_ref() != Some(ailment) => news.push(News::Unwell(ailment.clone())),
            (Some(_), None) => news.push(News::Well),
            _ => {}
        }
        agent.applied = applied;
        agent.refused = refused;
        agent.ailment = report.ailment;
        agent.logs = report.logs.into_iter().map(Into::into).collect();
        agent.events_per_second = report.events_per_second;
        agent.bytes_per_second = report.bytes_per_second;
        agent.errors_per_second = report.errors_per_second;
        agent.uptime_seconds = report.uptime_seconds;
        agent.reported = Some(now);
        drop(agents);
        self.touch();
        news
    }

    /// Forgets what agents refused: they are told anew.
    pub(crate) fn forget_refusals(&self) {
        self.agents.lock().values_mut().for_each(|entry| entry.agent.refused = None);
    }

    /// Everybody is away: this controller does not lead any more.
    pub(crate) fn clear(&self) {
        self.agents.lock().clear();
        self.touch();
    }

    /// One agent.
    #[must_use]
    pub fn get(&self, name: &NodeId) -> Option<Agent> {
        self.agents.lock().get(name).map(|entry| entry.agent.clone())
    }

    /// All agents, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Agent> {
        self.agents.lock().values().map(|entry| entry.agent.clone()).collect()
    }

    /// What a roll-out wants to know.
    #[must_use]
    pub fn view(&self) -> View {
        let seen = |agent: &Agent| Seen {
            connected: agent.connected,
            applied: agent.applied.as_ref().map(|applied| applied.hash.clone()),
            refused: agent.refused.as_ref().map(|it| (it.revision.hash.clone(), it.reason.clone())),
            ailment: agent.ailment.clone(),
            errors_per_second: agent.errors_per_second,
        };
        self.agents.lock().iter().map(|(name, entry)| (name.clone(), seen(&entry.agent))).collect()
    }

    /// How many are connected.
    #[must_use]
    pub fn count(&self) -> usize {
        self.agents.lock().values().filter(|entry| entry.agent.connected).count()
    }

    /// Milliseconds between reports, and within which to come back, for a fleet of this size.
    pub(crate) fn pace(&self) -> (u32, u32) {
        let known = self.agents.lock().len();
        let report = (known * 1000 / REPORTS_PER_SECOND).clamp(REPORT_MS.0, REPORT_MS.1);
        let back = (known * 1000 / RETURNS_PER_SECOND).clamp(RETURN_MS.0, RETURN_MS.1);
        (report as u32, back as u32)
    }

    /// Says when something changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl From<weir_agent::talk::Revision> for RevisionRef {
    fn from(revision: weir_agent::talk::Revision) -> Self {
        Self { number: revision.number, hash: revision.hash }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self { revision: refused.revision.into(), reason: refused.reason }
    }
}

impl From<LogDepth> for Depth {
    fn from(depth: LogDepth) -> Self {
        Self { group: depth.group, bytes: depth.bytes, oldest_seconds: depth.oldest_seconds }
    }
}
