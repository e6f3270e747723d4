//! Listening sockets that this process was given at its start: by systemd, or by the program that it replaces.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;

/// Sockets that nobody has taken yet. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Inherited(Arc<Mutex<Vec<std::net::TcpListener>>>);

impl Inherited {
    /// These sockets.
    #[must_use]
    pub fn new(sockets: Vec<std::net::TcpListener>) -> Self {
        Self(Arc::new(Mutex::new(sockets)))
    }

    /// The socket that listens at `address`, if there is one. A port of 0 is any.
    ///
    /// # Errors
    /// What the system says to a socket that cannot be used.
    pub(crate) fn take(&self, address: SocketAddr) -> io::Result<Option<TcpListener>> {
        let Ok(mut sockets) = self.0.lock() else { return Ok(None) };
        let fits = |socket: &std::net::TcpListener| {
            socket.local_addr().is_ok_and(|at| {
                at.ip() == address.ip() && (at.port() == address.port() || address.port() == 0)
            })
        };
        let Some(index) = sockets.iter().position(fits) else { return Ok(None) };
        let socket = sockets.swap_remove(index);
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_found_by_its_address_and_taken_once() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let inherited = Inherited::new(vec![socket]);
        assert!(inherited.take(SocketAddr::from(([127, 0, 0, 2], at.port()))).unwrap().is_none());
        assert!(inherited.take(SocketAddr::from(([127, 0, 0, 1], at.port() ^ 1))).unwrap().is_none());
        let taken = inherited.take(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().unwrap();
        assert_eq!(taken.local_addr().unwrap(), at);
        assert!(inherited.take(at).unwrap().is_none());
    }
}
