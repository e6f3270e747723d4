//! What an operator chooses for one Kafka cluster, checked, and the client configurations made of it.
//!
//! Left out on purpose: how the settings are written in a topology file (that is `topology`'s), and any call
//! over the network.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use weir_model::{GroupId, NodeId};
use weir_shape::Format;

/// Longest topic name that a broker takes (`Topic.MAX_NAME_LENGTH` in Apache Kafka).
const TOPIC_BYTES_MAX: usize = 249;

/// Client properties that carry the store's promises: an operator's `options` must not touch them.
const RESERVED: [&str; 18] = [
    "acks",
    "request.required.acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "metadata.broker.list",
    "compression.codec",
    "compression.type",
    "delivery.timeout.ms",
    "message.timeout.ms",
    "enable.auto.commit",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "max.in.flight.requests.per.connection",
    "transaction.timeout.ms",
    "transactional.id",
];

/// One Kafka cluster as a store.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// The sink group. It is the first half of every `transactional.id`.
    pub group: GroupId,
    /// `bootstrap.servers`: `host:port`, several separated by commas.
    pub brokers: String,
    /// Where events go: a topic name in which `{tag}` stands for the event's tag. What Kafka does not allow
    /// in a name becomes `_`, and a name is cut at 249 bytes.
    pub topic: String,
    /// The records' key.
    pub key: Key,
    /// Holds one record for each part that was committed, and the marks that end lives. Made with one
    /// partition and `cleanup.policy=compact` where it is missing.
    pub commit_topic: String,
    /// Takes the events that the cluster would never take.
    pub dead_letter_topic: String,
    /// Whether parts are transactions. Without them a part is stored at least once: what a dead sink had sent
    /// stays visible and is sent again.
    pub transactions: bool,
    /// How record batches are compressed.
    pub compression: Compression,
    /// What an event's value looks like.
    pub format: Format,
    /// Further librdkafka properties (`security.protocol`, `sasl.*`, `linger.ms`, `message.max.bytes`, …).
    pub options: BTreeMap<String, String>,
    /// How long to wait for the cluster.
    pub timeouts: Timeouts,
}

/// What a record's key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// No key: events spread over the partitions, and order holds within a partition only.
    None,
    /// The tag: all events of a tag go to one partition, in order.
    Tag,
}

/// Kafka's compression codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not compressed.
    None,
    /// gzip: small, and three times the CPU of the others.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// How long to wait for the cluster before a call is given up as [`Transient`](weir_store::StoreError::Transient).
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a new producer's `init_transactions`, and for a reading of the commit topic.
    pub connect: Duration,
    /// For an event's way to the brokers, retries included.
    pub delivery: Duration,
    /// For `commit_transaction` and `abort_transaction`.
    pub commit: Duration,
    /// After this long without an end the coordinator aborts a transaction by itself. More than `delivery`
    /// and `commit` together, and at most the brokers' `transaction.max.timeout.ms` (15 minutes by default).
    /// A sink killed with an open transaction holds `read_committed` consumers back for at most this long.
    pub transaction: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            delivery: Duration::from_secs(30),
            commit: Duration::from_secs(20),
            transaction: Duration::from_secs(60),
        }
    }
}

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The property belongs to the store.
    #[error("option {0:?} cannot be set: the store's promises rest on it")]
    Reserved(String),
    /// librdkafka does not know the property, or not this value of it.
    #[error("a client option is refused")]
    Option(#[source] KafkaError),
    /// Not a topic name.
    #[error("{what} {name:?} is not a topic name: 1 to {TOPIC_BYTES_MAX} of a-z A-Z 0-9 . _ -")]
    Topic {
        /// Which topic.
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// The coordinator would abort transactions that the store still waits for.
    #[error(
        "the transaction timeout ({transaction:?}) must exceed the delivery and commit timeouts together"
    )]
    Timeouts {
        /// What was given.
        transaction: Duration,
    },
}

impl KafkaSettings {
    /// Settings for `group` on the cluster at `brokers`: one topic `weir-<group>` keyed by tag, transactions,
    /// LZ4, envelopes.
    #[must_use]
    pub fn new(group: GroupId, brokers: impl Into<String>) -> Self {
        Self {
            topic: format!("weir-{group}"),
            key: Key::Tag,
            commit_topic: format!("weir-commits-{group}"),
            dead_letter_topic: format!("weir-dead-letters-{group}"),
            transactions: true,
            compression: Compression::Lz4,
            format: Format::Envelope,
            options: BTreeMap::new(),
            timeouts: Timeouts::default(),
            brokers: brokers.into(),
            group,
        }
    }

