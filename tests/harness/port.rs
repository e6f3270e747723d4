//! Free ports on the loopback address.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// The range that ports are taken from: below 32768, where Linux begins to number outgoing connections, so that no
/// connection takes a port between our look at it and its use.
const FIRST: u32 = 12_000;
const COUNT: u32 = 18_000;

/// A port of 127.0.0.1 that is free for TCP and UDP, and that this process was not given before.
///
/// # Errors
/// If all ports of the range are in use.
pub fn port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at once begin far apart.
    let start = std::process::id().wrapping_mul(7919) % COUNT;
    for _ in 0..COUNT {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset)?;
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

/// Several ports at once, see [`port`]: `let [forward, metrics] = ports()?;`
///
/// # Errors
/// See [`port`].
pub fn ports<const N: usize>() -> Result<[u16; N]> {
    let mut all = [0; N];
    for each in &mut all {
        *each = port()?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_given_out() {
        let first = port().unwrap();
        let held: Vec<_> =
            (first + 1..first + 4).map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).collect();
        let given = ports::<8>().unwrap();
        for listener in held.into_iter().flatten() {
            assert!(!given.contains(&listener.local_addr().unwrap().port()));
        }
        assert!(!given.contains(&first));
    }
}
