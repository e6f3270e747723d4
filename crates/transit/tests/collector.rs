//! Single turns of the conversation, as a sink sees them. The whole of it is in `simulation.rs`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weir_model::{Epoch, Fingerprint, Incarnation, LogId, NodeId, PartId, Seq};
use weir_transit::{Arrival, Collector, CollectorConfig, CollectorOutput, Partition, Resolution, ToEdge};

const LIFE: Incarnation = Incarnation(7);

fn collector() -> Collector {
    let token = |_: &PartId, _: &[Partition]| Bytes::from_static(b"token");
    Collector::new(CollectorConfig::default(), NodeId::new("s1").unwrap(), LIFE, Box::new(token))
}

fn log() -> Arc<LogId> {
    log_of("e1")
}

fn log_of(edge: &str) -> Arc<LogId> {
    let (edge, group) = (NodeId::new(edge).unwrap(), weir_model::GroupId::new("g").unwrap());
    Arc::new(LogId { edge, group, incarnation: Incarnation(1) })
}

fn outputs(collector: &mut Collector) -> Vec<CollectorOutput> {
    std::iter::from_fn(|| collector.poll_output()).collect()
}

// An edge that died with its promise in its journal, but not on its way: the sink has given the part up meanwhile. It
// must say so by itself, for a store would end this sink's life to make sure.
#[test]
fn a_part_that_was_given_up_is_void_without_the_store() {
    let (mut sink, log) = (collector(), log());
    assert!(sink.hello(&log, Epoch(1)));
    sink.batch(
        &log,
        Epoch(1),
        Arrival { seq: Seq(0), bytes: 10, partitions: vec!["".into()], ..Arrival::default() },
        Duration::ZERO,
    )
    .unwrap();
    sink.tick(Duration::from_secs(2));
    let part = outputs(&mut sink)
        .into_iter()
        .find_map(|output| match output {
            CollectorOutput::Control { message: ToEdge::Prepare { part, .. }, .. } => Some(part),
            _ => None,
        })
        .unwrap();
    sink.disconnected(&log, Epoch(1));
    assert!(sink.hello(&log, Epoch(2)));
    outputs(&mut sink);

    sink.resolve(&log, part.clone(), Bytes::new());
    let answer = ToEdge::Resolved { part: part.clone(), resolution: Resolution::Void };
    let said = CollectorOutput::Control { log: log.clone(), session: Epoch(2), message: answer };
    assert_eq!(outputs(&mut sink), [said]);

    // What another life did, only the store knows.
    let other = PartId { incarnation: Incarnation(8), ..part };
    sink.resolve(&log, other.clone(), Bytes::new());
    let asked = CollectorOutput::Resolve { log, part: other, token: Bytes::new() };
    assert_eq!(outputs(&mut sink), [asked]);
}

// A sender's chunk may have come through an edge that is away just now: what that edge knows is worth a wait, with an end.
#[test]
fn an_edge_that_is_away_is_waited_for_and_asked_when_it_is_back() {
    for comes_back in [true, false] {
        let (one, two) = (log_of("e1"), log_of("e2"));
        let edges = [&one, &two].map(|log| log.edge.clone()).into();
        let config = CollectorConfig { edges, ..CollectorConfig::default() };
        let token = |_: &PartId, _: &[Partition]| Bytes::from_static(b"token");
        let mut sink = Collector::new(config, NodeId::new("s1").unwrap(), LIFE, Box::new(token));
        assert!(sink.hello(&one, Epoch(1)));
        let chunks = vec![Fingerprint(1, 1)];
        let arrival =
            Arrival { seq: Seq(0), bytes: 10, partitions: vec!["".into()], chunks, ..Arrival::default() };
        sink.batch(&one, Epoch(1), arrival, Duration::ZERO).unwrap();
        sink.tick(Duration::from_secs(2));
        let part = PartId { sink: NodeId::new("s1").unwrap(), incarnation: LIFE, number: 0 };
        sink.promised(&one, &part);
        sink.tick(Duration::from_secs(9));
        let commits = |sink: &mut Collector| {
            outputs(sink).iter().any(|output| matches!(output, CollectorOutput::Commit { .. }))
        };
        assert!(!commits(&mut sink), "committed before e2 was asked");
        if comes_back {
            assert!(sink.hello(&two, Epoch(1)));
            let asked = |output: &CollectorOutput| matches!(output, CollectorOutput::Control { message: ToEdge::Recall { .. }, log, .. } if *log == two);
            assert!(outputs(&mut sink).iter().any(asked), "e2 was not asked");
            sink.recalled(&two, &part, &[], &[]);
        } else {
            sink.tick(Duration::from_secs(10));
        }
        assert!(commits(&mut sink), "not committed; e2 came back: {comes_back}");
    }
}
