//! The topology: which edges, sink groups, stores and routes a cluster has.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_model::{GroupId, NodeId};
use weir_shape::transform::Transform;

use crate::forward::{Forward, ForwardUser};
use crate::secret::{Secret, SecretError};
use crate::size::ByteSize;

/// One cluster, as its topology file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The cluster's name.
    pub cluster: String,
    /// In the order of the file; names are unique among edges and sinks together.
    pub edges: Vec<EdgeNode>,
    /// In the order of the file; ids are unique, and each group has a sink.
    pub groups: Vec<Group>,
    /// In the order of the file: the first route that matches a tag takes it.
    pub routes: Vec<Route>,
    /// Where and how edges take events.
    pub forward: Forward,
}

impl Topology {
    /// The group of that id.
    #[must_use]
    pub fn group(&self, id: &GroupId) -> Option<&Group> {
        self.groups.iter().find(|group| group.id == *id)
    }

    /// The sink of that name, and the group that it belongs to.
    #[must_use]
    pub fn group_of_sink(&self, name: &NodeId) -> Option<(&Group, &SinkNode)> {
        let sinks = self.groups.iter().flat_map(|group| group.sinks.iter().map(move |sink| (group, sink)));
        sinks.into_iter().find(|(_, sink)| sink.name == *name)
    }

    /// Makes each relative path one that starts at `dir`, the directory of the topology file. Absolute paths stay.
    pub fn rebase(&mut self, dir: &Path) {
        self.forward.rebase(dir);
        for group in &mut self.groups {
            match &mut group.store {
                StoreConfig::File(store) => store.path = dir.join(&store.path),
                StoreConfig::Forward(store) => store.rebase(dir),
                StoreConfig::Kafka(KafkaStore { options, .. })
                | StoreConfig::Hdfs(HdfsStore { options, .. }) => {
                    options.0.values_mut().for_each(|value| value.rebase(dir));
                }
            }
        }
    }
}

/// An edge: takes events from senders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeNode {
    /// Its name, as in its node file and certificate.
    pub name: NodeId,
    /// Where it stands; any text, compared with the racks of sinks.
    pub rack: String,
}

/// A sink group: nodes that share the work for one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Stable: an edge's log directory carries it.
    pub id: GroupId,
    /// How much an edge may keep on disk for this group. What happens beyond it is [`Group::overflow`].
    pub quota: ByteSize,
    /// What an edge does when the quota is used up.
    pub overflow: Overflow,
    /// When a sender is told that its events are kept, where neither route nor listener says so; see [`Ack::of`].
    pub ack: Ack,
    /// Which sinks an edge prefers.
    pub affinity: Affinity,
    /// One at least.
    pub sinks: Vec<SinkNode>,
    /// What one sink may hold that no store has yet.
    pub stage: Stage,
    /// How an edge knows a sender's retry.
    pub repeats: Repeats,
    /// When a sink closes a part.
    pub part: PartLimits,
    /// What sinks do to each event before the store gets it, in this order.
    pub transforms: Vec<Transform>,
    /// Where events end up.
    pub store: StoreConfig,
}

/// What an edge does with new events of a group whose quota is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overflow {
    /// Senders are not acknowledged until there is room again.
    Block,
    /// The oldest batches make room, but for those that are promised to a part.
    DropOldest,
    /// New events are dropped and counted.
    DropNewest,
    /// New events go to another group, by whose own rule they wait or are dropped there.
    Divert(GroupId),
}

/// When a sender is told that its events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// As soon as they are on the edge's disk.
    Edge,
    /// When the store has them.
    Store,
}

impl Ack {
    /// The level that holds for a batch: that of its route, else of the listener that it came by, else of the group.
    #[must_use]
    pub fn of(route: Option<Self>, listener: Option<Self>, group: Self) -> Self {
        route.or(listener).unwrap_or(group)
    }
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Edge => "edge",
            Self::Store => "store",
        })
    }
}

/// Which sinks of a group an edge prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Any.
    None,
    /// Those of its own rack.
    Rack,
}

/// One node of a sink group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkNode {
    /// Its name, as in its node file and certificate.
    pub name: NodeId,
    /// Where it stands.
    pub rack: String,
    /// `host:port` where edges reach it.
    pub address: String,
    /// Its share of the work against the other sinks of the group; never 0.
    pub weight: u32,
}

/// What one sink may hold that no store has yet; at the limit it asks edges for no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// In memory.
    pub memory: ByteSize,
    /// On disk, beyond the memory.
    pub disk: ByteSize,
}

/// The chunks that each edge, and each sink, remembers for the group; whichever bound is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// For how long.
    pub window: Duration,
    /// How many.
    pub chunks: u64,
}

/// A part is closed at whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartLimits {
    /// Its size.
    pub bytes: ByteSize,
    /// The time since its first event.
    pub age: Duration,
}

