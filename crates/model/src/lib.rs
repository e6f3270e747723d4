//! The shared nouns: who a node is, what a batch is called, which sequence numbers a set holds.
//!
//! Every other room speaks with these words; each has one meaning, given in its doc comment.
//! Left out on purpose: any policy, any I/O, any default. A helper that two rooms happen to need does not
//! belong here.

mod batch;
mod names;
mod network;
mod ranges;

pub use batch::{
    BatchHeader, BatchId, ChunkIdentity, Encoding, Fingerprint, HeaderError, LogId, MinuteTally,
};
pub use names::{Epoch, GroupId, Incarnation, NameError, NodeId, PartId, Seq};
pub use network::{Network, NetworkError};
pub use ranges::SeqRanges;
