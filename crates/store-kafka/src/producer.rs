//! One librdkafka producer: sends, waits for what was sent, ends transactions, and says whether it was fenced.
//!
//! Everything here blocks and belongs on a blocking thread. Left out on purpose: what is sent, and what an
//! error means for a part (see `life.rs`).

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::bindings::{self, rd_kafka_vtype_t};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::{RDKafka, RDKafkaRespErr, RDKafkaTopic};

/// How long a full queue, or a step that may be tried again, is waited for at a time.
const WAIT: Duration = Duration::from_millis(5);

/// How often it is looked what is left to deliver, and how long a flush lasts.
const LOOK: Duration = Duration::from_millis(1);

/// What lingers is sent where nothing was delivered for so long.
const STILL: Duration = Duration::from_millis(20);

/// The client's threads are woken each time that so many bytes were sent.
const NUDGE_BYTES: u64 = 1 << 20;

/// librdkafka's default of `batch.size`.
const BATCH_BYTES: u64 = 1_000_000;

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

/// Two habits of librdkafka shape how it is used here. While a request of an idempotent producer is under way, its
/// thread spins as soon as other records of that partition have lingered for their time, or are being flushed. So
/// they linger for long (see `settings.rs`), and are flushed for a moment only, where what is left makes no full
/// request. And that the coordinator has let a partition into the transaction, its threads find out only when they wake: each flush
/// wakes them.
pub(crate) struct Producer {
    client: ThreadedProducer<Deliveries>,
    deliveries: Arc<Tally>,
    transactional: bool,
    /// `batch.size`: what a full request holds.
    batch_bytes: u64,
    /// Records of the open transaction, and their bytes.
    sent: Cell<(u64, u64)>,
}

/// A topic of one client.
pub(crate) struct Topic<'p> {
    handle: NonNull<RDKafkaTopic>,
    producer: PhantomData<&'p Producer>,
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `Producer::topic`, which nobody else's destruction follows; its client still lives.
        #[expect(unsafe_code, reason = "what the C library made it must unmake")]
        unsafe {
            bindings::rd_kafka_topic_destroy(self.handle.as_ptr());
        }
    }
}

/// Looks through the client's delivery reports. There is no future and no allocation per record.
struct Deliveries(Arc<Tally>);

