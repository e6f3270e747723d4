//! What a change of the topology moves.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use weir_model::GroupId;
use weir_topology::{Affinity, EdgeNode, Group, Listener, Overflow, Topology};

use super::show::terms;
use super::{ring, router, store, transforms};

/// The difference of two topologies.
#[derive(Debug, Serialize)]
pub(super) struct Diff {
    edges: Vec<String>,
    listeners: Vec<String>,
    groups: Vec<String>,
    routes: Vec<String>,
    tags: Tags,
}

/// What became of a sample of tags.
#[derive(Debug, Serialize)]
struct Tags {
    sampled: usize,
    /// Those that go to other groups than before.
    other_groups: usize,
    /// For each group, what its tags do that stay in it.
    within: Vec<Within>,
}

#[derive(Debug, Serialize)]
struct Within {
    group: GroupId,
    tags: usize,
    /// Share of them that another node gets, over all edges.
    moved: f64,
    /// The least share that any placement would have to move.
    ideal: f64,
}

impl Diff {
    pub(super) fn new(
        old: &Topology,
        new: &Topology,
        tags: &[String],
    ) -> Result<Self, weir_routing::RouterError> {
        Ok(Self {
            edges: changes(&old.edges, &new.edges, |edge| edge.name.to_string(), edge),
            listeners: changes(
                &old.forward.listeners,
                &new.forward.listeners,
                |listener| listener.name.clone(),
                listener,
            ),
            groups: changes(&old.groups, &new.groups, |group| group.id.to_string(), group),
            routes: routes(old, new),
            tags: moved(old, new, tags)?,
        })
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, lines) in [
            ("edges", &self.edges),
            ("listeners", &self.listeners),
            ("groups", &self.groups),
            ("routes", &self.routes),
        ] {
            writeln!(f, "{title}{}", if lines.is_empty() { ": no change" } else { "" })?;
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        let Tags { sampled, other_groups, within } = &self.tags;
        writeln!(f, "of {sampled} tags, {other_groups} go to other groups")?;
        for Within { group, tags, moved, ideal } in within {
            let (moved, ideal) = (moved * 100.0, ideal * 100.0);
            writeln!(
                f,
                "  group {group}: {moved:.1} % of {tags} tags go to another node; ideal {ideal:.1} %"
            )?;
        }
        Ok(())
    }
}

/// Lines for what was added, removed and changed.
fn changes<T>(
    old: &[T],
    new: &[T],
    name: impl Fn(&T) -> String,
    compare: impl Fn(&T, &T) -> Vec<String>,
) -> Vec<String> {
    let before: BTreeMap<String, &T> = old.iter().map(|item| (name(item), item)).collect();
    let after: BTreeMap<String, &T> = new.iter().map(|item| (name(item), item)).collect();
    let removed = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("- {name}"));
    let rest = after.iter().filter_map(|(name, now)| match before.get(name) {
        None => Some(format!("+ {name}")),
        Some(was) => {
            let differences = compare(was, now);
            (!differences.is_empty()).then(|| format!("~ {name}: {}", differences.join("; ")))
        }
    });
    removed.chain(rest).collect()
}

fn change<T: PartialEq + fmt::Display + ?Sized>(what: &str, old: &T, new: &T) -> Option<String> {
    (old != new).then(|| format!("{what} {old} -> {new}"))
}

fn edge(old: &EdgeNode, new: &EdgeNode) -> Vec<String> {
    change("rack", &old.rack, &new.rack).into_iter().collect()
}

fn listener(old: &Listener, new: &Listener) -> Vec<String> {
    let (was, is) = (terms(old), terms(new));
    let other = (old != new && was == is).then(|| "other settings".to_owned());
    (was != is).then(|| format!("{was} -> {is}")).into_iter().chain(other).collect()
}

