//! What the tests share: an authority in a fresh directory, and pairs of connections.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use weir_link::ca::{Authority, CA_CERT};
use weir_link::{Connection, Dialer, Identity, Listener, Settings};
use weir_model::NodeId;

/// Longer than anything here may take; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn localhost() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    authority: Authority,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path()).unwrap();
        Self { dir, authority }
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        let issued = self.authority.issue(&node(name), &["127.0.0.1".to_owned()], 1).unwrap();
        Identity::load(&issued.ca, &issued.cert, &issued.key).unwrap()
    }

    /// Certificates of this cluster for a node that trusts `other` instead.
    pub(crate) fn identity_trusting(&self, name: &str, other: &Cluster) -> Identity {
        // Trusting both passes the check at load; what is under test is the handshake with a stranger.
        let issued = self.authority.issue(&node(name), &[], 1).unwrap();
        let both = other.dir.path().join("both.crt");
        let read = |dir: &Path| std::fs::read_to_string(dir.join(CA_CERT)).unwrap();
        std::fs::write(&both, read(other.dir.path()) + &read(self.dir.path())).unwrap();
        Identity::load(&both, &issued.cert, &issued.key).unwrap()
    }
}

/// A dialled connection and its other end.
pub(crate) struct Pair {
    pub(crate) edge: Connection,
    pub(crate) sink: Connection,
    pub(crate) dialer: Dialer,
    pub(crate) listener: Listener,
}

pub(crate) async fn pair(settings: Settings) -> Pair {
    let cluster = Cluster::new();
    let listener = Listener::bind(localhost(), &cluster.identity("sink-1"), settings.clone()).unwrap();
    let dialer = Dialer::new(&cluster.identity("edge-1"), settings).unwrap();
    let addr = listener.local_addr().to_string();
    let sink_name = node("sink-1");
    let (edge, sink) =
        soon("a connection", async { tokio::join!(dialer.dial(&addr, &sink_name), listener.accept()) }).await;
    Pair { edge: edge.unwrap(), sink: sink.unwrap().unwrap(), dialer, listener }
}
