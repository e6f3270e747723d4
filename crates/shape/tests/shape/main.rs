//! What the crate promises, seen from outside.

#![allow(clippy::unwrap_used)]

mod events;
mod json;
mod partitions;