/// A store of one kind, with what that kind needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// Files in a directory.
    File(FileStore),
    /// Topics of a Kafka cluster.
    Kafka(KafkaStore),
    /// Files in HDFS.
    Hdfs(HdfsStore),
    /// Receivers of Fluentd Forward.
    Forward(ForwardStore),
}

/// Files in a directory of the sink's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStore {
    /// As written; see [`Topology::rebase`].
    pub path: PathBuf,
    /// The directory below `path` for a minute of event time, as `strftime` writes it.
    pub partition: String,
    /// How files are compressed.
    pub codec: Codec,
    /// What a line holds.
    pub format: Format,
    /// Whether all sinks of the group see the same directory, as on NFS.
    pub shared: bool,
}

/// Topics of one Kafka cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaStore {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// A topic; `{tag}` in it stands for the event's tag.
    pub topic: String,
    /// The records' key.
    pub key: KafkaKey,
    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// Whether each part is one transaction.
    pub transactions: bool,
    /// Where commits are recorded, if not in the store's own choice of topic.
    pub commit_topic: Option<String>,
    /// Where events go that the cluster would never take, if not to the store's own choice of topic.
    pub dead_letter_topic: Option<String>,
    /// Further librdkafka properties.
    pub options: Options,
}

/// Files in one HDFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HdfsStore {
    /// `hdfs://host:port`, or `hdfs://nameservice`.
    pub url: String,
    /// The directory under which everything is kept; absolute.
    pub path: String,
    /// The directory below `path` for a minute of event time, as `strftime` writes it.
    pub partition: String,
    /// How files are compressed.
    pub codec: Codec,
    /// What a line holds.
    pub format: Format,
    /// Copies of each block; the cluster's own default if none.
    pub replication: Option<u32>,
    /// Who to be on a cluster without Kerberos; the process's user if none.
    pub user: Option<String>,
    /// Further Hadoop properties.
    pub options: Options,
}

/// Properties that are handed to a store's library as they are. Some are passwords, so only their names print.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options(pub BTreeMap<String, Secret>);

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Options {
    /// The properties, with those fetched that are kept elsewhere.
    ///
    /// # Errors
    /// Which property cannot be had, and why.
    pub fn read(&self) -> Result<BTreeMap<String, String>, (String, SecretError)> {
        let read = |(name, value): (&String, &Secret)| match value.read() {
            Ok(value) => Ok((name.clone(), value)),
            Err(error) => Err((name.clone(), error)),
        };
        self.0.iter().map(read).collect()
    }
}

/// Receivers of Fluentd Forward, such as Fluentd, Fluent Bit or another Weir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardStore {
    /// One at least.
    pub servers: Vec<ForwardServer>,
    /// TLS to all of them.
    pub tls: Option<ForwardStoreTls>,
    /// What they want to hear in the handshake.
    pub security: Option<ForwardStoreSecurity>,
    /// How long connecting may take, handshakes included.
    pub connect_timeout: Duration,
    /// How long an acknowledgement may take.
    pub ack_timeout: Duration,
    /// Whether receivers take zstd.
    pub zstd: bool,
    /// How often a receiver that failed is tried.
    pub recover_every: Duration,
}

/// One receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardServer {
    /// `host:port`.
    pub address: String,
    /// Its share of the work; never 0.
    pub weight: u32,
    /// Whether it gets work only while all others fail.
    pub standby: bool,
}

/// TLS to receivers. As written; see [`Topology::rebase`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardStoreTls {
    /// Authorities of their certificates.
    pub ca: PathBuf,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in their certificates, if it is not that of their address.
    pub name: Option<String>,
}

/// The handshake with receivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardStoreSecurity {
    /// Our name there.
    pub self_hostname: String,
    /// The shared key.
    pub shared_key: Secret,
    /// Who we are, where receivers ask for users.
    pub user: Option<ForwardUser>,
}

impl ForwardStore {
    fn rebase(&mut self, dir: &Path) {
        if let Some(tls) = &mut self.tls {
            let identity = tls.identity.iter_mut().flat_map(|(cert, key)| [cert, key]);
            identity.chain([&mut tls.ca]).for_each(|path| *path = dir.join(&*path));
        }
        if let Some(security) = &mut self.security {
            security.shared_key.rebase(dir);
            security.user.iter_mut().for_each(|user| user.password.rebase(dir));
        }
    }
}

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// What is stored of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Tag, time and record.
    Envelope,
    /// The record alone.
    Record,
}

/// What a Kafka record's key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaKey {
    /// No key: events spread over the partitions.
    None,
    /// The tag: all events of a tag go to one partition.
    Tag,
}

/// Which tags go to which groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// For people and metrics.
    pub name: Option<String>,
    /// Fluentd match patterns, separated by white space; never empty.
    pub patterns: String,
    /// Each gets a copy; one at least, none twice.
    pub groups: Vec<GroupId>,
    /// When a sender is told that its events are kept in these groups; see [`Ack::of`].
    pub ack: Option<Ack>,
}
