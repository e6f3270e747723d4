//! Reads the two configuration files, the topology (one per cluster) and the node file (one per process), into
//! a checked model.
//!
//! Text goes in, a model or a list of problems comes out. Start at [`parse_topology`] and [`parse_node`]; every
//! key, its unit and its default are in `topology/README.md`.
//! Route patterns and partition templates are judged by the rooms that use them (`routing`, `shape`), here, because
//! here their place in the file is known.
//! Left out on purpose: reading files (but for secrets, when they are asked for), resolving host names, and anything a store alone can judge, such as
//! whether a Kafka property exists.

mod controller;
mod forward;
mod model;
mod node;
mod problem;
mod read;
mod revision;
mod routes;
mod schema;
mod secret;
mod service;
mod size;
mod store;
mod topology;
mod trace;
mod transform;

pub use controller::{ApiTls, ControllerConfig, EtcdConfig, StateConfig, is_controller, parse_controller};
pub use forward::{
    Forward, ForwardClient, ForwardSecurity, ForwardSettings, ForwardTls, ForwardUser, LimitAction, ListenAt,
    Listener, Per, Rate, RateLimit,
};
pub use model::{
    Ack, Affinity, Codec, EdgeNode, FileStore, Format, ForwardServer, ForwardStore, ForwardStoreSecurity,
    ForwardStoreTls, Group, HdfsStore, KafkaKey, KafkaStore, Options, Overflow, PartLimits, Repeats, Route,
    SinkNode, Stage, StoreConfig, Topology,
};
pub use node::{ControllerAddress, Listen, Log, LogFormat, NodeConfig, Role, Tls, parse_node};
pub use problem::{Problem, Severity};
pub use revision::revision;
pub use schema::{node_schema, topology_schema};
pub use secret::{Secret, SecretError};
pub use size::{ByteSize, SizeError};
pub use topology::parse_topology;
