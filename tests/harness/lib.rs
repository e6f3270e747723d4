//! What the whole-cluster tests stand on: scratch directories, processes, real stores, real senders, and eyes.
//!
//! A test owns everything that it touches ([`Scratch`], [`ports`]), starts real programs ([`Process`],
//! [`KafkaCluster`], [`HdfsCluster`], [`Client`]), waits for a state and never for a moment ([`until`]), and looks
//! at programs from outside ([`metric`], [`connections`], [`rss`]). Start reading at [`Scratch::run`].
//! A [`Site`] is a cluster's files, each [`Node`] of it a process.
//! Left out on purpose: the harness knows nothing of Weir but its command line and its ready line, and never
//! reads a store back; `weir-loadgen verify` is the witness for that.

mod client;
mod hdfs;
mod jvm;
mod kafka;
mod observe;
mod paths;
mod port;
mod process;
mod scratch;
mod site;
mod wait;

pub use client::{Client, Load, Mode};
pub use hdfs::HdfsCluster;
pub use kafka::KafkaCluster;
pub use observe::{Metrics, connections, metric, rss, scrape};
pub use paths::{loadgen_binary, repository, target, weir_binary};
pub use port::{port, ports};
pub use process::{Process, Ready};
pub use rustix::process::Signal;
pub use scratch::Scratch;
pub use site::{Node, Site, run};
pub use wait::until;
