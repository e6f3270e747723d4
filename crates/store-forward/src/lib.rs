//! Receivers of Fluentd Forward as a store: Fluentd, Fluent Bit, another Weir. So a fleet moves tier by tier, and mirrors
//! its traffic to what it had before.
//!
//! Start reading at [`ForwardBackend`]. A batch becomes one message with a chunk id, and a part is committed when every
//! receiver has acknowledged its batches. A batch has the same chunk id however often, by whichever sink and in whichever
//! part it is sent, so a receiver that recognises repeated chunks stores it once.
//!
//! What a receiver has cannot be looked up, and what is on its way to it cannot be fenced: beyond it events arrive **at
//! least once**. Parts that are sent again because nobody knows are counted, see [`ForwardBackend::possible_duplicates`].
//! Left out on purpose: what receivers do behind their acknowledgement, and messages without one.

mod balance;
mod client;
mod connection;
mod hello;
mod life;
mod message;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use weir_model::{BatchHeader, Incarnation, NodeId};
use weir_store::{Backend, Partition, Store, StoreError, Traits};

use life::{ForwardStore, Shared};

pub use client::{Client, ConnectError};
pub use connection::TlsError;

/// What an operator chooses for one set of receivers.
#[derive(Clone)]
pub struct ForwardSettings {
    /// Who takes events; one at least.
    pub servers: Vec<Server>,
    /// TLS to all of them; none where they are spoken to plainly.
    pub tls: Option<Tls>,
    /// What they want to hear in the handshake; none where there is none.
    pub security: Option<Security>,
    /// How long a connection, with its handshakes, may take.
    pub connect_timeout: Duration,
    /// How long an acknowledgement may take. Then another receiver gets the batch.
    pub ack_timeout: Duration,
    /// Whether receivers take zstd: Fluentd does since 1.19, Fluent Bit does. Otherwise such batches are inflated.
    pub zstd: bool,
    /// How often a receiver that failed is tried.
    pub recover_every: Duration,
}

/// One receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `host:port`. The name is resolved for each connection, so a receiver may move.
    pub address: String,
    /// Its share of the work against the others.
    pub weight: u32,
    /// Whether it gets work only while all others fail.
    pub standby: bool,
}

/// TLS to receivers; PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Authorities of the receivers' certificates.
    pub ca: PathBuf,
    /// A certificate of our own and its key, where receivers ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the receivers' certificates, if it is not that of their address.
    pub name: Option<String>,
}

/// What the handshake needs. It holds secrets and therefore cannot be printed.
#[derive(Clone)]
pub struct Security {
    /// Our name; it must differ from the receivers'.
    pub self_hostname: String,
    /// The shared key.
    pub shared_key: String,
    /// User and password, where receivers ask for a user.
    pub user: Option<(String, String)>,
}

/// One set of receivers.
pub struct ForwardBackend {
    shared: Arc<Shared>,
}

impl ForwardBackend {
    /// A store behind these receivers; nothing is connected yet.
    ///
    /// # Errors
    /// [`TlsError`]: the certificate files do not make a client.
    pub fn new(settings: ForwardSettings) -> Result<Self, TlsError> {
        Ok(Self { shared: Arc::new(Shared::new(settings)?) })
    }

    /// Parts that may have been sent before and were sent again, since the process began.
    #[must_use]
    pub fn possible_duplicates(&self) -> u64 {
        self.shared.possible_duplicates()
    }
}

#[async_trait]
impl Backend for ForwardBackend {
    async fn begin(&self, sink: &NodeId, incarnation: Incarnation) -> Result<Arc<dyn Store>, StoreError> {
        self.shared.begin(sink, incarnation);
        Ok(Arc::new(ForwardStore::new(self.shared.clone(), sink.clone(), incarnation)))
    }

    fn traits(&self) -> Traits {
        Traits { parallel_parts: 4, partitions_max: 1, shared: true }
    }

    fn partitions(&self, _header: &BatchHeader) -> Vec<Partition> {
        vec![Arc::from("")]
    }
}
