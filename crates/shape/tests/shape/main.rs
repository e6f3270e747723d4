//! What the crate promises, seen from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails, there and then")]

mod events;
mod json;
mod partitions;
mod transforms;
