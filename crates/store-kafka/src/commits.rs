//! The commit topic: one partition that says which parts were committed and which lives are over.
//!
//! Its records, by key:
//!
//! | key | value | written |
//! |---|---|---|
//! | `<sink>~<incarnation>~<number>` (a part id) | what was committed: counts, and ranges by log | by the part's own transaction |
//! | `life:<sink>~<incarnation>` | empty object | by a life's every new producer, before anything else |
//! | `fence:<sink>~<incarnation>` | empty object | by whoever resolves a part of that life |
//!
//! All producers that write for a sink bear the sink's one `transactional.id`, and each `init_transactions` first
//! ends what the one before it had open. So the records of one sink stand in the order of its producers, and this
//! rule follows:
//!
//! > **A life is over** at the first record after its own beginning that is a `fence:` of it or a `life:` of
//! > another incarnation of its sink. No part of it is, or ever will be, recorded after that mark.
//!
//! Why "ever": the mark's writer had called `init_transactions`, so every earlier producer of the life is fenced
//! and its transactions are decided. A later one (a life that makes itself a new producer after a timeout, see
//! `life.rs`) must call `init_transactions` too; by then the mark's transaction is decided as well. It was either
//! aborted, then its writer knows that it has not fenced anything; or committed, then the new producer, which
//! reads this topic up to a record of its own before it sends a part, comes upon the mark and gives up.
//!
//! Left out on purpose: who decides what to do with an answer (that is `life.rs`).

use std::collections::BTreeMap;
use std::time::Instant;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use weir_model::{Incarnation, NodeId, PartId, SeqRanges};
use weir_store::{Committed, Part, StoreError};

use crate::settings::KafkaSettings;

/// The commit topic's only partition.
pub(crate) const PARTITION: i32 = 0;

/// The value of a part's record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CommitRecord {
    events: u64,
    bytes: u64,
    dead_letters: u64,
    /// Half-open ranges of sequence numbers by `edge/group/incarnation`.
    batches: BTreeMap<String, SeqRanges>,
}

impl CommitRecord {
    pub(crate) fn new(part: &Part, committed: Committed) -> Self {
        let mut batches: BTreeMap<String, SeqRanges> = BTreeMap::new();
        for batch in &part.batches {
            let log = &batch.id.log;
            let name = format!("{}/{}/{}", log.edge, log.group, log.incarnation);
            batches.entry(name).or_default().insert(batch.id.seq);
        }
        let Committed { events, bytes, dead_letters } = committed;
        Self { events, bytes, dead_letters, batches }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data with text keys always becomes JSON")
    }

    fn committed(&self) -> Committed {
        Committed { events: self.events, bytes: self.bytes, dead_letters: self.dead_letters }
    }
}

/// The key of a life's own mark.
pub(crate) fn life_key(sink: &NodeId, incarnation: Incarnation) -> String {
    format!("life:{sink}~{incarnation}")
}

/// The key of the mark that ends a life.
pub(crate) fn fence_key(sink: &NodeId, incarnation: Incarnation) -> String {
    format!("fence:{sink}~{incarnation}")
}

/// What a reading is for, and where it may stop.
pub(crate) struct Reading<'a> {
    /// The commit topic.
    pub(crate) topic: &'a str,
    /// The life whose records are looked for.
    pub(crate) sink: &'a NodeId,
    /// The life whose records are looked for.
    pub(crate) incarnation: Incarnation,
    /// The part that is looked for.
    pub(crate) part: Option<&'a PartId>,
    /// No record that matters lies before this offset.
    pub(crate) from: i64,
    /// Read up to and with this offset; without it, up to what is now the end of what is decided.
    pub(crate) to: Option<i64>,
}

/// What a reading found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Findings {
    /// The part's record.
    pub(crate) part: Option<Committed>,
    /// Whether a mark says that the life is over.
    pub(crate) over: bool,
    /// Whether the topic no longer holds the place where the reading was to begin: nothing was read.
    pub(crate) gone: bool,
}

