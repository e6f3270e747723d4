//! The edge: takes Fluentd Forward from senders, makes it durable, and hands it to the sinks.
//!
//! Read downwards along the data's path: [`door`](mod@door) lets senders in, [`connection`](mod@connection) reads one of
//! them, [`intake`](mod@intake) routes each batch and appends it to its groups' logs, and acknowledges when the disks have
//! it; [`ship`](mod@ship) drives one group's dispatcher: log to sinks, promises to journal, commits to trimming.
//!
//! Left out on purpose: what a record holds, and every store.

mod connection;
mod door;
mod failure;
mod groups;
mod hand;
mod inherited;
mod intake;
mod note;
mod plan;
mod progress;
mod promises;
mod repeats;
mod session;
mod ship;
mod store;
mod tap;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use weir_link::{Dialer, Identity, Settings};
use weir_model::{GroupId, NodeId};
use weir_routing::Pattern;
use weir_spool::Depth;
use weir_telemetry::{Health, TagTable};
use weir_topology::Topology;
use weir_transit::DispatcherStatus;

pub use weir_transit::SinkStatus;

pub use crate::inherited::Inherited;
pub use crate::note::{LogNote, LogState};
pub use crate::progress::{Progress, ProgressError};
pub use crate::tap::Tapped;

use crate::door::Listeners;
use crate::failure::Failure;
use crate::groups::{Groups, Shared};
use crate::intake::Intake;
use crate::plan::Plan;
use crate::tap::Tap;

pub use crate::door::{ListenError, SettingsError, TlsError};

/// How long a stopping edge waits for its sinks to take what lies in its logs. The rest stays there, durable.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// What an edge needs to start.
#[derive(Debug, Clone)]
pub struct EdgeSettings {
    /// Its name, as in its certificate.
    pub name: NodeId,
    /// Its rack.
    pub rack: String,
    /// Where its logs lie.
    pub data_dir: PathBuf,
    /// Where senders connect.
    pub forward: String,
    /// Its certificate for the link.
    pub identity: Identity,
    /// Settings of the link.
    pub link: Settings,
    /// Sockets that listen already: a listener takes the one at its address, and binds another only if there is none.
    pub inherited: Inherited,
}

/// Why an edge does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener for senders cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A group log does not open.
    #[error("the log of group {group} does not open")]
    Log {
        /// Whose.
        group: GroupId,
        /// Why.
        #[source]
        source: weir_spool::OpenError,
    },
    /// The journal beside a group log does not read.
    #[error("the journal of group {group} has a record that this program cannot read")]
    Journal {
        /// Whose.
        group: GroupId,
        /// Why.
        #[source]
        source: weir_transit::RecordError,
    },
    /// The thread that opened a log died.
    #[error("opening the log of group {group} did not end: {reason}")]
    Died {
        /// Whose.
        group: GroupId,
        /// What the runtime says.
        reason: String,
    },
    /// The record of recent chunks beside a group log does not read.
    #[error("what group {group} remembers of recent chunks cannot be read by this program")]
    Recent {
        /// Whose.
        group: GroupId,
        /// Why.
        #[source]
        source: weir_transit::RecordError,
    },
    /// The end of a group log does not read.
    #[error("the log of group {group} cannot be read")]
    Read {
        /// Whose.
        group: GroupId,
        /// Why.
        #[source]
        source: weir_spool::ReadError,
    },
    /// A route's pattern is wrong.
    #[error("a route is wrong")]
    Route(#[from] weir_routing::RouterError),
    /// The link's sockets cannot be made.
    #[error("the link cannot be set up")]
    Link(#[from] weir_link::BindError),
}

/// What a revision changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Groups that have a log here now.
    pub added: Vec<GroupId>,
    /// Groups with another quota, other sinks or other rules.
    pub changed: Vec<GroupId>,
    /// Groups that are gone, and whose logs are delivered and then closed.
    pub draining: Vec<GroupId>,
}

/// What one group's log looks like.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    /// Whose log.
    pub group: GroupId,
    /// Whether the topology has the group.
    pub state: LogState,
    /// Bytes that the log may have on disk.
    pub quota_bytes: u64,
    /// How much is in it.
    pub depth: Depth,
    /// Its way to the sinks; none in the first moments.
    pub dispatch: Option<DispatcherStatus>,
}

/// A running edge.
pub struct Edge {
    listeners: Mutex<Listeners>,
    stop: CancellationToken,
    plan: Arc<ArcSwap<Plan>>,
    tap: Arc<Tap>,
    groups: Arc<Mutex<Groups>>,
    dialer: Arc<Dialer>,
    failure: Failure,
}

