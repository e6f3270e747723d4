//! Every example that the project shows parses without a problem, and says what it claims.

use std::path::{Path, PathBuf};

use weir_routing::Pattern;
use weir_topology::{
    NodeConfig, Overflow, Problem, StoreConfig, Topology, parse_controller, parse_node, parse_topology,
};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topology")
}

fn print(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn topology(text: &str, file: &str) -> Topology {
    let (topology, warnings) = parse_topology(text, file).unwrap_or_else(|e| panic!("{}", print(&e)));
    assert!(warnings.is_empty(), "{}", print(&warnings));
    topology
}

fn node(text: &str, file: &str) -> NodeConfig {
    parse_node(text, file).unwrap_or_else(|e| panic!("{}", print(&e)))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_local_nodes_are_those_of_the_local_topology() {
    let local = topology(&read(&directory().join("local.toml")), "local.toml");
    let mut racks: Vec<_> = local.edges.iter().map(|edge| (edge.name.clone(), edge.rack.clone())).collect();
    let sinks = local.groups.iter().flat_map(|group| &group.sinks);
    racks.extend(sinks.map(|sink| (sink.name.clone(), sink.rack.clone())));
    assert_eq!(racks.len(), 7);

    let mut listens = Vec::new();
    for (name, rack) in racks {
        let path = directory().join(format!("local/{name}.toml"));
        let mut node = node(&read(&path), &path.display().to_string());
        assert_eq!((&node.name, &node.rack), (&name, &rack));
        node.rebase(path.parent().unwrap());
        assert_eq!(
            node.topology.canonicalize().unwrap(),
            directory().join("local.toml").canonicalize().unwrap()
        );
        listens.extend(node.listen.forward.into_iter().chain(node.listen.metrics));
    }
    let count = listens.len();
    listens.sort();
    listens.dedup();
    assert_eq!(listens.len(), count, "two nodes of one machine listen on one port");
}

#[test]
fn three_racks_says_what_its_head_says() {
    let racks = topology(&read(&directory().join("three-racks.toml")), "three-racks.toml");
    assert_eq!((racks.edges.len(), racks.groups.len()), (6, 4));
    assert_eq!(racks.routes.iter().filter(|route| route.groups.len() == 2).count(), 1, "one copy route");
    let archive = &racks.groups[3];
    assert_eq!(archive.overflow, Overflow::DropNewest);
    assert!(matches!(archive.store, StoreConfig::File(_)));
    let (group, sink) = racks.group_of_sink(&"hdfs-b".parse().unwrap()).unwrap();
    assert_eq!((group.id.as_str(), sink.rack.as_str()), ("hdfs", "b"));
    assert!(matches!(&group.store, StoreConfig::Hdfs(hdfs) if hdfs.options.0.len() == 4));
    assert_eq!(racks.group(&group.id), Some(group));
}

#[test]
fn every_block_of_the_reference_parses() {
    let text = read(&directory().join("README.md"));
    let (mut topologies, mut nodes) = (0, 0);
    for block in text.split("```toml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        if block.starts_with("# node file") {
            node(block, "README.md");
            nodes += 1;
        } else if block.starts_with("# controller file") {
            parse_controller(block, "README.md").unwrap_or_else(|e| panic!("{}", print(&e)));
        } else {
            topology(block, "README.md");
            topologies += 1;
        }
    }
    assert!(topologies >= 1 && nodes >= 2, "{topologies} topologies, {nodes} nodes");
}

#[test]
fn the_patterns_of_the_reference_match_as_it_says() {
    let text = read(&directory().join("README.md"));
    let rows = text.split("| Pattern | Matches | Does not match |\n").nth(1).unwrap();
    let rows: Vec<&str> = rows.lines().skip(1).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 5, "{rows:?}");
    for row in rows {
        let cells: Vec<Vec<&str>> =
            row.split('|').skip(1).map(|cell| cell.split('`').skip(1).step_by(2).collect()).collect();
        let pattern = Pattern::parse(cells[0][0]).unwrap();
        for (tags, expected) in [(&cells[1], true), (&cells[2], false)] {
            assert!(!tags.is_empty());
            for tag in tags {
                assert_eq!(pattern.matches(tag), expected, "{pattern} and {tag}");
            }
        }
    }
}
