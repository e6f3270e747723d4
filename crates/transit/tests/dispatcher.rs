//! Single turns of the conversation, as an edge sees them. The whole of it is in `simulation.rs`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use weir_model::{Epoch, Fingerprint, GroupId, Incarnation, LogId, NodeId, PartId, Seq};
use weir_transit::{
    Dispatcher, DispatcherConfig, DispatcherOutput, Placement, Recovered, ToEdge, WIRE_VERSION,
};

struct FirstOf(Vec<NodeId>);

impl Placement for FirstOf {
    fn owner(&self, _: &str, live: &dyn Fn(&NodeId) -> bool) -> Option<NodeId> {
        self.0.iter().find(|node| live(node)).cloned()
    }
}

fn outputs(edge: &mut Dispatcher) -> Vec<DispatcherOutput> {
    std::iter::from_fn(|| edge.poll_output()).collect()
}

// The twin of a chunk went through another edge to a sink that this edge would not choose. What that sink asked for in vain goes
// to it when it comes, even long after the last change of sinks: the tag's own sink would ask nobody.
#[test]
fn a_chunk_that_a_sink_asked_for_goes_to_that_sink() {
    let sinks = ["s1", "s2"].map(|name| NodeId::new(name).unwrap());
    let log = LogId {
        edge: NodeId::new("e1").unwrap(),
        group: GroupId::new("g").unwrap(),
        incarnation: Incarnation(1),
    };
    let placement = Box::new(FirstOf(sinks.to_vec()));
    let config = DispatcherConfig::default();
    let mut edge =
        Dispatcher::new(config, log, sinks.clone(), placement, Recovered::default(), Duration::ZERO);
    edge.journaled(1);
    let greet = |edge: &mut Dispatcher, sink: &NodeId| -> Epoch {
        let (session, _) = edge.greet(sink).unwrap();
        let (incarnation, window) = (Incarnation(9), 1000);
        let welcome = ToEdge::Welcome { version: WIRE_VERSION, sink: sink.clone(), incarnation, window };
        edge.handle(sink, session, welcome);
        session
    };
    greet(&mut edge, &sinks[0]);
    let session = greet(&mut edge, &sinks[1]);
    edge.tick(Duration::from_secs(700));

    let part = PartId { sink: sinks[1].clone(), incarnation: Incarnation(9), number: 0 };
    edge.recalled(&sinks[1], session, part, &[(Fingerprint(7, 7), None)], &[]);
    edge.offer(Seq(0), "tag".into(), 10, &[Fingerprint(7, 7)]);
    edge.offer(Seq(1), "tag".into(), 10, &[Fingerprint(8, 8)]);
    let sent: Vec<_> = outputs(&mut edge)
        .into_iter()
        .filter_map(|output| match output {
            DispatcherOutput::Send { sink, seq, recall, .. } => Some((seq, sink, recall)),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [(Seq(1), sinks[0].clone(), false), (Seq(0), sinks[1].clone(), true)]);
}

// Held back until it fits, a large batch would wait for all that the sink has of this edge, which may be for an hour.
#[test]
fn a_batch_larger_than_what_is_left_goes_all_the_same() {
    let sink = NodeId::new("s1").unwrap();
    let log = LogId {
        edge: NodeId::new("e1").unwrap(),
        group: GroupId::new("g").unwrap(),
        incarnation: Incarnation(1),
    };
    let placement = Box::new(FirstOf(vec![sink.clone()]));
    let config = DispatcherConfig::default();
    let sinks = [sink.clone()];
    let mut edge = Dispatcher::new(config, log, sinks, placement, Recovered::default(), Duration::ZERO);
    edge.journaled(1);
    let (session, _) = edge.greet(&sink).unwrap();
    let (incarnation, window) = (Incarnation(9), 1000);
    let welcome = ToEdge::Welcome { version: WIRE_VERSION, sink: sink.clone(), incarnation, window };
    edge.handle(&sink, session, welcome);
    edge.tick(Duration::from_secs(700));
    let sent = |edge: &mut Dispatcher| -> Vec<Seq> {
        let sends = |output| match output {
            DispatcherOutput::Send { seq, .. } => Some(seq),
            _ => None,
        };
        outputs(edge).into_iter().filter_map(sends).collect()
    };
    for (seq, bytes) in [(0, 900), (1, 5000), (2, 10)] {
        edge.offer(Seq(seq), "tag".into(), bytes, &[]);
    }
    assert_eq!(sent(&mut edge), [Seq(0), Seq(1)]);
    edge.handle(&sink, session, ToEdge::Window { total: 5900 });
    assert_eq!(sent(&mut edge), [], "all of that is used up");
    edge.handle(&sink, session, ToEdge::Window { total: 5901 });
    assert_eq!(sent(&mut edge), [Seq(2)]);
}
