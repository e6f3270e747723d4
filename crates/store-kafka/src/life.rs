//! One sink's life on a Kafka cluster: one producer, one transaction per part.
//!
//! Everything here blocks and runs on a blocking thread. What makes parts and lives end well is told at the head
//! of `commits.rs`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use tokio::runtime::Handle;
use weir_model::{Incarnation, NodeId, PartId};
use weir_shape::{ShapeError, each_event};
use weir_store::{Committed, Outcome, Part, PartBatch, StoreError};

use crate::commits::{self, CommitRecord, Findings, Reading};
use crate::producer::{Failure, Producer, Record, Sent};
use crate::settings::{KafkaSettings, Key};
use crate::token::KafkaToken;

/// How much of an event is kept in its dead letter, in bytes: enough to see whose it is, and small enough for
/// any topic.
const DEAD_LETTER_BYTES_MAX: usize = 16 << 10;

/// What a record takes on the wire beside its key and value, at most: the batch's header (61 bytes), the record's
/// own lengths and deltas.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// How far ahead of its receipt an event's time is believed. Brokers refuse a record, and the transaction with it,
/// that lies an hour ahead of them (`message.timestamp.after.max.ms`); clocks within a cluster differ by less.
const AHEAD_NS_MAX: i64 = 30 * 60 * 1_000_000_000;

/// How often one commit may start over because a topic turned out to take less than was thought.
const SIZE_LESSONS_MAX: usize = 8;

pub(crate) struct Life {
    settings: Arc<KafkaSettings>,
    sink: NodeId,
    incarnation: Incarnation,
    floors: Mutex<Floors>,
    over: AtomicBool,
    pub(crate) writer: Mutex<Writer>,
}

/// Where in the commit topic the records of our parts can be.
#[derive(Default)]
struct Floors {
    /// The life's own first mark.
    begun: i64,
    /// The last part's record: those of parts still to be committed lie behind it.
    now: i64,
    /// What `now` was when a part was first spoken of, so that its token is always the same.
    of_part: BTreeMap<u64, i64>,
}

/// How many parts are remembered. A token of an older one is as good, but costs a longer reading.
const PARTS_MAX: usize = 1024;

impl Floors {
    fn of(&mut self, number: u64) -> i64 {
        if self.of_part.len() == PARTS_MAX
            && self.of_part.first_key_value().is_some_and(|(&oldest, _)| number < oldest)
        {
            return self.begun;
        }
        let floor = *self.of_part.entry(number).or_insert(self.now);
        if self.of_part.len() > PARTS_MAX {
            self.of_part.pop_first();
        }
        floor
    }
}

/// What only one part at a time may use.
#[derive(Default)]
pub(crate) struct Writer {
    /// None while there is none to be trusted: the next commit makes one.
    pub(crate) producer: Option<Producer>,
    /// A part whose `commit_transaction` never gave an answer.
    pub(crate) doubt: Option<PartId>,
    /// This life's last parts that are stored, by their numbers: a caller that gave up waiting asks again.
    pub(crate) stored: BTreeMap<u64, Committed>,
    /// Topics that have refused a batch as too large, with what they take (bytes).
    batch_bytes: HashMap<String, usize>,
}

impl Writer {
    fn remember(&mut self, number: u64, committed: Committed) {
        self.stored.insert(number, committed);
        if self.stored.len() > PARTS_MAX {
            self.stored.pop_first();
        }
    }
}

impl Life {
    /// Begins a life: takes the sink's `transactional.id` over and says so in the commit topic.
    pub(crate) fn begin(
        settings: Arc<KafkaSettings>,
        sink: NodeId,
        incarnation: Incarnation,
    ) -> Result<Self, StoreError> {
        let life = Self {
            settings,
            sink,
            incarnation,
            floors: Mutex::default(),
            over: AtomicBool::new(false),
            writer: Mutex::default(),
        };
        let (producer, announced) = life.producer(&HashMap::new())?;
        *life.floors.lock() = Floors { begun: announced, now: announced, of_part: BTreeMap::new() };
        life.writer.lock().producer = Some(producer);
        Ok(life)
    }

