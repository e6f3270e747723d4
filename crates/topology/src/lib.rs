//! Reads the two configuration files, the topology (one per cluster) and the node file (one per process), into
//! a checked model.
//!
//! Text goes in, a model or a list of problems comes out. Start at [`parse_topology`] and [`parse_node`]; every
//! key, its unit and its default are in `topology/README.md`.
//! Left out on purpose: reading files, resolving host names, compiling route patterns (the routing room does
//! it), and anything a store alone can judge, such as whether a Kafka property exists.

mod model;
mod node;
mod problem;
mod read;
mod size;
mod store;
mod topology;

pub use model::{
    Affinity, Codec, EdgeNode, FileStore, Format, Group, HdfsStore, KafkaKey, KafkaStore, Overflow,
    PartLimits, Route, SinkNode, Stage, StoreConfig, Topology,
};
pub use node::{Listen, Log, LogFormat, NodeConfig, Role, Tls, parse_node};
pub use problem::{Problem, Severity};
pub use size::{ByteSize, SizeError};
pub use topology::parse_topology;
