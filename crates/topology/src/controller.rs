//! The node file of a controller.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use weir_model::NodeId;

use crate::node::{Log, Tls, log, tls};
use crate::problem::Problem;
use crate::read::{Address, Block, Checked, Reader, Value, Wrong, filled};

/// Where the API listens unless told otherwise: this machine alone.
const API: &str = "127.0.0.1:24230";
/// Where agents connect unless told otherwise.
const AGENTS: &str = "0.0.0.0:24231";
/// Where metrics are served unless told otherwise.
const METRICS: &str = "127.0.0.1:24220";
/// What all keys in etcd begin with unless told otherwise.
const PREFIX: &str = "/weir";

type Required<T> = Spanned<Checked<T>>;
type Optional<T> = Option<Required<T>>;

/// A controller, as its node file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Its name in its certificate.
    pub name: NodeId,
    /// Everything that it keeps is under this directory. As written; see [`ControllerConfig::rebase`].
    pub data_dir: PathBuf,
    /// Where its state is.
    pub state: StateConfig,
    /// `host:port` of the API; port 0 is any free port.
    pub api: String,
    /// `host:port` for agents.
    pub agents: String,
    /// `host:port` for metrics.
    pub metrics: String,
    /// Who it is to agents, and, unless [`ControllerConfig::api_tls`] says otherwise, to users of the API.
    pub tls: Tls,
    /// How users of the API see it.
    pub api_tls: ApiTls,
    /// How it logs.
    pub log: Log,
}

/// Where a controller keeps its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateConfig {
    /// In a file in its data directory.
    Embedded,
    /// In an etcd cluster, together with other controllers.
    Etcd(EtcdConfig),
}

/// An etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port`; one at least.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// Its authority, for `https`. As written; see [`ControllerConfig::rebase`].
    pub ca: Option<PathBuf>,
    /// Certificate and key to show to it.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `https://host:port` at which other controllers and users find this one's API.
    pub advertise: String,
}

/// How users of the API see a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiTls {
    /// With the certificate that agents see.
    Same,
    /// With another.
    Own {
        /// PEM file: the certificate.
        cert: PathBuf,
        /// PEM file: its private key.
        key: PathBuf,
    },
    /// Without TLS: for addresses of this machine alone.
    Plain,
}

impl ControllerConfig {
    /// Makes each relative path one that starts at `dir`, the directory of the node file. Absolute paths stay.
    pub fn rebase(&mut self, dir: &Path) {
        let Tls { ca, cert, key } = &mut self.tls;
        let mut paths = vec![&mut self.data_dir, ca, cert, key];
        if let ApiTls::Own { cert, key } = &mut self.api_tls {
            paths.extend([cert, key]);
        }
        if let StateConfig::Etcd(etcd) = &mut self.state {
            paths.extend(etcd.ca.as_mut());
            paths.extend(etcd.identity.iter_mut().flat_map(|(cert, key)| [cert, key]));
        }
        for path in paths {
            *path = dir.join(&*path);
        }
    }
}

/// The only word that a controller's `role` may be.
struct ControllerRole;

impl Value for ControllerRole {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "controller" => Ok(Self),
            _ => {
                Err((format!("{text:?} is not a controller"), Some("write role = \"controller\"".to_owned())))
            }
        }
    }
}

/// The only word that `state` may be.
struct EmbeddedWord;

impl Value for EmbeddedWord {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "embedded" => Ok(Self),
            _ => Err((
                format!("{text:?} is not known here"),
                Some(
                    "write state = \"embedded\", or a table: state.etcd = [\"http://etcd-1:2379\", …]"
                        .to_owned(),
                ),
            )),
        }
    }
}

/// The URL of an etcd, or of an API.
struct Url(String);

