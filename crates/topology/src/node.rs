//! The node file: what one process must know before it can read its topology.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use weir_model::NodeId;

use crate::problem::Problem;
use crate::read::{Address, Block, Checked, Reader, words};
use crate::schema::add;
use crate::trace::table;

/// Where an edge takes events unless told otherwise: the port that Fluentd and Fluent Bit know.
const FORWARD: &str = "0.0.0.0:24224";
/// Where metrics are served unless told otherwise: this machine alone, beside [`FORWARD`].
const METRICS: &str = "127.0.0.1:24220";
/// Where the last good revision is kept, in the data directory.
const KEPT: &str = "topology.toml";

type Required<T> = Spanned<Checked<T>>;
type Optional<T> = Option<Required<T>>;

/// One process, as its node file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name in the topology and in its certificate.
    pub name: NodeId,
    /// What it does.
    pub role: Role,
    /// Where it stands.
    pub rack: String,
    /// Everything that the node keeps is under this directory. As written; see [`NodeConfig::rebase`].
    pub data_dir: PathBuf,
    /// The topology file. As written; see [`NodeConfig::rebase`]. With [`NodeConfig::controllers`] it is where the
    /// last good revision is kept, in the data directory.
    pub topology: PathBuf,
    /// Where the topology comes from, if not from a file of the operator's.
    pub controllers: Vec<ControllerAddress>,
    /// Whether the topology and the certificates are looked at for changes; otherwise SIGHUP alone reads them again.
    pub watch: bool,
    /// Where it listens.
    pub listen: Listen,
    /// Who it is, and whom it trusts.
    pub tls: Tls,
    /// How it logs.
    pub log: Log,
}

impl NodeConfig {
    /// Makes each relative path one that starts at `dir`, the directory of the node file. Absolute paths stay.
    pub fn rebase(&mut self, dir: &Path) {
        let Tls { ca, cert, key } = &mut self.tls;
        for path in [&mut self.data_dir, &mut self.topology, ca, cert, key] {
            *path = dir.join(&*path);
        }
    }
}

/// A controller of the fleet; one of them leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerAddress {
    /// Its name, as in its certificate.
    pub name: NodeId,
    /// `host:port` where it takes agents.
    pub address: String,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes events from senders and keeps them until a sink has stored them.
    Edge,
    /// Takes events from edges and stores them.
    Sink,
}

/// Where a node listens, each as `host:port`; port 0 is any free port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// For senders; always there on an edge, never on a sink.
    pub forward: Option<String>,
    /// For edges; never there on an edge. A sink without it listens where the topology says that it is.
    pub link: Option<String>,
    /// For metrics.
    pub metrics: Option<String>,
}

/// PEM files. As written; see [`NodeConfig::rebase`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The cluster's certificate authority.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How a node logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A filter as `tracing` reads it, such as `info` or `info,weir_link=debug`.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each line.
    Json,
}

