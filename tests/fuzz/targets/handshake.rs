//! The handshake: nobody comes in without the key, whatever is sent, and a verdict is small enough for one read.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use weir_forward::handshake::{Security, Server, User};

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let security = Arc::new(Security {
        server_hostname: "weir".to_owned(),
        shared_key: "nobody guesses this".to_owned(),
        keepalive: true,
        allow_anonymous_source: true,
        clients: Vec::new(),
        users: Some(vec![User { name: "ada".to_owned(), password: "nor this".to_owned() }]),
    });
    let mut server = Server::new(security, IpAddr::V4(Ipv4Addr::LOCALHOST), [1; 16], [2; 16]);
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        server.buffer().extend_from_slice(piece);
        if let Some(verdict) = server.verdict() {
            assert!(verdict.outcome.is_err(), "it came in without the key");
            assert!(verdict.pong.len() <= 512);
            return;
        }
    }
});