    /// Checks what can be checked without the cluster.
    ///
    /// # Errors
    /// [`SettingsError`] for the first thing that cannot be.
    pub fn check(&self) -> Result<(), SettingsError> {
        if let Some(name) = self.options.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(SettingsError::Reserved(name.clone()));
        }
        for (what, name) in [
            ("commit_topic", self.commit_topic.clone()),
            ("dead_letter_topic", self.dead_letter_topic.clone()),
            ("topic", self.topic.replace("{tag}", "")),
        ] {
            let template = what == "topic" && self.topic.contains("{tag}");
            if name.len() > TOPIC_BYTES_MAX || (name.is_empty() && !template) || !name.bytes().all(legal) {
                return Err(SettingsError::Topic { what, name });
            }
        }
        let Timeouts { delivery, commit, transaction, .. } = self.timeouts;
        if transaction <= delivery + commit {
            return Err(SettingsError::Timeouts { transaction });
        }
        self.producer("check", None, None).create_native_config().map_err(SettingsError::Option)?;
        Ok(())
    }

    /// The topic of `tag`'s events.
    pub(crate) fn topic_of(&self, tag: &str) -> String {
        let mut name: String = self.topic.replace("{tag}", tag);
        name = name.chars().map(|c| if c.is_ascii() && legal(c as u8) { c } else { '_' }).collect();
        name.truncate(TOPIC_BYTES_MAX);
        // The broker refuses these three for themselves alone.
        if matches!(name.as_str(), "" | "." | "..") {
            name = "_".to_owned();
        }
        name
    }

    /// The id by which the brokers know `sink`'s transactions, whatever its life.
    pub(crate) fn transactional_id(&self, sink: &NodeId) -> String {
        format!("{}/{sink}", self.group)
    }

    /// For a producer. `batch_bytes` is the largest record batch that every topic takes, where one is known
    /// to take less than the client's default.
    pub(crate) fn producer(
        &self,
        client: &str,
        transactional_id: Option<&str>,
        batch_bytes: Option<usize>,
    ) -> ClientConfig {
        let Timeouts { delivery, transaction, .. } = self.timeouts;
        let mut config = ClientConfig::new();
        config
            // Nothing waits for its end: why, see `Producer`.
            .set("linger.ms", "200")
            // Copies of what is on its way, beside the part itself: eight full requests. A full queue slows the
            // sender down.
            .set("queue.buffering.max.kbytes", "8192")
            .set("queue.buffering.max.messages", "200000")
            // The Java client's partitioner, so that a migrated topic keeps its keys where they were.
            .set("partitioner", "murmur2_random");
        self.common(&mut config, client);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", self.compression.property())
            .set("message.timeout.ms", delivery.as_millis().to_string());
        if let Some(bytes) = batch_bytes {
            config.set("batch.size", bytes.to_string());
        }
        if let Some(id) = transactional_id {
            config
                .set("transactional.id", id)
                .set("transaction.timeout.ms", transaction.as_millis().to_string());
        }
        config
    }

    /// For a short reading of the commit topic. It joins no consumer group; librdkafka wants a name all the same.
    pub(crate) fn reader(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("fetch.wait.max.ms", "50");
        self.common(&mut config, "resolve");
        config
            .set("group.id", "weir-resolve")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error");
        config
    }

    /// For creating and describing topics.
    pub(crate) fn admin(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        self.common(&mut config, "admin");
        config
    }

    fn common(&self, config: &mut ClientConfig, client: &str) {
        config
            .set("socket.keepalive.enable", "true")
            .set("client.id", format!("weir/{}/{client}", self.group));
        for (name, value) in &self.options {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
    }
}

impl Compression {
    fn property(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// What a topic name may hold (`Topic.LEGAL_CHARS` in Apache Kafka).
fn legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> KafkaSettings {
        KafkaSettings::new(GroupId::new("logs").unwrap(), "127.0.0.1:9092")
    }

    #[test]
    fn a_tag_becomes_a_legal_topic() {
        let of = |topic: &str, tag: &str| KafkaSettings { topic: topic.into(), ..settings() }.topic_of(tag);
        assert_eq!(of("logs-{tag}", "app.web"), "logs-app.web");
        assert_eq!(of("{tag}", "kube/ns pod:é"), "kube_ns_pod__");
        assert_eq!(of("{tag}", ""), "_");
        assert_eq!(of("{tag}", ".."), "_");
        assert_eq!(of("all", "anything"), "all");
        assert_eq!(of("{tag}", &"x".repeat(300)).len(), 249);
    }

    #[test]
    fn settings_are_checked() {
        settings().check().unwrap();
        let with = |name: &str, value: &str| {
            let mut settings = settings();
            settings.options.insert(name.into(), value.into());
            settings.check()
        };
        with("linger.ms", "50").unwrap();
        assert!(matches!(with("acks", "0"), Err(SettingsError::Reserved(name)) if name == "acks"));
        assert!(matches!(with("linger.ms", "soon"), Err(SettingsError::Option(_))));
        assert!(matches!(with("lingr.ms", "5"), Err(SettingsError::Option(_))));
        let spaced = KafkaSettings { topic: "a b".into(), ..settings() };
        assert!(matches!(spaced.check(), Err(SettingsError::Topic { what: "topic", .. })));
        let mut hasty = settings();
        hasty.timeouts.transaction = hasty.timeouts.delivery;
        assert!(matches!(hasty.check(), Err(SettingsError::Timeouts { .. })));
    }
}
