//! The side that dials: an edge.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use quinn::{ClientConfig, ConnectionError, Endpoint, TransportConfig, VarInt};
use tokio::time::timeout;
use weir_model::NodeId;

use crate::identity::server_name;
use crate::listener::GREETING;
use crate::socket::{self, BindError};
use crate::{CloseReason, Connection, Identity, Settings};

/// Why a peer could not be reached. All are worth trying again later; the certificate ones also need a human.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host name did not resolve.
    #[error("cannot resolve {addr}")]
    Resolve {
        /// As it was given.
        addr: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The host name has no address.
    #[error("{addr} has no address")]
    NoAddress {
        /// As it was given.
        addr: String,
    },
    /// The peer's name can stand in no certificate.
    #[error("{0}")]
    Name(String),
    /// Nobody answered in time.
    #[error("{peer} at {remote} did not answer in time")]
    Timeout {
        /// Who should be there.
        peer: NodeId,
        /// The address tried last.
        remote: SocketAddr,
    },
    /// One side did not accept the other's certificate, or is not who it should be.
    #[error("{peer} at {remote}: certificates do not fit together: {reason}")]
    Untrusted {
        /// Who should be there.
        peer: NodeId,
        /// The address tried last.
        remote: SocketAddr,
        /// What TLS said, and which side said it.
        reason: String,
    },
    /// The connection could not be made for another reason.
    #[error("{peer} at {remote}: {reason}")]
    Connect {
        /// Who should be there.
        peer: NodeId,
        /// The address tried last.
        remote: SocketAddr,
        /// What happened.
        reason: CloseReason,
    },
}

/// Makes connections to peers, over a few sockets that they share.
#[derive(Debug)]
pub struct Dialer {
    endpoints: Vec<Endpoint>,
    next: AtomicUsize,
    settings: Settings,
    transport: Arc<TransportConfig>,
    client: ArcSwap<ClientConfig>,
}

impl Dialer {
    /// Binds the sockets to dial from. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] when the system has no socket for us.
    pub fn new(identity: &Identity, settings: Settings) -> Result<Self, BindError> {
        let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, 0).into();
        let any_v4: SocketAddr = (Ipv4Addr::UNSPECIFIED, 0).into();
        let endpoints = (0..settings.dial_sockets.max(1))
            // Both families over one socket, or IPv4 alone where the machine has no IPv6.
            .map(|_| {
                socket::endpoint(any, None, &settings).or_else(|_| socket::endpoint(any_v4, None, &settings))
            })
            .collect::<Result<_, _>>()?;
        let transport = settings.transport();
        let client = ArcSwap::from_pointee(client_config(identity, &transport));
        Ok(Self { endpoints, next: AtomicUsize::new(0), settings, transport, client })
    }

    /// Connects to `peer` at `addr` (`host:port`). The host is resolved anew each time and every address tried in
    /// turn. On return both sides have accepted each other's certificate.
    ///
    /// # Errors
    /// [`DialError`], from the address tried last.
    pub async fn dial(&self, addr: &str, peer: &NodeId) -> Result<Connection, DialError> {
        let resolve = |source| DialError::Resolve { addr: addr.to_owned(), source };
        let remotes = timeout(self.settings.handshake_timeout, tokio::net::lookup_host(addr))
            .await
            .map_err(|_| resolve(io::ErrorKind::TimedOut.into()))?
            .map_err(resolve)?;
        server_name(peer).map_err(DialError::Name)?;
        let mut failure = DialError::NoAddress { addr: addr.to_owned() };
        for remote in remotes {
            let attempt = self.connect(remote, peer);
            match timeout(self.settings.handshake_timeout, attempt).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = DialError::Timeout { peer: peer.clone(), remote },
            }
        }
        Err(failure)
    }

    async fn connect(&self, remote: SocketAddr, peer: &NodeId) -> Result<Connection, DialError> {
        let untrusted = |reason| DialError::Untrusted { peer: peer.clone(), remote, reason };
        let failed = |error: ConnectionError| match &error {
            ConnectionError::TransportError(cause) if is_crypto(cause.code) => {
                untrusted(cause.reason.clone())
            }
            ConnectionError::ConnectionClosed(close) if is_crypto(close.error_code) => {
                untrusted(format!("the peer says: {}", String::from_utf8_lossy(&close.reason)))
            }
            ConnectionError::TimedOut => DialError::Timeout { peer: peer.clone(), remote },
            _ => DialError::Connect { peer: peer.clone(), remote, reason: error.into() },
        };
        let endpoint = &self.endpoints[self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len()];
        let client = self.client.load().as_ref().clone();
        let quic = endpoint
            .connect_with(client, remote, peer.as_str())
            .map_err(|error| DialError::Connect {
                peer: peer.clone(),
                remote,
                reason: CloseReason::Protocol(error.to_string()),
            })?
            .await
            .map_err(failed)?;
        let connection = Connection::new(quic).map_err(untrusted)?;
        // TLS took any DNS name in the certificate; a node's name is the first one only.
        if connection.peer() != peer {
            connection.close(0, "wrong node");
            return Err(untrusted(format!("{} is at this address", connection.peer())));
        }
        let mut greeting = connection.quic().accept_uni().await.map_err(failed)?;
        match greeting.read_to_end(GREETING.len()).await {
            Ok(said) if said == GREETING => Ok(connection),
            Err(quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(error))) => Err(failed(error)),
            _ => Err(untrusted("the peer greets in another way".to_owned())),
        }
    }

    /// Shows and trusts `identity` from the next handshake on; connections that exist are not touched.
    pub fn replace_identity(&self, identity: &Identity) {
        self.client.store(Arc::new(client_config(identity, &self.transport)));
    }

    /// Closes every connection that this dialler made, and waits until the peers were told.
    pub async fn close(&self, code: u32, reason: &str) {
        for endpoint in &self.endpoints {
            endpoint.close(VarInt::from_u32(code), reason.as_bytes());
        }
        for endpoint in &self.endpoints {
            endpoint.wait_idle().await;
        }
    }
}

fn client_config(identity: &Identity, transport: &Arc<TransportConfig>) -> ClientConfig {
    let mut config = ClientConfig::new(identity.client.clone());
    config.transport_config(transport.clone());
    config
}

/// TLS alerts travel in QUIC as codes 0x100 to 0x1ff (RFC 9001, section 4.8).
fn is_crypto(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}
