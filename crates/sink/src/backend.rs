//! From a group's stanza in the topology to its store.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_model::GroupId;
use weir_shape::{Codec, Format, Partitioner, TemplateError};
use weir_store::Backend;
use weir_store_file::{FileBackend, FileSettings};
use weir_store_forward::{ForwardBackend, ForwardSettings, Security, Server, Tls};
use weir_store_hdfs::{HdfsBackend, HdfsSettings};
use weir_store_kafka::{Compression, KafkaBackend, KafkaSettings, Key};
use weir_topology::{Group, KafkaKey, KafkaStore, Options, Secret, SecretError, StoreConfig};

/// Why a store's settings do not make a store.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The partition template.
    #[error("group {group}: the store's `partition` is wrong")]
    Partition {
        /// Whose.
        group: GroupId,
        /// Why.
        #[source]
        source: TemplateError,
    },
    /// A property that is kept in a file or in the environment.
    #[error("group {group}: the store's option {option:?} cannot be had")]
    Option {
        /// Whose.
        group: GroupId,
        /// Which property.
        option: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// A compression that Kafka does not have.
    #[error("group {group}: compression {compression:?} is none of none, gzip, snappy, lz4, zstd")]
    Compression {
        /// Whose.
        group: GroupId,
        /// As written.
        compression: String,
    },
    /// Kafka's settings.
    #[error("group {group}: the Kafka store's settings are refused")]
    Kafka {
        /// Whose.
        group: GroupId,
        /// Why.
        #[source]
        source: weir_store_kafka::SettingsError,
    },
    /// A secret of the receivers.
    #[error("group {group}: a secret of the forward store is missing")]
    Secret {
        /// Whose.
        group: GroupId,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// The forward store's certificates.
    #[error("group {group}: TLS to the receivers cannot be set up")]
    Forward {
        /// Whose.
        group: GroupId,
        /// Why.
        #[source]
        source: weir_store_forward::TlsError,
    },
    /// HDFS's settings.
    #[error("group {group}: the HDFS store's settings are refused")]
    Hdfs {
        /// Whose.
        group: GroupId,
        /// Why.
        #[source]
        source: weir_store_hdfs::SettingsError,
    },
}

/// Makes the store of a group; nothing is connected yet.
///
/// # Errors
/// [`BackendError`] when a setting is wrong, or a secret is not where it should be.
pub fn open(group: &Group) -> Result<Arc<dyn Backend>, BackendError> {
    build(group, Secrets::Fetched)
}

/// Judges the settings of a group's store on a node that has not its secrets.
///
/// # Errors
/// [`BackendError`] when a setting is wrong.
pub fn check(group: &Group) -> Result<(), BackendError> {
    build(group, Secrets::LeftOut).map(drop)
}

/// What becomes of secrets that do not stand in the topology.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrets {
    Fetched,
    LeftOut,
}

impl Secrets {
    fn one(self, secret: &Secret) -> Result<String, SecretError> {
        match (self, secret) {
            (Self::Fetched, _) | (_, Secret::Given(_)) => secret.read(),
            (Self::LeftOut, _) => Ok("left out".to_owned()),
        }
    }

    fn options(self, group: &Group, options: &Options) -> Result<BTreeMap<String, String>, BackendError> {
        let here = |value: &Secret| self == Self::Fetched || matches!(value, Secret::Given(_));
        let here = Options(options.0.clone().into_iter().filter(|(_, value)| here(value)).collect());
        let lacking = |(option, source)| BackendError::Option { group: group.id.clone(), option, source };
        here.read().map_err(lacking)
    }
}

fn build(group: &Group, secrets: Secrets) -> Result<Arc<dyn Backend>, BackendError> {
    let partitioner = |template: &str| {
        Partitioner::new(template)
            .map_err(|source| BackendError::Partition { group: group.id.clone(), source })
    };
    Ok(match &group.store {
        StoreConfig::File(store) => Arc::new(FileBackend::new(FileSettings {
            root: store.path.clone(),
            partition: partitioner(&store.partition)?,
            format: format(store.format),
            codec: codec(store.codec),
            shared: store.shared,
        })),
        StoreConfig::Kafka(store) => Arc::new(
            KafkaBackend::new(kafka(group, store, secrets)?)
                .map_err(|source| BackendError::Kafka { group: group.id.clone(), source })?,
        ),
        StoreConfig::Forward(store) => Arc::new(
            ForwardBackend::new(forward(group, store, secrets)?)
                .map_err(|source| BackendError::Forward { group: group.id.clone(), source })?,
        ),
        StoreConfig::Hdfs(store) => {
            let mut settings = HdfsSettings::new(store.url.clone(), store.path.clone());
            settings.partitioner = partitioner(&store.partition)?;
            settings.format = format(store.format);
            settings.codec = codec(store.codec);
            settings.replication = store.replication;
            settings.user.clone_from(&store.user);
            settings.options.extend(secrets.options(group, &store.options)?);
            Arc::new(
                HdfsBackend::new(settings)
                    .map_err(|source| BackendError::Hdfs { group: group.id.clone(), source })?,
            )
        }
    })
}

fn forward(
    group: &Group,
    store: &weir_topology::ForwardStore,
    secrets: Secrets,
) -> Result<ForwardSettings, BackendError> {
    let missing = |source| BackendError::Secret { group: group.id.clone(), source };
    let security = store.security.as_ref().map(|security| {
        let user =
            security.user.as_ref().map(|user| Ok((user.username.clone(), secrets.one(&user.password)?)));
        Ok(Security {
            self_hostname: security.self_hostname.clone(),
            shared_key: secrets.one(&security.shared_key)?,
            user: user.transpose()?,
        })
    });
    Ok(ForwardSettings {
        servers: store
            .servers
            .iter()
            .map(|server| Server {
                address: server.address.clone(),
                weight: server.weight,
                standby: server.standby,
            })
            .collect(),
        tls: store.tls.as_ref().map(|tls| Tls {
            ca: tls.ca.clone(),
            identity: tls.identity.clone(),
            name: tls.name.clone(),
        }),
        security: security.transpose().map_err(missing)?,
        connect_timeout: store.connect_timeout,
        ack_timeout: store.ack_timeout,
        zstd: store.zstd,
        recover_every: store.recover_every,
    })
}

fn kafka(group: &Group, store: &KafkaStore, secrets: Secrets) -> Result<KafkaSettings, BackendError> {
    let mut settings = KafkaSettings::new(group.id.clone(), store.brokers.clone());
    settings.topic.clone_from(&store.topic);
    settings.key = match store.key {
        KafkaKey::None => Key::None,
        KafkaKey::Tag => Key::Tag,
    };
    settings.transactions = store.transactions;
    settings.compression = match store.compression.as_str() {
        "none" => Compression::None,
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        other => {
            return Err(BackendError::Compression { group: group.id.clone(), compression: other.to_owned() });
        }
    };
    if let Some(topic) = &store.commit_topic {
        settings.commit_topic.clone_from(topic);
    }
    if let Some(topic) = &store.dead_letter_topic {
        settings.dead_letter_topic.clone_from(topic);
    }
    settings.options.extend(secrets.options(group, &store.options)?);
    Ok(settings)
}

fn format(format: weir_topology::Format) -> Format {
    match format {
        weir_topology::Format::Envelope => Format::Envelope,
        weir_topology::Format::Record => Format::Record,
    }
}

fn codec(codec: weir_topology::Codec) -> Codec {
    match codec {
        weir_topology::Codec::None => Codec::None,
        weir_topology::Codec::Gzip => Codec::Gzip,
        weir_topology::Codec::Zstd => Codec::Zstd,
    }
}
