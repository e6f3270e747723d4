//! The suite that holds every store to the promises of the traits.
//!
//! A store gives a [`Harness`] and calls [`run`]. Every case begins lives of sinks of its own and marks its tags with
//! a word of its own, so a store may hold other things, also those of other runs.
//!
//! Left out on purpose: deaths in the middle of a commit. Only a store itself knows its steps.

mod build;
mod cases;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use weir_model::{Incarnation, NodeId, PartId};

use crate::{Backend, Outcome, Part, PartBatch, Store, StoreError, Token};

pub use build::{Sample, batch, entries, header, incarnation, marker, now_ns, part, samples, sink};

/// How long a store may take to show what it committed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store under test.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The store, the same one for each call.
    fn backend(&self) -> Arc<dyn Backend>;

    /// All that a reader of the store sees, as envelopes: one JSON line for each event, in any order. It may lag.
    async fn stored(&self) -> Vec<String>;
}

/// Runs all cases.
///
/// # Panics
/// When the store breaks a promise.
pub async fn run(harness: &dyn Harness) {
    let mut suite = Suite { harness, settled: Vec::new() };
    cases::all(&mut suite).await;
    // What is stored twice may show late.
    let lines = harness.stored().await;
    for (marker, expected) in suite.settled {
        assert_eq!(marked(&lines, &marker), expected, "{marker} at the end of the run");
    }
}

/// One life under test, which numbers its parts.
struct Life {
    store: Arc<dyn Store>,
    sink: NodeId,
    incarnation: Incarnation,
    parts: u64,
}

struct Suite<'a> {
    harness: &'a dyn Harness,
    /// What each case that ended well has left in the store.
    settled: Vec<(String, Vec<Sample>)>,
}

impl Suite<'_> {
    fn backend(&self) -> Arc<dyn Backend> {
        self.harness.backend()
    }

    async fn begin(&self, name: &str) -> Life {
        let (sink, incarnation) = (sink(name), incarnation());
        let store = self.backend().begin(&sink, incarnation).await.expect("a life begins");
        Life { store, sink, incarnation, parts: 0 }
    }

    /// The next part of `life`.
    fn part(&self, life: &mut Life, batches: Vec<PartBatch>) -> (Part, Token) {
        let id = PartId { sink: life.sink.clone(), incarnation: life.incarnation, number: life.parts };
        life.parts += 1;
        let part = part(&*self.backend(), id, batches);
        let token = life.store.token(&part.id, &part.partitions);
        (part, token)
    }

    /// Waits until the store shows exactly `expected` of what bears `marker`.
    async fn shows(&mut self, marker: &str, mut expected: Vec<Sample>) {
        expected.sort();
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = marked(&self.harness.stored().await, marker);
            if seen.len() >= expected.len() || Instant::now() > until {
                assert_eq!(seen, expected, "{marker}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.settled.push((marker.to_owned(), expected));
    }
}

/// The events that bear `marker`, sorted.
fn marked(lines: &[String], marker: &str) -> Vec<Sample> {
    let mut events: Vec<Sample> =
        lines.iter().filter(|line| line.contains(marker)).map(|line| read(line)).collect();
    events.sort();
    events
}

/// An envelope, strictly read.
fn read(line: &str) -> Sample {
    let value: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is not JSON: {error}"));
    let envelope = value.as_object().unwrap_or_else(|| panic!("{line} is not an object"));
    assert_eq!(envelope.len(), 3, "{line} must have time, tag and record, no more");
    let text = |member: &str| value[member].as_str().unwrap_or_else(|| panic!("{line}: no text {member}"));
    let time: jiff::Timestamp =
        text("time").parse().unwrap_or_else(|error| panic!("{line}: the time is not RFC 3339: {error}"));
    let record = value["record"].as_object().unwrap_or_else(|| panic!("{line}: the record is no object"));
    assert!(record.keys().all(|name| name == "m"), "{line}: a member that was not there");
    Sample {
        tag: text("tag").into(),
        time_ns: i64::try_from(time.as_nanosecond()).expect("a time before 2262"),
        text: record.get("m").map(|m| m.as_str().expect("a text").to_owned()),
    }
}

/// That a commit failed because its life is over.
fn assert_over(answer: Result<crate::Committed, StoreError>, what: &str) {
    match answer {
        Err(StoreError::Fenced | StoreError::Transient { .. }) => {}
        other => panic!("{what}: {other:?}, where the life is over"),
    }
}

/// That `store` says `expected` of a part.
async fn assert_resolves(store: &dyn Store, id: &PartId, token: &Token, expected: &Outcome) {
    let outcome = store.resolve(id, token).await;
    assert!(matches!(&outcome, Ok(found) if found == expected), "{id}: {outcome:?}, not {expected:?}");
}
