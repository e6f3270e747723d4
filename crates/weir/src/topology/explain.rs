//! Where a tag goes.

use std::path::Path;
use std::process::ExitCode;

use weir_topology::{Affinity, Group, Topology};

use super::{edge_racks, order, ring, router, store};
use crate::configuration;

/// Says where a tag goes.
pub(crate) fn explain(file: &Path, tag: &str) -> anyhow::Result<ExitCode> {
    let topology = configuration::topology(file)?;
    for listener in &topology.forward.listeners {
        let settings = &listener.settings;
        let came = settings.tag.as_deref().unwrap_or(tag);
        let becomes = match &settings.add_tag_prefix {
            Some(prefix) => format!("{prefix}.{came}"),
            None => came.to_owned(),
        };
        if becomes != tag {
            println!("from senders at listener {} it becomes {becomes}, which is another tag", listener.name);
        }
    }
    let router = router(&topology)?;
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
    let names = |rack: &str| {
        let order = order(&ring(group, rack), tag);
        order.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    match group.affinity {
        Affinity::None => println!("    node, then failover order: {}", names("")),
        Affinity::Rack => {
            for rack in edge_racks(topology) {
                println!("    from rack {rack}: {}", names(rack));
            }
        }
    }
}