words!(Role { "edge" => Self::Edge, "sink" => Self::Sink });
words!(LogFormat { "text" => Self::Text, "json" => Self::Json });

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: Required<NodeId>,
    role: Required<Role>,
    rack: Required<String>,
    data_dir: Required<PathBuf>,
    topology: Optional<PathBuf>,
    #[serde(default)]
    watch: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawControllerAddress {
    name: Required<NodeId>,
    address: Required<Address<false>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawListen {
    forward: Optional<Address<true>>,
    link: Optional<Address<true>>,
    metrics: Optional<Address<true>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    ca: Required<PathBuf>,
    cert: Required<PathBuf>,
    key: Required<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    level: Optional<String>,
    format: Optional<LogFormat>,
}

/// The schema of a node file.
pub(crate) fn schema() -> serde_json::Value {
    let mut node = table::<RawNode>();
    add(&mut node, "listen", table::<RawListen>(), false);
    add(&mut node, "tls", table::<RawTls>(), true);
    add(&mut node, "log", table::<RawLog>(), false);
    node
}

/// Reads a node file. `file` is the name that problems carry. Paths come back as written; see
/// [`NodeConfig::rebase`].
///
/// # Errors
/// All problems of the file, in its order.
pub fn parse_node(text: &str, file: &str) -> Result<NodeConfig, Vec<Problem>> {
    let (mut reader, mut root) = Reader::open(file, text);
    if reader.failed() {
        return Err(reader.into_problems());
    }
    let node = read(&mut reader, &mut root);
    node.filter(|_| !reader.failed()).ok_or_else(|| reader.into_problems())
}

fn read(reader: &mut Reader<'_>, root: &mut Block<'_>) -> Option<NodeConfig> {
    let listen = reader.take_table(root, "listen");
    let tls = reader.take_table(root, "tls");
    let log = reader.take_table(root, "log");
    let controllers = reader.take_tables(root, "controller");
    let controllers: Vec<_> = controllers.iter().filter_map(|block| controller(reader, block)).collect();
    let raw: Option<RawNode> = reader.block(root, &["listen", "tls", "log", "controller"]);
    let tls = self::tls(reader, tls);
    let log = self::log(reader, log);
    let listen: Option<RawListen> =
        listen.map_or_else(|| Some(RawListen::default()), |block| reader.block(&block, &[]));

    let raw = raw?;
    let watch = raw.watch;
    let name = reader.required(raw.name);
    let role = reader.required(raw.role);
    let rack = reader.required(raw.rack);
    let data_dir = reader.required(raw.data_dir);
    let topology = source(reader, raw.topology, data_dir.as_deref(), !controllers.is_empty());
    let listen = self::listen(reader, listen?, role?);
    Some(NodeConfig {
        name: name?,
        role: role?,
        rack: rack?,
        data_dir: data_dir?,
        topology: topology?,
        controllers,
        watch,
        listen,
        tls: tls?,
        log,
    })
}

fn controller(reader: &mut Reader<'_>, block: &Block<'_>) -> Option<ControllerAddress> {
    let raw: RawControllerAddress = reader.block(block, &[])?;
    let (name, address) = (reader.required(raw.name), reader.required(raw.address));
    Some(ControllerAddress { name: name?, address: address?.0 })
}

/// The topology comes from a file or from a controller.
fn source(
    reader: &mut Reader<'_>,
    file: Optional<PathBuf>,
    data_dir: Option<&Path>,
    controlled: bool,
) -> Option<PathBuf> {
    let hint = || Some("write topology = \"FILE\", or [[controller]] with name and address".to_owned());
    match (file, controlled) {
        (Some(file), true) => {
            reader.error(
                file.span(),
                "the topology comes from a file or from a controller, not from both",
                hint(),
            );
            None
        }
        (Some(file), false) => reader.required(file),
        (None, true) => Some(data_dir?.join(KEPT)),
        (None, false) => {
            reader.error(0..0, "the node has no topology", hint());
            None
        }
    }
}

fn listen(reader: &mut Reader<'_>, raw: RawListen, role: Role) -> Listen {
    let misplaced = match role {
        Role::Edge => raw.link.as_ref().map(|link| (link.span(), "an edge has no link listener")),
        Role::Sink => raw.forward.as_ref().map(|forward| (forward.span(), "a sink has no forward listener")),
    };
    if let Some((span, message)) = misplaced {
        let hint = "senders connect to an edge (forward), edges connect to a sink (link)".to_owned();
        reader.error(span, message, Some(hint));
    }
    let mut address =
        |value: Optional<Address<true>>| value.and_then(|value| reader.required(value)).map(|it| it.0);
    let (forward, link, metrics) = (address(raw.forward), address(raw.link), address(raw.metrics));
    Listen {
        forward: forward.or_else(|| (role == Role::Edge).then(|| FORWARD.to_owned())),
        link,
        metrics: metrics.or_else(|| Some(METRICS.to_owned())),
    }
}

pub(crate) fn tls(reader: &mut Reader<'_>, block: Option<Block<'_>>) -> Option<Tls> {
    let Some(block) = block else {
        let hint = "write [tls] and below it ca, cert and key".to_owned();
        reader.error(0..0, "the node has no certificate", Some(hint));
        return None;
    };
    let raw: RawTls = reader.block(&block, &[])?;
    let (ca, cert, key) = (reader.required(raw.ca), reader.required(raw.cert), reader.required(raw.key));
    Some(Tls { ca: ca?, cert: cert?, key: key? })
}

pub(crate) fn log(reader: &mut Reader<'_>, block: Option<Block<'_>>) -> Log {
    let raw: Option<RawLog> = block.and_then(|block| reader.block(&block, &[]));
    let (level, format) = raw.map_or((None, None), |raw| (raw.level, raw.format));
    Log { level: reader.value_or(level, "info".to_owned()), format: reader.value_or(format, LogFormat::Text) }
}