#[derive(Default)]
struct Tally {
    /// Where the last record sent with [`Producer::send_marked`] lies in its partition; -1 while unknown.
    marked_offset: AtomicI64,
    trouble: Mutex<Trouble>,
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
        let batch_bytes = config.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(BATCH_BYTES);
        let producer = Self { client, deliveries: tally, transactional, batch_bytes, sent: Cell::default() };
        if transactional {
            let what = "taking over the transactional id";
            producer.until(timeout, what, |left| producer.client.init_transactions(left))?;
        }
        Ok(producer)
    }

    /// Opens a transaction, where there are any.
    pub(crate) fn begin(&self) -> Result<(), Failure> {
        *self.deliveries.trouble.lock() = Trouble::default();
        self.sent.set((0, 0));
        if self.transactional {
            self.client
                .begin_transaction()
                .map_err(|error| self.failure("beginning a transaction", error))?;
        }
        Ok(())
    }

    /// Hands a record to the client; a full queue is waited for, at most for so long.
    pub(crate) fn send(&self, record: &Record<'_>, patience: Duration) -> Result<Sent, Failure> {
        self.send_as(PLAIN, record, patience)
    }

    /// As [`send`](Self::send), and remembers the record's offset for [`marked_offset`](Self::marked_offset).
    pub(crate) fn send_marked(&self, record: &Record<'_>, patience: Duration) -> Result<Sent, Failure> {
        self.deliveries.marked_offset.store(-1, Ordering::Release);
        self.send_as(MARKED, record, patience)
    }

    fn send_as(&self, kind: usize, record: &Record<'_>, patience: Duration) -> Result<Sent, Failure> {
        self.queue(record, patience, || {
            let mut queued = BaseRecord::with_opaque_to(record.topic, kind)
                .payload(record.value)
                .timestamp(record.time_ms);
            queued.key = record.key;
            queued.partition = record.partition;
            queued.headers = record.headers.clone();
            self.client.send(queued).map_err(|(error, _)| error)
        })
    }

    /// A topic that is looked up once for many records.
    pub(crate) fn topic(&self, name: &str) -> Result<Topic<'_>, Failure> {
        let failure = |error| Failure::Kafka { what: format!("topic {name}"), error };
        let name = CString::new(name).map_err(|error| failure(error.into()))?;
        // SAFETY: the client lives; the name ends with a NUL and is copied; no configuration means the client's.
        #[expect(unsafe_code, reason = "the crate rdkafka looks a topic up by name for each record")]
        let handle = unsafe { bindings::rd_kafka_topic_new(self.native(), name.as_ptr(), ptr::null_mut()) };
        let Some(handle) = NonNull::new(handle) else {
            return Err(failure(KafkaError::MessageProduction(RDKafkaErrorCode::InvalidTopic)));
        };
        Ok(Topic { handle, producer: PhantomData })
    }

    /// As [`send`](Self::send), to the partition of the key in `topic`, which is the record's; without headers.
    pub(crate) fn send_to(
        &self,
        topic: &Topic<'_>,
        record: &Record<'_>,
        patience: Duration,
    ) -> Result<Sent, Failure> {
        let (key, key_bytes) = record.key.map_or((ptr::null(), 0), |key| (key.as_ptr(), key.len()));
        self.queue(record, patience, || {
            // SAFETY: the client lives, and the topic, whose type holds it to its producer's life. The arguments are
            // the pairs of a kind and its values, in the types that rdkafka.h names, and END. Key and value are copied
            // before the call returns. Without an opaque the delivery report has a null pointer, which is `PLAIN`.
            #[expect(unsafe_code, reason = "the crate rdkafka looks a topic up by name for each record")]
            let code = unsafe {
                bindings::rd_kafka_producev(
                    self.native(),
                    rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT,
                    topic.handle.as_ptr(),
                    rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                    bindings::RD_KAFKA_MSG_F_COPY,
                    rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                    record.value.as_ptr(),
                    record.value.len(),
                    rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                    key,
                    key_bytes,
                    rd_kafka_vtype_t::RD_KAFKA_VTYPE_TIMESTAMP,
                    record.time_ms,
                    rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
                )
            };
            match code {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
                code => Err(KafkaError::MessageProduction(code.into())),
            }
        })
    }

    /// Tries to give the client a record until it takes it.
    fn queue(
        &self,
        record: &Record<'_>,
        patience: Duration,
        mut take: impl FnMut() -> KafkaResult<()>,
    ) -> Result<Sent, Failure> {
        let mut waited = Duration::ZERO;
        while let Err(error) = take() {
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {
                    if waited >= patience {
                        return Err(self.failure(record.topic, error));
                    }
                    std::thread::sleep(WAIT);
                    waited += WAIT;
                    // Many partitions may have filled it, none of them a whole request.
                    if waited.as_millis().is_multiple_of(STILL.as_millis()) {
                        self.flush(LOOK);
                    }
                }
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => return Ok(Sent::TooLarge),
                _ => return Err(self.failure(record.topic, error)),
            }
        }
        let (records, before) = self.sent.get();
        let bytes = before + record.value.len() as u64;
        self.sent.set((records + 1, bytes));
        if before / NUDGE_BYTES != bytes / NUDGE_BYTES {
            self.flush(Duration::ZERO);
        }
        Ok(Sent::Queued)
    }

    /// Wakes the client's threads, and for so long, or until nothing is left, has them send what lingers.
    fn flush(&self, wait: Duration) {
        let milliseconds = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client lives, and any thread may call this at any time.
        #[expect(
            unsafe_code,
            reason = "the crate rdkafka flushes with timeouts of 0, during which nothing is sent"
        )]
        unsafe {
            bindings::rd_kafka_flush(self.native(), milliseconds);
        }
    }

    fn native(&self) -> *mut RDKafka {
        self.client.client().native_ptr()
    }

    /// Waits until the brokers have answered for every record sent so far.
    pub(crate) fn delivered(&self, deadline: Instant) -> Result<(), Failure> {
        let (records, bytes) = self.sent.get();
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            // A record is gone only when its delivery report was looked through.
            let left = u64::try_from(self.client.in_flight_count()).unwrap_or(0);
            if left == 0 {
                break;
            }
            let now = Instant::now();
            if now >= deadline {
                let error = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
                return Err(Failure::Kafka { what: "delivery".into(), error });
            }
            let moved = left != seen;
            if moved {
                (seen, since) = (left, now);
            }
            // Less than a full request goes at once, more where it is stuck.
            let few = left * bytes <= self.batch_bytes * records;
            if (few && moved) || now - since >= if few { WAIT } else { STILL } {
                self.flush(LOOK);
                since = Instant::now();
            } else {
                std::thread::sleep(LOOK);
            }
        }
        let mut trouble = self.deliveries.trouble.lock();
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