impl Value for Url {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let text = filled(text)?;
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        match host {
            Some(host) if !host.is_empty() && !host.contains('/') => Ok(Self(text.to_owned())),
            _ => Err((
                format!("{text:?} is not the URL of a host"),
                Some("write https://host:port or http://host:port".to_owned()),
            )),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawController {
    name: Required<NodeId>,
    role: Required<ControllerRole>,
    data_dir: Required<PathBuf>,
    rack: Optional<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawListen {
    api: Optional<Address<true>>,
    agents: Optional<Address<true>>,
    metrics: Optional<Address<true>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawApi {
    cert: Optional<PathBuf>,
    key: Optional<PathBuf>,
    plain: Option<Spanned<bool>>,
    advertise: Optional<Url>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawState {
    etcd: Spanned<Vec<Required<Url>>>,
    prefix: Optional<String>,
    ca: Optional<PathBuf>,
    cert: Optional<PathBuf>,
    key: Optional<PathBuf>,
}

/// Whether a node file is that of a controller.
#[must_use]
pub fn is_controller(text: &str) -> bool {
    let (_, mut root) = Reader::open("", text);
    root.get_mut().remove("role").is_some_and(|role| role.get_ref().as_str() == Some("controller"))
}

/// Reads the node file of a controller. `file` is the name that problems carry. Paths come back as written; see
/// [`ControllerConfig::rebase`].
///
/// # Errors
/// All problems of the file, in its order.
pub fn parse_controller(text: &str, file: &str) -> Result<ControllerConfig, Vec<Problem>> {
    let (mut reader, mut root) = Reader::open(file, text);
    if reader.failed() {
        return Err(reader.into_problems());
    }
    let config = read(&mut reader, &mut root);
    config.filter(|_| !reader.failed()).ok_or_else(|| reader.into_problems())
}

fn read(reader: &mut Reader<'_>, root: &mut Block<'_>) -> Option<ControllerConfig> {
    let listen = reader.take_table(root, "listen");
    let tls_block = reader.take_table(root, "tls");
    let log_block = reader.take_table(root, "log");
    let api_block = reader.take_table(root, "api");
    let state = root.get_mut().remove("state");
    let raw: Option<RawController> = reader.block(root, &["listen", "tls", "log", "api", "state"]);
    let tls = tls(reader, tls_block);
    let log = log(reader, log_block);
    let listen: RawListen =
        listen.map_or_else(|| Some(RawListen::default()), |block| reader.block(&block, &[]))?;
    let api: RawApi = api_block.map_or_else(|| Some(RawApi::default()), |block| reader.block(&block, &[]))?;
    let mut address = |value: Optional<Address<true>>, default: &str| {
        value.and_then(|value| reader.required(value)).map_or_else(|| default.to_owned(), |it| it.0)
    };
    let (api_address, agents, metrics) =
        (address(listen.api, API), address(listen.agents, AGENTS), address(listen.metrics, METRICS));
    let plain = api.plain.as_ref().is_some_and(|plain| *plain.get_ref());
    if let Some(at) = api.plain.as_ref().filter(|_| plain && !is_loopback(&api_address)) {
        let hint = "listen on 127.0.0.1, behind a proxy with TLS, or leave `plain` out".to_owned();
        reader.error(at.span(), "without TLS, tokens would cross the network in clear", Some(hint));
    }
    let own = pair(reader, api.cert, api.key, "api");
    let api_tls = match own {
        Some((cert, key)) => ApiTls::Own { cert, key },
        None if plain => ApiTls::Plain,
        None => ApiTls::Same,
    };
    let advertise = api.advertise.and_then(|url| reader.required(url)).map(|url| url.0);
    let state = self::state(reader, state, advertise, &api_address, plain);

    let raw = raw?;
    reader.required(raw.role)?;
    if let Some(rack) = raw.rack {
        reader.required(rack);
    }
    let (name, data_dir) = (reader.required(raw.name), reader.required(raw.data_dir));
    Some(ControllerConfig {
        name: name?,
        data_dir: data_dir?,
        state: state?,
        api: api_address,
        agents,
        metrics,
        tls: tls?,
        api_tls,
        log,
    })
}

fn state(
    reader: &mut Reader<'_>,
    state: Option<Spanned<toml::de::DeValue<'_>>>,
    advertise: Option<String>,
    api: &str,
    plain: bool,
) -> Option<StateConfig> {
    let Some(state) = state else { return Some(StateConfig::Embedded) };
    let span = state.span();
    let block = match state.into_inner() {
        toml::de::DeValue::Table(table) => Spanned::new(span, table),
        other => {
            let word = EmbeddedWord::from_text(other.as_str().unwrap_or_default());
            return reader.required(Spanned::new(span, Checked(word))).map(|_| StateConfig::Embedded);
        }
    };
    let raw: RawState = reader.block(&block, &[])?;
    if raw.etcd.get_ref().is_empty() {
        let hint = "write etcd = [\"http://etcd-1:2379\", …], all its members".to_owned();
        reader.error(raw.etcd.span(), "etcd needs an endpoint", Some(hint));
    }
    let endpoints: Vec<String> =
        raw.etcd.into_inner().into_iter().filter_map(|url| reader.required(url)).map(|url| url.0).collect();
    let identity = pair(reader, raw.cert, raw.key, "state");
    let ca = raw.ca.and_then(|ca| reader.required(ca));
    if ca.is_none() && endpoints.iter().any(|endpoint| endpoint.starts_with("https:")) {
        let hint = "add ca = \"etcd-ca.crt\", the authority of etcd's certificates".to_owned();
        reader.error(block.span(), "https needs to know whom to trust", Some(hint));
    }
    let scheme = if plain { "http" } else { "https" };
    Some(StateConfig::Etcd(EtcdConfig {
        endpoints,
        prefix: reader.value_or(raw.prefix, PREFIX.to_owned()),
        ca,
        identity,
        advertise: advertise.unwrap_or_else(|| format!("{scheme}://{api}")),
    }))
}

/// A certificate and its key: both or neither.
fn pair(
    reader: &mut Reader<'_>,
    cert: Optional<PathBuf>,
    key: Optional<PathBuf>,
    table: &str,
) -> Option<(PathBuf, PathBuf)> {
    match (cert, key) {
        (Some(cert), Some(key)) => {
            let (cert, key) = (reader.required(cert), reader.required(key));
            Some((cert?, key?))
        }
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            let hint = format!("write both cert and key in [{table}], or neither");
            reader.error(one.span(), "a certificate and its key go together", Some(hint));
            None
        }
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