fn group(old: &Group, new: &Group) -> Vec<String> {
    let affinity = |group: &Group| if group.affinity == Affinity::Rack { "rack" } else { "none" };
    let overflow = |group: &Group| match &group.overflow {
        Overflow::Block => "block".to_owned(),
        Overflow::DropOldest => "drop_oldest".to_owned(),
        Overflow::DropNewest => "drop_newest".to_owned(),
        Overflow::Divert(to) => format!("divert to {to}"),
    };
    let mut lines: Vec<String> = [
        change("quota", &old.quota, &new.quota),
        change("overflow", &overflow(old), &overflow(new)),
        change("affinity", affinity(old), affinity(new)),
        change("transforms", &transforms(old), &transforms(new)),
        change("store", &store(old), &store(new)),
        change("ack", &old.ack, &new.ack),
        (old.stage != new.stage).then(|| "stage".to_owned()),
        (old.part != new.part).then(|| "part".to_owned()),
        (old.store != new.store && store(old) == store(new)).then(|| "settings of the store".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    lines.extend(changes(
        &old.sinks,
        &new.sinks,
        |sink| format!("sink {}", sink.name),
        |old, new| {
            let rack = change("rack", &old.rack, &new.rack);
            let address = change("address", &old.address, &new.address);
            rack.into_iter().chain(address).chain(change("weight", &old.weight, &new.weight)).collect()
        },
    ));
    lines
}

/// Routes have an order and mostly no name: a line for each that is new, gone, or at another place among those that stay.
fn routes(old: &Topology, new: &Topology) -> Vec<String> {
    let worded = |topology: &Topology| -> Vec<String> {
        let line = |route: &weir_topology::Route| {
            let groups: Vec<_> = route.groups.iter().map(|group| group.as_str()).collect();
            let ack = route.ack.map(|ack| format!("; ack {ack}")).unwrap_or_default();
            format!("{} -> {}{ack}", route.patterns, groups.join(", "))
        };
        topology.routes.iter().map(line).collect()
    };
    let (old, new) = (worded(old), worded(new));
    let mut lines: Vec<String> =
        old.iter().filter(|route| !new.contains(route)).map(|route| format!("- {route}")).collect();
    lines.extend(new.iter().filter(|route| !old.contains(route)).map(|route| format!("+ {route}")));
    let kept = |all: &[String], other: &[String]| -> Vec<String> {
        all.iter().filter(|route| other.contains(route)).cloned().collect()
    };
    let (before, after) = (kept(&old, &new), kept(&new, &old));
    if before != after {
        lines.push("~ the order of those that stay".to_owned());
    }
    lines
}

fn moved(old: &Topology, new: &Topology, tags: &[String]) -> Result<Tags, weir_routing::RouterError> {
    let (old_router, new_router) = (router(old)?, router(new)?);
    let mut other_groups = 0;
    let mut stays: BTreeMap<&GroupId, Vec<&str>> = BTreeMap::new();
    for tag in tags {
        let before = old_router.route(tag).map_or(&[][..], |index| old_router.groups(index));
        let after = new_router.route(tag).map_or(&[][..], |index| new_router.groups(index));
        other_groups += usize::from(before != after);
        for group in before.iter().filter(|group| after.contains(group)) {
            stays.entry(group).or_default().push(tag);
        }
    }
    let within = stays.into_iter().filter_map(|(id, tags)| {
        let (was, now) = (old.group(id)?, new.group(id)?);
        let edges: Vec<(&EdgeNode, &EdgeNode)> = new
            .edges
            .iter()
            .map(|edge| (old.edges.iter().find(|old| old.name == edge.name).unwrap_or(edge), edge))
            .collect();
        let (mut moved, mut ideal) = (0.0, 0.0);
        for (before, after) in &edges {
            let (old_ring, new_ring) = (ring(was, &before.rack), ring(now, &after.rack));
            let other = |tag: &&&str| old_ring.owner(tag, &|_| true) != new_ring.owner(tag, &|_| true);
            moved += tags.iter().filter(other).count() as f64 / tags.len() as f64;
            ideal += least(was, &before.rack, now, &after.rack);
        }
        let count = edges.len().max(1) as f64;
        Some(Within { group: id.clone(), tags: tags.len(), moved: moved / count, ideal: ideal / count })
    });
    Ok(Tags { sampled: tags.len(), other_groups, within: within.collect() })
}

/// The share that must move when nodes' shares change: what those gain that gain.
fn least(old: &Group, old_rack: &str, new: &Group, new_rack: &str) -> f64 {
    let (before, after) = (shares(old, old_rack), shares(new, new_rack));
    after.iter().map(|(node, share)| (share - before.get(node).unwrap_or(&0.0)).max(0.0)).sum()
}

/// Each node's share of the tags of an edge in `rack`.
fn shares<'a>(group: &'a Group, rack: &str) -> BTreeMap<&'a str, f64> {
    let near = |sink: &&weir_topology::SinkNode| group.affinity == Affinity::Rack && sink.rack == rack;
    let any_near = group.sinks.iter().any(|sink| near(&sink));
    let mine: Vec<_> = group.sinks.iter().filter(|sink| !any_near || near(sink)).collect();
    let total: f64 = mine.iter().map(|sink| f64::from(sink.weight)).sum();
    mine.iter().map(|sink| (sink.name.as_str(), f64::from(sink.weight) / total)).collect()
}

