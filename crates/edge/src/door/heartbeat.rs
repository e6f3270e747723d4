//! UDP heartbeats: every datagram, an empty one too, is answered with one zero byte, from the very address that it was
//! sent to, for senders compare (R58). What the datagram says does not matter. Whoever drops the task closes the socket: a
//! listener that ends says no more that it is well.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tracing::debug;
use weir_telemetry::names;

use super::Door;
use super::peer::Peer;

/// Datagrams taken with one call.
const AT_ONCE: usize = 16;
/// Heartbeats have a byte or two; what does not fit is cut off, and answered all the same.
const BYTES: usize = 128;

/// A socket that is ready to answer.
pub(crate) struct Heartbeats {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Heartbeats {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, state })
    }

    /// Answers for as long as it is polled.
    pub(crate) async fn answer(self, door: Arc<Door>) {
        let answered = names::FORWARD_HEARTBEATS_TOTAL.with([]);
        let mut storage = [[0_u8; BYTES]; AT_ONCE];
        let mut meta = [RecvMeta::default(); AT_ONCE];
        loop {
            let count = match self.receive(&mut storage, &mut meta).await {
                Ok(count) => count,
                Err(error) => {
                    // An earlier answer was refused by its receiver, mostly.
                    debug!(%error, "cannot receive heartbeats");
                    continue;
                }
            };
            for meta in &meta[..count] {
                if !door.lets_in(&Peer::Net(meta.addr)) {
                    continue;
                }
                // The kernel may hand over several of the same length as one.
                let datagrams = if meta.stride == 0 { 1 } else { meta.len.div_ceil(meta.stride).max(1) };
                for _ in 0..datagrams {
                    let answer = Transmit {
                        destination: meta.addr,
                        ecn: None,
                        contents: &[0],
                        segment_size: None,
                        src_ip: meta.dst_ip,
                    };
                    // A heartbeat that is lost is one of many: nothing is waited for.
                    let _ = self.socket.try_io(Interest::WRITABLE, || {
                        self.state.try_send(UdpSockRef::from(&self.socket), &answer)
                    });
                    answered.increment(1);
                }
            }
        }
    }

    async fn receive(&self, storage: &mut [[u8; BYTES]], meta: &mut [RecvMeta]) -> io::Result<usize> {
        self.socket
            .async_io(Interest::READABLE, || {
                let mut slices: Vec<IoSliceMut<'_>> =
                    storage.iter_mut().map(|bytes| IoSliceMut::new(bytes)).collect();
                self.state.recv(UdpSockRef::from(&self.socket), &mut slices, meta)
            })
            .await
    }
}