    pub(crate) fn token(&self, id: &PartId) -> KafkaToken {
        KafkaToken {
            transactional_id: self.settings.transactions.then(|| self.settings.transactional_id(&self.sink)),
            commit_topic: self.settings.commit_topic.clone(),
            from: self.floors.lock().of(id.number),
        }
    }

    /// Stores the part in one transaction.
    pub(crate) fn commit(&self, part: &Part) -> Result<Committed, StoreError> {
        let mut writer = self.writer.lock();
        self.floors.lock().of(part.id.number);
        for _ in 0..SIZE_LESSONS_MAX {
            if self.over.load(Ordering::Acquire) {
                return Err(StoreError::Fenced);
            }
            if let Some(&committed) = writer.stored.get(&part.id.number) {
                return Ok(committed);
            }
            // Taken out: whatever goes wrong below, only a producer known to be sound is put back.
            let producer = match writer.producer.take() {
                Some(producer) => producer,
                None => self.start_over(&mut writer)?,
            };
            if let Some(&committed) = writer.stored.get(&part.id.number) {
                writer.producer = Some(producer);
                return Ok(committed);
            }
            let failure = match self.write(&producer, part, &writer.batch_bytes) {
                Ok(committed) => match producer.commit(self.settings.timeouts.commit) {
                    Ok(()) => {
                        let mut floors = self.floors.lock();
                        floors.now = floors.now.max(producer.marked_offset().unwrap_or(0));
                        drop(floors);
                        writer.producer = Some(producer);
                        writer.remember(part.id.number, committed);
                        return Ok(committed);
                    }
                    Err(Failure::Kafka { what, error }) => {
                        writer.doubt = self.settings.transactions.then(|| part.id.clone());
                        return Err(StoreError::transient(what, error));
                    }
                    Err(fenced) => fenced,
                },
                Err(failure) => match producer.abort(self.settings.timeouts.commit) {
                    // What the brokers did not take in time, this client may never deliver: after a broker that stood
                    // still it was seen not to ask for the topics' leaders again. Another one asks anew.
                    Ok(()) if matches!(failure, Failure::Kafka { .. }) => failure,
                    Ok(()) => {
                        writer.producer = Some(producer);
                        failure
                    }
                    Err(Failure::Fenced) => Failure::Fenced,
                    // The next producer's takeover aborts what this one could not.
                    Err(_) => failure,
                },
            };
            match failure {
                Failure::Fenced => self.over.store(true, Ordering::Release),
                Failure::TooLarge(topics) => {
                    for topic in topics {
                        let bytes =
                            Handle::current().block_on(commits::batch_bytes_max(&self.settings, &topic))?;
                        writer.batch_bytes.insert(topic, bytes);
                    }
                    // The batch size is a property of the client: the next round makes a new one.
                    writer.producer = None;
                }
                failure @ (Failure::Kafka { .. } | Failure::Payload { .. }) => {
                    return Err(transient(failure));
                }
            }
        }
        let error = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
        Err(StoreError::transient(format!("storing part {} in ever smaller batches", part.id), error))
    }

