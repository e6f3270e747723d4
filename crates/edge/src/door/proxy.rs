//! The PROXY protocol, versions 1 and 2: what a load balancer says before the sender's first byte. Pure.
//!
//! After "The PROXY protocol", version 3.x of the text, by Willy Tarreau. Left out on purpose: extensions (TLVs), which
//! are skipped, and who may speak it, which the listener knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// First bytes of version 1.
const WORD: &[u8] = b"PROXY ";
/// Shortest header of either version: `PROXY UNKNOWN\r\n`.
const SHORTEST: usize = 15;
/// Longest line of version 1, with its end (section 2.1 of the text).
const LINE_MAX: usize = 107;
/// Most bytes behind the fixed part of version 2. The text allows 65535; addresses and usual TLVs take some hundred.
const TAIL_MAX: usize = 4096;

/// What some bytes are as a header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Not all of it: so many bytes more belong to it for certain, so no byte of the sender is taken.
    Need(usize),
    /// All of it. The sender's address; none where the balancer speaks for itself (a health check) or does not know.
    Header(Option<SocketAddr>),
    /// Something else.
    Invalid,
}

/// Reads the header that the bytes begin with; nothing follows it in them.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let start = bytes.len().min(SIGNATURE.len());
    if bytes[..start] == SIGNATURE[..start] {
        // Also true of no bytes at all, where the shorter of the two is what may be read.
        return if bytes.len() < SHORTEST { Parsed::Need(SHORTEST - bytes.len()) } else { version_2(bytes) };
    }
    let start = bytes.len().min(WORD.len());
    if bytes[..start] == WORD[..start] { version_1(bytes) } else { Parsed::Invalid }
}

fn version_1(bytes: &[u8]) -> Parsed {
    if bytes.len() < SHORTEST {
        return Parsed::Need(SHORTEST - bytes.len());
    }
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        let full = bytes.len() >= LINE_MAX || bytes.contains(&b'\n');
        return if full { Parsed::Invalid } else { Parsed::Need(1) };
    };
    let Ok(line) = std::str::from_utf8(line) else { return Parsed::Invalid };
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Parsed::Header(None);
    }
    let (Some(from), Some(to), Some(from_port), Some(to_port), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Parsed::Invalid;
    };
    let of_family = |text: &str| match family {
        Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| text == "0" || !text.starts_with(['0', '+']));
    match (of_family(from), of_family(to), port(from_port), port(to_port)) {
        (Some(address), Some(_), Some(port), Some(_)) => Parsed::Header(Some(SocketAddr::new(address, port))),
        _ => Parsed::Invalid,
    }
}

