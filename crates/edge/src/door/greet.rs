//! The first moments of a connection: PROXY header, TLS, HELO and PING. Each has a deadline, and none holds a message.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::debug;
use weir_forward::Session;
use weir_forward::handshake::{Server, Verdict};

use super::proxy::{Parsed, parse};
use super::{Counted, Door, Peer, Settings, Stream};
use crate::connection::{Connection, discard};

/// How long a sender that was denied has to read why (R57).
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of a PING that are read at once.
const PING_READ: usize = 1 << 10;

/// Takes a connection over TCP from its first byte to its last.
pub(crate) async fn tcp(door: Arc<Door>, mut socket: TcpStream, peer: Peer, counted: Counted) {
    let settings = Arc::clone(&door.settings());
    let (mut peer, mut counted) = (peer, counted);
    if settings.is_balancer(&peer) {
        match within(&settings, proxy_header(&mut socket)).await {
            Ok(Some(sender)) => {
                let sender = Peer::Net(sender);
                // It counts where it comes from, no longer where its balancer is.
                drop(counted);
                match door.admit_sender(&sender) {
                    Ok(admitted) => (peer, counted) = (sender, admitted),
                    Err(how) => return door.turn_away(socket, how).await,
                }
            }
            Ok(None) => {}
            Err(error) => {
                note(&door, "proxy_header", &peer, &error);
                return;
            }
        }
    }
    let stream = match &settings.tls {
        None => Stream::Tcp(socket),
        Some(tls) => match within(&settings, TlsAcceptor::from(tls.server.clone()).accept(socket)).await {
            Ok(stream) => Stream::Tls(Box::new(stream)),
            Err(error) => {
                note(&door, "tls_handshake", &peer, &error);
                return;
            }
        },
    };
    serve(door, settings, stream, peer, counted).await;
}

/// The same for a Unix socket.
pub(crate) async fn unix(door: Arc<Door>, socket: UnixStream, counted: Counted) {
    let settings = Arc::clone(&door.settings());
    serve(door, settings, Stream::Unix(socket), Peer::Unix, counted).await;
}

async fn serve(door: Arc<Door>, settings: Arc<Settings>, mut stream: Stream, peer: Peer, counted: Counted) {
    let session = match &settings.security {
        None => Session::new(settings.limits),
        Some(_) => match Box::pin(shake_hands(&door, &settings, &mut stream, &peer)).await {
            Some(session) => session,
            None => return,
        },
    };
    let hostname = match settings.config.source_hostname_key {
        Some(_) => door.names.of(&peer).await,
        None => None,
    };
    Connection::new(door, settings, stream, peer, hostname, session, counted).run().await;
}

/// HELO, PING, PONG. None if the sender is gone, or was told that it may not come in.
async fn shake_hands(door: &Door, settings: &Settings, stream: &mut Stream, peer: &Peer) -> Option<Session> {
    let security = settings.security.clone()?;
    let ip = peer.ip().unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    let mut server = Server::new(security, ip, rand::random(), rand::random());
    let verdict = match within(settings, ask(&mut server, stream)).await {
        Ok(verdict) => verdict,
        Err(error) => {
            note(door, "handshake", peer, &error);
            return None;
        }
    };
    let told = within(settings, say(stream, &verdict.pong)).await;
    match verdict.outcome {
        Ok(identity) => {
            debug!(%peer, hostname = identity.hostname, user = identity.user, "a sender proved its key");
            told.ok()?;
            Some(server.into_session(settings.limits))
        }
        Err(denial) => {
            door.refusals.note(denial.label(), peer, "it was told so in the handshake");
            let _ = stream.shutdown().await;
            let _ = timeout(LINGER, discard(stream)).await;
            None
        }
    }
}

/// HELO, and what its PING deserves.
async fn ask(server: &mut Server, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Verdict> {
    say(stream, &server.hello()).await?;
    loop {
        if let Some(verdict) = server.verdict() {
            return Ok(verdict);
        }
        server.buffer().reserve(PING_READ);
        if stream.read_buf(server.buffer()).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// With one write, for senders take one read for all of it (R55).
async fn say(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Reads exactly the header, so that what follows it is still in the socket.
async fn proxy_header(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<std::net::SocketAddr>> {
    let mut header = Vec::new();
    loop {
        match parse(&header) {
            Parsed::Header(address) => return Ok(address),
            Parsed::Invalid => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "no PROXY header, and its network must send one",
                ));
            }
            Parsed::Need(more) => {
                let start = header.len();
                header.resize(start + more, 0);
                socket.read_exact(&mut header[start..]).await?;
            }
        }
    }
}

async fn within<T>(settings: &Settings, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(settings.config.handshake_timeout, work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "not done within `handshake_timeout`")),
    }
}

/// A peer that left is no news: heartbeats and health checks do nothing else (R59).
fn note(door: &Door, reason: &'static str, peer: &Peer, error: &io::Error) {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    if matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe) {
        debug!(%peer, reason, %error, "a peer left early");
    } else {
        door.refusals.note(reason, peer, error);
    }
}

#[cfg(test)]
mod tests {
    use weir_forward::handshake::Security;

    use super::*;
    use crate::connection::tests::Recorder;

    fn bytes<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// [R55]
    #[tokio::test]
    async fn hello_and_pong_are_written_whole() {
        let security = Security {
            server_hostname: "weir".to_owned(),
            shared_key: "key".to_owned(),
            keepalive: true,
            allow_anonymous_source: true,
            clients: Vec::new(),
            users: None,
        };
        let mut server = Server::new(Arc::new(security), [127, 0, 0, 1].into(), [1; 16], [2; 16]);
        let mut stream = Recorder { input: io::Cursor::new(b"\xc0".to_vec()), ..Recorder::default() };
        let verdict = ask(&mut server, &mut stream).await.unwrap();
        say(&mut stream, &verdict.pong).await.unwrap();
        assert_eq!(stream.writes, [server.hello(), verdict.pong]);
    }

    /// Tens of thousands of them wait at the same time.
    #[test]
    fn a_connection_is_small() {
        println!("connection {} tcp {}", size_of::<Connection>(), bytes(tcp));
        assert!(bytes(tcp) <= 4096, "{}", bytes(tcp));
    }
}
