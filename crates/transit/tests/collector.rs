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

// A sink's stage and its credit: parts of 100 bytes, of which the store takes one at a time.
struct Crowded {
    sink: Collector,
    seq: u64,
    // What was received and what may be, of e1.
    sent: u64,
    window: u64,
    committing: Vec<PartId>,
}

impl Crowded {
    fn new(config: CollectorConfig) -> Self {
        let config = CollectorConfig { part_bytes: 100, stage_bytes: 100_000, ..config };
        let token = |_: &PartId, _: &[Partition]| Bytes::from_static(b"token");
        let sink = Collector::new(config, NodeId::new("s1").unwrap(), LIFE, Box::new(token));
        let mut crowded = Self { sink, seq: 0, sent: 0, window: 0, committing: Vec::new() };
        assert!(crowded.sink.hello(&log(), Epoch(1)));
        crowded.answer();
        crowded
    }

    // Promises what is asked for, and hears of credit.
    fn answer(&mut self) {
        loop {
            let said = outputs(&mut self.sink);
            if said.is_empty() {
                return;
            }
            for output in said {
                match output {
                    CollectorOutput::Control { message: ToEdge::Welcome { window, .. }, .. } => {
                        self.window = window;
                    }
                    CollectorOutput::Control { message: ToEdge::Window { total }, .. } => {
                        assert!(total > self.window, "credit is never taken back");
                        self.window = total;
                    }
                    CollectorOutput::Control { message: ToEdge::Prepare { part, .. }, .. } => {
                        self.sink.promised(&log(), &part);
                    }
                    CollectorOutput::Commit { part, .. } => self.committing.push(part),
                    _ => {}
                }
            }
        }
    }

    // As an edge that has batches of 10 bytes up to `end`, each with so many chunks.
    fn send_all(&mut self, partition: &dyn Fn(u64) -> Partition, chunks: u64, end: u64) {
        while self.sent < self.window.min(end) {
            let arrival = Arrival {
                seq: Seq(self.seq),
                bytes: 10,
                partitions: vec![partition(self.seq)],
                chunks: (0..chunks).map(|n| Fingerprint(self.seq, n)).collect(),
                ..Arrival::default()
            };
            self.sink.batch(&log(), Epoch(1), arrival, Duration::ZERO).unwrap();
            (self.seq, self.sent) = (self.seq + 1, self.sent + 10);
            self.answer();
        }
    }
}

#[test]
fn a_store_with_full_hands_leaves_the_rest_in_the_edges_logs() {
    let config = CollectorConfig { ahead_bytes: 1000, ..CollectorConfig::default() };
    let mut crowded = Crowded::new(config);
    assert_eq!(crowded.window, 250, "a quarter may be on its way");
    let one = |_| Partition::from("");
    let bound = 750..=1000 + 250;
    crowded.send_all(&one, 0, u64::MAX);
    assert!(bound.contains(&crowded.sink.status().bytes), "{:?}", crowded.sink.status());
    // With each part that the store takes, as much is asked for.
    for _ in 0..30 {
        let part = crowded.committing.remove(0);
        crowded.sink.committed(&part);
        crowded.answer();
        crowded.send_all(&one, 0, u64::MAX);
        assert!(bound.contains(&crowded.sink.status().bytes), "{:?}", crowded.sink.status());
    }
    assert!(crowded.sent >= 30 * 100 + 750);
}

#[test]
fn parts_are_gathered_whatever_the_store_could_take() {
    // None of these is full, and the store has nothing to do.
    let config = CollectorConfig { ahead_bytes: 1000, ..CollectorConfig::default() };
    let mut crowded = Crowded::new(config);
    let many = |seq| Partition::from(format!("{}", seq % 900).as_str());
    crowded.send_all(&many, 0, 8000);
    assert_eq!(crowded.sink.status().bytes, 8000);
}

#[test]
fn chunks_count_where_the_store_has_full_hands() {
    let config = CollectorConfig { ahead_bytes: 4000, ahead_chunks: 500, ..CollectorConfig::default() };
    let mut crowded = Crowded::new(config);
    let one = |_| Partition::from("");
    // Two parts of ten batches, then nothing but what was on its way.
    crowded.send_all(&one, 20, u64::MAX);
    let first = crowded.sent;
    assert!((250..=1000 + 250).contains(&first), "{first} bytes, {} chunks", first * 2);
    // With less than that staged there is credit again.
    while let Some(part) = crowded.committing.pop() {
        crowded.sink.committed(&part);
        crowded.answer();
    }
    assert!(crowded.window > first, "no credit after {first}");
    assert_eq!(crowded.sink.status().chunks as u64, 2 * crowded.sink.status().bytes);
}

#[test]
fn a_small_stage_tells_of_more_in_quarters_of_itself() {
    let token = |_: &PartId, _: &[Partition]| Bytes::from_static(b"token");
    let config =
        CollectorConfig { stage_bytes: 100, part_bytes: 20, parallel_parts: 9, ..CollectorConfig::default() };
    let mut sink = Collector::new(config, NodeId::new("s1").unwrap(), LIFE, Box::new(token));
    assert!(sink.hello(&log(), Epoch(1)));
    for seq in 0..5 {
        let arrival = Arrival { seq: Seq(seq), bytes: 20, partitions: vec!["".into()], ..Arrival::default() };
        sink.batch(&log(), Epoch(1), arrival, Duration::ZERO).unwrap();
    }
    let parts: Vec<_> = outputs(&mut sink)
        .into_iter()
        .filter_map(|output| match output {
            CollectorOutput::Control { message: ToEdge::Prepare { part, .. }, .. } => Some(part),
            _ => None,
        })
        .collect();
    let told = |sink: &mut Collector| {
        outputs(sink).into_iter().find_map(|output| match output {
            CollectorOutput::Control { message: ToEdge::Window { total }, .. } => Some(total),
            _ => None,
        })
    };
    sink.committed(&parts[0]);
    assert_eq!(told(&mut sink), None, "20 of 100");
    sink.committed(&parts[1]);
    assert_eq!(told(&mut sink), Some(140));
}
