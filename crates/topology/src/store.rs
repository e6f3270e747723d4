//! `[group.store]`: one kind of store and its keys.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use toml::de::DeValue;
use weir_model::GroupId;
use weir_shape::Partitioner;

use crate::forward::ForwardUser;
use crate::model::{
    Codec, FileStore, Format, ForwardServer, ForwardStore, ForwardStoreSecurity, ForwardStoreTls, HdfsStore,
    KafkaKey, KafkaStore, Options, PartLimits, StoreConfig,
};
use crate::problem::did_you_mean;
use crate::read::{Address, Block, Checked, Reader, Value, Wrong, words};
use crate::schema::{add, by_kind, list};
use crate::secret::Secret;
use crate::size::ByteSize;
use crate::trace::table;

const KINDS: [&str; 4] = ["file", "kafka", "hdfs", "forward"];
const COMPRESSIONS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
const PARTITION: &str = "%Y/%m/%d/%H";

type Optional<T> = Option<Spanned<Checked<T>>>;

words!(Codec { "none" => Self::None, "gzip" => Self::Gzip, "zstd" => Self::Zstd });
words!(Format { "envelope" => Self::Envelope, "record" => Self::Record });
words!(KafkaKey { "none" => Self::None, "tag" => Self::Tag });

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: Spanned<Checked<PathBuf>>,
    partition: Optional<Template>,
    codec: Optional<Codec>,
    format: Optional<Format>,
    #[serde(default)]
    shared: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKafka {
    brokers: Option<Spanned<Vec<String>>>,
    topic: Optional<Topic<true>>,
    key: Optional<KafkaKey>,
    compression: Optional<String>,
    transactions: Option<bool>,
    commit_topic: Optional<Topic<false>>,
    dead_letter_topic: Optional<Topic<false>>,
    #[serde(default)]
    options: BTreeMap<String, Spanned<Checked<Property>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawForward {
    connect_timeout: Optional<Duration>,
    ack_timeout: Optional<Duration>,
    recover_every: Optional<Duration>,
    #[serde(default)]
    zstd: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServer {
    address: Spanned<Checked<Address<false>>>,
    weight: Option<Spanned<u32>>,
    #[serde(default)]
    standby: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClientTls {
    ca: Spanned<Checked<PathBuf>>,
    cert: Optional<PathBuf>,
    key: Optional<PathBuf>,
    name: Optional<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClientSecurity {
    self_hostname: Spanned<Checked<String>>,
    shared_key: Spanned<Checked<Secret>>,
    username: Optional<String>,
    password: Optional<Secret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHdfs {
    url: Spanned<Checked<String>>,
    path: Spanned<Checked<String>>,
    partition: Optional<Template>,
    codec: Optional<Codec>,
    format: Optional<Format>,
    replication: Option<Spanned<u32>>,
    user: Optional<String>,
    #[serde(default)]
    options: BTreeMap<String, Spanned<Checked<Property>>>,
}

/// Reads the store of `group`; none if something in it is wrong, which is then reported.
pub(crate) fn store(reader: &mut Reader<'_>, mut block: Block<'_>, group: &GroupId) -> Option<StoreConfig> {
    let Some(kind) = block.get_mut().remove("kind") else {
        reader.error(block.span(), "the store has no kind", did_you_mean("", KINDS));
        return None;
    };
    match kind.get_ref().as_str() {
        Some("file") => file(reader, &block),
        Some("kafka") => kafka(reader, &block, group),
        Some("hdfs") => hdfs(reader, &block),
        Some("forward") => forward(reader, block),
        other => {
            let hint = did_you_mean(other.unwrap_or_default(), KINDS);
            reader.error(kind.span(), format!("no store is of kind {}", shown(&kind)), hint);
            None
        }
    }
}

/// The schema of `[group.store]`.
pub(crate) fn schema() -> serde_json::Value {
    let mut forward = table::<RawForward>();
    add(&mut forward, "server", list(&table::<RawServer>()), true);
    add(&mut forward, "tls", table::<RawClientTls>(), false);
    add(&mut forward, "security", table::<RawClientSecurity>(), false);
    let (file, kafka, hdfs) = (table::<RawFile>(), table::<RawKafka>(), table::<RawHdfs>());
    by_kind([("file", file), ("kafka", kafka), ("hdfs", hdfs), ("forward", forward)])
}

/// When a part is closed if the group does not say.
pub(crate) fn part_limits(store: &StoreConfig) -> PartLimits {
    let (mebibytes, age) = match store {
        StoreConfig::File(_) => (64, Duration::from_secs(1)),
        StoreConfig::Kafka(_) => (16, Duration::from_millis(200)),
        StoreConfig::Hdfs(_) => (128, Duration::from_secs(60)),
        StoreConfig::Forward(_) => (8, Duration::from_millis(100)),
    };
    PartLimits { bytes: ByteSize::mebibytes(mebibytes), age }
}

fn file(reader: &mut Reader<'_>, block: &Block<'_>) -> Option<StoreConfig> {
    let raw: RawFile = reader.block(block, &["kind"])?;
    let path = reader.required(raw.path);
    let partition = partition(reader, raw.partition);
    let codec = reader.value_or(raw.codec, Codec::None);
    let format = reader.value_or(raw.format, Format::Envelope);
    Some(StoreConfig::File(FileStore { path: path?, partition, codec, format, shared: raw.shared }))
}

/// A partition template that makes paths, or the default.
fn partition(reader: &mut Reader<'_>, written: Optional<Template>) -> String {
    reader.value_or(written, Template(PARTITION.to_owned())).0
}

/// The text of a partition template.
struct Template(String);

impl Value for Template {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let hint = || format!("a relative path such as \"{PARTITION}\" or \"{{tag[0]}}/%Y-%m-%d\"");
        let read = Partitioner::new(text).map(|_| Self(text.to_owned()));
        read.map_err(|error| (error.to_string(), Some(hint())))
    }
}

fn kafka(reader: &mut Reader<'_>, block: &Block<'_>, group: &GroupId) -> Option<StoreConfig> {
    let raw: RawKafka = reader.block(block, &["kind"])?;
    let (place, brokers) = match raw.brokers {
        Some(brokers) => (brokers.span(), brokers.into_inner()),
        None => (block.span(), Vec::new()),
    };
    if brokers.is_empty() || brokers.iter().any(|broker| broker.trim().is_empty()) {
        let hint =
            "write brokers = [\"kafka-1.example.org:9092\", …]; one that answers is enough to find the rest";
        reader.error(place, "a kafka store needs brokers", Some(hint.to_owned()));
    }
    let compression_at = raw.compression.as_ref().map(Spanned::span);
    let compression = reader.value_or(raw.compression, "lz4".to_owned());
    if let Some(span) = compression_at.filter(|_| !COMPRESSIONS.contains(&compression.as_str())) {
        let message = format!("{compression:?} is not known here");
        reader.error(span, message, did_you_mean(&compression, COMPRESSIONS));
    }
    Some(StoreConfig::Kafka(KafkaStore {
        brokers: brokers.join(","),
        topic: reader.value_or(raw.topic, Topic(format!("weir-{group}"))).0,
        key: reader.value_or(raw.key, KafkaKey::Tag),
        compression,
        transactions: raw.transactions.unwrap_or(true),
        commit_topic: raw.commit_topic.and_then(|topic| reader.required(topic)).map(|topic| topic.0),
        dead_letter_topic: raw
            .dead_letter_topic
            .and_then(|topic| reader.required(topic))
            .map(|topic| topic.0),
        options: options(reader, raw.options),
    }))
}

fn options(reader: &mut Reader<'_>, raw: BTreeMap<String, Spanned<Checked<Property>>>) -> Options {
    Options(raw.into_iter().filter_map(|(name, value)| Some((name, reader.required(value)?.0))).collect())
}

/// The value of a property of a store's library; some are secrets.
struct Property(Secret);

impl Value for Property {
    const FORM: &str = Secret::FORM;

    fn from_text(text: &str) -> Result<Self, Wrong> {
        Secret::from_text(text).map(Self)
    }

    fn from_table(table: &BTreeMap<String, String>) -> Result<Self, Wrong> {
        Secret::from_table(table).map(Self)
    }
}

/// A Kafka topic; with `OF_TAG` one that may hold `{tag}`.
struct Topic<const OF_TAG: bool>(String);

impl<const OF_TAG: bool> Value for Topic<OF_TAG> {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let literal = if OF_TAG { text.replace("{tag}", "-") } else { text.to_owned() };
        // `Topic.LEGAL_CHARS` and `Topic.MAX_NAME_LENGTH` of Apache Kafka.
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if literal.is_empty() || literal.len() > 249 || !literal.chars().all(legal) {
            let hint = if OF_TAG { "; {tag} stands for the event's tag" } else { "" };
            let hint = format!("a topic has 1 to 249 letters, digits, '.', '_' and '-'{hint}");
            return Err((format!("{text:?} is not a topic"), Some(hint)));
        }
        Ok(Self(text.to_owned()))
    }
}

fn hdfs(reader: &mut Reader<'_>, block: &Block<'_>) -> Option<StoreConfig> {
    let raw: RawHdfs = reader.block(block, &["kind"])?;
    let (url_at, path_at) = (raw.url.span(), raw.path.span());
    let url = reader.required(raw.url);
    if let Some(url) = url.as_ref().filter(|url| !url.starts_with("hdfs://")) {
        let hint = "write hdfs://host:port or hdfs://nameservice".to_owned();
        reader.error(url_at, format!("{url:?} is not the URL of an HDFS"), Some(hint));
    }
    let path = reader.required(raw.path);
    if let Some(path) = path.as_ref().filter(|path| !path.starts_with('/')) {
        let hint = format!("write \"/{path}\"");
        reader.error(path_at, format!("{path:?} is not absolute"), Some(hint));
    }
    if let Some(replication) = raw.replication.as_ref().filter(|count| *count.get_ref() == 0) {
        reader.error(replication.span(), "no copy of a block is no block", None);
    }
    Some(StoreConfig::Hdfs(HdfsStore {
        partition: partition(reader, raw.partition),
        codec: reader.value_or(raw.codec, Codec::None),
        format: reader.value_or(raw.format, Format::Envelope),
        replication: raw.replication.map(Spanned::into_inner),
        user: raw.user.and_then(|user| reader.required(user)),
        options: options(reader, raw.options),
        url: url?,
        path: path?,
    }))
}

fn forward(reader: &mut Reader<'_>, mut block: Block<'_>) -> Option<StoreConfig> {
    let servers = reader.take_tables(&mut block, "server");
    let tls = reader.take_table(&mut block, "tls");
    let security = reader.take_table(&mut block, "security");
    if servers.is_empty() {
        let hint = "write server = [{ address = \"host:24224\" }]".to_owned();
        reader.error(block.span(), "a forward store needs servers", Some(hint));
    }
    let servers: Vec<ForwardServer> = servers.iter().filter_map(|block| server(reader, block)).collect();
    let tls = tls.map(|block| client_tls(reader, &block));
    let security = security.map(|block| client_security(reader, &block));
    let raw: RawForward = reader.block(&block, &["kind", "server", "tls", "security"])?;
    Some(StoreConfig::Forward(ForwardStore {
        servers,
        tls: tls.map_or(Some(None), |tls| tls.map(Some))?,
        security: security.map_or(Some(None), |security| security.map(Some))?,
        connect_timeout: reader.value_or(raw.connect_timeout, Duration::from_secs(10)),
        ack_timeout: reader.value_or(raw.ack_timeout, Duration::from_secs(190)),
        zstd: raw.zstd,
        recover_every: reader
            .value_or(raw.recover_every, Duration::from_secs(1))
            .max(Duration::from_millis(10)),
    }))
}

fn server(reader: &mut Reader<'_>, block: &Block<'_>) -> Option<ForwardServer> {
    let raw: RawServer = reader.block(block, &[])?;
    let address = reader.required(raw.address);
    if let Some(weight) = raw.weight.as_ref().filter(|weight| *weight.get_ref() == 0) {
        let hint = "a weight is 1 or more; leave the server out to send it nothing".to_owned();
        reader.error(weight.span(), "a server of weight 0 would get no work", Some(hint));
    }
    let weight = raw.weight.map_or(1, Spanned::into_inner);
    Some(ForwardServer { address: address?.0, weight, standby: raw.standby })
}

fn client_tls(reader: &mut Reader<'_>, block: &Block<'_>) -> Option<ForwardStoreTls> {
    let raw: RawClientTls = reader.block(block, &[])?;
    let ca = reader.required(raw.ca);
    let name = raw.name.and_then(|name| reader.required(name));
    let identity = match (raw.cert, raw.key) {
        (Some(cert), Some(key)) => Some((reader.required(cert)?, reader.required(key)?)),
        (None, None) => None,
        _ => {
            reader.error(
                block.span(),
                "cert and key belong together",
                Some("write both or neither".to_owned()),
            );
            None
        }
    };
    Some(ForwardStoreTls { ca: ca?, identity, name })
}

fn client_security(reader: &mut Reader<'_>, block: &Block<'_>) -> Option<ForwardStoreSecurity> {
    let raw: RawClientSecurity = reader.block(block, &[])?;
    let self_hostname = reader.required(raw.self_hostname);
    let shared_key = reader.required(raw.shared_key);
    let user = match (raw.username, raw.password) {
        (Some(username), Some(password)) => {
            Some(ForwardUser { username: reader.required(username)?, password: reader.required(password)? })
        }
        (None, None) => None,
        _ => {
            let hint = Some("write both or neither".to_owned());
            reader.error(block.span(), "username and password belong together", hint);
            None
        }
    };
    Some(ForwardStoreSecurity { self_hostname: self_hostname?, shared_key: shared_key?, user })
}

/// A value as it is named in a message.
pub(crate) fn shown(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref().as_str() {
        Some(text) => format!("{text:?}"),
        None => format!("({})", value.get_ref().type_str()),
    }
}
