//! A node whose topology comes from a controller: it waits for its first, and follows from then on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use weir_agent::talk::{LogDepth, Revision};
use weir_agent::{Adopt, Agent, AgentSettings, Controller, Vitals};
use weir_link::{Dialer, Settings};
use weir_telemetry::{Totals, names};
use weir_topology::{NodeConfig, Role};

use crate::live::Node;
use crate::{configuration, node, systemd};

/// Waits until a node under a controller has a topology: the last good one, or its first. A node with a topology file
/// does not wait. Says whether to go on: not, if it was asked to stop meanwhile.
pub(crate) async fn first(file: &Path) -> anyhow::Result<bool> {
    let config = configuration::node(file)?;
    if config.controllers.is_empty() {
        return Ok(true);
    }
    match weir_agent::load(&config.topology) {
        Ok(Some(_)) => return Ok(true),
        Ok(None) => {}
        Err(error) => eprintln!("weir: {error}"),
    }
    eprintln!("weir: no topology yet; waiting for a controller to give one");
    systemd::waiting("waiting for a controller to give a topology");
    std::fs::create_dir_all(&config.data_dir)?;
    let agent = agent(&config, dialer(&config)?, Arc::new(Waiting(config.clone())), None);
    let mut standing = agent.standing();
    let stop = CancellationToken::new();
    let had = async {
        let applied = standing.wait_for(|standing| standing.applied.is_some()).await.is_ok();
        // The controller must hear of it before this talk ends.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        applied
    };
    let had = async {
        let had = tokio::select! {
            had = had => Ok(had),
            stopped = node::stopped() => stopped.map(|()| false),
        };
        stop.cancel();
        had
    };
    let ((), had) = tokio::join!(agent.run(stop.clone()), had);
    had
}

/// Follows the controller, for a running node that has one.
pub(crate) async fn follow(node: &Arc<Node>) -> anyhow::Result<Option<Following>> {
    let config = node.config().await;
    if config.controllers.is_empty() {
        return Ok(None);
    }
    let applied = weir_agent::load(&config.topology)?.map(|kept| kept.revision);
    let work = Work { node: Arc::clone(node), role: config.role, topology: config.topology.clone() };
    let dialer = dialer(&config)?;
    node.has_agent(dialer.clone());
    let agent = agent(&config, dialer, Arc::new(work), applied);
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let stop = stop.clone();
        async move { agent.run(stop).await }
    });
    Ok(Some(Following { stop, task }))
}

/// An agent at work.
pub(crate) struct Following {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Following {
    /// Ends what is being applied, and says good-bye.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

fn dialer(config: &NodeConfig) -> anyhow::Result<Arc<Dialer>> {
    let link = Settings { dial_sockets: 1, socket_buffer: 256 << 10, ..Settings::default() };
    Ok(Arc::new(Dialer::new(&node::identity(&config.name, &config.tls)?, link)?))
}

fn agent(
    config: &NodeConfig,
    dialer: Arc<Dialer>,
    adopt: Arc<dyn Adopt>,
    applied: Option<Revision>,
) -> Agent {
    let settings = AgentSettings {
        role: match config.role {
            Role::Edge => "edge".to_owned(),
            Role::Sink => "sink".to_owned(),
        },
        rack: config.rack.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kept: config.topology.clone(),
        controllers: config
            .controllers
            .iter()
            .map(|it| Controller { name: it.name.clone(), address: it.address.clone() })
            .collect(),
    };
    Agent::new(settings, dialer, adopt, applied)
}

/// A node before its first topology.
struct Waiting(NodeConfig);

#[async_trait]
impl Adopt for Waiting {
    async fn adopt(&self, text: &str) -> Result<(), String> {
        let parsed = configuration::parse(text, &self.0.topology, &|_| {});
        parsed.and_then(|topology| node::place(&self.0, &topology)).map_err(|error| format!("{error:#}"))
    }

    async fn vitals(&self) -> Vitals {
        Vitals { ailment: Some("it has no topology yet".to_owned()), ..Vitals::default() }
    }
}

/// A node at work.
struct Work {
    node: Arc<Node>,
    role: Role,
    topology: PathBuf,
}

#[async_trait]
impl Adopt for Work {
    async fn adopt(&self, text: &str) -> Result<(), String> {
        self.node.apply(text, &self.topology).await.map_err(|refusal| refusal.to_string())
    }

    async fn vitals(&self) -> Vitals {
        let totals = Totals::now();
        let oldest = totals.by_label(&names::LOG_OLDEST_SECONDS);
        let depth = |(group, bytes): (String, f64)| {
            let oldest_seconds =
                oldest.iter().find(|(of, _)| *of == group).map_or(0.0, |(_, seconds)| *seconds);
            LogDepth { group, bytes, oldest_seconds }
        };
        let (events_total, bytes_total) = match self.role {
            Role::Edge => (totals.sum(&names::EDGE_EVENTS_TOTAL), totals.sum(&names::EDGE_BYTES_TOTAL)),
            Role::Sink => (totals.sum(&names::STORE_EVENTS_TOTAL), totals.sum(&names::STORE_BYTES_TOTAL)),
        };
        let errors_total = totals.sum(&names::STORE_ERRORS_TOTAL)
            + totals.sum(&names::STORE_DEAD_LETTERS_TOTAL)
            + totals.sum(&names::FORWARD_VIOLATIONS_TOTAL)
            + totals.sum(&names::EDGE_UNROUTED_EVENTS_TOTAL)
            + totals.sum(&names::LOG_DAMAGED_TOTAL);
        Vitals {
            ailment: self.node.ailment(),
            logs: totals.by_label(&names::LOG_BYTES).into_iter().map(depth).collect(),
            events_total,
            bytes_total,
            errors_total,
        }
    }
}
