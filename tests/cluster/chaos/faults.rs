//! What can go wrong in a round, and how it is drawn.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::bench::{BROKERS, DATA_NODES, EDGES, SINKS, Stores};

/// The load alone takes as long.
pub(crate) const LOAD: Duration = Duration::from_secs(6);

/// One fault: what, from when, for how long.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    pub(crate) what: What,
}

/// The kinds of fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// SIGKILL; started again at the end.
    Kill(String),
    /// SIGSTOP; SIGCONT at the end.
    Freeze(String),
    /// SIGKILL of a sink that does not come back: only when the next round is over.
    Away(String),
    /// SIGKILL of a process of a store.
    KillStore(Part),
    /// SIGSTOP of a process of a store: that store hangs, or a part of it.
    FreezeStore(Part),
    /// The first hears nothing from the second; both ways if told so.
    Partition(String, Peer, bool),
    /// A host loses so many packets in a hundred that come to it.
    Loss(String, u8),
    /// The edge's disk is full to the last byte.
    FullDisk(String),
}

/// A process of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Broker(usize),
    /// Only for freezing: the whole store hangs.
    AllBrokers,
    NameNode,
    DataNode(usize),
}

/// The other side of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    Node(String),
    /// The stores, for a sink; the senders, for an edge.
    Home,
}

/// One to three faults that do not hit the same thing twice.
pub(crate) fn draw(chance: &mut SmallRng, stores: Stores) -> Vec<Planned> {
    let wanted = chance.random_range(1..=3);
    let mut plan: Vec<Planned> = Vec::new();
    while plan.len() < wanted {
        let what = draw_one(chance, stores);
        let from = Duration::from_millis(chance.random_range(300..3500));
        // Around the bounds of the link (5 s until a peer is dead) and of failover (2 s and 5 s) things happen.
        let lasts = Duration::from_millis(chance.random_range(200..9000));
        if plan.iter().all(|other| other.what.victim() != what.victim()) {
            plan.push(Planned { from, until: from + lasts, what });
        }
    }
    plan.sort_by_key(|planned| planned.from);
    plan
}

fn draw_one(chance: &mut SmallRng, stores: Stores) -> What {
    let edge = format!("edge-{}", chance.random_range(1..=EDGES));
    let groups = stores.groups();
    let group = groups.choose(chance).copied().unwrap_or_default();
    let sink = format!("{group}-{}", chance.random_range(1..=SINKS));
    let node = if chance.random_bool(0.4) { edge.clone() } else { sink.clone() };
    let both_ways = chance.random_bool(0.5);
    match chance.random_range(0..14) {
        0 | 1 => What::Kill(node),
        2 | 3 => What::Freeze(node),
        4 => What::Away(sink),
        5 => What::Partition(edge, Peer::Node(sink), both_ways),
        6 => What::Partition(sink, Peer::Node(edge), both_ways),
        7 if group != "files" => What::Partition(sink, Peer::Home, both_ways),
        8 => What::Partition(edge, Peer::Home, both_ways),
        9 => What::Loss(node, chance.random_range(1..=20)),
        10 => What::FullDisk(edge),
        11..=13 => match group {
            "kafka" => match chance.random_range(0..4) {
                0 | 1 => What::KillStore(Part::Broker(chance.random_range(0..BROKERS))),
                2 => What::FreezeStore(Part::Broker(chance.random_range(0..BROKERS))),
                _ => What::FreezeStore(Part::AllBrokers),
            },
            "hdfs" => match chance.random_range(0..4) {
                0 => What::KillStore(Part::NameNode),
                1 => What::FreezeStore(Part::NameNode),
                2 => What::KillStore(Part::DataNode(chance.random_range(0..DATA_NODES))),
                _ => What::FreezeStore(Part::DataNode(chance.random_range(0..DATA_NODES))),
            },
            _ => What::Kill(sink),
        },
        _ => What::Freeze(sink),
    }
}

impl What {
    /// What two faults of one round must not share. A store is one victim: some of its parts need others to come back.
    fn victim(&self) -> &str {
        match self {
            What::Kill(node) | What::Freeze(node) | What::Away(node) => node,
            What::KillStore(Part::Broker(_) | Part::AllBrokers)
            | What::FreezeStore(Part::Broker(_) | Part::AllBrokers) => "the brokers",
            What::KillStore(_) | What::FreezeStore(_) => "the file system",
            What::Partition(..) | What::Loss(..) => "the network",
            What::FullDisk(_) => "the disk",
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Kill(node) => write!(out, "{node} killed")?,
            What::Freeze(node) => write!(out, "{node} frozen")?,
            What::Away(node) => {
                return write!(out, "{node} killed at {:.1?} for this round and the next", self.from);
            }
            What::KillStore(part) => write!(out, "{part:?} killed")?,
            What::FreezeStore(part) => write!(out, "{part:?} frozen")?,
            What::Partition(node, peer, both) => {
                let peer = if let Peer::Node(peer) = peer { peer } else { "stores and senders" };
                write!(
                    out,
                    "{node} hears nothing from {peer}{}",
                    if *both { " nor they from it" } else { "" }
                )?;
            }
            What::Loss(node, percent) => write!(out, "{node} loses {percent} %")?,
            What::FullDisk(node) => write!(out, "{node} has a full disk")?,
        }
        write!(out, " {:.1?}-{:.1?}", self.from, self.until)
    }
}
