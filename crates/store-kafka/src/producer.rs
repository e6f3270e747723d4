//! One librdkafka producer: sends, waits for what was sent, ends transactions, and says whether it was fenced.
//!
//! Everything here blocks and belongs on a blocking thread. Left out on purpose: what is sent, and what an
//! error means for a part (see `life.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

/// How long a full queue or an unfinished delivery is waited for at a time.
const WAIT: Duration = Duration::from_millis(20);

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Another producer has taken the `transactional.id` over.
    #[error("the transactional id was taken over")]
    Fenced,
    /// These topics take smaller record batches than we sent.
    #[error("record batches too large for topics {0:?}")]
    TooLarge(BTreeSet<String>),
    /// Everything else.
    #[error("{what} failed")]
    Kafka {
        /// The topic concerned, or what was being done.
        what: String,
        /// The library's error.
        #[source]
        error: KafkaError,
    },
    /// What is to be sent cannot be had.
    #[error("{what} failed")]
    Payload {
        /// Which batch.
        what: String,
        /// The disk's error.
        #[source]
        error: std::io::Error,
    },
}

/// One record on its way.
pub(crate) struct Record<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: &'a [u8],
    pub(crate) time_ms: i64,
    pub(crate) headers: Option<OwnedHeaders>,
}

/// What became of a record that the client was asked to take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Queued,
    /// Larger than `message.max.bytes`: it was not taken.
    TooLarge,
}

pub(crate) struct Producer {
    client: ThreadedProducer<Deliveries>,
    deliveries: Arc<Tally>,
    transactional: bool,
}

/// Counts the client's delivery reports. There is no future and no allocation per record.
struct Deliveries(Arc<Tally>);

#[derive(Default)]
struct Tally {
    outstanding: AtomicU64,
    /// Where the last record sent with [`Producer::send_marked`] lies in its partition; -1 while unknown.
    marked_offset: AtomicI64,
    trouble: Mutex<Trouble>,
    settled: Condvar,
}

#[derive(Default)]
struct Trouble {
    first: Option<(String, KafkaError)>,
    too_large: BTreeSet<String>,
}

impl ClientContext for Deliveries {
    // Broker connections come and go; whether that matters shows in the call that fails.
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }
}

/// Whether a delivery report's record is one whose offset is wanted.
const PLAIN: usize = 0;
const MARKED: usize = 1;

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        match result {
            Ok(message) if opaque == MARKED => {
                self.0.marked_offset.store(message.offset(), Ordering::Release);
            }
            Ok(_) => {}
            Err((error, message)) => {
                let mut trouble = self.0.trouble.lock();
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
                    trouble.too_large.insert(message.topic().to_owned());
                }
                if trouble.first.is_none() {
                    trouble.first = Some((message.topic().to_owned(), error.clone()));
                }
            }
        }
        if self.0.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Taken so that a waiter between its look and its sleep cannot miss the call.
            drop(self.0.trouble.lock());
            self.0.settled.notify_all();
        }
    }
}

impl Producer {
    /// A new client. With a `transactional.id` in `config`, whoever else bears that id is fenced, and its open
    /// transaction is aborted (or completed, where its end had been decided) before this returns.
    pub(crate) fn open(config: &ClientConfig, timeout: Duration) -> Result<Self, Failure> {
        let tally = Arc::new(Tally::default());
        let client: ThreadedProducer<Deliveries> = config
            .create_with_context(Deliveries(Arc::clone(&tally)))
            .map_err(|error| Failure::Kafka { what: "kafka client".into(), error })?;
        let transactional = config.get("transactional.id").is_some();
        let producer = Self { client, deliveries: tally, transactional };
        if transactional {
            let what = "taking over the transactional id";
            producer.until(timeout, what, |left| producer.client.init_transactions(left))?;
        }
        Ok(producer)
    }

    /// Opens a transaction, where there are any.
    pub(crate) fn begin(&self) -> Result<(), Failure> {
        *self.deliveries.trouble.lock() = Trouble::default();
        if self.transactional {
            self.client
                .begin_transaction()
                .map_err(|error| self.failure("beginning a transaction", error))?;
        }
        Ok(())
    }

    /// Hands a record to the client; a full queue is waited for.
    pub(crate) fn send(&self, record: &Record<'_>, deadline: Instant) -> Result<Sent, Failure> {
        self.send_as(PLAIN, record, deadline)
    }

