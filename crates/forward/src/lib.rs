//! The Fluentd Forward protocol, server side, without I/O and without a clock: bytes in, events out.
//!
//! A [`Session`] is one connection after its handshake. It finds the messages in the stream, validates and
//! counts their entries with a skip-scan, and hands their bytes on as they came: no record is ever decoded.
//! Where a shared key is configured, a [`handshake::Server`] comes first. [`scan`] and [`unpack`] are the pieces that readers of a batch's payload need as well.
//!
//! Left out on purpose: sockets, deadlines, back-pressure, when an ack is due (the driver sends
//! [`Batch::acks`] once the batch is durable), UDP heartbeats, and whatever a record says.

pub mod handshake;
pub mod scan;
pub mod unpack;

mod annotate;
mod cut;
mod frame;
mod frames;
mod json;
mod message;
mod outcome;
mod pack;
mod session;
mod sieve;
mod tally;
mod writer;

pub use annotate::{Member, annotate};
pub use cut::keep_chunks;
pub use message::{CHUNK_BYTES_MAX, TAG_BYTES_MAX};
pub use outcome::{Batch, Event, Fault, Reason, Refused, Skips, Violation};
pub use session::{Limits, Session};
pub use tally::{MINUTES_MAX, Tally};
