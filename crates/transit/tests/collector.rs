//! Single turns of the conversation, as a sink sees them. The whole of it is in `simulation.rs`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weir_model::{Epoch, Incarnation, LogId, NodeId, PartId, Seq};
use weir_transit::{Arrival, Collector, CollectorConfig, CollectorOutput, Partition, Resolution, ToEdge};

const LIFE: Incarnation = Incarnation(7);

fn collector() -> Collector {
    let token = |_: &PartId, _: &[Partition]| Bytes::from_static(b"token");
    Collector::new(CollectorConfig::default(), NodeId::new("s1").unwrap(), LIFE, Box::new(token))
}

fn log() -> Arc<LogId> {
    let (edge, group) = (NodeId::new("e1").unwrap(), weir_model::GroupId::new("g").unwrap());
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
