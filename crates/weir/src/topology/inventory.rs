//! A topology as an Ansible inventory: what `--list` of a dynamic inventory prints.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use weir_topology::{StoreConfig, Topology};

/// Hosts by role (`weir_edges`, `weir_sinks`), rack (`weir_rack_…`) and sink group (`weir_group_…`), and variables of
/// each: `weir_rack`, and for sinks `weir_group`, `weir_address`, `ansible_host` and, with a file store,
/// `weir_store_path`.
pub(super) fn json(topology: &Topology) -> Value {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut hostvars = Map::new();
    for edge in &topology.edges {
        let name = edge.name.as_str();
        hostvars.insert(name.to_owned(), json!({ "weir_rack": edge.rack }));
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

/// Ansible takes only letters, digits and `_` in the names of groups.
fn group_name(kind: &str, name: &str) -> String {
    let safe: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("weir_{kind}_{safe}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_in_its_groups_and_has_its_variables() {
        let racks = super::super::example("three-racks.toml");
        let inventory = json(&racks);
        assert_eq!(inventory["weir_edges"]["hosts"].as_array().unwrap().len(), racks.edges.len());
        let sinks: usize = racks.groups.iter().map(|group| group.sinks.len()).sum();
        assert_eq!(inventory["weir_sinks"]["hosts"].as_array().unwrap().len(), sinks);
        let hosts = inventory["_meta"]["hostvars"].as_object().unwrap();
        assert_eq!(hosts.len(), racks.edges.len() + sinks);
        let sink = &hosts["hdfs-b"];
        assert_eq!((&sink["weir_group"], &sink["weir_rack"]), (&json!("hdfs"), &json!("b")));
        assert!(sink["weir_address"].as_str().unwrap().starts_with(sink["ansible_host"].as_str().unwrap()));
        assert!(inventory["weir_rack_b"]["hosts"].as_array().unwrap().contains(&json!("hdfs-b")));
        assert!(inventory["weir_group_hdfs"]["hosts"].as_array().unwrap().contains(&json!("hdfs-b")));
        let children = inventory["all"]["children"].as_array().unwrap();
        assert!(children.iter().all(|name| inventory.get(name.as_str().unwrap()).is_some()));
    }
}