impl Edge {
    /// Opens the logs, begins to listen, and connects to the sinks.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(
        settings: EdgeSettings,
        topology: &Topology,
        tags: TagTable,
        health: &Health,
    ) -> Result<Self, StartError> {
        let dialer = Arc::new(Dialer::new(&settings.identity, settings.link.clone())?);
        let failure = Failure::new();
        let groups = Groups::new(Shared {
            edge: settings.name.clone(),
            rack: settings.rack,
            logs: settings.data_dir.join("logs"),
            dialer: dialer.clone(),
            health: health.clone(),
            failure: failure.clone(),
        });
        let plan = Arc::new(ArcSwap::from_pointee(Plan::empty()?));
        let intake = Arc::new(Intake::new(plan.clone(), tags));
        let listeners = Listeners::new(
            settings.name,
            settings.forward,
            &settings.data_dir,
            settings.inherited,
            intake,
            &topology.forward,
        );
        let edge = Self {
            listeners: Mutex::new(listeners),
            stop: CancellationToken::new(),
            plan,
            tap: Arc::default(),
            groups: Arc::new(Mutex::new(groups)),
            dialer,
            failure,
        };
        edge.apply(topology).await?;
        edge.groups.lock().await.find_others().await;
        tokio::spawn(groups::close_drained(edge.groups.clone(), edge.stop.clone()));
        Ok(edge)
    }

    /// Goes on with another topology, while traffic flows: all of it, or nothing.
    ///
    /// Each batch is routed by one topology as a whole. Logs of new groups are opened first; logs of groups that are
    /// gone are delivered and then closed, and a group of the same id takes its log up again. Listeners open, change and
    /// close while senders are connected.
    ///
    /// # Errors
    /// Why nothing was changed: a wrong route, a log or a listener that does not open.
    pub async fn apply(&self, topology: &Topology) -> Result<Applied, StartError> {
        let router = plan::router(topology)?;
        let mut listeners = self.listeners.lock().await;
        let prepared = listeners.prepare(&topology.forward).await?;
        let mut groups = self.groups.lock().await;
        let opened = groups.open(topology).await?;
        // From here on nothing can fail.
        let applied = groups.take(topology, opened);
        let plan = Plan::new(router, &topology.routes, &groups.targets(topology), self.tap.clone());
        self.plan.store(Arc::new(plan));
        listeners.commit(prepared);
        Ok(applied)
    }

    /// Shows and trusts another identity from the next connection to a sink on.
    pub fn replace_identity(&self, identity: &Identity) {
        self.dialer.replace_identity(identity);
    }

    /// Shows batches as they come in: those whose tags match, at most one `every` so often. It slows nobody down. None
    /// when there are onlookers enough.
    #[must_use]
    pub fn tap(&self, pattern: Option<Pattern>, every: Duration) -> Option<mpsc::Receiver<Tapped>> {
        self.tap.watch(pattern, every)
    }

    /// What its group logs look like, those that are drained too.
    pub async fn status(&self) -> Vec<GroupStatus> {
        self.groups.lock().await.status()
    }

    /// Where senders connect: the first listener. It tells the port where 0 was asked for.
    pub async fn forward(&self) -> String {
        self.listeners().await.into_iter().next().map_or_else(|| "-".to_owned(), |(_, place)| place)
    }

    /// Names and places of all listeners.
    pub async fn listeners(&self) -> Vec<(String, String)> {
        self.listeners.lock().await.addresses()
    }

    /// Waits for a failure that only a new start mends: a disk that refused a sync leaves unknown what it holds, and
    /// nothing more is acknowledged. Gives the reason. End the process then, without [`stop`](Self::stop).
    pub async fn failed(&self) -> String {
        self.failure.raised().await
    }

    /// Stops in good order: takes nothing more, finishes and acknowledges what was taken, gives the sinks a
    /// moment to commit, closes the logs.
    pub async fn stop(self) {
        self.end(DRAIN_MAX).await;
    }

    /// Stops in good order, so that another program can go on at once: what the sinks have not yet stays in the logs.
    /// Whoever connects to [`Self::sockets`] meanwhile waits there.
    pub async fn hand_over(self) {
        self.end(Duration::ZERO).await;
    }

    /// The listening sockets, open beyond the edge's end.
    ///
    /// # Errors
    /// What the system says: there are no more file descriptors.
    pub async fn sockets(&self) -> std::io::Result<Vec<OwnedFd>> {
        self.listeners.lock().await.sockets()
    }

    async fn end(self, drain_max: Duration) {
        self.listeners.into_inner().stop().await;
        self.stop.cancel();
        self.groups.lock().await.stop(tokio::time::Instant::now() + drain_max).await;
        self.dialer.close(0, "the edge stops").await;
    }
}
