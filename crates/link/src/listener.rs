//! The side that is dialled: a sink.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{Endpoint, Incoming, ServerConfig, TransportConfig, VarInt};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::socket::{self, BindError};
use crate::{CloseReason, Connection, Identity, Settings};

/// What a listener says once it is satisfied with the peer's certificate. In TLS 1.3 a client is done before its
/// certificate was looked at; without this word a dialler would take a refusal for a success.
pub(crate) const GREETING: &[u8] = b"weir/1";

/// Handshakes under way at once. Further callers wait in QUIC's own bounded queue; from half of this on, they must
/// first prove that their address is theirs, so that forged packets cost us next to nothing.
const HANDSHAKES_MAX: usize = 256;

/// Why a caller did not become a [`Connection`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("handshake with {remote} failed: {reason}")]
pub struct AcceptError {
    /// Where the caller's packets came from.
    pub remote: SocketAddr,
    /// Why: certificate missing, from another authority, expired; or the caller gave up.
    pub reason: CloseReason,
}

/// A socket that takes connections from peers with a certificate of the cluster.
///
/// Dropping it stops taking new ones; connections that were handed out live on.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    local_addr: SocketAddr,
    transport: Arc<TransportConfig>,
    accepted: Mutex<mpsc::Receiver<Result<Connection, AcceptError>>>,
    accepting: JoinHandle<()>,
}

impl Listener {
    /// Binds `addr` (port 0 for any) and begins to take connections. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] when the address is not free or not ours.
    pub fn bind(addr: SocketAddr, identity: &Identity, settings: Settings) -> Result<Self, BindError> {
        let transport = settings.transport();
        let endpoint = socket::endpoint(addr, Some(server_config(identity, &transport)), &settings)?;
        let local_addr = endpoint.local_addr().map_err(|source| BindError { addr, source })?;
        let (sender, accepted) = mpsc::channel(HANDSHAKES_MAX);
        let accepting = tokio::spawn(accept_loop(endpoint.clone(), settings, sender));
        Ok(Self { endpoint, local_addr, transport, accepted: Mutex::new(accepted), accepting })
    }

    /// The address that is bound, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits for the next connection or failed handshake; `None` after [`close`](Self::close). May be cancelled and
    /// called again.
    pub async fn accept(&self) -> Option<Result<Connection, AcceptError>> {
        self.accepted.lock().await.recv().await
    }

    /// Shows and trusts `identity` from the next handshake on; connections that exist are not touched.
    pub fn replace_identity(&self, identity: &Identity) {
        self.endpoint.set_server_config(Some(server_config(identity, &self.transport)));
    }

    /// Refuses new connections from now on; those that exist live on.
    pub fn refuse_new(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Closes the socket and every connection on it, and waits until the peers were told.
    pub async fn close(&self, code: u32, reason: &str) {
        self.endpoint.close(VarInt::from_u32(code), reason.as_bytes());
        self.endpoint.wait_idle().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
        self.refuse_new();
    }
}

fn server_config(identity: &Identity, transport: &Arc<TransportConfig>) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(identity.server.clone());
    config.transport_config(transport.clone());
    config
}

async fn accept_loop(
    endpoint: Endpoint,
    settings: Settings,
    sender: mpsc::Sender<Result<Connection, AcceptError>>,
) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        // Never closed, so never an error.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Some(incoming) = endpoint.accept().await else { return };
        if permits.available_permits() < HANDSHAKES_MAX / 2
            && !incoming.remote_address_validated()
            && incoming.may_retry()
        {
            let _ = incoming.retry();
            continue;
        }
        let sender = sender.clone();
        let limit = settings.handshake_timeout;
        tokio::spawn(async move {
            let remote = incoming.remote_address();
            let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
            let outcome = timeout(limit, handshake(incoming)).await.unwrap_or(Err(CloseReason::Silent));
            // No receiver: the listener was dropped, and the connection with it.
            let _ = sender.send(outcome.map_err(|reason| AcceptError { remote, reason })).await;
            drop(permit);
        });
    }
}

async fn handshake(incoming: Incoming) -> Result<Connection, CloseReason> {
    let quic = incoming.await?;
    let connection = Connection::new(quic).map_err(CloseReason::Protocol)?;
    let mut greeting = connection.quic().open_uni().await?;
    let told = async {
        greeting.write_all(GREETING).await?;
        greeting.finish()?;
        Ok::<_, quinn::WriteError>(())
    };
    match told.await {
        Ok(()) => Ok(connection),
        Err(quinn::WriteError::ConnectionLost(error)) => Err(error.into()),
        Err(other) => Err(CloseReason::Protocol(other.to_string())),
    }
}
