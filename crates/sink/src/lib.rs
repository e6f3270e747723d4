//! The sink: gathers batches from the edges and has its group's store commit them in parts.
//!
//! Read downwards along the data's path: [`peer`](mod@peer) reads an edge's connection, [`stage`](mod@stage) keeps payloads,
//! [`life`](mod@life) drives the collector and the store. A sink owns nothing but commits in progress: it may be
//! killed at any moment, and the edges settle what it left through another member of the group.
//!
//! Left out on purpose: Forward, the edge's log, and what a particular store does.

mod backend;
mod life;
mod peer;
mod stage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use weir_link::{BindError, Identity, Listener, Settings};
use weir_model::{Incarnation, NodeId};
use weir_store::{Backend, Store};
use weir_telemetry::{Health, TagTable};
use weir_topology::Group;
use weir_transit::CollectorConfig;

pub use crate::backend::{BackendError, open as open_backend};
use crate::life::{Backoff, End, LifeParts};
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

/// A running sink.
pub struct Sink {
    address: SocketAddr,
    stop: CancellationToken,
    lives: JoinHandle<()>,
    accepting: JoinHandle<()>,
    listener: Arc<Listener>,
}

impl Sink {
    /// Begins to listen, and to live on its store as soon as that can be reached.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then. A store that cannot be reached is no error: the sink waits for it.
    pub fn start(
        settings: SinkSettings,
        group: &Group,
        tags: TagTable,
        health: Health,
    ) -> Result<Self, StartError> {
        let backend = backend::open(group)?;
        let dir = settings.data_dir.join("stage");
        let stage = Stage::open(&dir, group.stage.memory.0, group.stage.disk.0)
            .map_err(|source| StartError::Stage { path: dir, source })?;
        let listener = Arc::new(Listener::bind(settings.listen, &settings.identity, settings.link)?);
        let address = listener.local_addr();
        let stop = CancellationToken::new();
        let (sender, connections) = mpsc::channel(64);
        let accepting = tokio::spawn({
            let listener = listener.clone();
            async move {
                while let Some(connection) = listener.accept().await {
                    if sender.send(connection).await.is_err() {
                        return;
                    }
                }
            }
        });
        let traits = backend.traits();
        let config = CollectorConfig {
            part_bytes: group.part.bytes.0,
            part_age: group.part.age,
            stage_bytes: group.stage.memory.0 + group.stage.disk.0,
            partitions_max: traits.partitions_max,
            parallel_parts: traits.parallel_parts,
            ..CollectorConfig::default()
        };
        let lives = tokio::spawn(lives(Lives {
            sink: settings.name,
            group: group.clone(),
            config,
            backend,
            stage,
            tags,
            health,
            connections,
            stop: stop.clone(),
        }));
        Ok(Self { address, stop, lives, accepting, listener })
    }

    /// Where edges connect; tells the port where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops in good order: edges move on, what is staged is committed if the store lets it, in bounded time.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.lives.await;
        self.listener.close(0, "the sink stops").await;
        self.accepting.abort();
    }
}

struct Lives {
    sink: NodeId,
    group: Group,
    config: CollectorConfig,
    backend: Arc<dyn Backend>,
    stage: Stage,
    tags: TagTable,
    health: Health,
    connections: mpsc::Receiver<weir_link::Connection>,
    stop: CancellationToken,
}

/// One life after the other: a fenced sink begins anew under another incarnation.
async fn lives(mut all: Lives) {
    loop {
        let incarnation = Incarnation(rand::random());
        let Some(store) = begin(&all, incarnation).await else { return };
        info!(%incarnation, "the store is there: a life begins");
        let end = life::live(LifeParts {
            sink: &all.sink,
            group: &all.group.id,
            config: all.config.clone(),
            backend: all.backend.clone(),
            store,
            incarnation,
            stage: &all.stage,
            tags: &all.tags,
            connections: &mut all.connections,
            stop: &all.stop,
        })
        .await;
        if end == End::Stopped {
            return;
        }
    }
}

async fn begin(all: &Lives, incarnation: Incarnation) -> Option<Arc<dyn Store>> {
    let mut backoff = Backoff::default();
    loop {
        let begun = tokio::select! {
            begun = all.backend.begin(&all.sink, incarnation) => begun,
            () = all.stop.cancelled() => return None,
        };
        match begun {
            Ok(store) => {
                all.health.set_condition("store", Ok(()));
                return Some(store);
            }
            Err(error) => {
                all.health.set_condition("store", Err(error.to_string()));
                if backoff.is_worth_a_line() {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the store cannot be reached; edges keep their batches until it can"
                    );
                }
                tokio::select! {
                    () = backoff.wait() => {}
                    () = all.stop.cancelled() => return None,
                }
            }
        }
    }
}
