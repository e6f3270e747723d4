//! Where a tag goes: Fluentd's match patterns pick a route, a consistent-hash ring picks the node of a group.
//!
//! Pure: the same arguments give the same answer in every process, on every machine and after every upgrade.
//! Start reading at [`Router`] and [`Ring`].
//! Left out on purpose: the topology and its files (callers hand in plain lists), the health of nodes (a
//! closure tells), and any I/O.

mod cache;
mod pattern;
mod ring;
mod router;

pub use cache::{CACHED_TAG_BYTES_MAX, RouteCache};
pub use pattern::{PATTERN_BYTES_MAX, Pattern, PatternError};
pub use ring::{Member, RING_VERSION, Ring, WEIGHT_MAX};
pub use router::{Router, RouterError};
