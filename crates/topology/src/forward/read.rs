//! Reads `[forward]` and `[[listener]]`. A listener's table is that of `[forward]` with its own keys put over it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use weir_model::{Network, NodeId};
use weir_routing::Pattern;

use super::{
    Forward, ForwardClient, ForwardSecurity, ForwardSettings, ForwardTls, ForwardUser, LimitAction, ListenAt,
    Listener, Per, Rate, RateLimit,
};
use crate::model::Ack;
use crate::problem::did_you_mean;
use crate::read::{Address, Block, Checked, Reader, words};
use crate::schema::{add, list};
use crate::secret::Secret;
use crate::size::ByteSize;
use crate::trace::table;

type Required<T> = Spanned<Checked<T>>;
type Optional<T> = Option<Required<T>>;

const TABLES: [&str; 3] = ["tls", "security", "limit"];
/// Below it Fluentd's own chunks, of 256 MiB by default, would not pass.
const CHUNK_MIB_MIN: u64 = 257;
/// Bounds of a socket's mode.
const MODE: &str = "0666";

words!(Per {
    "listener" => Self::Listener,
    "connection" => Self::Connection,
    "source" => Self::Source,
    "tag" => Self::Tag,
});
words!(LimitAction { "slow" => Self::Slow, "drop" => Self::Drop, "close" => Self::Close });

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListener {
    name: Required<String>,
    address: Optional<Address<true>>,
    unix: Optional<std::path::PathBuf>,
    mode: Option<Spanned<String>>,
    edges: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawForward {
    memory: Optional<ByteSize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    ack: Optional<Ack>,
    tag: Optional<String>,
    add_tag_prefix: Optional<String>,
    source_address_key: Optional<String>,
    source_hostname_key: Optional<String>,
    heartbeat: Option<bool>,
    deny_keepalive: Option<bool>,
    tcp_keepalive: Optional<Duration>,
    #[serde(default)]
    proxy_protocol: Vec<Required<Network>>,
    #[serde(default)]
    allow: Vec<Required<Network>>,
    #[serde(default)]
    deny: Vec<Required<Network>>,
    chunk_size_limit: Optional<ByteSize>,
    chunk_size_warn_limit: Optional<ByteSize>,
    decompression_size_limit: Optional<ByteSize>,
    max_connections: Option<Spanned<u32>>,
    max_connections_per_source: Option<Spanned<u32>>,
    source_prefix_v4: Option<Spanned<u8>>,
    source_prefix_v6: Option<Spanned<u8>>,
    handshake_timeout: Optional<Duration>,
    message_timeout: Optional<Duration>,
    idle_timeout: Optional<Duration>,
    ack_deadline: Optional<Duration>,
    max_connection_age: Optional<Duration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    cert: Required<std::path::PathBuf>,
    key: Required<std::path::PathBuf>,
    client_ca: Optional<std::path::PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecurity {
    self_hostname: Option<Required<String>>,
    shared_key: Required<Secret>,
    allow_anonymous_source: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUser {
    username: Required<String>,
    password: Required<Secret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClient {
    network: Required<Network>,
    shared_key: Optional<Secret>,
    users: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimit {
    name: Optional<String>,
    per: Optional<Per>,
    #[serde(default)]
    networks: Vec<Required<Network>>,
    #[serde(rename = "match")]
    tags: Option<Spanned<String>>,
    bytes: Optional<ByteSize>,
    bytes_burst: Optional<ByteSize>,
    events: Option<Spanned<u64>>,
    events_burst: Option<Spanned<u64>>,
    connections: Option<Spanned<u64>>,
    connections_burst: Option<Spanned<u64>>,
    action: Required<LimitAction>,
}

/// The schemas of `[forward]` and of `[[listener]]`.
pub(crate) fn schema() -> (serde_json::Value, serde_json::Value) {
    let mut security = table::<RawSecurity>();
    add(&mut security, "user", list(&table::<RawUser>()), false);
    add(&mut security, "client", list(&table::<RawClient>()), false);
    let tables = |mut settings: serde_json::Value| {
        add(&mut settings, "tls", table::<RawTls>(), false);
        add(&mut settings, "security", security.clone(), false);
        add(&mut settings, "limit", list(&table::<RawLimit>()), false);
        settings
    };
    let (mut forward, mut listener) = (tables(table::<RawSettings>()), table::<RawListener>());
    for (key, schema) in forward["properties"].as_object().into_iter().flatten() {
        add(&mut listener, key, schema.clone(), false);
    }
    let memory = table::<RawForward>()["properties"]["memory"].clone();
    add(&mut forward, "memory", memory, false);
    // All of them have a default.
    forward["required"] = serde_json::json!([]);
    (forward, listener)
}

/// Reads both tables; `edges` are the names of all edges of the file.
pub(crate) fn read_forward(
    reader: &mut Reader<'_>,
    common: Option<Block<'_>>,
    listeners: Vec<Block<'_>>,
    edges: &[String],
) -> Option<Forward> {
    let mut common = common.unwrap_or_else(|| Spanned::new(0..0, toml::de::DeTable::new()));
    let memory = memory(reader, &mut common);
    if listeners.is_empty() {
        let settings = settings(reader, common)?;
        let name = "forward".to_owned();
        return Some(Forward {
            memory,
            listeners: vec![Listener { name, at: ListenAt::NodeFile, edges: Vec::new(), settings }],
        });
    }
    let mut read: Vec<Listener> = Vec::new();
    for block in listeners {
        let place = block.span();
        let Some(listener) = listener(reader, &common, block, edges) else { continue };
        let met = |other: &&Listener| {
            let both = edges.iter().filter_map(|edge| NodeId::new(edge).ok());
            both.into_iter().any(|edge| other.is_on(&edge) && listener.is_on(&edge))
        };
        for other in read.iter().filter(met) {
            if other.name == listener.name {
                reader.error(place.clone(), format!("there are two listeners {:?}", listener.name), None);
            } else if other.at == listener.at && !any_port(&listener.at) {
                let hint = "give one of them another address, or other edges".to_owned();
                let message =
                    format!("listeners {:?} and {:?} are in the same place", other.name, listener.name);
                reader.error(place.clone(), message, Some(hint));
            }
        }
        read.push(listener);
    }
    Some(Forward { memory, listeners: read })
}

fn any_port(at: &ListenAt) -> bool {
    matches!(at, ListenAt::Tcp(address) if address.ends_with(":0"))
}

fn memory(reader: &mut Reader<'_>, common: &mut Block<'_>) -> ByteSize {
    let default = ByteSize::mebibytes(1 << 10);
    let Some((key, value)) = common.get_mut().remove_entry("memory") else { return default };
    let mut alone = toml::de::DeTable::new();
    alone.insert(key, value);
    let alone = Spanned::new(common.span(), alone);
    let raw: Option<RawForward> = reader.block(&alone, &[]);
    let memory = raw.and_then(|raw| raw.memory);
    let place = memory.as_ref().map(Spanned::span);
    let memory = reader.value_or(memory, default);
    if let Some(place) = place.filter(|_| memory < ByteSize::mebibytes(16)) {
        reader.error(place, "senders need 16MiB of memory at least", None);
    }
    memory
}

fn listener(
    reader: &mut Reader<'_>,
    common: &Block<'_>,
    mut block: Block<'_>,
    edges: &[String],
) -> Option<Listener> {
    // Its own keys first; what remains is put over those of `[forward]`.
    let mut own = toml::de::DeTable::new();
    for key in ["name", "address", "unix", "mode", "edges"] {
        if let Some((key, value)) = block.get_mut().remove_entry(key) {
            own.insert(key, value);
        }
    }
    let own = Spanned::new(block.span(), own);
    let mut all = common.get_ref().clone();
    for (key, value) in block.get_ref() {
        all.insert(key.clone(), value.clone());
    }
    let settings = settings(reader, Spanned::new(block.span(), all));

    let raw: RawListener = reader.block(&own, &[])?;
    let name = reader.required(raw.name);
    let mut named = Vec::new();
    for edge in raw.edges.unwrap_or_default() {
        match NodeId::new(edge.get_ref()) {
            Ok(name) if edges.contains(edge.get_ref()) => named.push(name),
            _ => {
                let hint = did_you_mean(edge.get_ref(), edges.iter().map(String::as_str));
                reader.error(edge.span(), format!("there is no edge {:?}", edge.get_ref()), hint);
            }
        }
    }
    let at = match (raw.address, raw.unix) {
        (Some(address), None) => reader.required(address).map(|address| ListenAt::Tcp(address.0)),
        (None, Some(path)) => {
            let mode = mode(reader, raw.mode);
            reader.required(path).map(|path| ListenAt::Unix { path, mode })
        }
        (None, None) => Some(ListenAt::NodeFile),
        (Some(_), Some(path)) => {
            let hint = "write a second [[listener]] for the Unix socket".to_owned();
            reader.error(path.span(), "a listener has one place", Some(hint));
            None
        }
    };
    Some(Listener { name: name?, at: at?, edges: named, settings: settings? })
}

fn mode(reader: &mut Reader<'_>, written: Option<Spanned<String>>) -> u32 {
    let written = written.unwrap_or_else(|| Spanned::new(0..0, MODE.to_owned()));
    match u32::from_str_radix(written.get_ref(), 8) {
        Ok(mode) if mode <= 0o777 => mode,
        _ => {
            let hint = format!("write it as chmod takes it, such as \"{MODE}\"");
            reader.error(written.span(), format!("{:?} is no file mode", written.get_ref()), Some(hint));
            0
        }
    }
}

fn settings(reader: &mut Reader<'_>, mut block: Block<'_>) -> Option<ForwardSettings> {
    let tls = reader.take_table(&mut block, "tls");
    let security = reader.take_table(&mut block, "security");
    let limits = reader.take_tables(&mut block, "limit");
    let tls = tls.map(|block| self::tls(reader, &block));
    let security = security.map(|block| self::security(reader, block));
    let limits =
        limits.iter().enumerate().filter_map(|(number, block)| limit(reader, number, block)).collect();
    let limits = unique(reader, block.span(), limits);
    let raw: RawSettings = reader.block(&block, &TABLES)?;

    let chunk_at = raw.chunk_size_limit.as_ref().map(Spanned::span);
    let chunk_size_limit = reader.value_or(raw.chunk_size_limit, ByteSize::mebibytes(512));
    if let Some(place) = chunk_at.filter(|_| chunk_size_limit < ByteSize::mebibytes(CHUNK_MIB_MIN)) {
        let hint = format!("Fluentd sends chunks of 256MiB; from {CHUNK_MIB_MIN}MiB on all pass");
        reader.warn(
            place,
            "some senders' chunks are larger, and their connections will be closed",
            Some(hint),
        );
    }
    let tag = optional(reader, raw.tag);
    let add_tag_prefix = optional(reader, raw.add_tag_prefix);
    Some(ForwardSettings {
        tls: flatten(tls)?,
        security: flatten(security)?,
        ack: optional(reader, raw.ack),
        tag,
        add_tag_prefix,
        source_address_key: optional(reader, raw.source_address_key),
        source_hostname_key: optional(reader, raw.source_hostname_key),
        heartbeat: raw.heartbeat.unwrap_or(true),
        deny_keepalive: raw.deny_keepalive.unwrap_or(false),
        tcp_keepalive: reader.value_or(raw.tcp_keepalive, Duration::from_secs(60)),
        proxy_protocol: networks(reader, raw.proxy_protocol),
        allow: networks(reader, raw.allow),
        deny: networks(reader, raw.deny),
        chunk_size_limit,
        chunk_size_warn_limit: optional(reader, raw.chunk_size_warn_limit),
        decompression_size_limit: reader.value_or(raw.decompression_size_limit, ByteSize::mebibytes(256)),
        max_connections: count(reader, raw.max_connections).unwrap_or(65_536),
        max_connections_per_source: count(reader, raw.max_connections_per_source),
        source_prefix_v4: prefix(reader, raw.source_prefix_v4, 32),
        source_prefix_v6: prefix(reader, raw.source_prefix_v6, 64),
        handshake_timeout: above_zero(reader, raw.handshake_timeout).unwrap_or(Duration::from_secs(10)),
        message_timeout: above_zero(reader, raw.message_timeout),
        idle_timeout: above_zero(reader, raw.idle_timeout),
        ack_deadline: above_zero(reader, raw.ack_deadline).unwrap_or(Duration::from_secs(60)),
        max_connection_age: above_zero(reader, raw.max_connection_age),
        limits,
    })
}

/// Nothing, or something that was read; none where it was there and wrong.
#[allow(clippy::option_option, reason = "what is absent differs from what is wrong")]
fn flatten<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(None) => None,
        Some(Some(read)) => Some(Some(read)),
        None => Some(None),
    }
}

fn optional<T: crate::read::Value>(reader: &mut Reader<'_>, value: Optional<T>) -> Option<T> {
    value.and_then(|value| reader.required(value))
}

fn networks(reader: &mut Reader<'_>, written: Vec<Required<Network>>) -> Vec<Network> {
    written.into_iter().filter_map(|network| reader.required(network)).collect()
}

fn count(reader: &mut Reader<'_>, written: Option<Spanned<u32>>) -> Option<usize> {
    let written = written?;
    if *written.get_ref() == 0 {
        reader.error(
            written.span(),
            "nobody could connect",
            Some("leave the key out for no limit".to_owned()),
        );
    }
    usize::try_from(written.into_inner()).ok()
}

fn prefix(reader: &mut Reader<'_>, written: Option<Spanned<u8>>, default: u8) -> u8 {
    let most = if default == 32 { 32 } else { 128 };
    let Some(written) = written else { return default };
    if *written.get_ref() > most {
        reader.error(written.span(), format!("an address has {most} bits"), None);
    }
    written.into_inner()
}

fn above_zero(reader: &mut Reader<'_>, written: Optional<Duration>) -> Option<Duration> {
    let place = written.as_ref().map(Spanned::span)?;
    let duration = optional(reader, written)?;
    if duration.is_zero() {
        let hint = "leave the key out to have no such limit, or its default".to_owned();
        reader.error(place, "every connection would end at once", Some(hint));
    }
    Some(duration)
}

fn tls(reader: &mut Reader<'_>, block: &Block<'_>) -> Option<ForwardTls> {
    let raw: RawTls = reader.block(block, &[])?;
    let (cert, key) = (reader.required(raw.cert), reader.required(raw.key));
    let client_ca = optional(reader, raw.client_ca);
    Some(ForwardTls { cert: cert?, key: key?, client_ca })
}

fn security(reader: &mut Reader<'_>, mut block: Block<'_>) -> Option<ForwardSecurity> {
    let users = reader.take_tables(&mut block, "user");
    let clients = reader.take_tables(&mut block, "client");
    let users: Vec<ForwardUser> = users.iter().filter_map(|block| user(reader, block)).collect();
    let clients = clients.iter().filter_map(|block| client(reader, block, &users)).collect();
    let raw: RawSecurity = reader.block(&block, &["user", "client"])?;
    let name_at = raw.self_hostname.as_ref().map(Spanned::span);
    let self_hostname = optional(reader, raw.self_hostname);
    if let (Some(place), Some(name)) = (name_at, &self_hostname)
        && (name == "localhost" || name.len() > 255)
    {
        let hint =
            "senders refuse a server of their own name, and Fluent Bit calls itself localhost".to_owned();
        reader.error(place, format!("a server cannot be called {name:?}"), Some(hint));
    }
    let shared_key = reader.required(raw.shared_key);
    Some(ForwardSecurity {
        self_hostname,
        shared_key: shared_key?,
        allow_anonymous_source: raw.allow_anonymous_source.unwrap_or(true),
        users,
        clients,
    })
}

fn user(reader: &mut Reader<'_>, block: &Block<'_>) -> Option<ForwardUser> {
    let raw: RawUser = reader.block(block, &[])?;
    let (username, password) = (reader.required(raw.username), reader.required(raw.password));
    Some(ForwardUser { username: username?, password: password? })
}

fn client(reader: &mut Reader<'_>, block: &Block<'_>, users: &[ForwardUser]) -> Option<ForwardClient> {
    let raw: RawClient = reader.block(block, &[])?;
    let network = reader.required(raw.network);
    let shared_key = optional(reader, raw.shared_key);
    for name in raw.users.iter().flatten().filter(|name| users.iter().all(|user| user.username != **name)) {
        let hint = did_you_mean(name, users.iter().map(|user| user.username.as_str()));
        reader.error(block.span(), format!("there is no user {name:?}"), hint);
    }
    Some(ForwardClient { network: network?, shared_key, users: raw.users })
}

fn limit(reader: &mut Reader<'_>, number: usize, block: &Block<'_>) -> Option<RateLimit> {
    let raw: RawLimit = reader.block(block, &[])?;
    let per_at = raw.per.as_ref().map_or(block.span(), Spanned::span);
    let name = optional(reader, raw.name).unwrap_or_else(|| format!("limit-{}", number + 1));
    let per = reader.value_or(raw.per, Per::Listener);
    let networks = networks(reader, raw.networks);
    if let Some(tags) = &raw.tags {
        for pattern in tags.get_ref().split_whitespace() {
            if let Err(error) = Pattern::parse(pattern) {
                reader.error(tags.span(), format!("pattern {pattern:?}: {error}"), None);
            }
        }
    }
    let (bytes, bytes_burst) = (optional(reader, raw.bytes), optional(reader, raw.bytes_burst));
    let bytes = bytes.map(|bytes| (bytes.0, bytes_burst.map(|burst| burst.0)));
    let of = |rate: Option<Spanned<u64>>, burst: Option<Spanned<u64>>| {
        rate.map(|rate| (rate.into_inner(), burst.map(Spanned::into_inner)))
    };
    let rates = [bytes, of(raw.events, raw.events_burst), of(raw.connections, raw.connections_burst)];
    let rates = rates
        .map(|rate| rate.map(|(per_second, burst)| Rate { per_second, burst: burst.unwrap_or(per_second) }));
    if rates.iter().flatten().any(|rate| rate.per_second == 0 || rate.burst == 0) {
        reader.error(block.span(), "a rate or burst of 0 lets nothing through", None);
    }
    let [bytes, events, connections] = rates;
    if bytes.is_none() && events.is_none() && connections.is_none() {
        let hint =
            "add bytes = \"10MiB\", events = 10000 or connections = 100, each for one second".to_owned();
        reader.error(block.span(), "the limit limits nothing", Some(hint));
    }
    if connections.is_some() && (raw.tags.is_some() || matches!(per, Per::Connection | Per::Tag)) {
        let hint = "write per = \"source\" or \"listener\", and no match".to_owned();
        reader.error(per_at, "a connection has no rate of connections, and no tag yet", Some(hint));
    }
    let action_at = raw.action.span();
    let action = reader.required(raw.action);
    if connections.is_some() && action.is_some_and(|action| action != LimitAction::Close) {
        let hint = "write action = \"close\"".to_owned();
        reader.error(action_at, "a new connection can only be closed", Some(hint));
    }
    Some(RateLimit {
        name,
        per,
        networks,
        tags: raw.tags.map(Spanned::into_inner),
        bytes,
        events,
        connections,
        action: action?,
    })
}

fn unique(reader: &mut Reader<'_>, place: std::ops::Range<usize>, limits: Vec<RateLimit>) -> Vec<RateLimit> {
    let mut seen = BTreeSet::new();
    for limit in &limits {
        if !seen.insert(&limit.name) {
            reader.error(place.clone(), format!("there are two limits {:?}", limit.name), None);
        }
    }
    limits
}
