//! Who is at the other end, as far as addresses tell.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Net(SocketAddr),
    Unix,
}

impl Peer {
    /// Its address; an IPv4 address that came as IPv6 is IPv4.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Net(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }

    /// The network that counts as one source: so many bits of the address.
    pub(crate) fn source(&self, prefix_v4: u8, prefix_v6: u8) -> Source {
        Source(self.ip().map(|ip| match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix_v4.min(32))).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix_v6.min(128))).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
        }))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A network of peers that limits count together; all peers at a Unix socket are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(Option<IpAddr>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_network() {
        let source = |address: &str, v4, v6| Peer::Net(address.parse().unwrap()).source(v4, v6);
        for (one, other, v4, v6, same) in [
            ("10.1.2.3:1", "10.1.2.3:2", 32, 64, true),
            ("10.1.2.3:1", "10.1.2.4:1", 32, 64, false),
            ("10.1.2.3:1", "10.1.9.4:1", 16, 64, true),
            ("10.1.2.3:1", "11.1.9.4:1", 0, 64, true),
            ("[::ffff:10.1.2.3]:1", "10.1.2.3:1", 32, 64, true),
            ("[2001:db8::1]:1", "[2001:db8::2:1]:1", 32, 64, true),
            ("[2001:db8::1]:1", "[2001:db8:0:1::1]:1", 32, 64, false),
            ("[2001:db8::1]:1", "[::1]:1", 32, 0, true),
        ] {
            assert_eq!(source(one, v4, v6) == source(other, v4, v6), same, "{one} {other} /{v4} /{v6}");
        }
        assert_eq!(Peer::Net("[::ffff:10.1.2.3]:7".parse().unwrap()).to_string(), "10.1.2.3:7");
    }
}
