//! A topology as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use weir_topology::{ListenAt, Listener, Topology};

use super::store;

/// Racks, edges, listeners, groups, stores and routes.
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
    out += "\nlisteners\n";
    for listener in &topology.forward.listeners {
        let edges: Vec<_> = listener.edges.iter().map(|edge| edge.as_str()).collect();
        let edges = if edges.is_empty() { "all edges".to_owned() } else { edges.join(", ") };
        let _ = writeln!(out, "  {:<16} {edges}: {}", listener.name, terms(listener));
    }
    out += "\nroutes, first match wins\n";
    for route in &topology.routes {
        let groups: Vec<_> = route.groups.iter().map(|group| group.as_str()).collect();
        let ack = route.ack.map(|ack| format!("; ack {ack}")).unwrap_or_default();
        let _ = writeln!(out, "  {:<32} -> {}{ack}", route.patterns, groups.join(", "));
    }
    out += "\ngroups\n";
    for group in &topology.groups {
        let (id, sinks) = (group.id.as_str(), group.sinks.len());
        let _ = writeln!(out, "  {id:<16} {sinks} sinks -> {}; ack {}", store(group), group.ack);
        for step in &group.transforms {
            let _ = writeln!(out, "  {:<16} {step}", "");
        }
    }
    out
}

/// Where a listener is, and what a sender meets there.
pub(super) fn terms(listener: &Listener) -> String {
    let settings = &listener.settings;
    let mut terms = vec![match &listener.at {
        ListenAt::NodeFile => "`listen.forward` of the node file".to_owned(),
        ListenAt::Tcp(address) => address.clone(),
        ListenAt::Unix { path, .. } => format!("unix:{}", path.display()),
    }];
    let mut add = |there: bool, term: &str| terms.extend(there.then(|| term.to_owned()));
    let mutual = settings.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    add(settings.tls.is_some() && !mutual, "TLS");
    add(mutual, "TLS with a certificate of the sender");
    let users = settings.security.as_ref().is_some_and(|security| !security.users.is_empty());
    add(settings.security.is_some() && !users, "shared key");
    add(users, "shared key and user");
    add(!settings.proxy_protocol.is_empty(), "PROXY header from balancers");
    add(!settings.allow.is_empty() || !settings.deny.is_empty(), "some addresses only");
    if let Some(ack) = settings.ack {
        terms.push(format!("ack {ack}"));
    }
    if let Some(tag) = &settings.tag {
        terms.push(format!("every tag becomes {tag}"));
    }
    if let Some(prefix) = &settings.add_tag_prefix {
        terms.push(format!("{prefix}. before each tag"));
    }
    let limits: Vec<_> = settings.limits.iter().map(|limit| limit.name.as_str()).collect();
    if !limits.is_empty() {
        terms.push(format!("limits {}", limits.join(", ")));
    }
    terms.join("; ")
}

#[cfg(test)]
mod tests {
    use weir_topology::parse_topology;

    #[test]
    fn listeners_say_what_a_sender_meets() {
        let text = r#"
            version = 1
            cluster.name = "c"
            edge = [{ name = "e1", rack = "r" }, { name = "e2", rack = "r" }]
            route = [{ match = "**", groups = ["g"], ack = "edge" }]
            [[group]]
            id = "g"
            sink = [{ name = "s", rack = "r", address = "h:1" }]
            store = { kind = "file", path = "out" }
            transform = [{ drop = { field = "level", match = "debug" } }, { add = { dc = "${tag_parts[0]}" } }]
            [[listener]]
            name = "inside"
            [[listener]]
            name = "outside"
            edges = ["e2"]
            address = "0.0.0.0:24225"
            ack = "store"
            add_tag_prefix = "dmz"
            tls = { cert = "a", key = "b", client_ca = "c" }
            security = { shared_key = "hush" }
            limit = [{ name = "flood", events = 5, action = "drop" }]
        "#;
        let shown = super::text(&parse_topology(text, "t").unwrap().0);
        for line in [
            "  inside           all edges: `listen.forward` of the node file\n",
            "  outside          e2: 0.0.0.0:24225; TLS with a certificate of the sender; shared key; \
             ack store; dmz. before each tag; limits flood\n",
            " -> g; ack edge\n",
            "  g                1 sinks -> file out; ack edge\n                   drop level like /debug/\n                   add dc = \"${tag_parts[0]}\"\n",
        ] {
            assert!(shown.contains(line), "{shown}");
        }
        assert!(!shown.contains("hush"));
    }
}
