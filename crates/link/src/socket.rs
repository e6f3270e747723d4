//! UDP sockets with buffers large enough for a burst.

use std::io;
use std::net::SocketAddr;
use std::sync::Once;

use quinn::{Endpoint, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Settings;

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind UDP {addr}")]
pub struct BindError {
    /// The address asked for.
    pub addr: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// An endpoint on a new socket bound to `addr`.
pub(crate) fn endpoint(
    addr: SocketAddr,
    server: Option<ServerConfig>,
    settings: &Settings,
) -> Result<Endpoint, BindError> {
    let wrap = |source| BindError { addr, source };
    let socket = bind(addr, settings.socket_buffer).map_err(wrap)?;
    Endpoint::new(settings.endpoint(), server, socket.into(), std::sync::Arc::new(TokioRuntime)).map_err(wrap)
}

fn bind(addr: SocketAddr, buffer: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        // One socket for both families. Where the system forbids it, IPv6 alone is what remains.
        let _ = socket.set_only_v6(false);
    }
    socket.set_recv_buffer_size(buffer)?;
    socket.set_send_buffer_size(buffer)?;
    warn_if_small("net.core.rmem_max", buffer, granted(socket.recv_buffer_size()?));
    warn_if_small("net.core.wmem_max", buffer, granted(socket.send_buffer_size()?));
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Linux reports twice what it granted, its own bookkeeping included (socket(7), SO_RCVBUF).
fn granted(reported: usize) -> usize {
    if cfg!(target_os = "linux") { reported / 2 } else { reported }
}

/// The kernel cuts a buffer down without a word, and small buffers lose packets under load.
fn warn_if_small(sysctl: &'static str, wanted: usize, granted: usize) {
    static RECEIVE: Once = Once::new();
    static SEND: Once = Once::new();
    if granted < wanted {
        // Once per process: every further socket meets the same limit.
        let once = if sysctl.contains("rmem") { &RECEIVE } else { &SEND };
        once.call_once(|| {
            tracing::warn!(
                wanted,
                granted,
                "socket buffer is small; raise it with: sysctl -w {sysctl}={wanted}"
            );
        });
    }
}
