//! Who gets a revision when.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_model::{GroupId, NodeId};
use weir_topology::Topology;

/// Nodes that get a revision together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wave {
    /// For people: "canary", "25 %", "all", or a rack.
    pub label: String,
    /// Who; never empty.
    #[schema(value_type = Vec<String>)]
    pub nodes: Vec<NodeId>,
}

/// In which order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum By {
    /// A canary, then shares of the fleet, then all.
    Share {
        /// The canary; if empty, one edge and one sink of each group.
        #[serde(default)]
        #[schema(value_type = Vec<String>)]
        canary: Vec<NodeId>,
        /// Percent of the edges and of each group's sinks, rising; the last wave is always all.
        #[serde(default = "shares")]
        shares: Vec<u8>,
    },
    /// One rack after the other, by name.
    Rack,
}

fn shares() -> Vec<u8> {
    vec![25]
}

impl Default for By {
    fn default() -> Self {
        Self::Share { canary: Vec::new(), shares: shares() }
    }
}

/// What a node does in the topology.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An edge.
    Edge,
    /// A sink of this group.
    Sink(GroupId),
}

/// A node of the topology that is rolled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: NodeId,
    /// What it does.
    pub place: Place,
    /// Where it stands.
    pub rack: String,
}

/// The nodes of a topology.
#[must_use]
pub fn members(topology: &Topology) -> Vec<Member> {
    let edges = topology.edges.iter().map(|edge| Member {
        name: edge.name.clone(),
        place: Place::Edge,
        rack: edge.rack.clone(),
    });
    let sinks = topology.groups.iter().flat_map(|group| {
        group.sinks.iter().map(|sink| Member {
            name: sink.name.clone(),
            place: Place::Sink(group.id.clone()),
            rack: sink.rack.clone(),
        })
    });
    edges.chain(sinks).collect()
}

/// Why there are no waves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaveError {
    /// The topology has no node.
    #[error("the topology has no node to roll out to")]
    Nobody,
    /// A canary is not in the topology.
    #[error("{0} is no node of this topology")]
    Stranger(NodeId),
    /// Shares must rise from above 0 to below 100.
    #[error("shares are percents that rise, each from 1 to 99")]
    Shares,
}

/// Splits `members` into waves. Those in `connected` go before others of their place, so that a canary is one that
/// can answer.
///
/// # Errors
/// [`WaveError`].
pub fn waves(members: &[Member], by: &By, connected: &BTreeSet<NodeId>) -> Result<Vec<Wave>, WaveError> {
    if members.is_empty() {
        return Err(WaveError::Nobody);
    }
    match by {
        By::Rack => Ok(by_rack(members)),
        By::Share { canary, shares } => {
            let rising = shares.windows(2).all(|pair| pair[0] < pair[1]);
            if !rising || shares.iter().any(|share| *share == 0 || *share > 99) {
                return Err(WaveError::Shares);
            }
            if let Some(stranger) =
                canary.iter().find(|name| members.iter().all(|member| member.name != **name))
            {
                return Err(WaveError::Stranger(stranger.clone()));
            }
            Ok(by_share(members, canary, shares, connected))
        }
    }
}

fn by_rack(members: &[Member]) -> Vec<Wave> {
    let mut racks: BTreeMap<&str, Vec<NodeId>> = BTreeMap::new();
    for member in members {
        racks.entry(&member.rack).or_default().push(member.name.clone());
    }
    racks.into_iter().map(|(rack, nodes)| Wave { label: format!("rack {rack}"), nodes }).collect()
}

