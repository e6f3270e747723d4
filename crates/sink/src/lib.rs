//! The sink: gathers batches from the edges and has its group's store commit them in parts.
//!
//! Read downwards along the data's path: [`peer`](mod@peer) reads an edge's connection, [`stage`](mod@stage) keeps payloads,
//! [`life`](mod@life) drives the collector and the store. A sink owns nothing but commits in progress: it may be
//! killed at any moment, and the edges settle what it left through another member of the group.
//!
//! Left out on purpose: Forward, the edge's log, and what a particular store does.

mod backend;
mod front;
mod life;
mod lives;
mod peer;
mod stage;
mod transforming;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use weir_link::{BindError, Identity, Settings};
use weir_model::{GroupId, NodeId};
use weir_telemetry::{Health, TagTable};
use weir_topology::{Group, Topology};

pub use crate::backend::{BackendError, check as check_backend, open as open_backend};
use crate::front::Front;
use crate::lives::{Duty, Job, Lives};
use crate::stage::Stage;

/// What a sink needs to start.
#[derive(Debug, Clone)]
pub struct SinkSettings {
    /// Its name, as in its certificate.
    pub name: NodeId,
    /// Where it may spill.
    pub data_dir: PathBuf,
    /// Where edges connect.
    pub listen: SocketAddr,
    /// Its certificate for the link.
    pub identity: Identity,
    /// Settings of the link.
    pub link: Settings,
}

/// Why a sink does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store's settings are wrong.
    #[error("the store cannot be set up")]
    Backend(#[from] BackendError),
    /// The address for edges cannot be listened on.
    #[error("cannot listen for edges")]
    Listen(#[from] BindError),
    /// The staging directory cannot be emptied.
    #[error("cannot prepare the staging directory {path}")]
    Stage {
        /// Where.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
}

/// What a revision changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Nothing that this sink works with.
    Nothing,
    /// It commits what it has, and begins anew on this group.
    Begins(GroupId),
    /// It commits what it has, and then does nothing: the others of its group go on.
    Idle,
    /// Its group has left the topology. It serves on, for edges that still have something for it.
    Retired(GroupId),
}

/// A running sink.
pub struct Sink {
    name: NodeId,
    duty: watch::Sender<Duty>,
    stop: CancellationToken,
    lives: JoinHandle<()>,
    front: Arc<Front>,
}

impl Sink {
    /// Begins to listen, and to live on its store as soon as that can be reached. `edges` are those of the topology.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then. A store that cannot be reached is no error: the sink waits for it.
    pub fn start(
        settings: SinkSettings,
        group: &Group,
        edges: BTreeSet<NodeId>,
        tags: TagTable,
        health: Health,
    ) -> Result<Self, StartError> {
        let backend = backend::open(group)?;
        let dir = settings.data_dir.join("stage");
        let stage = Stage::open(&dir, group.stage.memory.0, group.stage.disk.0)
            .map_err(|source| StartError::Stage { path: dir, source })?;
        let (front, connections) = Front::bind(settings.listen, settings.identity, settings.link)?;
        let front = Arc::new(front);
        let stop = CancellationToken::new();
        let (duty, duties) =
            watch::channel(Duty::Serve(Arc::new(Job { group: group.clone(), edges, backend })));
        let lives = tokio::spawn(lives::lives(Lives {
            sink: settings.name.clone(),
            stage,
            tags,
            health,
            front: front.clone(),
            connections,
            duty: duties,
            stop: stop.clone(),
        }));
        Ok(Self { name: settings.name, duty, stop, lives, front })
    }

    /// Goes on with another topology, while batches flow: all of it, or nothing. `listen` is where edges connect now.
    ///
    /// With another store, other part limits or another stage the sink first commits what it has, in bounded time; what
    /// the store did not take by then is settled by the edges, as after a death.
    ///
    /// # Errors
    /// Why nothing was changed: settings of the store, or the address.
    pub fn apply(&self, topology: &Topology, listen: SocketAddr) -> Result<Applied, StartError> {
        let present = self.duty.borrow().clone();
        let wanted = topology.group_of_sink(&self.name).map(|(group, _)| group);
        let applied = match (&present, wanted) {
            (Duty::Serve(job), Some(group)) if job.suits(group) => {
                self.front.move_to(listen)?;
                return Ok(Applied::Nothing);
            }
            (_, Some(group)) => {
                let edges = topology.edges.iter().map(|edge| edge.name.clone()).collect();
                let job = Job { group: group.clone(), edges, backend: backend::open(group)? };
                self.front.move_to(listen)?;
                self.duty.send_replace(Duty::Serve(Arc::new(job)));
                Applied::Begins(group.id.clone())
            }
            (Duty::Serve(job), None) if topology.group(&job.group.id).is_none() => {
                Applied::Retired(job.group.id.clone())
            }
            (Duty::Serve(_), None) => {
                self.duty.send_replace(Duty::Idle);
                Applied::Idle
            }
            (Duty::Idle, None) => Applied::Nothing,
        };
        info!(?applied, "another topology");
        Ok(applied)
    }

    /// Shows and trusts another identity from the next connection on.
    pub fn replace_identity(&self, identity: &Identity) {
        self.front.replace_identity(identity);
    }

    /// Where edges connect; tells the port where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.front.address()
    }

    /// Stops in good order: edges move on, what is staged is committed if the store lets it, in bounded time.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.lives.await;
        self.front.close().await;
    }
}
