//! What the whole-cluster tests stand on: scratch directories, processes, real stores, real senders, and eyes.
//!
//! A test owns everything that it touches ([`Scratch`], [`ports`]), starts real programs ([`Process`],
//! [`KafkaCluster`], [`HdfsCluster`], [`EtcdCluster`], [`Client`]), waits for a state and never for a moment ([`until`]), and looks
//! at programs from outside ([`metric`], [`connections`], [`rss`]). Start reading at [`Scratch::run`].
//! A [`Site`] is a cluster's files, each [`Node`] of it a process. Faults of network and disk need a world of their own
//! ([`in_own_world`]), with a [`Network`] of hosts and [`Disk`]s that can fail; a whole [`Cluster`] runs on it, under a
//! load ([`Sending`]).
//! Left out on purpose: the harness knows nothing of Weir but its files, its command line and its ready line, and never
//! reads a store back; `weir-loadgen verify` is the witness for that ([`Verdict`]).

mod chance;
mod client;
mod cluster;
mod disk;
mod etcd;
mod hdfs;
mod jvm;
mod kafka;
mod load;
mod network;
mod observe;
mod paths;
mod port;
mod process;
mod raw;
mod scratch;
mod site;
mod wait;
mod world;

pub use chance::{chance, first_seed, number, rounds};
pub use client::{Client, Load, Mode};
pub use cluster::{Cluster, HostedNode, Plan};
pub use disk::Disk;
pub use etcd::EtcdCluster;
pub use hdfs::HdfsCluster;
pub use kafka::KafkaCluster;
pub use load::{AckMillis, Sending, Sent, Verdict, minute_directories};
pub use network::{Fault, Host, Network};
pub use observe::{Metrics, connections, metric, page, peak_rss, rss, scrape, stored_events};
pub use paths::{loadgen_binary, repository, target, weir_binary};
pub use port::{port, ports};
pub use process::{Process, Ready};
pub use raw::RawSender;
pub use rustix::process::Signal;
pub use scratch::Scratch;
pub use site::{Node, Site, run};
pub use wait::until;
pub use world::{in_own_world, say};
