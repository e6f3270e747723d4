//! The handshake from the sender's side: HELO comes, PING goes, PONG comes. Pure.

use rmpv::Value;
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

use crate::Security;

/// Most bytes of a HELO or PONG; Fluentd reads 512 itself.
pub(crate) const HELLO_BYTES_MAX: usize = 4096;

/// What bytes are in the handshake.
pub(crate) enum Read<T> {
    Incomplete,
    Done(T, usize),
    Wrong(String),
}

/// What a PONG must prove.
pub(crate) struct Expected {
    salt: String,
    nonce: Vec<u8>,
}

/// The PING that answers a HELO. The salt is a text, not bytes: Fluent Bit takes nothing else.
pub(crate) fn ping(hello: &[u8], security: &Security, salt: String) -> Read<(Vec<u8>, Expected)> {
    let (value, len) = match value(hello) {
        Read::Done(value, len) => (value, len),
        Read::Incomplete => return Read::Incomplete,
        Read::Wrong(why) => return Read::Wrong(why),
    };
    let parts = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let [name, options, ..] = parts else { return Read::Wrong("this is no HELO".to_owned()) };
    if bytes(name) != Some(b"HELO") {
        return Read::Wrong("this is no HELO".to_owned());
    }
    let option = |wanted: &str| {
        let pairs = options.as_map().map(Vec::as_slice).unwrap_or_default();
        let found = pairs.iter().find(|(key, _)| bytes(key) == Some(wanted.as_bytes()));
        found.and_then(|(_, value)| bytes(value)).unwrap_or_default().to_vec()
    };
    let (nonce, auth) = (option("nonce"), option("auth"));
    let hostname = security.self_hostname.as_bytes();
    let key = digest(&[salt.as_bytes(), hostname, &nonce, security.shared_key.as_bytes()]);
    let (user, password) = match &security.user {
        Some((user, password)) if !auth.is_empty() => {
            (user.as_str(), digest(&[&auth, user.as_bytes(), password.as_bytes()]))
        }
        _ => ("", String::new()),
    };
    let mut ping = Vec::new();
    let _ = rmp::encode::write_array_len(&mut ping, 6);
    let _ = rmp::encode::write_str(&mut ping, "PING");
    let _ = rmp::encode::write_str(&mut ping, &security.self_hostname);
    for text in [salt.as_str(), key.as_str(), user, password.as_str()] {
        let _ = rmp::encode::write_str(&mut ping, text);
    }
    Read::Done((ping, Expected { salt, nonce }), len)
}

/// Whether a PONG lets us in, and proves that the receiver knows the key too.
pub(crate) fn pong(pong: &[u8], security: &Security, expected: &Expected) -> Read<()> {
    let (value, len) = match value(pong) {
        Read::Done(value, len) => (value, len),
        Read::Incomplete => return Read::Incomplete,
        Read::Wrong(why) => return Read::Wrong(why),
    };
    let parts = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let [name, granted, reason, hostname, proof, ..] = parts else {
        return Read::Wrong("this is no PONG".to_owned());
    };
    if bytes(name) != Some(b"PONG") {
        return Read::Wrong("this is no PONG".to_owned());
    }
    if granted.as_bool() != Some(true) {
        let reason = String::from_utf8_lossy(bytes(reason).unwrap_or_default());
        return Read::Wrong(format!("it does not let us in: {reason}"));
    }
    let hostname = bytes(hostname).unwrap_or_default();
    if hostname == security.self_hostname.as_bytes() {
        return Read::Wrong("it has our own name; give `self_hostname` another".to_owned());
    }
    let right =
        digest(&[expected.salt.as_bytes(), hostname, &expected.nonce, security.shared_key.as_bytes()]);
    if !bool::from(right.as_bytes().ct_eq(bytes(proof).unwrap_or_default())) {
        return Read::Wrong("it does not know the shared key".to_owned());
    }
    Read::Done((), len)
}

fn value(bytes: &[u8]) -> Read<Value> {
    let mut rest = bytes;
    match rmpv::decode::read_value_with_max_depth(&mut rest, 8) {
        Ok(value) => Read::Done(value, bytes.len() - rest.len()),
        Err(_) if bytes.len() < HELLO_BYTES_MAX => Read::Incomplete,
        Err(error) => Read::Wrong(format!("not MessagePack: {error}")),
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::String(text) => Some(text.as_bytes()),
        Value::Binary(bytes) => Some(bytes),
        _ => None,
    }
}

fn digest(parts: &[&[u8]]) -> String {
    let sha = parts.iter().fold(Sha512::new(), |sha, part| sha.chain_update(part));
    format!("{:x}", sha.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_ping_is_text() {
        let mut hello = Vec::new();
        rmpv::encode::write_value(&mut hello, &Value::Array(vec!["HELO".into(), Value::Map(vec![])]))
            .unwrap();
        let security =
            Security { self_hostname: "weir".to_owned(), shared_key: "key".to_owned(), user: None };
        let Read::Done((ping, _), _) = ping(&hello, &security, "salt".to_owned()) else { panic!("no PING") };
        let Read::Done(ping, _) = value(&ping) else { panic!("not MessagePack") };
        let parts: Vec<_> = ping.as_array().unwrap().iter().map(Value::as_str).collect();
        let key = digest(&[b"salt", b"weir", b"", b"key"]);
        assert_eq!(parts, [Some("PING"), Some("weir"), Some("salt"), Some(&key), Some(""), Some("")]);
    }
}
