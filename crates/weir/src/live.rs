//! A node while it runs: takes up other files without a restart, or refuses them whole and says why.
//!
//! Everything that can fail comes first: both files read and checked, stores' settings judged, certificates loaded,
//! addresses bound, logs opened. Then the parts are swapped, and none of that can fail.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, RwLock, mpsc};
use tracing::{error, info, warn};

use weir_edge::{Edge, Tapped};
use weir_link::Dialer;
use weir_routing::Pattern;
use weir_sink::Sink;
use weir_telemetry::{Health, Logging, names};
use weir_topology::{NodeConfig, revision};

use crate::standalone::Sinks;
use crate::status::{LogStatus, Status};
use crate::{api, configuration, node, systemd, upgrade};

/// How often the files are looked at, where the node file asks for that.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// What a node does.
pub(crate) enum Role {
    Edge(Edge),
    Sink(Sink),
    /// A standalone process.
    Both(Edge, Box<Sinks>),
}

impl Role {
    fn edge(&self) -> Option<&Edge> {
        match self {
            Self::Edge(edge) | Self::Both(edge, _) => Some(edge),
            Self::Sink(_) => None,
        }
    }
}

/// A running node.
pub(crate) struct Node {
    // Nothing where arguments say it all.
    file: Option<PathBuf>,
    config: Mutex<NodeConfig>,
    // Nothing once it stops.
    role: RwLock<Option<Role>>,
    health: Health,
    logging: Logging,
    // By which it reaches its controller, if it has one.
    agent: OnceLock<Arc<Dialer>>,
}

/// Why a node has stopped to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    ToStop,
    ToMakeRoom,
}

/// Why a revision was refused; the one before runs on.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// One or more, each a sentence or a problem with its place.
    reasons: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reasons)
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self { reasons: format!("{error:#}") }
    }
}

impl Node {
    pub(crate) fn new(
        file: Option<&Path>,
        config: NodeConfig,
        role: Role,
        health: Health,
        logging: Logging,
        revision: &str,
    ) -> Self {
        health.set_revision(revision);
        Self {
            file: file.map(Path::to_owned),
            config: Mutex::new(config),
            role: RwLock::new(Some(role)),
            health,
            logging,
            agent: OnceLock::new(),
        }
    }

    /// This dialer shows the node's certificate too, also a renewed one.
    pub(crate) fn has_agent(&self, dialer: Arc<Dialer>) {
        // A node has one agent for all its life.
        let _ = self.agent.set(dialer);
    }

    /// What its node file says.
    pub(crate) async fn config(&self) -> NodeConfig {
        self.config.lock().await.clone()
    }

    /// Why it cannot do its work, if it cannot.
    pub(crate) fn ailment(&self) -> Option<String> {
        self.health.ailment()
    }

    /// Takes up a topology: all of it, or nothing. `file` is what problems call it; its relative paths start at the
    /// directory of that.
    ///
    /// # Errors
    /// Why it was refused. What ran runs on.
    pub(crate) async fn apply(&self, text: &str, file: &Path) -> Result<(), Refusal> {
        let config = self.config.lock().await;
        let outcome = self.take_up(text, file, &config).await;
        self.tell(&outcome);
        outcome
    }