    /// Ends the life: nothing is committed any more, and the connections are closed.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.writer.lock().producer = None;
    }

    /// A new producer that has taken over the `transactional.id` and said so; with the offset of that record.
    fn producer(&self, batch_bytes: &HashMap<String, usize>) -> Result<(Producer, i64), StoreError> {
        let id = self.settings.transactions.then(|| self.settings.transactional_id(&self.sink));
        let smallest = batch_bytes.values().min().copied();
        let config = self.settings.producer(self.sink.as_str(), id.as_deref(), smallest);
        let key = commits::life_key(&self.sink, self.incarnation);
        let producer = Producer::open(&config, self.settings.timeouts.connect).map_err(transient)?;
        let offset = mark(&self.settings, &self.settings.commit_topic, &producer, &key).map_err(transient)?;
        Ok((producer, offset))
    }

    /// A new producer after the last one could not be trusted any more.
    ///
    /// Taking the id over also un-fences us, had somebody fenced us: hence the look for the mark of a fence,
    /// and for another life, up to our own new record. Why nothing can slip through: `commits.rs`.
    fn start_over(&self, writer: &mut Writer) -> Result<Producer, StoreError> {
        let (producer, announced) = self.producer(&writer.batch_bytes)?;
        if !self.settings.transactions {
            return Ok(producer);
        }
        let findings = Reading {
            topic: &self.settings.commit_topic,
            sink: &self.sink,
            incarnation: self.incarnation,
            part: writer.doubt.as_ref(),
            from: self.floors.lock().now,
            to: Some(announced),
        }
        .run(&self.settings)?;
        // Where the topic no longer reaches back to our beginning, a fence may have been deleted with the rest.
        if findings.over || findings.gone {
            self.over.store(true, Ordering::Release);
            return Err(StoreError::Fenced);
        }
        if let (Some(id), Some(committed)) = (writer.doubt.take(), findings.part) {
            writer.remember(id.number, committed);
        }
        Ok(producer)
    }

    /// Sends all of the part and, last, its record: other sinks' readings of the commit topic wait for open
    /// transactions there, so ours is open there no longer than it must be.
    pub(crate) fn write(
        &self,
        producer: &Producer,
        part: &Part,
        batch_bytes: &HashMap<String, usize>,
    ) -> Result<Committed, Failure> {
        let patience = patience(&self.settings);
        let mut committed = Committed::default();
        producer.begin()?;
        for batch in part.batches.iter().filter(|batch| batch.done.is_empty()) {
            self.send_batch(producer, batch, batch_bytes, &mut committed)?;
        }
        producer.delivered(Instant::now() + patience)?;
        let key = part.id.to_string();
        let record = Record {
            topic: &self.settings.commit_topic,
            partition: Some(commits::PARTITION),
            key: Some(key.as_bytes()),
            value: &CommitRecord::new(part, committed).encode(),
            time_ms: now_ms(),
            headers: None,
        };
        if producer.send_marked(&record, patience)? == Sent::TooLarge {
            let error = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
            return Err(Failure::Kafka { what: format!("the record of part {}", part.id), error });
        }
        producer.delivered(Instant::now() + patience)?;
        Ok(committed)
    }
}

impl Life {
    pub(crate) fn send_batch(
        &self,
        producer: &Producer,
        batch: &PartBatch,
        batch_bytes: &HashMap<String, usize>,
        committed: &mut Committed,
    ) -> Result<(), Failure> {
        let tag = &batch.header.tag;
        let topic = self.settings.topic_of(tag);
        let known = producer.topic(&topic)?;
        let key = self.key_of(tag);
        let limit = batch_bytes.get(&topic).copied().unwrap_or(usize::MAX);
        let patience = patience(&self.settings);
        let visited = each_event(batch, self.settings.format, |event| {
            let value = event.json;
            let record = Record {
                topic: &topic,
                partition: None,
                key,
                value,
                time_ms: record_time_ms(event.time_ns, batch.header.received_ns),
                headers: None,
            };
            let bytes = value.len() + key.map_or(0, <[u8]>::len) + RECORD_OVERHEAD_BYTES;
            if bytes > limit || producer.send_to(&known, &record, patience)? == Sent::TooLarge {
                let reason = format!("too large for its topic: {} bytes", value.len());
                self.send_dead_letter(producer, &record, tag, &reason)?;
                committed.dead_letters += 1;
                return Ok(());
            }
            committed.events += 1;
            committed.bytes += value.len() as u64;
            Ok(())
        });
        match visited {
            Ok(_) => Ok(()),
            Err(ShapeError::Visitor(failure)) => Err(failure),
            Err(ShapeError::Load(error)) => {
                Err(Failure::Payload { what: format!("loading batch {}", batch.id), error })
            }
            // Another try, or another sink, would meet the same bytes: the group must get past them.
            Err(ShapeError::Unpack(error)) => self.send_damaged(producer, batch, 0, &error, committed),
            Err(ShapeError::Entry { index, source }) => {
                self.send_damaged(producer, batch, index, &source, committed)
            }
        }
    }