fn by_share(members: &[Member], canary: &[NodeId], shares: &[u8], connected: &BTreeSet<NodeId>) -> Vec<Wave> {
    // Named canaries first, then who is connected; the order of the topology otherwise.
    let mut places: BTreeMap<&Place, Vec<&NodeId>> = BTreeMap::new();
    for member in members {
        places.entry(&member.place).or_default().push(&member.name);
    }
    let named: BTreeSet<&NodeId> = canary.iter().collect();
    for nodes in places.values_mut() {
        nodes.sort_by_key(|node| (!named.contains(node), !connected.contains(*node)));
    }
    // How many of a place have the revision after each wave.
    let first = |nodes: &[&NodeId]| {
        if named.is_empty() { 1 } else { nodes.iter().filter(|node| named.contains(*node)).count() }
    };
    let share = |nodes: &[&NodeId], percent: u8| (nodes.len() * usize::from(percent)).div_ceil(100);
    let labels = shares.iter().map(|share| (format!("{share} %"), Some(*share)));
    let steps =
        std::iter::once(("canary".to_owned(), None)).chain(labels).chain([("all".to_owned(), Some(100))]);

    let mut taken: BTreeMap<&Place, usize> = BTreeMap::new();
    let mut waves = Vec::new();
    for (label, percent) in steps {
        let mut wave = Wave { label, nodes: Vec::new() };
        for (place, nodes) in &places {
            let taken = taken.entry(place).or_default();
            let until = percent.map_or_else(|| first(nodes), |percent| share(nodes, percent)).max(*taken);
            wave.nodes.extend(nodes[*taken..until].iter().map(|node| (*node).clone()));
            *taken = until;
        }
        if !wave.nodes.is_empty() {
            waves.push(wave);
        }
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn fleet(edges: usize, sinks: usize) -> Vec<Member> {
        let member =
            |name: String, place, n| Member { name: node(&name), place, rack: format!("r{}", n % 3) };
        let group = |n: usize| Place::Sink(GroupId::new(["app", "sys"][n % 2]).unwrap());
        let edges = (0..edges).map(|n| member(format!("edge-{n}"), Place::Edge, n));
        edges.chain((0..sinks).map(|n| member(format!("sink-{n}"), group(n), n))).collect()
    }

    fn sizes(waves: &[Wave]) -> Vec<(&str, usize)> {
        waves.iter().map(|wave| (wave.label.as_str(), wave.nodes.len())).collect()
    }

    #[test]
    fn waves_are_as_asked() {
        let share = |canary: &[&str], shares: &[u8]| By::Share {
            canary: canary.iter().map(|name| node(name)).collect(),
            shares: shares.to_vec(),
        };
        type Case<'a> = (usize, usize, By, &'a [(&'a str, usize)]);
        let table: &[Case<'_>] = &[
            (20, 8, By::default(), &[("canary", 3), ("25 %", 4), ("all", 21)]),
            (1, 0, By::default(), &[("canary", 1)]),
            (2, 2, By::default(), &[("canary", 3), ("all", 1)]),
            (20, 8, share(&["edge-3"], &[]), &[("canary", 1), ("all", 27)]),
            (100, 0, share(&[], &[10, 50]), &[("canary", 1), ("10 %", 9), ("50 %", 40), ("all", 50)]),
            (6, 2, By::Rack, &[("rack r0", 3), ("rack r1", 3), ("rack r2", 2)]),
        ];
        for (edges, sinks, by, expected) in table {
            let fleet = fleet(*edges, *sinks);
            let waves = waves(&fleet, by, &BTreeSet::new()).unwrap();
            assert_eq!(sizes(&waves), *expected, "{by:?}");
            let all: BTreeSet<_> = waves.iter().flat_map(|wave| &wave.nodes).collect();
            assert_eq!(all.len(), fleet.len(), "everyone once: {by:?}");
        }
    }

    #[test]
    fn a_canary_is_one_that_can_answer() {
        let connected = BTreeSet::from([node("edge-7"), node("sink-3")]);
        let canary = &waves(&fleet(10, 4), &By::default(), &connected).unwrap()[0];
        assert_eq!(canary.nodes, [node("edge-7"), node("sink-0"), node("sink-3")]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let share = |canary: &[&str], shares: &[u8]| By::Share {
            canary: canary.iter().map(|name| node(name)).collect(),
            shares: shares.to_vec(),
        };
        let refused = |members: &[Member], by| waves(members, &by, &BTreeSet::new()).unwrap_err();
        assert_eq!(refused(&[], By::Rack), WaveError::Nobody);
        assert_eq!(refused(&fleet(1, 0), share(&["x"], &[])), WaveError::Stranger(node("x")));
        for shares in [&[0u8][..], &[100], &[50, 50], &[50, 20]] {
            assert_eq!(refused(&fleet(1, 0), share(&[], shares)), WaveError::Shares);
        }
    }
}
