//! The handshake byte by byte, and every reason to refuse a client.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails, there and then")]

use std::sync::Arc;

use sha2::{Digest, Sha512};
use weir_forward::handshake::{Client, Denial, Identity, Security, SecurityError, Server, User, Verdict};
use weir_forward::{Event, Limits};

const NONCE: [u8; 16] = *b"nonce-nonce-nonc";
const AUTH: [u8; 16] = *b"auth-auth-auth-a";

fn security() -> Security {
    Security {
        server_hostname: "weir-1".to_owned(),
        shared_key: "key".to_owned(),
        keepalive: true,
        allow_anonymous_source: true,
        clients: vec![
            Client {
                network: "10.0.0.0/8".parse().unwrap(),
                shared_key: Some("own key".to_owned()),
                users: Some(vec!["ann".to_owned()]),
            },
            Client { network: "192.0.2.7".parse().unwrap(), shared_key: None, users: None },
        ],
        users: None,
    }
}

fn with_users(mut security: Security) -> Security {
    let user = |name: &str, password: &str| User { name: name.to_owned(), password: password.to_owned() };
    security.users = Some(vec![user("ann", "a-pass"), user("bob", "b-pass")]);
    security
}

fn hex(parts: &[&[u8]]) -> String {
    format!("{:x}", Sha512::digest(parts.concat()))
}

fn str8(text: &[u8]) -> Vec<u8> {
    [&[0xd9, u8::try_from(text.len()).unwrap()], text].concat()
}

/// A PING with this key, and the user's name and password if there is one.
fn ping(key: &str, user: Option<(&str, &str)>) -> Vec<u8> {
    let salt = b"\xff\xfesalt";
    let digest = hex(&[salt, b"client", &NONCE, key.as_bytes()]);
    let (name, password) = match user {
        None => (vec![0xc0], vec![0xa0]),
        Some((name, password)) => {
            let digest = hex(&[&AUTH, name.as_bytes(), password.as_bytes()]);
            (str8(name.as_bytes()), str8(digest.as_bytes()))
        }
    };
    [&b"\x96\xa4PING\xa6client\xc4\x06"[..], salt, &str8(digest.as_bytes()), &name, &password].concat()
}

fn verdict(security: Security, peer: &str, input: &[u8]) -> Option<Verdict> {
    let mut server = Server::new(Arc::new(security), peer.parse().unwrap(), NONCE, AUTH);
    server.buffer().extend_from_slice(input);
    server.verdict()
}

fn outcome(security: Security, peer: &str, input: &[u8]) -> Result<Option<String>, Denial> {
    verdict(security, peer, input).unwrap().outcome.map(|identity| identity.user)
}

/// [R53]
#[test]
fn hello_is_that_of_fluentd() {
    let server = Server::new(Arc::new(security()), "::1".parse().unwrap(), NONCE, AUTH);
    let expected =
        b"\x92\xa4HELO\x83\xa5nonce\xc4\x10nonce-nonce-nonc\xa4auth\xc4\x10auth-auth-auth-a\xa9keepalive\xc3";
    assert_eq!(server.hello(), &expected[..]);
    assert_eq!(server.hello().len(), 65);
}

/// [R55]
#[test]
fn a_ping_in_pieces_is_answered_when_it_is_whole() {
    let ping = ping("key", None);
    let mut server = Server::new(Arc::new(security()), "::1".parse().unwrap(), NONCE, AUTH);
    for (at, byte) in ping.iter().enumerate() {
        assert_eq!(server.verdict(), None, "after {at} bytes");
        server.buffer().extend_from_slice(&[*byte]);
    }
    let verdict = server.verdict().unwrap();
    assert_eq!(verdict.outcome, Ok(Identity { hostname: "client".to_owned(), user: None }));
    let digest = hex(&[b"\xff\xfesalt", b"weir-1", &NONCE, b"key"]);
    let pong = [&b"\x95\xa4PONG\xc3\xa0\xa6weir-1\xd9\x80"[..], digest.as_bytes()].concat();
    assert_eq!(verdict.pong, pong);

    // What was pipelined behind the PING is the session's, and a bracket there is no JSON.
    server.buffer().extend_from_slice(b"[\x93\xa1t\x01\x80");
    let mut session = server.into_session(Limits::default());
    assert!(matches!(session.next(0), Ok(Some(Event::Skipped(_)))));
    assert!(matches!(session.next(0), Ok(Some(Event::Batch(_)))));
}

