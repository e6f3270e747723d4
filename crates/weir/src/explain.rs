//! `weir topology show` and `explain`: what a topology means, in words.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use weir_model::NodeId;
use weir_routing::{Member, Ring, Router};
use weir_topology::{Affinity, Group, StoreConfig, Topology};

use crate::configuration;

/// Draws racks, edges, groups, stores and routes.
pub(crate) fn show(file: &Path) -> anyhow::Result<ExitCode> {
    let topology = configuration::topology(file)?;
    println!("cluster {}", topology.cluster);
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
    for (rack, nodes) in racks {
        println!("\nrack {rack}");
        nodes.iter().for_each(|node| println!("  {node}"));
    }
    println!("\nroutes, first match wins");
    for route in &topology.routes {
        let groups: Vec<_> = route.groups.iter().map(|group| group.as_str()).collect();
        println!("  {:<32} -> {}", route.patterns, groups.join(", "));
    }
    println!("\ngroups");
    for group in &topology.groups {
        println!("  {:<16} {} sinks -> {}", group.id.as_str(), group.sinks.len(), store(group));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says where a tag goes.
pub(crate) fn explain(file: &Path, tag: &str) -> anyhow::Result<ExitCode> {
    let topology = configuration::topology(file)?;
    let routes = topology.routes.iter().map(|route| (route.patterns.clone(), route.groups.clone()));
    let router = Router::new(routes.collect())?;
    let Some(index) = router.route(tag) else {
        println!("tag {tag}: no route matches; its events are dropped and counted");
        return Ok(ExitCode::FAILURE);
    };
    let route = &topology.routes[index];
    println!("tag {tag}");
    println!("  route {} matches: {}", index + 1, route.patterns);
    for id in router.groups(index) {
        if let Some(group) = topology.group(id) {
            explain_group(&topology, group, tag);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn explain_group(topology: &Topology, group: &Group, tag: &str) {
    println!("  group {} -> {}", group.id, store(group));
    let members: Vec<Member> = group
        .sinks
        .iter()
        .map(|sink| Member { node: sink.name.clone(), weight: sink.weight, rack: sink.rack.clone() })
        .collect();
    if group.affinity == Affinity::None {
        let order = order(&Ring::new(&members, None), tag);
        println!("    node, then failover order: {order}");
        return;
    }
    let mut racks: Vec<&str> = topology.edges.iter().map(|edge| edge.rack.as_str()).collect();
    racks.sort_unstable();
    racks.dedup();
    for rack in racks {
        let order = order(&Ring::new(&members, Some(rack)), tag);
        println!("    from rack {rack}: {order}");
    }
}

// The owner, then who takes over as each before it is away: just what an edge does.
fn order(ring: &Ring, tag: &str) -> String {
    let mut names: Vec<NodeId> = Vec::new();
    while let Some(next) = ring.owner(tag, &|node| !names.contains(node)) {
        names.push(next);
    }
    names.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ")
}

fn store(group: &Group) -> String {
    match &group.store {
        StoreConfig::File(store) => format!("file {}", store.path.display()),
        StoreConfig::Kafka(store) => format!("kafka {} topic {}", store.brokers, store.topic),
        StoreConfig::Hdfs(store) => format!("hdfs {}{}", store.url, store.path),
        StoreConfig::Forward(store) => {
            let servers: Vec<&str> = store.servers.iter().map(|server| server.address.as_str()).collect();
            format!("forward {}", servers.join(" "))
        }
    }
}
