//! One node of a cluster: an edge or a sink, as its node file says.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use weir_edge::{Edge, EdgeSettings, Inherited};
use weir_link::{Identity, Settings};
use weir_sink::{Sink, SinkSettings};
use weir_telemetry::{Direction, Health, LogFormat, Logging, Page, Server, TAGS_MAX_DEFAULT, TagTable};
use weir_topology::{NodeConfig, Topology};

use crate::api::Api;
use crate::data_dir::DataDir;
use crate::live::{Asked, Node, Role};
use crate::{configuration, controlled, systemd};

const METRICS_DEFAULT: &str = "127.0.0.1:24220";

/// Runs an edge until it is told to stop.
pub(crate) async fn edge(file: &Path, sockets: Vec<TcpListener>) -> anyhow::Result<Ended> {
    if !controlled::first(file).await? {
        return Ok(Ended::Stopped);
    }
    let Start { data_dir: _held, config, topology, identity, revision, logging } =
        read(file, weir_topology::Role::Edge)?;
    let health = Health::new("edge", config.name.clone(), env!("CARGO_PKG_VERSION"));
    let tags = TagTable::new(Direction::In, TAGS_MAX_DEFAULT);
    let (pages, api) = pages(&config, &health, &tags).await?;
    let settings = EdgeSettings {
        name: config.name.clone(),
        rack: config.rack.clone(),
        data_dir: config.data_dir.clone(),
        forward: config.listen.forward.clone().unwrap_or_else(|| "0.0.0.0:24224".to_owned()),
        identity,
        link: link_settings(),
        inherited: Inherited::new(sockets),
    };
    let edge = Edge::start(settings, &topology, tags, &health).await?;
    eprintln!("weir ready role=edge forward={} metrics={}", edge.forward().await, pages.local_addr());
    run(Node::new(Some(file), config, Role::Edge(edge), health, logging, &revision), pages, &api).await
}

/// Runs a sink until it is told to stop.
pub(crate) async fn sink(file: &Path) -> anyhow::Result<Ended> {
    if !controlled::first(file).await? {
        return Ok(Ended::Stopped);
    }
    let Start { data_dir: _held, config, topology, identity, revision, logging } =
        read(file, weir_topology::Role::Sink)?;
    let (group, node) = topology
        .group_of_sink(&config.name)
        .with_context(|| format!("the topology has no sink named {}", config.name))?;
    let health = Health::new("sink", config.name.clone(), env!("CARGO_PKG_VERSION"));
    let tags = TagTable::new(Direction::Stored, TAGS_MAX_DEFAULT);
    let (pages, api) = pages(&config, &health, &tags).await?;
    let listen = config.listen.link.clone().unwrap_or_else(|| node.address.clone());
    let settings = SinkSettings {
        name: config.name.clone(),
        data_dir: config.data_dir.clone(),
        listen: address(&listen).await?,
        identity,
        link: link_settings(),
    };
    let edges = topology.edges.iter().map(|edge| edge.name.clone()).collect();
    let sink = Sink::start(settings, group, edges, tags, health.clone())?;
    eprintln!("weir ready role=sink link={} metrics={}", sink.address(), pages.local_addr());
    run(Node::new(Some(file), config, Role::Sink(sink), health, logging, &revision), pages, &api).await
}

/// How a node came to its end.
pub(crate) enum Ended {
    /// In good order.
    Stopped,
    /// In good order, for another program that takes these sockets.
    Replaced(Vec<OwnedFd>),
}

/// Serves as a node until it is told to stop or to make room.
pub(crate) async fn run(node: Node, pages: Server, api: &Api) -> anyhow::Result<Ended> {
    let node = Arc::new(node);
    api.serve(node.clone());
    let following = controlled::follow(&node).await?;
    let asked = node.serve().await;
    if let Some(following) = following {
        following.stop().await;
    }
    let ended = match asked? {
        Asked::ToStop => {
            systemd::stopping();
            node.stop().await;
            Ended::Stopped
        }
        Asked::ToMakeRoom => {
            systemd::reloading();
            Ended::Replaced(node.hand_over().await?)
        }
    };
    pages.stop().await;
    Ok(ended)
}

