//! What senders sent: batches to logs, and acknowledgements once the disks have them. Sockets are in `connection.rs`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use weir_forward::{Batch, Event, Reason, Skips};
use weir_telemetry::{TagCounter, TagTable, names};

use crate::connection::Connection;
use crate::plan::Plan;
use crate::store::{self, Arrived, Held, NotStored};

/// Bound of each connection's caches of routes and tag counters.
pub(crate) const TAG_CACHE: usize = 256;

/// What all connections share.
pub(crate) struct Intake {
    plan: Arc<ArcSwap<Plan>>,
    tags: TagTable,
}

impl Intake {
    pub(crate) fn new(plan: Arc<ArcSwap<Plan>>, tags: TagTable) -> Self {
        Self { plan, tags }
    }
}

/// What became of one batch.
pub(crate) struct Stored {
    pub(crate) bytes: usize,
    pub(crate) ack: Bytes,
    pub(crate) outcome: Result<(), NotStored>,
}

pub(crate) type Pending = Pin<Box<dyn Future<Output = Stored> + Send>>;

impl Connection {
    pub(crate) fn take(&mut self, event: Event) {
        match event {
            Event::Batch(batch) => self.store(batch),
            Event::Ack { ack, skipped } => {
                self.count(&skipped);
                // Behind the batches that came before it: acknowledgements leave in order.
                self.pending.push_back(Box::pin(async move { Stored { bytes: 0, ack, outcome: Ok(()) } }));
            }
            Event::Skipped(skipped) => self.count(&skipped),
        }
    }

    fn store(&mut self, batch: Batch) {
        self.count(&batch.skipped);
        let Batch { header, payload, acks: ack, .. } = batch;
        let (events, bytes) = (header.events(), payload.len());
        let plan = self.door.intake.plan.load_full();
        plan.tap.show(&header, &payload);
        let targets = match self.routes.route(&plan.router, &header.tag) {
            Some(index) => plan.targets(index),
            None => {
                names::EDGE_UNROUTED_EVENTS_TOTAL.with([]).increment(events);
                Arc::default()
            }
        };
        self.tag_counter(&header.tag).add(events, header.unpacked_bytes);
        for target in targets.iter() {
            target.count(events, bytes as u64);
        }
        self.unsynced += bytes;
        let arrived = Arrived::new(header, payload);
        let (ack_level, deadline) = (self.ack_level(), Instant::now() + self.ack_deadline());
        self.targets = targets.clone();
        let held = Held::new(&targets, bytes);
        let mut future: Pending = Box::pin(async move {
            let outcome = match held {
                Ok(_held) => store::everywhere(&targets, arrived, ack_level, deadline).await,
                Err(crowded) => Err(crowded),
            };
            Stored { bytes, ack, outcome }
        });
        // Polled once here, so that batches enter the logs in the order in which they came; whoever waits for `pending`
        // polls it again.
        if let Some(stored) = (&mut future).now_or_never() {
            future = Box::pin(std::future::ready(stored));
        }
        self.pending.push_back(future);
    }

    fn count(&self, skipped: &Skips) {
        for (reason, times) in skipped.iter() {
            names::FORWARD_SKIPPED_TOTAL.with([reason.label()]).increment(u64::from(times));
            if let Some(detail) = told(reason) {
                self.door.refusals.note(reason.label(), &self.peer, detail);
            }
        }
    }

    fn tag_counter(&mut self, tag: &Arc<str>) -> &TagCounter {
        if self.tags.len() >= TAG_CACHE && !self.tags.contains_key(tag) {
            self.tags.clear();
        }
        self.tags.entry(tag.clone()).or_insert_with(|| self.door.intake.tags.counter(tag))
    }

    /// Takes note of what became of a batch; its acknowledgement is due now. The error ends the connection.
    pub(crate) fn settle(&mut self, stored: Stored) -> Result<(), NotStored> {
        self.unsynced -= stored.bytes;
        stored.outcome?;
        self.acknowledge(&stored.ack);
        Ok(())
    }
}

/// What a sender's operator should know of something that was left out; nothing where all is as it should be.
fn told(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::NotMessage => "it sends values that are no messages",
        Reason::InvalidMessage => "it sends messages without a tag, or without events",
        Reason::InvalidTag => "its tag is no text, or too long; the events are left out",
        Reason::InvalidOptions => "its options are no map; the events are taken",
        Reason::InvalidEntry => "entries without a time and a record are left out",
        Reason::TruncatedEntry => "its packed entries end within one, which is left out",
        Reason::UnsupportedSignal => {
            "it sends metrics or traces (`fluent_signal`), and only logs are taken: they are acknowledged and left out"
        }
        Reason::GroupMarker => return None,
    })
}

pub(crate) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}