    /// Makes a dead letter of a batch whose events from `from` on cannot be read, with its packed payload.
    fn send_damaged(
        &self,
        producer: &Producer,
        batch: &PartBatch,
        from: u64,
        error: &(dyn std::error::Error + 'static),
        committed: &mut Committed,
    ) -> Result<(), Failure> {
        let tag = &batch.header.tag;
        let lost = batch.header.events().saturating_sub(from);
        tracing::error!(batch = %batch.id, %tag, lost, error, "a damaged batch becomes a dead letter");
        committed.dead_letters += lost;
        let payload = batch
            .payload
            .load()
            .map_err(|error| Failure::Payload { what: format!("loading batch {}", batch.id), error })?;
        let record = Record {
            topic: &self.settings.topic_of(tag),
            partition: None,
            key: self.key_of(tag),
            value: &payload,
            time_ms: record_time_ms(batch.header.received_ns, batch.header.received_ns),
            headers: None,
        };
        let reason = format!("damaged from event {from} on: {error} (batch {})", batch.id);
        self.send_dead_letter(producer, &record, tag, &reason)
    }

    fn key_of<'t>(&self, tag: &'t str) -> Option<&'t [u8]> {
        match self.settings.key {
            Key::None => None,
            Key::Tag => Some(tag.as_bytes()),
        }
    }

    fn send_dead_letter(
        &self,
        producer: &Producer,
        record: &Record<'_>,
        tag: &str,
        reason: &str,
    ) -> Result<(), Failure> {
        let headers = OwnedHeaders::new_with_capacity(3)
            .insert(Header { key: "weir-reason", value: Some(reason) })
            .insert(Header { key: "weir-tag", value: Some(tag) })
            .insert(Header { key: "weir-topic", value: Some(record.topic) });
        let letter = Record {
            topic: &self.settings.dead_letter_topic,
            partition: None,
            key: record.key,
            value: &record.value[..record.value.len().min(DEAD_LETTER_BYTES_MAX)],
            time_ms: record.time_ms,
            headers: Some(headers),
        };
        match producer.send(&letter, patience(&self.settings))? {
            Sent::Queued => Ok(()),
            // Only with a `message.max.bytes` below 16 KiB: the operator's doing, and the operator's to see.
            Sent::TooLarge => {
                let error = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
                Err(Failure::Kafka { what: format!("dead letter to {}", letter.topic), error })
            }
        }
    }
}

/// Settles a part of any life: fences that life if nobody has yet, and looks.
pub(crate) fn resolve(
    settings: &KafkaSettings,
    id: &PartId,
    token: &KafkaToken,
) -> Result<Outcome, StoreError> {
    if let Some(outcome) = look(settings, id, token, None)? {
        return Ok(outcome);
    }
    let Some(transactional_id) = &token.transactional_id else {
        // Stored at least once, by choice: there is nothing to fence with.
        return Ok(Outcome::Void);
    };
    let deadline = Instant::now() + settings.timeouts.connect;
    let marked = loop {
        match fence(settings, id, token, transactional_id) {
            Ok(offset) => break Some(offset),
            // Somebody else fences the same life, or the sink begins anew. Whose mark stands, the topic says.
            Err(Failure::Fenced) if Instant::now() < deadline => {
                if let Some(outcome) = look(settings, id, token, None)? {
                    return Ok(outcome);
                }
            }
            Err(failure) => return Err(transient(failure)),
        }
    };
    look(settings, id, token, marked)?.ok_or_else(|| {
        let error = KafkaError::MessageConsumption(RDKafkaErrorCode::NoOffset);
        StoreError::transient(format!("finding our mark in topic {}", token.commit_topic), error)
    })
}

