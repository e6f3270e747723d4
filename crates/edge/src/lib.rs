//! The edge: takes Fluentd Forward from senders, makes it durable, and hands it to the sinks.
//!
//! Read downwards along the data's path: [`intake`](mod@intake) reads a connection, routes each batch and appends it to its
//! groups' logs, and acknowledges when the disks have it; [`ship`](mod@ship) drives one group's dispatcher: log to sinks,
//! promises to journal, commits to trimming.
//!
//! Left out on purpose: what a record holds, and every store.

mod intake;
mod session;
mod ship;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use weir_link::{Dialer, Identity, Settings};
use weir_model::{GroupId, NodeId};
use weir_routing::Router;
use weir_spool::GroupLog;
use weir_telemetry::{Health, TagTable};
use weir_topology::{Overflow, Topology};

use crate::intake::Intake;
use crate::ship::{Shipper, ShipperParts};

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
}

/// Why an edge does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address for senders cannot be listened on.
    #[error(
        "cannot listen on {address} for senders; is another process there, or is the address not this host's?"
    )]
    Listen {
        /// As configured.
        address: String,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
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
        source: weir_transit::JournalRecordError,
    },
    /// A route's pattern is wrong.
    #[error("a route is wrong")]
    Route(#[from] weir_routing::RouterError),
    /// The link's sockets cannot be made.
    #[error("the link cannot be set up")]
    Link(#[from] weir_link::BindError),
}

/// One group's log as the intake sees it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) group: GroupId,
    pub(crate) log: GroupLog,
    pub(crate) overflow: Overflow,
}

/// A running edge.
pub struct Edge {
    forward: SocketAddr,
    stop: CancellationToken,
    intake: TaskTracker,
    shippers: Vec<Shipper>,
    logs: Vec<GroupLog>,
    dialer: Arc<Dialer>,
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
        let listener = TcpListener::bind(&settings.forward)
            .await
            .map_err(|source| StartError::Listen { address: settings.forward.clone(), source })?;
        let forward = listener
            .local_addr()
            .map_err(|source| StartError::Listen { address: settings.forward.clone(), source })?;
        let router = Router::new(
            topology.routes.iter().map(|route| (route.patterns.clone(), route.groups.clone())).collect(),
        )?;
        let dialer = Arc::new(Dialer::new(&settings.identity, settings.link.clone())?);

        let (mut targets, mut shippers, mut logs) = (Vec::new(), Vec::new(), Vec::new());
        for group in &topology.groups {
            let dir = settings.data_dir.join("logs").join(group.id.as_str());
            let opened = ship::open(&dir, group.quota.0);
            let (log, journal, recovered) = opened.map_err(|error| error.of(&group.id))?;
            targets.push(Target {
                group: group.id.clone(),
                log: log.clone(),
                overflow: group.overflow.clone(),
            });
            logs.push(log.clone());
            shippers.push(Shipper::start(ShipperParts {
                edge: settings.name.clone(),
                rack: settings.rack.clone(),
                group: group.clone(),
                log,
                journal,
                recovered,
                dialer: dialer.clone(),
                health: health.clone(),
            }));
        }

        let stop = CancellationToken::new();
        let intake = TaskTracker::new();
        let accepting = Arc::new(Intake::new(router, topology.routes.len(), targets, tags));
        intake.spawn(intake::accept(accepting, listener, stop.clone(), intake.clone()));
        Ok(Self { forward, stop, intake, shippers, logs, dialer })
    }

    /// Where senders connect; tells the port where 0 was asked for.
    #[must_use]
    pub fn forward(&self) -> SocketAddr {
        self.forward
    }

    /// Stops in good order: takes nothing more, finishes and acknowledges what was taken, gives the sinks a
    /// moment to commit, closes the logs.
    pub async fn stop(self) {
        self.stop.cancel();
        self.intake.close();
        self.intake.wait().await;
        let deadline = tokio::time::Instant::now() + DRAIN_MAX;
        for shipper in &self.shippers {
            shipper.wait_idle(deadline).await;
        }
        for shipper in self.shippers {
            shipper.stop().await;
        }
        self.dialer.close(0, "the edge stops").await;
        for log in self.logs {
            log.close().await;
        }
    }
}
