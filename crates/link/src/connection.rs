//! One authenticated connection between an edge and a sink.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use quinn::{ConnectionError, VarInt};
use rustls::pki_types::CertificateDer;
use weir_model::NodeId;

use crate::identity::describe;
use crate::streams::{ControlReceiver, ControlSender, LaneReceiver, LaneSender, RecvError, SendError};

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// This side closed it.
    Ours,
    /// The peer closed it, with a code and a text that `transit` and the programs agree on.
    Peer {
        /// The peer's code.
        code: u64,
        /// The peer's words. From outside: never trust, only show.
        text: String,
    },
    /// Nothing was heard from the peer for the idle timeout: it died, or the network between us did.
    Silent,
    /// The peer restarted and knows nothing of this connection.
    Reset,
    /// QUIC or TLS gave up: a certificate was refused, or the peer broke the protocol.
    Protocol(String),
}

impl CloseReason {
    /// One word for it, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Peer { .. } => "peer",
            Self::Silent => "silent",
            Self::Reset => "reset",
            Self::Protocol(_) => "protocol",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours => f.write_str("closed by this side"),
            Self::Peer { code, text } => write!(f, "closed by the peer: {text:?} (code {code})"),
            Self::Silent => f.write_str("the peer fell silent"),
            Self::Reset => f.write_str("the peer restarted"),
            Self::Protocol(text) => f.write_str(text),
        }
    }
}

impl From<ConnectionError> for CloseReason {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::LocallyClosed => Self::Ours,
            ConnectionError::TimedOut => Self::Silent,
            ConnectionError::Reset => Self::Reset,
            ConnectionError::ApplicationClosed(close) => Self::Peer {
                code: close.error_code.into_inner(),
                text: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            other => Self::Protocol(other.to_string()),
        }
    }
}

/// How a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Packets given up as lost since the connection began.
    pub lost_packets: u64,
    /// Times that congestion control slowed down.
    pub congestion_events: u64,
    /// Bytes that congestion control lets be on their way.
    pub congestion_window: u64,
    /// UDP payload bytes sent, resent ones included.
    pub sent_bytes: u64,
    /// UDP payload bytes received.
    pub received_bytes: u64,
    /// UDP payload that the path takes now, in bytes.
    pub mtu: u16,
}

/// One authenticated connection. Clones are handles to the same one; when the last handle and the last stream
/// are gone it is closed.
#[derive(Debug, Clone)]
pub struct Connection {
    quic: quinn::Connection,
    peer: NodeId,
}

impl Connection {
    /// Wraps a connection whose handshake is done. The error says what is wrong with the peer's certificate.
    pub(crate) fn new(quic: quinn::Connection) -> Result<Self, String> {
        let chain = chain(&quic).ok_or("the peer showed no certificate")?;
        let (peer, _) = describe(chain.first().ok_or("the peer showed no certificate")?)?;
        Ok(Self { quic, peer })
    }

    /// The certificates that the peer showed, its own first.
    pub(crate) fn chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        chain(&self.quic)
    }

    /// The peer's name, from its verified certificate.
    #[must_use]
    pub fn peer(&self) -> &NodeId {
        &self.peer
    }

    /// The address that the peer's packets come from now. It may change while the connection lives.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        let addr = self.quic.remote_address();
        SocketAddr::new(addr.ip().to_canonical(), addr.port())
    }

    /// Ends the connection at once and tells the peer. What streams still hold is dropped: let them finish first
    /// where that matters.
    pub fn close(&self, code: u32, reason: &str) {
        // What has ended keeps its reason; quinn would take this one.
        if self.quic.close_reason().is_none() {
            self.quic.close(VarInt::from_u32(code), reason.as_bytes());
        }
    }

    /// Waits for the end of the connection and says why it ended.
    pub async fn closed(&self) -> CloseReason {
        self.quic.closed().await.into()
    }

    /// How the connection is doing.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let stats = self.quic.stats();
        Stats {
            rtt: stats.path.rtt,
            lost_packets: stats.path.lost_packets,
            congestion_events: stats.path.congestion_events,
            congestion_window: stats.path.cwnd,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            mtu: stats.path.current_mtu,
        }
    }

    /// Opens a control stream. The peer takes it with [`accept_control`](Self::accept_control).
    ///
    /// # Errors
    /// [`SendError::Closed`] when the connection has ended.
    pub async fn open_control(&self) -> Result<(ControlSender, ControlReceiver), SendError> {
        let (send, recv) = self.quic.open_bi().await.map_err(|error| SendError::Closed(error.into()))?;
        Ok((ControlSender::open(send).await?, ControlReceiver::new(recv)))
    }

    /// Waits for the peer's control stream. Not to be cancelled half-way: give it a task of its own.
    ///
    /// # Errors
    /// [`RecvError`] when the connection has ended, or the peer opened a stream and did not begin it.
    pub async fn accept_control(&self) -> Result<(ControlSender, ControlReceiver), RecvError> {
        let (send, recv) = self.quic.accept_bi().await.map_err(|error| RecvError::Closed(error.into()))?;
        Ok((ControlSender::new(send), ControlReceiver::accept(recv).await?))
    }

    /// Opens lane `number` towards the peer, which takes it with [`accept_lane`](Self::accept_lane). Waits while
    /// the peer's [`lanes`](crate::Settings::lanes) are all in use.
    ///
    /// # Errors
    /// [`SendError::Closed`] when the connection has ended.
    pub async fn open_lane(&self, number: u32) -> Result<LaneSender, SendError> {
        let stream = self.quic.open_uni().await.map_err(|error| SendError::Closed(error.into()))?;
        LaneSender::open(stream, number).await
    }

    /// Waits for the next lane that the peer opens. Not to be cancelled half-way: give it a task of its own.
    ///
    /// # Errors
    /// [`RecvError`] when the connection has ended, or the peer opened a lane and did not begin it.
    pub async fn accept_lane(&self) -> Result<LaneReceiver, RecvError> {
        let stream = self.quic.accept_uni().await.map_err(|error| RecvError::Closed(error.into()))?;
        LaneReceiver::accept(stream).await
    }

    pub(crate) fn quic(&self) -> &quinn::Connection {
        &self.quic
    }
}

/// Always present and of this type: both sides demand a certificate, and rustls is the TLS below.
fn chain(quic: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    quic.peer_identity()?.downcast().ok().map(|chain| *chain)
}
