//! What one node more costs a group, and what a look at the ring costs a tag. With `--nocapture` it prints the figures.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use weir_model::NodeId;
use weir_routing::{Member, Ring};

const TAGS: usize = 100_000;
/// More of a group's tags than this share of what is unavoidable must not move.
const MOST: f64 = 1.3;

fn ring(nodes: usize) -> Ring {
    let member = |number| Member {
        node: NodeId::new(&format!("sink-{number}")).unwrap(),
        weight: 1,
        rack: "r".to_owned(),
    };
    Ring::new(&(1..=nodes).map(member).collect::<Vec<_>>(), None)
}

fn owners(ring: &Ring, tags: &[String]) -> (Vec<NodeId>, Duration) {
    let began = Instant::now();
    let owners = tags.iter().map(|tag| ring.owner(tag, &|_| true).unwrap()).collect();
    (owners, began.elapsed())
}

#[test]
fn a_node_more_moves_little_more_than_its_share() {
    let tags: Vec<String> =
        (0..TAGS).map(|n| format!("team-{}.service-{}.host-{n}", n % 17, n % 400)).collect();
    for nodes in [10, 100, 1000] {
        let began = Instant::now();
        let more = ring(nodes + 1);
        let built = began.elapsed();
        let (before, took) = owners(&ring(nodes), &tags);
        let (after, _) = owners(&more, &tags);
        let newcomer = NodeId::new(&format!("sink-{}", nodes + 1)).unwrap();
        let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
        assert!(moved.iter().all(|(_, after)| **after == newcomer), "tags move between old nodes");
        let share = moved.len() as f64 / TAGS as f64;
        let ideal = 1.0 / (nodes + 1) as f64;
        eprintln!(
            "{nodes} nodes and one more: {:.3} % of tags move, {:.2} of the ideal; {:.0} ns for a tag; built in {built:.1?}",
            100.0 * share,
            share / ideal,
            took.as_nanos() as f64 / TAGS as f64,
        );
        assert!((0.5..=MOST).contains(&(share / ideal)), "{nodes}: {share} moved, ideal {ideal}");
    }
}
