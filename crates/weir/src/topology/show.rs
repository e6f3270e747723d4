//! A topology as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use weir_topology::Topology;

use super::store;

/// Racks, edges, groups, stores and routes.
pub(super) fn text(topology: &Topology) -> String {
    let mut racks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for edge in &topology.edges {
        racks.entry(&edge.rack).or_default().push(format!("edge {}", edge.name));
    }
    for group in &topology.groups {
        for sink in &group.sinks {
            let line = format!("sink {} ({}, group {})", sink.name, sink.address, group.id);
            racks.entry(&sink.rack).or_default().push(line);
        }
    }
    let mut out = format!("cluster {}\n", topology.cluster);
    for (rack, nodes) in racks {
        let _ = write!(out, "\nrack {rack}\n  {}\n", nodes.join("\n  "));
    }
    out += "\nroutes, first match wins\n";
    for route in &topology.routes {
        let groups: Vec<_> = route.groups.iter().map(|group| group.as_str()).collect();
        let _ = writeln!(out, "  {:<32} -> {}", route.patterns, groups.join(", "));
    }
    out += "\ngroups\n";
    for group in &topology.groups {
        let (id, sinks) = (group.id.as_str(), group.sinks.len());
        let _ = writeln!(out, "  {id:<16} {sinks} sinks -> {}", store(group));
    }
    out
}
