//! What one revision changes against another: in the text, and in what it means.

use std::collections::BTreeMap;

use serde::Serialize;
use similar::TextDiff;
use utoipa::ToSchema;
use weir_topology::{Group, Topology};

/// Longest difference of texts that is shown, in bytes.
const TEXT_BYTES_MAX: usize = 256 << 10;

/// The difference of two revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Diff {
    /// The earlier one; 0 for nothing.
    pub from: u64,
    /// The later one.
    pub to: u64,
    /// What changes for the cluster, a sentence each; empty when only words around it changed.
    pub meaning: Vec<String>,
    /// The difference of the texts, unified.
    pub text: String,
}

/// The difference of two texts, with `from` and `to` as their names.
#[must_use]
pub fn text(from: &str, to: &str, from_name: &str, to_name: &str) -> String {
    let diff = TextDiff::from_lines(from, to);
    let mut words = diff.unified_diff().context_radius(3).header(from_name, to_name).to_string();
    if words.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|end| words.is_char_boundary(*end)).unwrap_or(0);
        words.truncate(end);
        words.push_str("\n... and more\n");
    }
    words
}

/// What changes for the cluster, a sentence each.
#[must_use]
pub fn meaning(from: &Topology, to: &Topology) -> Vec<String> {
    let mut words = Vec::new();
    if from.cluster != to.cluster {
        words.push(format!("the cluster is called {} instead of {}", to.cluster, from.cluster));
    }
    let edges =
        |topology: &Topology| topology.edges.iter().map(|it| (it.name.to_string(), it.clone())).collect();
    compare("edge", &edges(from), &edges(to), &mut words, |old, new| {
        (old.rack != new.rack)
            .then(|| format!("rack {} instead of {}", new.rack, old.rack))
            .into_iter()
            .collect()
    });
    let groups =
        |topology: &Topology| topology.groups.iter().map(|it| (it.id.to_string(), it.clone())).collect();
    compare("group", &groups(from), &groups(to), &mut words, group);
    if from.routes != to.routes {
        words.extend(routes(from, to));
    }
    if words.is_empty() && from != to {
        words.push("settings of the cluster change".to_owned());
    }
    words
}

fn compare<T: PartialEq>(
    what: &str,
    from: &BTreeMap<String, T>,
    to: &BTreeMap<String, T>,
    words: &mut Vec<String>,
    details: impl Fn(&T, &T) -> Vec<String>,
) {
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        words.push(format!("{what} {name} goes"));
    }
    for (name, new) in to {
        match from.get(name) {
            None => words.push(format!("{what} {name} comes")),
            Some(old) if old != new => words.push(format!("{what} {name}: {}", details(old, new).join(", "))),
            Some(_) => {}
        }
    }
}

fn group(old: &Group, new: &Group) -> Vec<String> {
    let mut words = Vec::new();
    let sinks = |group: &Group| group.sinks.iter().map(|it| (it.name.to_string(), it.clone())).collect();
    compare("sink", &sinks(old), &sinks(new), &mut words, |old, new| {
        let changed = [
            ("rack", old.rack != new.rack),
            ("address", old.address != new.address),
            ("weight", old.weight != new.weight),
        ];
        changed.iter().filter(|(_, changed)| *changed).map(|(what, _)| format!("other {what}")).collect()
    });
    let changed = [
        ("quota", old.quota != new.quota),
        ("overflow", old.overflow != new.overflow),
        ("affinity", old.affinity != new.affinity),
        ("stage", old.stage != new.stage),
        ("limits of parts", old.part != new.part),
        ("store", old.store != new.store),
    ];
    words.extend(changed.iter().filter(|(_, changed)| *changed).map(|(what, _)| format!("other {what}")));
    if words.is_empty() {
        words.push("other settings".to_owned());
    }
    words
}

fn routes(from: &Topology, to: &Topology) -> Vec<String> {
    let shown = |topology: &Topology| -> Vec<String> {
        let route = |route: &weir_topology::Route| {
            let groups: Vec<_> = route.groups.iter().map(ToString::to_string).collect();
            format!("route {:?} to {}", route.patterns, groups.join(", "))
        };
        topology.routes.iter().map(route).collect()
    };
    let (old, new) = (shown(from), shown(to));
    let mut words: Vec<String> =
        old.iter().filter(|route| !new.contains(*route)).map(|route| format!("{route} goes")).collect();
    words.extend(new.iter().filter(|route| !old.contains(*route)).map(|route| format!("{route} comes")));
    if words.is_empty() {
        words.push("routes have another order or other names".to_owned());
    }
    words
}

#[cfg(test)]
mod tests {
    use weir_topology::parse_topology;

    use super::*;

    const TEXT: &str = include_str!("../../../topology/local.toml");

    fn parsed(text: &str) -> Topology {
        parse_topology(text, "t").unwrap().0
    }

    #[test]
    fn changes_are_named() {
        let table: &[(&str, &str, &[&str])] = &[
            ("# ", "#  ", &[]),
            ("name = \"edge-2\"", "name = \"edge-3\"", &["edge edge-2 goes", "edge edge-3 comes"]),
            ("id = \"sys\"", "id = \"sys\"\nquota = \"3GiB\"", &["group sys: other quota"]),
        ];
        for (old, new, expected) in table {
            let changed = TEXT.replacen(old, new, 1);
            assert_ne!(changed, TEXT, "{old}");
            assert_eq!(meaning(&parsed(TEXT), &parsed(&changed)), *expected, "{new}");
        }
        let words = text("a\nb\n", "a\nc\n", "revision 1", "revision 2");
        assert!(words.contains("--- revision 1") && words.contains("-b\n+c\n"), "{words}");
    }
}