/// [R57, #23]
#[test]
fn a_denial_names_its_reason() {
    let pong = verdict(security(), "::1", &ping("wrong", None)).unwrap().pong;
    assert_eq!(pong, &b"\x95\xa4PONG\xc2\xb3shared_key mismatch\xa0\xa0"[..]);

    let closed = Security { allow_anonymous_source: false, ..security() };
    let pong = verdict(closed, "::ffff:203.0.113.9", &ping("key", None)).unwrap().pong;
    assert_eq!(pong, &b"\x95\xa4PONG\xc2\xd9\x2aanonymous source host '203.0.113.9' denied\xa0\xa0"[..]);
}

#[test]
fn addresses_and_keys() {
    let check = |allow: bool, peer: &str, key: &str| {
        let security = Security { allow_anonymous_source: allow, ..security() };
        outcome(security, peer, &ping(key, None)).map(|_| ())
    };
    assert_eq!(check(true, "198.51.100.1", "key"), Ok(()));
    assert_eq!(check(true, "198.51.100.1", "own key"), Err(Denial::SharedKey));
    assert_eq!(check(true, "198.51.100.1", ""), Err(Denial::SharedKey));
    assert_eq!(check(false, "198.51.100.1", "key"), Err(Denial::AnonymousSource));
    assert_eq!(
        check(false, "198.51.100.1", "wrong"),
        Err(Denial::AnonymousSource),
        "the address comes first"
    );
    assert_eq!(check(false, "192.0.2.7", "key"), Ok(()));
    assert_eq!(check(false, "10.1.1.1", "own key"), Ok(()));
    assert_eq!(check(false, "::ffff:10.1.1.1", "own key"), Ok(()));
    assert_eq!(check(false, "10.1.1.1", "key"), Err(Denial::SharedKey));
}

/// [R54]
#[test]
fn users() {
    let check = |peer: &str, key: &str, user| outcome(with_users(security()), peer, &ping(key, user));
    let (ann, bob) = (Some(("ann", "a-pass")), Some(("bob", "b-pass")));
    assert_eq!(check("192.0.2.7", "key", ann), Ok(Some("ann".to_owned())));
    assert_eq!(check("192.0.2.7", "key", bob), Ok(Some("bob".to_owned())));
    assert_eq!(check("192.0.2.7", "key", Some(("ann", "b-pass"))), Err(Denial::User));
    assert_eq!(check("192.0.2.7", "key", Some(("eve", "a-pass"))), Err(Denial::User));
    assert_eq!(check("192.0.2.7", "key", None), Err(Denial::User));
    assert_eq!(check("192.0.2.7", "wrong", ann), Err(Denial::SharedKey));
    assert_eq!(check("10.1.1.1", "own key", ann), Ok(Some("ann".to_owned())));
    assert_eq!(check("10.1.1.1", "own key", bob), Err(Denial::User), "not from that network");
    // A digest that nobody asked for is ignored.
    assert_eq!(outcome(security(), "::1", &ping("key", Some(("x", "y")))), Ok(None));
}

#[test]
fn anything_but_a_ping_is_invalid() {
    let good = ping("key", None);
    let with = |first: u8, rest: &[u8], more: &[u8]| [&[first], rest, more].concat();
    let large = [&b"\x96\xa4PING\xc5\x20\x00"[..], &[0; 0x2000]].concat();
    for (name, input) in [
        ("an event", b"\x93\xa1t\x01\x80".to_vec()),
        ("a value that is no array", vec![0xc0]),
        ("malformed", vec![0xc1]),
        ("text", b"GET / HTTP/1.1".to_vec()),
        ("five elements", with(0x95, &good[1..good.len() - 1], b"")),
        ("seven elements", with(0x97, &good[1..], b"\xc0")),
        ("another word", [&b"\x96\xa4PONG"[..], &good[6..]].concat()),
        ("a salt that is a number", b"\x96\xa4PING\xa6client\x01\xa0\xa0\xa0".to_vec()),
        ("a host name that is nil", b"\x96\xa4PING\xc0\xa0\xa0\xa0\xa0".to_vec()),
        ("too large", large),
    ] {
        assert_eq!(outcome(security(), "::1", &input), Err(Denial::InvalidPing), "{name}");
    }
}

/// [R56]
#[test]
fn a_server_name_that_clients_refuse_is_found_beforehand() {
    let check = |name: &str| Security { server_hostname: name.to_owned(), ..security() }.check();
    assert_eq!(check("weir-1"), Ok(()));
    for bad in ["", "localhost", &"x".repeat(256)] {
        assert_eq!(check(bad), Err(SecurityError::ServerHostname(bad.to_owned())));
    }
}