impl Reading<'_> {
    /// Reads with a consumer of its own, which lives no longer than the reading.
    ///
    /// It stops at a mark that ends the life, since nothing of the life can follow it. Transactions of other
    /// sinks that are still open hide what lies after them: a reading to an offset waits for them.
    pub(crate) fn run(&self, settings: &KafkaSettings) -> Result<Findings, StoreError> {
        let deadline = Instant::now() + settings.timeouts.connect;
        let failed =
            |error: KafkaError| StoreError::transient(format!("reading topic {}", self.topic), error);

        let consumer = BaseConsumer::from_config(&settings.reader()).map_err(failed)?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(self.topic, PARTITION, Offset::Offset(self.from)).map_err(failed)?;
        consumer.assign(&assignment).map_err(failed)?;

        let mut findings = Findings::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
            }
            match consumer.poll(left) {
                None => {}
                Some(Ok(record)) => {
                    self.note(&mut findings, record.key().unwrap_or_default(), record.payload());
                    let last = self.to.is_some_and(|to| record.offset() >= to);
                    if last || findings.over || (findings.part.is_some() && self.to.is_none()) {
                        return Ok(findings);
                    }
                }
                // The end of what is decided so far. A reading to an offset waits for more.
                Some(Err(KafkaError::PartitionEOF(_))) if self.to.is_none() => return Ok(findings),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => match error.rdkafka_error_code() {
                    // Lost connections and the like: librdkafka goes on by itself.
                    Some(
                        RDKafkaErrorCode::BrokerTransportFailure
                        | RDKafkaErrorCode::AllBrokersDown
                        | RDKafkaErrorCode::Resolve,
                    ) => {}
                    // Deleted by retention, or the topic was made anew.
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                        return Ok(Findings { gone: true, ..findings });
                    }
                    _ => return Err(failed(error)),
                },
            }
        }
    }

    fn note(&self, findings: &mut Findings, key: &[u8], value: Option<&[u8]>) {
        let Ok(key) = std::str::from_utf8(key) else { return };
        if let Some(part) = self.part
            && key == part.to_string()
        {
            // A record that this version cannot read still says that the part was committed.
            let record = value.and_then(|value| serde_json::from_slice::<CommitRecord>(value).ok());
            findings.part = Some(record.map(|record| record.committed()).unwrap_or_default());
        } else if key == fence_key(self.sink, self.incarnation) || self.is_another_life(key) {
            findings.over = true;
        }
    }

    fn is_another_life(&self, key: &str) -> bool {
        key.strip_prefix("life:")
            .and_then(|life| life.split_once('~'))
            .is_some_and(|(sink, life)| sink == self.sink.as_str() && life != self.incarnation.to_string())
    }
}

/// Makes the commit topic and the dead letter topic where they are missing.
pub(crate) async fn ensure_topics(settings: &KafkaSettings) -> Result<(), StoreError> {
    let failed = |what: &str, error: KafkaError| StoreError::transient(format!("making topic {what}"), error);
    let timeout = settings.timeouts.connect;
    let admin: AdminClient<DefaultClientContext> =
        settings.admin().create().map_err(|error| failed(&settings.commit_topic, error))?;
    // -1: the brokers' own default.
    let commits = NewTopic::new(&settings.commit_topic, 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "compact");
    let letters = NewTopic::new(&settings.dead_letter_topic, -1, TopicReplication::Fixed(-1));
    let options = AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout));
    let answers = admin
        .create_topics(&[commits, letters], &options)
        .await
        .map_err(|error| failed(&settings.commit_topic, error))?;
    for answer in answers {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            // A cluster that lets nobody make topics has them made by its operator; if not, the first
            // transaction says so.
            Err((
                topic,
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::PolicyViolation),
            )) => {
                tracing::warn!(topic, %code, "may not make this topic; it must exist");
            }
            Err((topic, code)) => return Err(failed(&topic, KafkaError::AdminOp(code))),
        }
    }
    Ok(())
}

/// The largest record batch, in bytes, that `topic` takes (`max.message.bytes`).
pub(crate) async fn batch_bytes_max(settings: &KafkaSettings, topic: &str) -> Result<usize, StoreError> {
    let failed = |error: KafkaError| StoreError::transient(format!("describing topic {topic}"), error);
    let admin: AdminClient<DefaultClientContext> = settings.admin().create().map_err(failed)?;
    let options = AdminOptions::new().request_timeout(Some(settings.timeouts.connect));
    let answers =
        admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await.map_err(failed)?;
    for answer in answers {
        let resource = answer.map_err(|code| failed(KafkaError::AdminOp(code)))?;
        let limit = resource.get("max.message.bytes").and_then(|entry| entry.value.as_ref());
        if let Some(bytes) = limit.and_then(|value| value.parse().ok()) {
            return Ok(bytes);
        }
    }
    Err(failed(KafkaError::AdminOp(RDKafkaErrorCode::UnknownTopicOrPartition)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(incarnation: u128, number: u64) -> PartId {
        PartId { sink: NodeId::new("sink-1").unwrap(), incarnation: Incarnation(incarnation), number }
    }

    fn note(key: &str) -> Findings {
        let part = id(7, 3);
        let reading = Reading {
            topic: "commits",
            sink: &part.sink,
            incarnation: part.incarnation,
            part: Some(&part),
            from: 0,
            to: None,
        };
        let mut findings = Findings::default();
        let value = br#"{"events":5,"bytes":90,"dead_letters":1,"batches":{"e/g/0":[[0,4]]}}"#;
        reading.note(&mut findings, key.as_bytes(), Some(value));
        findings
    }

    #[test]
    fn a_life_ends_at_its_fence_and_at_another_life() {
        let sink = NodeId::new("sink-1").unwrap();
        let other = NodeId::new("sink-10").unwrap();
        assert!(note(&fence_key(&sink, Incarnation(7))).over);
        assert!(note(&life_key(&sink, Incarnation(8))).over);
        for harmless in [
            fence_key(&sink, Incarnation(8)),
            life_key(&sink, Incarnation(7)),
            life_key(&other, Incarnation(8)),
            id(7, 4).to_string(),
            "life:".to_owned(),
        ] {
            assert_eq!(note(&harmless), Findings::default(), "{harmless}");
        }
    }

    #[test]
    fn a_part_is_found_with_its_counts() {
        let found = note(&id(7, 3).to_string());
        assert_eq!(found.part, Some(Committed { events: 5, bytes: 90, dead_letters: 1 }));
        assert!(!found.over);
    }
}