/// What the commit topic says of the part, up to offset `to` or the end; none if neither its record nor the end
/// of its life is there.
fn look(
    settings: &KafkaSettings,
    id: &PartId,
    token: &KafkaToken,
    to: Option<i64>,
) -> Result<Option<Outcome>, StoreError> {
    let reading = Reading {
        topic: &token.commit_topic,
        sink: &id.sink,
        incarnation: id.incarnation,
        part: Some(id),
        from: token.from,
        to,
    };
    match reading.run(settings)? {
        Findings { part: Some(_), .. } => Ok(Some(Outcome::Committed)),
        Findings { over: true, .. } => Ok(Some(Outcome::Void)),
        Findings { gone: true, .. } => {
            let error = KafkaError::MessageConsumption(RDKafkaErrorCode::OffsetOutOfRange);
            let what = format!("reading topic {} from offset {}: deleted", token.commit_topic, token.from);
            Err(StoreError::transient(what, error))
        }
        Findings { .. } => Ok(None),
    }
}

/// Fences the life that `id` belongs to, for ever; answers where the mark lies.
fn fence(
    settings: &KafkaSettings,
    id: &PartId,
    token: &KafkaToken,
    transactional_id: &str,
) -> Result<i64, Failure> {
    let config = settings.producer("fence", Some(transactional_id), None);
    let producer = Producer::open(&config, settings.timeouts.connect)?;
    mark(settings, &token.commit_topic, &producer, &commits::fence_key(&id.sink, id.incarnation))
}

/// Writes one mark in a transaction of its own; answers its offset.
pub(crate) fn mark(
    settings: &KafkaSettings,
    topic: &str,
    producer: &Producer,
    key: &str,
) -> Result<i64, Failure> {
    let patience = patience(settings);
    let record = Record {
        topic,
        partition: Some(commits::PARTITION),
        key: Some(key.as_bytes()),
        value: b"{}",
        time_ms: now_ms(),
        headers: None,
    };
    producer.begin()?;
    producer.send_marked(&record, patience)?;
    producer.delivered(Instant::now() + patience)?;
    producer.commit(settings.timeouts.commit)?;
    producer.marked_offset().ok_or_else(|| {
        // A retried request whose first answer was lost may come back without an offset.
        let error = KafkaError::MessageProduction(RDKafkaErrorCode::NoOffset);
        Failure::Kafka { what: format!("mark {key} in topic {topic}"), error }
    })
}

/// How long the client is waited for: it gives up each record after the delivery timeout; the rest is for our own
/// work in between.
fn patience(settings: &KafkaSettings) -> Duration {
    settings.timeouts.delivery + settings.timeouts.commit
}

/// The time of an event's record: the event's own, unless the brokers would refuse it for that.
fn record_time_ms(event_ns: i64, received_ns: i64) -> i64 {
    let believable = 0..=received_ns.saturating_add(AHEAD_NS_MAX);
    let time_ns = if believable.contains(&event_ns) { event_ns } else { received_ns };
    time_ns / 1_000_000
}

fn transient(failure: Failure) -> StoreError {
    match failure {
        // Of a producer made a moment ago: another member takes the id over at the same time. Whether our life
        // is over is for the marks to say, at the next try.
        Failure::Fenced => StoreError::transient(
            "keeping the transactional id",
            KafkaError::MessageProduction(RDKafkaErrorCode::ProducerFenced),
        ),
        Failure::TooLarge(topics) => StoreError::transient(
            format!("delivery to {topics:?}"),
            KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge),
        ),
        Failure::Kafka { what, error } => StoreError::transient(what, error),
        Failure::Payload { what, error } => StoreError::transient(what, error),
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
