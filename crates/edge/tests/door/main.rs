//! A running edge, seen from its senders: what carries them, who gets in, when they are closed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails, there and then")]

mod bytes;
mod carriers;
mod handshake;
mod live;
mod scene;
mod times;
