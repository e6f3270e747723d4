//! Where a tag goes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use weir_topology::{Ack, Affinity, Group, Listener, Route, Topology};

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
            acks(&topology.forward.listeners, route, group).iter().for_each(|line| println!("    {line}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn explain_group(topology: &Topology, group: &Group, tag: &str) {
    println!("  group {} -> {}", group.id, store(group));
    group.transforms.iter().for_each(|step| println!("    {step}"));
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

/// When senders are told that their events are kept: a line for all listeners, or where they differ one for each case.
fn acks(listeners: &[Listener], route: &Route, group: &Group) -> Vec<String> {
    let mut cases: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for listener in listeners {
        let said_by = match (route.ack, listener.settings.ack) {
            (Some(_), _) => "the route",
            (None, Some(_)) => "the listener",
            (None, None) => "the group",
        };
        let level = Ack::of(route.ack, listener.settings.ack, group.ack);
        cases.entry(format!("ack {level}, as {said_by} has it")).or_default().push(&listener.name);
    }
    if cases.len() == 1 {
        return cases.into_keys().collect();
    }
    cases.iter().map(|(case, names)| format!("{case}, at listener {}", names.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn who_says_when_senders_are_told() {
        let mut topology = example("local.toml");
        let (mut route, mut group) = (topology.routes[0].clone(), topology.groups[0].clone());
        let listeners = &mut topology.forward.listeners;
        listeners.push(Listener { name: "outside".to_owned(), ..listeners[0].clone() });
        assert_eq!(acks(listeners, &route, &group), ["ack edge, as the group has it"]);
        group.ack = Ack::Store;
        listeners[0].settings.ack = Some(Ack::Edge);
        let both = [
            "ack edge, as the listener has it, at listener forward",
            "ack store, as the group has it, at listener outside",
        ];
        assert_eq!(acks(listeners, &route, &group), both);
        route.ack = Some(Ack::Store);
        assert_eq!(acks(listeners, &route, &group), ["ack store, as the route has it"]);
    }
}