/// Where a sink listens for edges by this topology; where it does now if the topology does not say.
pub(crate) async fn link_address(
    config: &NodeConfig,
    topology: &Topology,
    now: SocketAddr,
) -> anyhow::Result<SocketAddr> {
    let of_topology = topology.group_of_sink(&config.name).map(|(_, sink)| &sink.address);
    match config.listen.link.as_ref().or(of_topology) {
        Some(wanted) => address(wanted).await,
        None => Ok(now),
    }
}

/// A dead peer is noticed within five seconds, so that its batches go elsewhere soon.
fn link_settings() -> Settings {
    Settings {
        idle_timeout: Duration::from_secs(5),
        keep_alive: Duration::from_secs(1),
        // Probed: an Ethernet of 1500 stays at what it takes, jumbo frames and loopback cost half the time.
        mtu_max: weir_link::MTU_MAX,
        ..Settings::default()
    }
}

/// The text of the topology: from the file, or as the controller gave it last.
pub(crate) fn topology(config: &NodeConfig) -> anyhow::Result<String> {
    if config.controllers.is_empty() {
        return configuration::read(&config.topology);
    }
    let kept = weir_agent::load(&config.topology)?;
    Ok(kept.with_context(|| format!("{} is gone", config.topology.display()))?.text)
}

/// Whether the topology has this node in this role.
pub(crate) fn place(config: &NodeConfig, topology: &Topology) -> anyhow::Result<()> {
    let (found, table) = match config.role {
        weir_topology::Role::Edge => {
            (topology.edges.iter().any(|edge| edge.name == config.name), "an [[edge]]")
        }
        weir_topology::Role::Sink => (topology.group_of_sink(&config.name).is_some(), "a group's sink"),
    };
    if !found {
        bail!(
            "{} is not {table} in {}; add it there, or mend `name` or `role` in the node file",
            config.name,
            config.topology.display()
        );
    }
    Ok(())
}

/// What a node begins with.
struct Start {
    data_dir: DataDir,
    config: NodeConfig,
    topology: Topology,
    identity: Identity,
    revision: String,
    logging: Logging,
}

fn read(path: &Path, role: weir_topology::Role) -> anyhow::Result<Start> {
    let config = configuration::node(path)?;
    if config.role != role {
        bail!(
            "{} is the file of a node of another role; start it with the command of that role",
            path.display()
        );
    }
    let text = topology(&config)?;
    let topology = configuration::parse(&text, &config.topology, &|warning| eprintln!("{warning}"))?;
    place(&config, &topology)?;
    let format = match config.log.format {
        weir_topology::LogFormat::Text => LogFormat::Text,
        weir_topology::LogFormat::Json => LogFormat::Json,
    };
    let logging = Logging::init(&config.log.level, format)?;
    let identity = identity(&config.name, &config.tls)?;
    if let Some((group, _)) = topology.group_of_sink(&config.name) {
        weir_sink::open_backend(group)?;
    }
    // Nothing is begun with wrong files.
    let data_dir = DataDir::take(&config.data_dir)?;
    Ok(Start { data_dir, config, topology, identity, revision: weir_topology::revision(&text), logging })
}

/// Loads the certificate of the node of that name.
pub(crate) fn identity(name: &weir_model::NodeId, tls: &weir_topology::Tls) -> anyhow::Result<Identity> {
    let identity = Identity::load(&tls.ca, &tls.cert, &tls.key)?;
    if identity.name() != name {
        bail!(
            "{} is the certificate of {}, and this node is {name}; issue one with `weir ca issue`",
            tls.cert.display(),
            identity.name()
        );
    }
    Ok(identity)
}

async fn pages(config: &NodeConfig, health: &Health, tags: &TagTable) -> anyhow::Result<(Server, Api)> {
    let (listen, api) = (config.listen.metrics.as_deref().unwrap_or(METRICS_DEFAULT), Api::default());
    let page = Page::new(health.clone()).tags(tags.clone()).merge(api.router());
    Ok((Server::start(address(listen).await?, page).await?, api))
}

/// Resolves `host:port`.
pub(crate) async fn address(text: &str) -> anyhow::Result<SocketAddr> {
    tokio::net::lookup_host(text)
        .await
        .with_context(|| format!("cannot resolve {text}"))?
        .next()
        .with_context(|| format!("{text} has no address"))
}

/// Returns when the process is asked to stop.
pub(crate) async fn stopped() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: nothing runs yet that could take another file up");
            }
        }
    }
}
