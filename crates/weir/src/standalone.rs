//! Edge and sinks in one process: the same code and the same path, over QUIC on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::sync::Mutex;

use weir_edge::{Applied, Edge, EdgeSettings, Inherited};
use weir_link::ca::{Authority, Issued};
use weir_link::{Identity, Settings};
use weir_model::{GroupId, NodeId};
use weir_sink::{Sink, SinkSettings};
use weir_telemetry::{Direction, Health, LogFormat, Logging, Page, Server, TAGS_MAX_DEFAULT, TagTable};
use weir_topology::{EdgeNode, Listen, Log, NodeConfig, Tls, Topology, parse_topology, revision};

use crate::api::Api;
use crate::data_dir::DataDir;
use crate::live::{Node, Role};
use crate::{configuration, node};

/// Where each sink listens: at a port of its own choice.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How long the certificates of a standalone process hold; they are made anew at each start.
const CERTIFICATE_DAYS: u32 = 3650;

#[derive(Args)]
pub(crate) struct StandaloneArgs {
    /// A topology file: one sink of each of its groups runs in this process. Without it, all events go to files.
    /// SIGHUP reads it again.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Reads the topology file again whenever it changes.
    #[arg(long, requires = "config")]
    watch: bool,
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
pub(crate) async fn run(args: StandaloneArgs, sockets: Vec<TcpListener>) -> anyhow::Result<node::Ended> {
    let logging = Logging::init("info", LogFormat::Text)?;
    let (mut topology, revision) = match &args.config {
        Some(file) => {
            let text = configuration::read(file)?;
            (configuration::parse(&text, file, &|warning| eprintln!("{warning}"))?, revision(&text))
        }
        None => {
            let output = args.output.clone().unwrap_or_else(|| args.data_dir.join("output"));
            (files_only(&output)?, revision(FILES_ONLY))
        }
    };
    for group in &topology.groups {
        weir_sink::open_backend(group)?;
    }
    // Nothing is begun with wrong files.
    let _held = DataDir::take(&args.data_dir)?;

    let name = NodeId::new("standalone")?;
    let authority = authority(&args.data_dir.join("tls"))?;
    let Issued { ca, cert, key } = authority.issue(&name, &[], CERTIFICATE_DAYS)?;
    let config = NodeConfig {
        name,
        role: weir_topology::Role::Edge,
        rack: String::new(),
        data_dir: args.data_dir,
        topology: args.config.unwrap_or_default(),
        controllers: Vec::new(),
        watch: args.watch,
        listen: Listen { forward: Some(args.listen.clone()), link: None, metrics: Some(args.metrics) },
        tls: Tls { ca, cert, key },
        log: Log { level: "info".to_owned(), format: weir_topology::LogFormat::Text },
    };
    let health = Health::new("standalone", config.name.clone(), env!("CARGO_PKG_VERSION"));
    let (taken, stored) =
        (TagTable::new(Direction::In, TAGS_MAX_DEFAULT), TagTable::new(Direction::Stored, TAGS_MAX_DEFAULT));
    let api = Api::default();
    let page = Page::new(health.clone()).tags(taken.clone()).tags(stored.clone()).merge(api.router());
    let metrics = config.listen.metrics.as_deref().unwrap_or_default();
    let pages = Server::start(node::address(metrics).await?, page).await?;

    let sinks = Sinks {
        edge: config.name.clone(),
        authority,
        dir: config.data_dir.join("sinks"),
        tags: stored,
        health: health.clone(),
        running: Mutex::default(),
    };
    sinks.start_lacking(&mut topology, &mut *sinks.running.lock().await)?;
    let settings = EdgeSettings {
        name: config.name.clone(),
        rack: String::new(),
        data_dir: config.data_dir.clone(),
        forward: args.listen,
        identity: node::identity(&config.name, &config.tls)?,
        link: Settings { mtu_max: weir_link::MTU_MAX, ..Settings::default() },
        inherited: Inherited::new(sockets),
    };
    let edge = Edge::start(settings, &topology, taken, &health).await?;
    eprintln!("weir ready role=standalone forward={} metrics={}", edge.forward().await, pages.local_addr());
    node::run(
        Node::new(None, config, Role::Both(edge, Box::new(sinks)), health, logging, &revision),
        pages,
        &api,
    )
    .await
}

/// The sinks of a standalone process: one of each group.
pub(crate) struct Sinks {
    edge: NodeId,
    authority: Authority,
    dir: PathBuf,
    tags: TagTable,
    health: Health,
    running: Mutex<BTreeMap<NodeId, Sink>>,
}

impl Sinks {
    /// Goes on with another topology, together with the edge: all of it, or nothing. The sink of a group that is gone
    /// serves on: the edge may still have something for it.
    pub(crate) async fn apply(&self, edge: &Edge, mut topology: Topology) -> anyhow::Result<Applied> {
        for group in &topology.groups {
            weir_sink::open_backend(group)?;
        }
        let mut running = self.running.lock().await;
        let before: Vec<NodeId> = running.keys().cloned().collect();
        let applied = match self.start_lacking(&mut topology, &mut running) {
            Ok(()) => edge.apply(&topology).await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        if applied.is_err() {
            for (_, sink) in running.extract_if(.., |name, _| !before.contains(name)) {
                sink.stop().await;
            }
            return applied;
        }
        for sink in running.values() {
            sink.apply(&topology, LOOPBACK)?;
        }
        applied
    }

    /// Leaves the edge and one sink of each group in the topology, at the address that it has in this process, and starts
    /// those that do not run yet.
    fn start_lacking(
        &self,
        topology: &mut Topology,
        running: &mut BTreeMap<NodeId, Sink>,
    ) -> anyhow::Result<()> {
        topology.edges = vec![EdgeNode { name: self.edge.clone(), rack: String::new() }];
        for group in &mut topology.groups {
            group.sinks.truncate(1);
            let Some(name) = group.sinks.first().map(|place| place.name.clone()) else { continue };
            let address = match running.get(&name) {
                Some(sink) => sink.address(),
                None => {
                    let issued = self.authority.issue(&name, &[], CERTIFICATE_DAYS)?;
                    let settings = SinkSettings {
                        name: name.clone(),
                        data_dir: self.dir.join(name.as_str()),
                        listen: LOOPBACK,
                        identity: Identity::load(&issued.ca, &issued.cert, &issued.key)?,
                        link: Settings { mtu_max: weir_link::MTU_MAX, ..Settings::default() },
                    };
                    let sink = Sink::start(
                        settings,
                        group,
                        BTreeSet::from([self.edge.clone()]),
                        self.tags.clone(),
                        self.health.clone(),
                    )?;
                    running.entry(name).or_insert(sink).address()
                }
            };
            if let Some(place) = group.sinks.first_mut() {
                place.address = address.to_string();
            }
        }
        Ok(())
    }

    /// Stops all of them in good order.
    pub(crate) async fn stop(self) {
        for sink in self.running.into_inner().into_values() {
            sink.stop().await;
        }
    }
}

/// The topology of a process without configuration, but for the place of the files.
const FILES_ONLY: &str = r#"
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

/// Everything goes to one tree of files, soon.
fn files_only(output: &Path) -> anyhow::Result<Topology> {
    let (mut topology, _) = parse_topology(FILES_ONLY, "built in")
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
