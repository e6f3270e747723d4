//! Edge and sinks in one process: the same code and the same path, over QUIC on loopback.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use weir_edge::{Edge, EdgeSettings, Inherited};
use weir_link::ca::Authority;
use weir_link::{Identity, Settings};
use weir_model::{GroupId, NodeId};
use weir_sink::{Sink, SinkSettings};
use weir_telemetry::{Direction, Health, LogFormat, Logging, Page, Server, TAGS_MAX_DEFAULT, TagTable};
use weir_topology::{Topology, parse_topology};

use crate::data_dir::DataDir;
use crate::{configuration, node};

/// How long the certificates of a standalone process hold; they are made anew at each start.
const CERTIFICATE_DAYS: u32 = 3650;

#[derive(Args)]
pub(crate) struct StandaloneArgs {
    /// A topology file: one sink of each of its groups runs in this process. Without it, all events go to files.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where logs, certificates and, unless told otherwise, the output lie.
    #[arg(long, value_name = "DIR", default_value = "weir-data")]
    data_dir: PathBuf,
    /// Where senders connect.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:24224")]
    listen: String,
    /// Where events are written, without --config; by default `output` in the data directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    output: Option<PathBuf>,
    /// Where metrics and health are served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:24220")]
    metrics: String,
}

/// Runs until told to stop.
pub(crate) async fn run(args: StandaloneArgs, sockets: Vec<TcpListener>) -> anyhow::Result<ExitCode> {
    Logging::init("info", LogFormat::Text)?;
    let mut topology = match &args.config {
        Some(file) => configuration::topology(file)?,
        None => files_only(&args.output.clone().unwrap_or_else(|| args.data_dir.join("output")))?,
    };
    for group in &topology.groups {
        weir_sink::open_backend(group)?;
    }
    // Nothing is begun with wrong files.
    let _held = DataDir::take(&args.data_dir)?;

    let edge_name = NodeId::new("standalone")?;
    let authority = authority(&args.data_dir.join("tls"))?;
    let health = Health::new("standalone", edge_name.clone(), env!("CARGO_PKG_VERSION"));
    let (taken, stored) =
        (TagTable::new(Direction::In, TAGS_MAX_DEFAULT), TagTable::new(Direction::Stored, TAGS_MAX_DEFAULT));
    let page = Page::new(health.clone()).tags(taken.clone()).tags(stored.clone());
    let pages = Server::start(node::address(&args.metrics).await?, page).await?;

    let mut sinks = Vec::new();
    for group in &mut topology.groups {
        // One sink of each group, at a port of its own choice.
        group.sinks.truncate(1);
        let Some(place) = group.sinks.first().cloned() else { continue };
        let settings = SinkSettings {
            name: place.name.clone(),
            data_dir: args.data_dir.join("sinks").join(place.name.as_str()),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            identity: identity(&authority, &place.name)?,
            link: Settings { mtu_max: weir_link::MTU_MAX, ..Settings::default() },
        };
        let edges = BTreeSet::from([edge_name.clone()]);
        let sink = Sink::start(settings, group, edges, stored.clone(), health.clone())?;
        if let Some(place) = group.sinks.first_mut() {
            place.address = sink.address().to_string();
        }
        sinks.push(sink);
    }
    let settings = EdgeSettings {
        name: edge_name.clone(),
        rack: String::new(),
        data_dir: args.data_dir.clone(),
        forward: args.listen,
        identity: identity(&authority, &edge_name)?,
        link: Settings { mtu_max: weir_link::MTU_MAX, ..Settings::default() },
        inherited: Inherited::new(sockets),
    };
    let edge = Edge::start(settings, &topology, taken, &health).await?;
    eprintln!("weir ready role=standalone forward={} metrics={}", edge.forward().await, pages.local_addr());
    tokio::select! {
        stopped = node::stopped() => stopped?,
        reason = edge.failed() => bail!("{reason}; start it again: it will find out what is on the disk"),
    }
    edge.stop().await;
    for sink in sinks {
        sink.stop().await;
    }
    pages.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// The topology of a process without configuration: everything goes to one tree of files, soon.
fn files_only(output: &Path) -> anyhow::Result<Topology> {
    let text = r#"
        version = 1
        [cluster]
        name = "standalone"
        [[edge]]
        name = "standalone"
        rack = "local"
        [[group]]
        id = "files"
        sink = [{ name = "files", rack = "local", address = "127.0.0.1:1" }]
        [group.store]
        kind = "file"
        path = "output"
        [[route]]
        match = "**"
        groups = ["files"]
    "#;
    let (mut topology, _) = parse_topology(text, "built in")
        .map_err(|problems| anyhow::anyhow!("the built-in topology is wrong: {problems:?}"))?;
    let files = GroupId::new("files")?;
    for group in topology.groups.iter_mut().filter(|group| group.id == files) {
        group.part.age = Duration::from_millis(500);
        if let weir_topology::StoreConfig::File(store) = &mut group.store {
            store.path = output.to_owned();
        }
    }
    Ok(topology)
}

fn authority(dir: &Path) -> anyhow::Result<Authority> {
    if dir.join(weir_link::ca::CA_KEY).exists() {
        return Ok(Authority::open(dir)?);
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(Authority::create(dir)?)
}

fn identity(authority: &Authority, name: &NodeId) -> anyhow::Result<Identity> {
    let issued = authority.issue(name, &[], CERTIFICATE_DAYS)?;
    Ok(Identity::load(&issued.ca, &issued.cert, &issued.key)?)
}
