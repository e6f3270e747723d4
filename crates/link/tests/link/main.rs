//! Links over loopback, between real sockets and with real certificates.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod common;
mod streams;
mod trust;