    /// Reads the node file and the topology again, and takes up what they say now.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub(crate) async fn reload(&self) -> Result<(), Refusal> {
        let mut config = self.config.lock().await;
        if self.file.is_none() && config.topology.as_os_str().is_empty() {
            info!("there is no file to read again: this process was started without one");
            return Ok(());
        }
        let outcome = self.read_again(&config).await;
        self.tell(&outcome);
        *config = outcome?;
        Ok(())
    }

    // Waits for what only a new start of this process mends.
    async fn failed(&self) -> String {
        match self.role.read().await.as_ref().and_then(Role::edge) {
            Some(edge) => edge.failed().await,
            None => std::future::pending().await,
        }
    }

    /// Serves until the process is asked to stop, or to make room for another program; SIGHUP reads the files again.
    ///
    /// # Errors
    /// What only a new start of this process mends.
    pub(crate) async fn serve(&self) -> anyhow::Result<Asked> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut replace = signal(SignalKind::user_defined2())?;
        let mut look = tokio::time::interval(WATCH_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen = self.files().await;
        systemd::watchdog();
        systemd::ready();
        loop {
            // A refusal was told where it happened; the signal has nobody to answer to.
            tokio::select! {
                _ = terminate.recv() => return Ok(Asked::ToStop),
                _ = interrupt.recv() => return Ok(Asked::ToStop),
                _ = replace.recv() => match upgrade::check(&self.own_files().await).await {
                    Ok(()) => return Ok(Asked::ToMakeRoom),
                    Err(error) => {
                        error!("not replaced, this program runs on: {error:#}");
                        self.health.set_note("replacement", Some(format!("refused: {error:#}")));
                    }
                },
                reason = self.failed() => bail!("{reason}; start this node again: it will find out what is on the disk"),
                _ = hangup.recv() => {
                    systemd::reloading();
                    let _ = self.reload().await;
                    systemd::ready();
                    seen = self.files().await;
                }
                _ = look.tick() => {
                    let now = self.files().await;
                    if self.config.lock().await.watch && now != seen {
                        let _ = self.reload().await;
                        seen = now;
                    }
                }
            }
        }
    }

    /// Stops in good order.
    pub(crate) async fn stop(&self) {
        match self.role.write().await.take() {
            Some(Role::Edge(edge)) => edge.stop().await,
            Some(Role::Sink(sink)) => sink.stop().await,
            Some(Role::Both(edge, sinks)) => {
                edge.stop().await;
                sinks.stop().await;
            }
            None => {}
        }
    }

    /// Stops in good order for another program, and gives it the sockets that stay open.
    pub(crate) async fn hand_over(&self) -> anyhow::Result<Vec<OwnedFd>> {
        Ok(match self.role.write().await.take() {
            Some(Role::Edge(edge)) => {
                let sockets = edge.sockets().await?;
                edge.hand_over().await;
                sockets
            }
            Some(Role::Sink(sink)) => {
                sink.stop().await;
                Vec::new()
            }
            Some(Role::Both(edge, sinks)) => {
                let sockets = edge.sockets().await?;
                edge.hand_over().await;
                sinks.stop().await;
                sockets
            }
            None => Vec::new(),
        })
    }

    /// How it does.
    pub(crate) async fn status(&self) -> Status {
        let logs = match self.role.read().await.as_ref().and_then(Role::edge) {
            Some(edge) => edge.status().await.into_iter().map(LogStatus::of).collect(),
            None => Vec::new(),
        };
        Status {
            name: self.health.name().to_string(),
            role: self.health.role().to_owned(),
            version: self.health.version().to_owned(),
            revision: self.health.revision(),
            uptime_seconds: self.health.uptime().as_secs(),
            ready: self.health.is_ready(),
            conditions: api::conditions(&self.health),
            notes: self.health.notes(),
            logs,
            rates: None,
        }
    }

    /// Shows batches as an edge takes them in; see [`Edge::tap`].
    pub(crate) async fn tap(
        &self,
        pattern: Option<Pattern>,
        every: Duration,
    ) -> Option<mpsc::Receiver<Tapped>> {
        self.role.read().await.as_ref()?.edge()?.tap(pattern, every)
    }

    /// What is in the files that are watched.
    async fn files(&self) -> Vec<Option<Vec<u8>>> {
        let config = self.config.lock().await;
        let weir_topology::Tls { ca, cert, key } = &config.tls;
        [&config.topology, ca, cert, key].map(|path| std::fs::read(path).ok()).into()
    }

    /// The files that say what this node does, for a look at them.
    async fn own_files(&self) -> Vec<PathBuf> {
        let topology = || async { self.config.lock().await.topology.clone() };
        let file = match &self.file {
            Some(file) => file.clone(),
            None => topology().await,
        };
        if file.as_os_str().is_empty() { Vec::new() } else { vec![file] }
    }

    async fn read_again(&self, before: &NodeConfig) -> Result<NodeConfig, Refusal> {
        let config = match &self.file {
            Some(file) => {
                let config = configuration::node(file)?;
                stays_the_same(before, &config).with_context(|| format!("{}", file.display()))?;
                config
            }
            None => before.clone(),
        };
        Logging::check(&config.log.level).map_err(anyhow::Error::from)?;
        let identity = node::identity(&config.name, &config.tls)?;
        let text = node::topology(&config)?;
        self.take_up(&text, &config.topology, &config).await?;
        // Neither can fail any more.
        match &*self.role.read().await {
            Some(Role::Edge(edge) | Role::Both(edge, _)) => edge.replace_identity(&identity),
            Some(Role::Sink(sink)) => sink.replace_identity(&identity),
            None => {}
        }
        if let Some(agent) = self.agent.get() {
            agent.replace_identity(&identity);
        }
        self.logging.set_level(&config.log.level).map_err(anyhow::Error::from)?;
        Ok(config)
    }

    async fn take_up(&self, text: &str, file: &Path, config: &NodeConfig) -> Result<(), Refusal> {
        let role = self.role.read().await;
        let topology = configuration::parse(text, file, &|warning| warn!("{warning}"))?;
        // A sink may be left out of a topology, an edge not: nobody would know what to do with its senders.
        if matches!(*role, Some(Role::Edge(_))) {
            node::place(config, &topology)?;
        }
        for group in &topology.groups {
            weir_sink::check_backend(group).with_context(|| format!("{} is wrong", file.display()))?;
        }
        match &*role {
            Some(Role::Edge(edge)) => {
                let applied = edge.apply(&topology).await.map_err(anyhow::Error::from)?;
                told(text, &applied);
            }
            Some(Role::Both(edge, sinks)) => told(text, &sinks.apply(edge, topology).await?),
            Some(Role::Sink(sink)) => {
                let listen = node::link_address(config, &topology, sink.address()).await?;
                let applied = sink.apply(&topology, listen).map_err(anyhow::Error::from)?;
                let retired = matches!(applied, weir_sink::Applied::Retired(_) | weir_sink::Applied::Idle);
                let note =
                    || "the topology does not have this sink; stop it once weir_sink_edges is 0".to_owned();
                self.health.set_note("topology", retired.then(note));
                info!(revision = revision(text), ?applied, "another topology");
            }
            None => return Err(anyhow::anyhow!("the node stops").into()),
        }
        self.health.set_revision(&revision(text));
        Ok(())
    }

    fn tell<T>(&self, outcome: &Result<T, Refusal>) {
        match outcome {
            Ok(_) => {
                names::CONFIG_APPLIED_TOTAL.with([]).increment(1);
                self.health.set_note("configuration", None);
            }
            Err(refusal) => {
                names::CONFIG_REFUSED_TOTAL.with([]).increment(1);
                error!("configuration refused, the one before runs on: {refusal}");
                self.health.set_note("configuration", Some(format!("the last one was refused: {refusal}")));
            }
        }
    }
}

fn told(text: &str, applied: &weir_edge::Applied) {
    info!(revision = revision(text), added = ?applied.added, changed = ?applied.changed, draining = ?applied.draining, "another topology");
}

/// What only a restart changes: who the node is, and where its data and its doors are.
fn stays_the_same(before: &NodeConfig, now: &NodeConfig) -> anyhow::Result<()> {
    let fixed = [
        ("name", before.name == now.name),
        ("role", before.role == now.role),
        ("rack", before.rack == now.rack),
        ("data_dir", before.data_dir == now.data_dir),
        ("controller", before.controllers == now.controllers),
        ("listen", before.listen == now.listen),
        ("log.format", before.log.format == now.log.format),
    ];
    match fixed.iter().find(|(_, same)| !same) {
        Some((key, _)) => bail!("`{key}` changes only with a restart; put it back, or restart this node"),
        None => Ok(()),
    }
}
