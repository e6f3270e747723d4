//! A topology as an Ansible inventory: what `--list` of a dynamic inventory prints.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use weir_topology::{ListenAt, StoreConfig, Topology};

/// Hosts by role (`weir_edges`, `weir_sinks`), rack (`weir_rack_…`) and sink group (`weir_group_…`), and variables of
/// each: `weir_rack`; for edges `weir_listeners`, the TCP addresses that they open, `null` for that of the node file;
/// for sinks `weir_group`, `weir_address`, `ansible_host` and, with a file store,
/// `weir_store_path`.
pub(super) fn json(topology: &Topology) -> Value {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut hostvars = Map::new();
    for edge in &topology.edges {
        let name = edge.name.as_str();
        let listeners: Vec<Value> =
            topology.forward.of(&edge.name).filter_map(|listener| address(&listener.at)).collect();
        hostvars.insert(name.to_owned(), json!({ "weir_rack": edge.rack, "weir_listeners": listeners }));
        groups.entry("weir_edges".to_owned()).or_default().push(name);
        groups.entry(group_name("rack", &edge.rack)).or_default().push(name);
    }
    for group in &topology.groups {
        for sink in &group.sinks {
            let name = sink.name.as_str();
            let host = sink.address.rsplit_once(':').map_or("", |(host, _)| host);
            let mut vars = json!({
                "ansible_host": host.trim_start_matches('[').trim_end_matches(']'),
                "weir_rack": sink.rack,
                "weir_group": group.id,
                "weir_address": sink.address,
            });
            if let StoreConfig::File(store) = &group.store {
                vars["weir_store_path"] = json!(store.path);
            }
            hostvars.insert(name.to_owned(), vars);
            groups.entry("weir_sinks".to_owned()).or_default().push(name);
            groups.entry(group_name("rack", &sink.rack)).or_default().push(name);
            groups.entry(group_name("group", group.id.as_str())).or_default().push(name);
        }
    }
    let children: Vec<&String> = groups.keys().collect();
    let mut inventory = Map::from_iter([
        ("_meta".to_owned(), json!({ "hostvars": hostvars })),
        ("all".to_owned(), json!({ "children": children })),
    ]);
    inventory.extend(groups.iter().map(|(name, hosts)| (name.clone(), json!({ "hosts": hosts }))));
    Value::Object(inventory)
}

/// Where a listener takes connections by TCP; `null` where the edge's node file says it.
fn address(at: &ListenAt) -> Option<Value> {
    match at {
        ListenAt::NodeFile => Some(Value::Null),
        ListenAt::Tcp(address) => Some(json!(address)),
        ListenAt::Unix { .. } => None,
    }
}

/// Ansible takes only letters, digits and `_` in the names of groups.
fn group_name(kind: &str, name: &str) -> String {
    let safe: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("weir_{kind}_{safe}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_has_its_own_listeners() {
        let listeners = r#"
            [[listener]]
            name = "inside"
            [[listener]]
            name = "outside"
            address = "0.0.0.0:24225"
            edges = ["edge-a1"]
            [[listener]]
            name = "local"
            unix = "/run/weir.sock"
            "#;
        let text = include_str!("../../../../topology/three-racks.toml").to_owned() + listeners;
        let (topology, _) = weir_topology::parse_topology(&text, "topology.toml").expect("sound");
        let inventory = json(&topology);
        let hosts = &inventory["_meta"]["hostvars"];
        assert_eq!(hosts["edge-a1"]["weir_listeners"], json!([null, "0.0.0.0:24225"]));
        assert_eq!(hosts["edge-b1"]["weir_listeners"], json!([null]));
    }

    #[test]
    fn every_node_is_in_its_groups_and_has_its_variables() {
        let racks = super::super::example("three-racks.toml");
        let inventory = json(&racks);
        assert_eq!(inventory["weir_edges"]["hosts"].as_array().unwrap().len(), racks.edges.len());
        let sinks: usize = racks.groups.iter().map(|group| group.sinks.len()).sum();
        assert_eq!(inventory["weir_sinks"]["hosts"].as_array().unwrap().len(), sinks);
        let hosts = inventory["_meta"]["hostvars"].as_object().unwrap();
        assert_eq!(hosts.len(), racks.edges.len() + sinks);
        assert_eq!(hosts[racks.edges[0].name.as_str()]["weir_listeners"], json!([null]));
        let sink = &hosts["hdfs-b"];
        assert_eq!((&sink["weir_group"], &sink["weir_rack"]), (&json!("hdfs"), &json!("b")));
        assert!(sink["weir_address"].as_str().unwrap().starts_with(sink["ansible_host"].as_str().unwrap()));
        assert!(inventory["weir_rack_b"]["hosts"].as_array().unwrap().contains(&json!("hdfs-b")));
        assert!(inventory["weir_group_hdfs"]["hosts"].as_array().unwrap().contains(&json!("hdfs-b")));
        let children = inventory["all"]["children"].as_array().unwrap();
        assert!(children.iter().all(|name| inventory.get(name.as_str().unwrap()).is_some()));
    }
}