    /// As [`send`](Self::send), and remembers the record's offset for [`marked_offset`](Self::marked_offset).
    pub(crate) fn send_marked(&self, record: &Record<'_>, deadline: Instant) -> Result<Sent, Failure> {
        self.deliveries.marked_offset.store(-1, Ordering::Release);
        self.send_as(MARKED, record, deadline)
    }

    fn send_as(&self, kind: usize, record: &Record<'_>, deadline: Instant) -> Result<Sent, Failure> {
        let mut queued =
            BaseRecord::with_opaque_to(record.topic, kind).payload(record.value).timestamp(record.time_ms);
        queued.key = record.key;
        queued.partition = record.partition;
        queued.headers = record.headers.clone();
        loop {
            self.deliveries.outstanding.fetch_add(1, Ordering::AcqRel);
            let Err((error, back)) = self.client.send(queued) else { return Ok(Sent::Queued) };
            self.deliveries.outstanding.fetch_sub(1, Ordering::AcqRel);
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) if Instant::now() < deadline => {
                    self.deliveries.settled.wait_for(&mut self.deliveries.trouble.lock(), WAIT / 10);
                    queued = back;
                }
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => return Ok(Sent::TooLarge),
                _ => return Err(self.failure(record.topic, error)),
            }
        }
    }

    /// Waits until the brokers have answered for every record sent so far.
    pub(crate) fn delivered(&self, deadline: Instant) -> Result<(), Failure> {
        let mut trouble = self.deliveries.trouble.lock();
        while self.deliveries.outstanding.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            self.deliveries.settled.wait_for(&mut trouble, WAIT);
        }
        if self.deliveries.outstanding.load(Ordering::Acquire) > 0 {
            let error = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
            return Err(Failure::Kafka { what: "delivery".into(), error });
        }
        if !trouble.too_large.is_empty() {
            return Err(Failure::TooLarge(std::mem::take(&mut trouble.too_large)));
        }
        match trouble.first.take() {
            None => Ok(()),
            // An old epoch alone is no fence: the coordinator also raises it when a transaction took too long,
            // and then the client recovers by itself. Which of the two it is, `abort` finds out.
            Some(_) if self.is_fenced(None) => Err(Failure::Fenced),
            Some((topic, error)) => Err(Failure::Kafka { what: format!("delivery to topic {topic}"), error }),
        }
    }

    /// Commits the open transaction. After an error other than [`Failure::Fenced`] the outcome is unknown, and
    /// this producer is of no further use.
    pub(crate) fn commit(&self, timeout: Duration) -> Result<(), Failure> {
        if !self.transactional {
            return Ok(());
        }
        self.until(timeout, "committing a transaction", |left| self.client.commit_transaction(left))
    }

    /// Aborts the open transaction. After an error this producer is of no further use.
    pub(crate) fn abort(&self, timeout: Duration) -> Result<(), Failure> {
        if !self.transactional {
            return Ok(());
        }
        self.until(timeout, "aborting a transaction", |left| self.client.abort_transaction(left))
    }

    /// Where the last marked record lies in its partition, if the brokers have said so.
    pub(crate) fn marked_offset(&self) -> Option<i64> {
        Some(self.deliveries.marked_offset.load(Ordering::Acquire)).filter(|&offset| offset >= 0)
    }

    /// Calls `step` until it succeeds, fails in a way that another try cannot mend, or the time is up.
    fn until(
        &self,
        timeout: Duration,
        what: &str,
        step: impl Fn(Duration) -> KafkaResult<()>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match step(left.max(Duration::from_millis(1))) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !left.is_zero() => {
                    std::thread::sleep(WAIT);
                }
                Err(error) => return Err(self.failure(what, error)),
            }
        }
    }

    fn failure(&self, what: &str, error: KafkaError) -> Failure {
        if self.is_fenced(error.rdkafka_error_code()) {
            return Failure::Fenced;
        }
        Failure::Kafka { what: what.to_owned(), error }
    }

    /// Whether the client has found out, by now or by this answer, that its id was taken over.
    fn is_fenced(&self, answer: Option<RDKafkaErrorCode>) -> bool {
        let fatal = self.client.client().fatal_error().map(|(code, _)| code);
        matches!(
            fatal.or(answer),
            Some(
                RDKafkaErrorCode::Fenced
                    | RDKafkaErrorCode::ProducerFenced
                    | RDKafkaErrorCode::InvalidProducerEpoch
            )
        )
    }
}
