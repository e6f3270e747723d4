//! The conversation between an edge and the sinks of one group, as two machines without I/O or clock.
//!
//! [`Dispatcher`] is the edge's side: it owns the batches of one group log until a store has them, chooses a
//! sink for each, promises sets of them to parts, and settles what a dead sink left in doubt. [`Collector`] is
//! the sink's side: it gathers batches of many edges, cuts parts, asks for promises, has the store commit, and
//! tells the edges.
//!
//! The rules, checked by the seeded simulation beside this crate (`tests/simulation.rs`):
//!
//! - **T1 commit needs promise**: a sink commits a part only after every edge in it has promised its batches.
//! - **T2 promise is durable**: an edge answers only after the promise is in its journal.
//! - **T3 one promise**: a batch is promised to at most one part at a time.
//! - **T4 a part id is one set**: a part whose preparation failed is never committed; the rest goes under a new id.
//! - **T5 doubt is settled in the store**: a promised batch is given out again only after its part was resolved.
//! - **T6 epochs go forward**: a session number is never used twice, across restarts of the edge too.
//! - **T7 a chunk is one**: of the batches that hold the same sender's chunk one is committed, the others are repeats.
//!
//! Time comes in as a [`Duration`](std::time::Duration) since any fixed start. What must be done comes out of `poll_output`; the driver
//! does it and reports back. Left out on purpose: QUIC, disks, stores, what a record holds.

mod collector;
mod dispatcher;
mod frame;
mod journal;
mod recent;
mod record;
mod twins;
mod window;

pub use collector::{
    Arrival, Collector, CollectorConfig, CollectorOutput, CollectorStatus, MakeToken, StageKey,
};
pub use dispatcher::{
    Dispatcher, DispatcherConfig, DispatcherOutput, DispatcherStatus, Placement, SinkStatus,
};
pub use frame::{BatchHead, FrameError, Resolution, ToEdge, ToSink, WIRE_VERSION};
pub use journal::{JournalRecord, Recovered};
pub use recent::{Claim, Recent, RecentBounds, RecentRecord};
pub use record::RecordError;

/// A place within a store that a batch's events fall into; named by the store, opaque here.
pub type Partition = std::sync::Arc<str>;
