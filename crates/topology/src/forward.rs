//! How edges take events: what `[forward]` and `[[listener]]` say, checked.

mod read;

use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_model::{Network, NodeId};

use crate::model::Ack;
use crate::secret::Secret;
use crate::size::ByteSize;

pub(crate) use read::{read_forward, schema};

/// The doors of all edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// What an edge's process may take: connections hold what the rest of it leaves, for messages that are not on its disk yet.
    pub memory: ByteSize,
    /// One at least; names and places are unique for each edge.
    pub listeners: Vec<Listener>,
}

impl Forward {
    /// The listeners that this edge opens.
    pub fn of(&self, edge: &NodeId) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(move |listener| listener.is_on(edge))
    }

    pub(crate) fn rebase(&mut self, dir: &Path) {
        for listener in &mut self.listeners {
            if let ListenAt::Unix { path, .. } = &mut listener.at {
                *path = dir.join(&*path);
            }
            let settings = &mut listener.settings;
            if let Some(tls) = &mut settings.tls {
                for path in [&mut tls.cert, &mut tls.key].into_iter().chain(&mut tls.client_ca) {
                    *path = dir.join(&*path);
                }
            }
            if let Some(security) = &mut settings.security {
                security.shared_key.rebase(dir);
                security.users.iter_mut().for_each(|user| user.password.rebase(dir));
                security
                    .clients
                    .iter_mut()
                    .flat_map(|client| &mut client.shared_key)
                    .for_each(|key| key.rebase(dir));
            }
        }
    }
}

/// One door for senders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// For people and metrics.
    pub name: String,
    /// Where it is.
    pub at: ListenAt,
    /// The edges that open it; all of them if none is named.
    pub edges: Vec<NodeId>,
    /// What holds there.
    pub settings: ForwardSettings,
}

impl Listener {
    /// Whether this edge opens it.
    #[must_use]
    pub fn is_on(&self, edge: &NodeId) -> bool {
        self.edges.is_empty() || self.edges.contains(edge)
    }
}

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAt {
    /// Where each edge's node file says, `listen.forward`.
    NodeFile,
    /// `host:port`, the same on each edge; port 0 is any free port.
    Tcp(String),
    /// A Unix socket.
    Unix {
        /// As written; see [`crate::Topology::rebase`].
        path: PathBuf,
        /// Its file mode.
        mode: u32,
    },
}

/// What holds at one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardSettings {
    /// Certificate and whose certificates are asked for; none where senders speak plainly.
    pub tls: Option<ForwardTls>,
    /// Shared key and users; none where there is no handshake.
    pub security: Option<ForwardSecurity>,
    /// When a sender is told that its events are kept, unless their route says so; see [`Ack::of`].
    pub ack: Option<Ack>,
    /// Takes the place of every tag.
    pub tag: Option<String>,
    /// Goes before every tag, with a dot between.
    pub add_tag_prefix: Option<String>,
    /// The key under which each record gets its sender's address.
    pub source_address_key: Option<String>,
    /// The key under which each record gets the name that the address has in the DNS.
    pub source_hostname_key: Option<String>,
    /// Whether UDP datagrams at the same port are answered.
    pub heartbeat: bool,
    /// Whether a connection is closed behind its first message.
    pub deny_keepalive: bool,
    /// Idle time after which the kernel asks whether the peer still lives; zero: never.
    pub tcp_keepalive: Duration,
    /// Peers, load balancers mostly, that begin with a PROXY protocol header.
    pub proxy_protocol: Vec<Network>,
    /// Who may connect; everyone if there is none.
    pub allow: Vec<Network>,
    /// Who may not, even if allowed.
    pub deny: Vec<Network>,
    /// Most bytes of one message on the wire.
    pub chunk_size_limit: ByteSize,
    /// Bytes of a batch above which the log names its sender.
    pub chunk_size_warn_limit: Option<ByteSize>,
    /// Most bytes of one message when inflated.
    pub decompression_size_limit: ByteSize,
    /// Most connections at this listener.
    pub max_connections: usize,
    /// Most of them from one source.
    pub max_connections_per_source: Option<usize>,
    /// Bits of an IPv4 address that make a source.
    pub source_prefix_v4: u8,
    /// Bits of an IPv6 address that make a source.
    pub source_prefix_v6: u8,
    /// How long TLS handshake, PROXY header and PING may take, each.
    pub handshake_timeout: Duration,
    /// How long a message may take from its first byte to its last.
    pub message_timeout: Option<Duration>,
    /// How long a connection may send nothing.
    pub idle_timeout: Option<Duration>,
    /// How long a batch may wait for its disk; then its connection is closed, for an acknowledgement must not be late.
    pub ack_deadline: Duration,
    /// Age at which a connection is closed, between two messages.
    pub max_connection_age: Option<Duration>,
    /// Rates, each with what is done beyond it.
    pub limits: Vec<RateLimit>,
}

/// Server side TLS of a listener; PEM files, as written until [`crate::Topology::rebase`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardTls {
    /// The certificate, with its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of the certificates that senders must have; none where they need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Who may speak at a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardSecurity {
    /// The name of this server; the edge's own if none.
    pub self_hostname: Option<String>,
    /// What senders must know.
    pub shared_key: Secret,
    /// Whether addresses that match none of the clients may connect.
    pub allow_anonymous_source: bool,
    /// Who may log in; users are not asked for if there is none.
    pub users: Vec<ForwardUser>,
    /// Known networks; the first that has an address counts.
    pub clients: Vec<ForwardClient>,
}

/// Somebody who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardUser {
    /// The name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// A network of senders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardClient {
    /// Their addresses.
    pub network: Network,
    /// Their own shared key.
    pub shared_key: Option<Secret>,
    /// Which users may log in from there; all if none is named.
    pub users: Option<Vec<String>>,
}

/// How much may come, and what is done with more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// For metrics; unique at its listener.
    pub name: String,
    /// What is counted together.
    pub per: Per,
    /// Whose events count; everyone's if there is none.
    pub networks: Vec<Network>,
    /// Patterns of the tags that count, separated by white space; all tags if there is none.
    pub tags: Option<String>,
    /// Bytes of entries as they came; one of the three is there.
    pub bytes: Option<Rate>,
    /// Events.
    pub events: Option<Rate>,
    /// New connections; never together with `tags` or with [`Per::Connection`] and [`Per::Tag`].
    pub connections: Option<Rate>,
    /// What is done beyond it.
    pub action: LimitAction,
}

/// So many each second, and so many at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Never 0.
    pub per_second: u64,
    /// Never 0; as many as in one second unless said otherwise.
    pub burst: u64,
}

/// What a limit counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// Everything at the listener.
    Listener,
    /// Each connection alone.
    Connection,
    /// Each source network, by the listener's prefixes.
    Source,
    /// Each tag.
    Tag,
}

/// What is done beyond a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitAction {
    /// The connection is not read until there is room again. Nothing is lost.
    Slow,
    /// The events are dropped, counted, and acknowledged: a sender that was not told would send them again.
    Drop,
    /// The connection is closed without an acknowledgement of what went beyond.
    Close,
}