#[cfg(test)]
mod tests {
    use weir_topology::Ack;

    use super::super::{example, sample};
    use super::*;

    fn diff(change: impl Fn(&mut Topology)) -> Diff {
        let old = example("local.toml");
        let mut new = old.clone();
        change(&mut new);
        Diff::new(&old, &new, &sample::tags(&[&old, &new])).unwrap()
    }

    #[test]
    fn no_change_moves_nothing() {
        let same = diff(|_| {});
        assert!(same.edges.is_empty() && same.groups.is_empty() && same.routes.is_empty());
        assert!(same.listeners.is_empty());
        assert_eq!(same.tags.other_groups, 0);
        assert!(same.tags.within.iter().all(|within| within.moved == 0.0 && within.ideal == 0.0));
    }

    #[test]
    fn a_sink_more_moves_about_its_share() {
        let more = diff(|new| {
            let mut sink = new.groups[0].sinks[0].clone();
            (sink.name, sink.address) = ("app-3".parse().unwrap(), "127.0.0.1:24499".to_owned());
            new.groups[0].sinks.push(sink);
        });
        assert_eq!(more.groups, ["~ app: + sink app-3"]);
        let app = more.tags.within.iter().find(|within| within.group.as_str() == "app").unwrap();
        assert!((app.ideal - 1.0 / 3.0).abs() < 1e-9, "{app:?}");
        assert!((0.25..0.43).contains(&app.moved), "{app:?}");
        assert!(more.to_string().contains("ideal 33.3 %"), "{more}");
    }

    #[test]
    fn every_other_change_has_its_line() {
        let other = diff(|new| {
            new.edges[0].rack = "r9".to_owned();
            new.groups.retain(|group| group.id.as_str() != "sys");
            new.groups[0].sinks[0].weight = 3;
            let field = weir_shape::transform::Field::parse("password").unwrap();
            new.groups[0].transforms.push(weir_shape::transform::Transform::Remove(vec![field]));
            new.routes.retain(|route| !route.patterns.contains("sys"));
            new.routes.reverse();
        });
        assert_eq!(other.edges, ["~ edge-1: rack r1 -> r9"]);
        assert_eq!(
            other.groups,
            ["- sys", "~ app: transforms none -> remove password; ~ sink app-1: weight 1 -> 3"]
        );
        assert_eq!(other.routes, ["- sys.** -> sys", "~ the order of those that stay"]);
        assert!(other.tags.other_groups > 1000, "{:?}", other.tags);
    }

    #[test]
    fn other_acknowledgements_have_their_lines() {
        let other = diff(|new| {
            new.groups[0].ack = Ack::Store;
            new.routes[0].ack = Some(Ack::Edge);
            new.forward.listeners[0].settings.ack = Some(Ack::Store);
            new.forward.listeners[0].settings.heartbeat = false;
        });
        assert_eq!(other.groups, ["~ app: ack edge -> store"]);
        assert_eq!(other.routes, ["- app.** -> app", "+ app.** -> app; ack edge"]);
        let place = "`listen.forward` of the node file";
        assert_eq!(other.listeners, [format!("~ forward: {place} -> {place}; ack store")]);
        let quiet = diff(|new| new.forward.listeners[0].settings.heartbeat = false);
        assert_eq!(quiet.listeners, ["~ forward: other settings"]);
    }
}
