//! The figures a link runs with, and how QUIC is told of them.

use std::sync::Arc;
use std::time::Duration;

use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

/// Largest UDP payload that [`Settings::mtu_max`] may ask for, in bytes.
///
/// quinn sends up to ten datagrams in one segmentation-offload call, which the kernel bounds at 65 507 bytes. Ten
/// of 9000 do not fit; the failure looks like a black hole and the path falls back to 1200. 6500 leaves room.
pub const MTU_MAX: u16 = 6500;

/// Packets that a peer may leave unacknowledged while none is missing.
const ACK_EVERY: u32 = 10;

/// Smallest UDP payload that QUIC lets a path have (RFC 9000, section 14).
const MTU_MIN: u16 = 1200;

/// The figures a link runs with. The defaults suit a data centre (up to 25 Gbit/s, round trips to 2 ms).
#[derive(Debug, Clone)]
pub struct Settings {
    /// A peer that has been silent for this long is given up. The smaller value of the two sides counts.
    pub idle_timeout: Duration,
    /// How often an idle connection shows that it lives. Several must fit into `idle_timeout`.
    pub keep_alive: Duration,
    /// How long a handshake may take, name lookup included, per address.
    pub handshake_timeout: Duration,
    /// Bytes a peer may have on its way to us on one stream. When used up, the peer waits.
    pub stream_window: u32,
    /// The same over all streams of a connection: the bound of what an unread peer can make us hold.
    pub connection_window: u32,
    /// Bytes we hold for one peer that it has not acknowledged. When used up, senders wait.
    pub send_window: u64,
    /// Largest UDP payload to try, in bytes, up to [`MTU_MAX`]: 1452 fits an Ethernet of 1500, more needs jumbo
    /// frames or loopback. What the path really takes is found by probing.
    pub mtu_max: u16,
    /// Lanes a peer may have open at once. Opening one more waits until another ends.
    pub lanes: u32,
    /// Size of each socket's buffers in the kernel, in bytes. A smaller grant is logged, as it loses packets.
    pub socket_buffer: usize,
    /// Sockets that a [`Dialer`](crate::Dialer) spreads its connections over: one socket is one receive loop,
    /// and so about one core.
    pub dial_sockets: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(4),
            handshake_timeout: Duration::from_secs(5),
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            send_window: 16 << 20,
            mtu_max: 1452,
            lanes: 16,
            socket_buffer: 4 << 20,
            dial_sockets: std::thread::available_parallelism().map_or(1, |n| n.get().min(4)),
        }
    }
}

impl Settings {
    fn mtu(&self) -> u16 {
        self.mtu_max.clamp(MTU_MIN, MTU_MAX)
    }

    pub(crate) fn transport(&self) -> Arc<TransportConfig> {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.mtu());
        // A timeout beyond 2^62 ms is none at all; 0 means the same to QUIC.
        let idle = IdleTimeout::try_from(self.idle_timeout).ok();
        // Packets come in bursts of ten (one offload call): one acknowledgement for a burst is enough.
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY));
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(idle)
            .keep_alive_interval(Some(self.keep_alive))
            .initial_rtt(Duration::from_millis(5))
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.connection_window))
            .send_window(self.send_window)
            .mtu_discovery_config(Some(mtu))
            .ack_frequency_config(Some(acks))
            .enable_segmentation_offload(true)
            // The greeting takes one.
            .max_concurrent_uni_streams(VarInt::from_u32(self.lanes.saturating_add(1)))
            .max_concurrent_bidi_streams(VarInt::from_u32(4))
            .datagram_receive_buffer_size(None);
        Arc::new(transport)
    }

    pub(crate) fn endpoint(&self) -> EndpointConfig {
        let mut endpoint = EndpointConfig::default();
        // Must be raised by the receiver too, or larger probes are never answered. Below 1472, quinn's own default,
        // there is nothing to save. The bounds of the type are 1200 to 65527, so this cannot be refused.
        if let Err(error) = endpoint.max_udp_payload_size(self.mtu().max(1472)) {
            tracing::warn!(%error, "UDP payload size not raised");
        }
        endpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_keep_alives_fit_into_the_idle_timeout() {
        let settings = Settings::default();
        assert!(settings.keep_alive * 3 < settings.idle_timeout);
        assert!(settings.stream_window <= settings.connection_window);
    }

    #[test]
    fn the_mtu_stays_where_offload_works() {
        for (asked, taken) in [(0, 1200), (1452, 1452), (6500, 6500), (9000, 6500)] {
            assert_eq!(Settings { mtu_max: asked, ..Settings::default() }.mtu(), taken);
        }
        assert_eq!(
            Settings { mtu_max: 9000, ..Settings::default() }.endpoint().get_max_udp_payload_size(),
            6500
        );
    }
}