fn version_2(bytes: &[u8]) -> Parsed {
    let (Some(&command), Some(&family)) = (bytes.get(12), bytes.get(13)) else { return Parsed::Invalid };
    let Some(&[high, low]) = bytes.get(14..16) else { return Parsed::Need(16 - bytes.len()) };
    let tail = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 || tail > TAIL_MAX {
        return Parsed::Invalid;
    }
    let Some(body) = bytes.get(16..16 + tail) else { return Parsed::Need(16 + tail - bytes.len()) };
    match (command & 0x0f, family) {
        (0, _) => Parsed::Header(None),
        (1, 0x11) => match *body {
            [a, b, c, d, _, _, _, _, high, low, _, _, ..] => Parsed::Header(Some(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
                u16::from_be_bytes([high, low]),
            ))),
            _ => Parsed::Invalid,
        },
        (1, 0x21) => match (body.first_chunk::<16>(), body.get(32..36)) {
            (Some(address), Some(&[high, low, _, _])) => Parsed::Header(Some(SocketAddr::new(
                IpAddr::V6(Ipv6Addr::from(*address)),
                u16::from_be_bytes([high, low]),
            ))),
            _ => Parsed::Invalid,
        },
        // UNSPEC, datagrams and Unix sockets: nothing that we could use, and nothing wrong.
        (1, _) => Parsed::Header(None),
        _ => Parsed::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds exactly what is asked for, as a reader does; the outcome and the bytes taken.
    fn read(input: &[u8]) -> (Option<Option<SocketAddr>>, usize) {
        let mut taken = 0;
        loop {
            match parse(&input[..taken]) {
                Parsed::Need(more) if taken + more <= input.len() => taken += more,
                Parsed::Need(_) | Parsed::Invalid => return (None, taken),
                Parsed::Header(address) => return (Some(address), taken),
            }
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &len, body].concat()
    }

    #[test]
    fn headers_are_taken_whole_and_nothing_behind_them() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0x5e, 0xa0];
        let v6 = [&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[0, 9, 0, 8]]
            .concat();
        let with_tlv = [&v4[..], &[4, 0, 1, 0]].concat();
        let cases: &[(&str, Vec<u8>, Option<&str>)] = &[
            ("v1 TCP4", b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 24224\r\n".to_vec(), Some("192.0.2.7:8080")),
            ("v1 TCP6", b"PROXY TCP6 2001:db8::1 ::1 9 8\r\n".to_vec(), Some("[2001:db8::1]:9")),
            ("v1 UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec(), None),
            ("v1 UNKNOWN with words", b"PROXY UNKNOWN a b 1 2\r\n".to_vec(), None),
            ("v2 TCP4", v2(0x21, 0x11, &v4), Some("192.0.2.7:8080")),
            ("v2 TCP4 with a TLV", v2(0x21, 0x11, &with_tlv), Some("192.0.2.7:8080")),
            ("v2 TCP6", v2(0x21, 0x21, &v6), Some("[2001:db8::1]:9")),
            ("v2 LOCAL", v2(0x20, 0, &[]), None),
            ("v2 LOCAL with a body", v2(0x20, 0x11, &v4), None),
            ("v2 UNSPEC", v2(0x21, 0, &[]), None),
            ("v2 Unix", v2(0x21, 0x31, &[0; 216]), None),
        ];
        for (name, header, expected) in cases {
            let followed = [&header[..], b"\x93\xa1t\x01\x80"].concat();
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(read(&followed), (Some(expected), header.len()), "{name}");
            for cut in 0..header.len() {
                assert_eq!(read(&header[..cut]).0, None, "{name} cut to {cut} bytes");
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        let cases: &[(&str, Vec<u8>)] = &[
            ("MessagePack", b"\x93\xa1t\x01\x80........".to_vec()),
            ("HTTP", b"GET / HTTP/1.1\r\n".to_vec()),
            ("v1 of another family", b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec()),
            ("v1 with the wrong family", b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec()),
            ("v1 with a port too large", b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n".to_vec()),
            ("v1 with a padded port", b"PROXY TCP4 1.2.3.4 1.2.3.4 080 2\r\n".to_vec()),
            ("v1 with words missing", b"PROXY TCP4 1.2.3.4 1.2.3.4\r\n".to_vec()),
            ("v1 with words too many", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n".to_vec()),
            ("v1 with two blanks", b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n".to_vec()),
            ("v1 that ends with a bare newline", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n".to_vec()),
            ("v1 that does not end", long),
            ("v2 of version 3", v2(0x31, 0x11, &[0; 12])),
            ("v2 of another command", v2(0x22, 0x11, &[0; 12])),
            ("v2 with short addresses", v2(0x21, 0x11, &[0; 11])),
            ("v2 with short v6 addresses", v2(0x21, 0x21, &[0; 35])),
            ("v2 too long", v2(0x21, 0x11, &[0; TAIL_MAX + 1])),
            ("v2 with a broken signature", b"\r\n\r\n\0\r\nQUIT\r....".to_vec()),
        ];
        for (name, input) in cases {
            assert_eq!(read(input).0, None, "{name}");
        }
    }
}
