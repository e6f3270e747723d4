//! Against a real cluster, named by `WEIR_TEST_KAFKA`: what each death and each race leaves behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use weir_model::{
    BatchHeader, BatchId, Encoding, GroupId, Incarnation, LogId, MinuteTally, NodeId, PartId, Seq,
};
use weir_store::{Committed, Outcome, Part, PartBatch, StoreError};

use crate::commits;
use crate::life::{self, Life};
use crate::producer::{Failure, Producer};
use crate::settings::{Compression, KafkaSettings};

/// The cluster's address, or a visible skip.
macro_rules! kafka {
    () => {
        match std::env::var("WEIR_TEST_KAFKA") {
            Ok(brokers) => brokers,
            Err(_) => {
                eprintln!("skipped: WEIR_TEST_KAFKA is not set");
                return;
            }
        }
    };
}

// Below the macro, which it uses.
mod conforms;

/// Settings of a group that no other test uses.
fn settings(brokers: &str) -> Arc<KafkaSettings> {
    static GROUPS: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let group = format!("t{now}-{}", GROUPS.fetch_add(1, Ordering::Relaxed));
    let mut settings = KafkaSettings::new(GroupId::new(&group).unwrap(), brokers);
    settings.topic = format!("{group}-{{tag}}");
    Arc::new(settings)
}

fn sink(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn begin(settings: &Arc<KafkaSettings>, name: &str, incarnation: u128) -> Life {
    Life::begin(Arc::clone(settings), sink(name), Incarnation(incarnation)).unwrap()
}

fn part_id(name: &str, incarnation: u128, number: u64) -> PartId {
    PartId { sink: sink(name), incarnation: Incarnation(incarnation), number }
}

/// A part of one batch for each of `tags`, of `events` events each.
fn part(id: PartId, tags: &[&str], events: u64) -> Part {
    let batches = tags
        .iter()
        .enumerate()
        .map(|(seq, tag)| {
            let payload = entries((0..events).map(|n| format!("{tag} {id} {n}")));
            batch(tag, seq as u64, events, payload)
        })
        .collect();
    Part { id, partitions: vec!["".into()], batches }
}

fn batch(tag: &str, seq: u64, events: u64, payload: Bytes) -> PartBatch {
    let log = LogId {
        edge: NodeId::new("edge-1").unwrap(),
        group: GroupId::new("g").unwrap(),
        incarnation: Incarnation(5),
    };
    let bytes = payload.len() as u64;
    let minutes = vec![MinuteTally { minute: now_s() as i64 / 60, events, bytes, digest: 0 }];
    let header = BatchHeader {
        tag: tag.into(),
        encoding: Encoding::Plain,
        received_ns: now_s() as i64 * 1_000_000_000,
        chunks: Vec::new(),
        unpacked_bytes: bytes,
        minutes,
    };
    PartBatch {
        id: BatchId { log: Arc::new(log), seq: Seq(seq) },
        header: Arc::new(header),
        done: Vec::new(),
        payload: Arc::new(payload),
    }
}

/// Seconds since 1970. Events of long ago will not do: brokers delete by the records' time.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Forward entries `[now, {"m": text}]`.
fn entries(texts: impl Iterator<Item = String>) -> Bytes {
    entries_at(now_s(), texts)
}

fn entries_at(time_s: u64, texts: impl Iterator<Item = String>) -> Bytes {
    let mut out = Vec::new();
    for text in texts {
        rmp::encode::write_array_len(&mut out, 2).unwrap();
        rmp::encode::write_uint(&mut out, time_s).unwrap();
        rmp::encode::write_map_len(&mut out, 1).unwrap();
        rmp::encode::write_str(&mut out, "m").unwrap();
        rmp::encode::write_str(&mut out, &text).unwrap();
    }
    out.into()
}

/// All that a `read_committed` consumer finds in `topic`: the values, and each value's `weir-reason` header.
fn read(settings: &KafkaSettings, topic: &str) -> Vec<(String, Option<String>)> {
    look_at(settings, topic, |record| {
        let reason = record.headers().and_then(|headers| {
            let header = headers.iter().find(|header| header.key == "weir-reason")?;
            Some(String::from_utf8_lossy(header.value?).into_owned())
        });
        (String::from_utf8_lossy(record.payload().unwrap()).into_owned(), reason)
    })
}

/// What `look` says of each record that a `read_committed` consumer finds in `topic`.
fn look_at<T>(settings: &KafkaSettings, topic: &str, look: impl Fn(&BorrowedMessage<'_>) -> T) -> Vec<T> {
    let consumer = BaseConsumer::from_config(&settings.reader()).unwrap();
    let partitions = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    let partitions: Vec<i32> = partitions
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
        .map(|partition| partition.id())
        .collect();
    let mut assignment = TopicPartitionList::new();
    for partition in &partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut ends = 0;
    let mut found = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while ends < partitions.len() {
        assert!(Instant::now() < deadline, "topic {topic} was not read to its end");
        match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(record)) => found.push(look(&record)),
            Some(Err(KafkaError::PartitionEOF(_))) => ends += 1,
            Some(Err(error)) => panic!("reading {topic}: {error}"),
            None => {}
        }
    }
    found
}

/// How often each event's text is found in the topic of `tag`.
fn texts(settings: &KafkaSettings, tag: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (value, _) in read(settings, &settings.topic_of(tag)) {
        let event: serde_json::Value = serde_json::from_str(&value).unwrap();
        assert_eq!(event["tag"], tag);
        *counts.entry(event["record"]["m"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

fn make_topic(settings: &KafkaSettings, topic: &str, max_message_bytes: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let admin: AdminClient<DefaultClientContext> = settings.admin().create().unwrap();
    let topic =
        NewTopic::new(topic, 1, TopicReplication::Fixed(1)).set("max.message.bytes", max_message_bytes);
    runtime.block_on(admin.create_topics(&[topic], &AdminOptions::new())).unwrap();
}

/// Makes the group's own topics, as `Backend::begin` does.
fn ensure_topics(settings: &KafkaSettings) {
    tokio::runtime::Runtime::new().unwrap().block_on(commits::ensure_topics(settings)).unwrap();
}

/// Sends a whole part with its record, as far as the brokers' answers, and then is killed: neither committed nor
/// aborted.
fn die_before_commit(life: &Life, part: &Part) {
    let producer = life.writer.lock().producer.take().unwrap();
    life.write(&producer, part, &Default::default()).unwrap();
}

#[test]
fn a_part_is_stored_with_its_record() {
    let settings = settings(&kafka!());
    ensure_topics(&settings);
    let life = begin(&settings, "sink-1", 1);
    let first = part(part_id("sink-1", 1, 0), &["a", "b"], 100);
    let token = life.token(&first.id);
    let committed = life.commit(&first).unwrap();
    assert_eq!((committed.events, committed.dead_letters), (200, 0));
    for tag in ["a", "b"] {
        let texts = texts(&settings, tag);
        assert_eq!(texts.len(), 100);
        assert!(texts.values().all(|&times| times == 1));
    }
    let records: Vec<String> =
        read(&settings, &settings.commit_topic).into_iter().map(|(value, _)| value).collect();
    assert_eq!(records.len(), 2, "the life's mark and the part's record: {records:?}");
    assert!(records[1].contains(r#""batches":{"edge-1/g/00000000000000000000000000000005":[[0,2]]}"#));

    // What is stored is stored: the answer ends no life, and a later token tells the same.
    life.commit(&part(part_id("sink-1", 1, 1), &["a"], 1)).unwrap();
    assert_eq!(token, life.token(&first.id));
    assert_eq!(life::resolve(&settings, &first.id, &token).unwrap(), Outcome::Committed);
    life.commit(&part(part_id("sink-1", 1, 2), &["a"], 1)).unwrap();
}

#[test]
fn a_sink_killed_in_mid_transaction_leaves_nothing() {
    let settings = settings(&kafka!());
    ensure_topics(&settings);
    let life = begin(&settings, "sink-1", 1);
    let part = part(part_id("sink-1", 1, 0), &["a"], 1000);
    let token = life.token(&part.id);
    die_before_commit(&life, &part);
    for _ in 0..2 {
        assert_eq!(life::resolve(&settings, &part.id, &token).unwrap(), Outcome::Void);
    }
    assert!(read(&settings, &settings.topic_of("a")).is_empty());
    // Not dead after all: it makes itself a new producer, and finds the mark.
    assert!(matches!(life.commit(&part), Err(StoreError::Fenced)));
    assert!(matches!(life.commit(&part), Err(StoreError::Fenced)));
    assert!(read(&settings, &settings.topic_of("a")).is_empty());
    assert_eq!(life::resolve(&settings, &part.id, &token).unwrap(), Outcome::Void);
}

#[test]
fn a_living_sink_is_fenced() {
    let settings = settings(&kafka!());
    ensure_topics(&settings);
    let life = begin(&settings, "sink-1", 1);
    life.commit(&part(part_id("sink-1", 1, 0), &["a"], 1)).unwrap();
    let late = part(part_id("sink-1", 1, 1), &["a"], 1);
    assert_eq!(life::resolve(&settings, &late.id, &life.token(&late.id)).unwrap(), Outcome::Void);
    for _ in 0..2 {
        assert!(matches!(life.commit(&late), Err(StoreError::Fenced)));
    }
    assert_eq!(texts(&settings, "a").len(), 1);
}

#[test]
fn a_new_life_ends_the_old_one_and_settles_its_parts_without_ending_itself() {
    let settings = settings(&kafka!());
    ensure_topics(&settings);
    let old = begin(&settings, "sink-1", 1);
    let stored = part(part_id("sink-1", 1, 0), &["a"], 1);
    let lost = part(part_id("sink-1", 1, 1), &["a"], 1);
    let tokens = [old.token(&stored.id), old.token(&lost.id)];
    old.commit(&stored).unwrap();

    let new = begin(&settings, "sink-1", 2);
    assert!(matches!(old.commit(&lost), Err(StoreError::Fenced)));
    assert_eq!(life::resolve(&settings, &stored.id, &tokens[0]).unwrap(), Outcome::Committed);
    assert_eq!(life::resolve(&settings, &lost.id, &tokens[1]).unwrap(), Outcome::Void);
    new.commit(&part(part_id("sink-1", 2, 0), &["a"], 1)).unwrap();
    assert_eq!(texts(&settings, "a").len(), 2);
}

// The race that a takeover by ourselves could lose: see the head of `commits.rs`.
#[test]
fn a_fence_that_meets_a_new_producer_of_the_same_life_is_decided_by_its_mark() {
    let settings = settings(&kafka!());
    ensure_topics(&settings);
    let life = begin(&settings, "sink-1", 1);
    let part = part(part_id("sink-1", 1, 0), &["a"], 1);
    let token = life.token(&part.id);

    // A timeout cost the life its producer, and a resolver has just taken the id over: no mark yet.
    life.writer.lock().producer = None;
    let id = settings.transactional_id(&sink("sink-1"));
    let resolver =
        Producer::open(&settings.producer("fence", Some(&id), None), settings.timeouts.connect).unwrap();
    // The life takes it back, finds no mark, and goes on;
    life.commit(&part).unwrap();
    // so the resolver must not get its mark in,
    let key = commits::fence_key(&part.id.sink, part.id.incarnation);
    let marked = life::mark(&settings, &settings.commit_topic, &resolver, &key);
    assert!(matches!(marked, Err(Failure::Fenced)), "{marked:?}");
    // and learns the truth when it looks again.
    assert_eq!(life::resolve(&settings, &part.id, &token).unwrap(), Outcome::Committed);
}

#[test]
fn a_lost_answer_is_looked_up() {
    let settings = settings(&kafka!());
    ensure_topics(&settings);
    let life = begin(&settings, "sink-1", 1);
    let lose_answer = |part: &Part| {
        let mut writer = life.writer.lock();
        writer.producer = None;
        writer.doubt = Some(part.id.clone());
        writer.stored.clear();
    };
    // It took effect.
    let first = part(part_id("sink-1", 1, 0), &["a"], 10);
    let committed = life.commit(&first).unwrap();
    lose_answer(&first);
    assert_eq!(life.commit(&first).unwrap(), committed);
    // It did not.
    let second = part(part_id("sink-1", 1, 1), &["a"], 10);
    die_before_commit(&life, &second);
    lose_answer(&second);
    assert_eq!(life.commit(&second).unwrap().events, 10);
    let texts = texts(&settings, "a");
    assert_eq!(texts.len(), 20);
    assert!(texts.values().all(|&times| times == 1));
}

#[test]
fn another_sinks_open_transaction_is_waited_for() {
    let mut settings = settings(&kafka!());
    Arc::make_mut(&mut settings).timeouts.connect = Duration::from_secs(2);
    ensure_topics(&settings);
    let life = begin(&settings, "sink-1", 1);
    let slow = begin(&settings, "sink-2", 1);
    let open = part(part_id("sink-2", 1, 0), &["b"], 1);
    let producer = slow.writer.lock().producer.take().unwrap();
    slow.write(&producer, &open, &Default::default()).unwrap();

    // Stored, but hidden behind what sink-2 has not decided: the store cannot say yet.
    let part = part(part_id("sink-1", 1, 0), &["a"], 1);
    let token = life.token(&part.id);
    life.commit(&part).unwrap();
    let unsure = life::resolve(&settings, &part.id, &token);
    assert!(matches!(unsure, Err(StoreError::Transient { .. })), "{unsure:?}");
    producer.abort(Duration::from_secs(10)).unwrap();
    assert_eq!(life::resolve(&settings, &part.id, &token).unwrap(), Outcome::Committed);
}

#[test]
fn what_is_too_large_becomes_a_dead_letter() {
    let mut settings = settings(&kafka!());
    Arc::make_mut(&mut settings).compression = Compression::None;
    ensure_topics(&settings);
    // Beyond the client's own bound, and beyond that of one topic, which only its broker knows.
    make_topic(&settings, &settings.topic_of("small"), "3000");
    let life = begin(&settings, "sink-1", 1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _as_on_a_blocking_thread = runtime.enter();
    let events = |sizes: &[usize]| entries(sizes.iter().map(|&size| "x".repeat(size)));
    let mut part = part(part_id("sink-1", 1, 0), &[], 0);
    part.batches.push(batch("large", 0, 3, events(&[5, 2_000_000, 50])));
    // Together they are more than the topic takes at a time, alone all but one are not.
    part.batches.push(batch("small", 1, 5, events(&[1000, 1001, 1002, 5000, 1003])));
    let committed = life.commit(&part).unwrap();
    assert_eq!((committed.events, committed.dead_letters), (6, 2));
    assert_eq!(texts(&settings, "large").len(), 2);
    assert_eq!(texts(&settings, "small").len(), 4);
    let letters = read(&settings, &settings.dead_letter_topic);
    assert_eq!(letters.len(), 2);
    for (value, reason) in letters {
        assert!(value.len() <= 16 << 10, "a dead letter is cut");
        assert!(reason.is_some_and(|reason| reason.starts_with("too large")));
    }
    // What was learnt stays learnt.
    let next = Part { id: part_id("sink-1", 1, 1), ..part };
    assert_eq!(life.commit(&next).unwrap(), committed);
}

// Brokers refuse what lies more than an hour ahead (`message.timestamp.after.max.ms`): one sender's wrong clock must
// not stop the others.
#[test]
fn an_event_of_another_time_is_stored_with_it() {
    let settings = settings(&kafka!());
    ensure_topics(&settings);
    let life = begin(&settings, "sink-1", 1);
    let mut part = part(part_id("sink-1", 1, 0), &["a"], 1);
    let far = now_s() + 86_400 * 400;
    part.batches.push(batch("a", 1, 1, entries_at(far, ["ahead".to_owned()].into_iter())));
    let before = now_s() - 1000;
    part.batches.push(batch("a", 2, 1, entries_at(before, ["behind".to_owned()].into_iter())));
    assert_eq!(life.commit(&part).unwrap().events, 3);
    assert_eq!(texts(&settings, "a").len(), 3);
    let bears =
        |record: &BorrowedMessage<'_>| (record.key().map(<[u8]>::to_vec), record.timestamp().to_millis());
    let found = look_at(&settings, &settings.topic_of("a"), bears);
    assert!(found.contains(&(Some(b"a".to_vec()), Some(before as i64 * 1000))), "{found:?}");
}

#[test]
fn without_transactions_a_part_is_stored_at_least_once() {
    let mut settings = settings(&kafka!());
    Arc::make_mut(&mut settings).transactions = false;
    ensure_topics(&settings);
    let life = begin(&settings, "sink-1", 1);
    let stored = part(part_id("sink-1", 1, 0), &["a"], 10);
    let lost = part(part_id("sink-1", 1, 1), &["a"], 10);
    let tokens = [life.token(&stored.id), life.token(&lost.id)];
    assert_eq!(life.commit(&stored).unwrap().events, 10);
    assert_eq!(life::resolve(&settings, &stored.id, &tokens[0]).unwrap(), Outcome::Committed);
    assert_eq!(life::resolve(&settings, &lost.id, &tokens[1]).unwrap(), Outcome::Void);
    // Sent by a life that died before it had told anyone, and sent again by the next.
    let lost_texts = |times| texts(&settings, "a").values().filter(|&&found| found == times).count();
    let mut guard = life.writer.lock();
    let producer = guard.producer.take().unwrap();
    let batch = &lost.batches[0];
    life.send_batch(&producer, batch, &Default::default(), &mut Committed::default()).unwrap();
    producer.delivered(Instant::now() + Duration::from_secs(10)).unwrap();
    drop(guard);
    assert_eq!((lost_texts(1), lost_texts(2)), (20, 0));
    begin(&settings, "sink-1", 2).commit(&Part { id: part_id("sink-1", 2, 0), ..lost }).unwrap();
    assert_eq!((lost_texts(1), lost_texts(2)), (10, 10), "sent twice, stored twice");
}

#[test]
fn a_deleted_record_is_not_taken_for_void() {
    let settings = settings(&kafka!());
    ensure_topics(&settings);
    let life = begin(&settings, "sink-1", 1);
    let part = part(part_id("sink-1", 1, 0), &["a"], 1);
    let token = life.token(&part.id);
    life.commit(&part).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let admin: AdminClient<DefaultClientContext> = settings.admin().create().unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(&settings.commit_topic, commits::PARTITION, Offset::End).unwrap();
    // Only a topic that may delete lets us.
    let policy =
        rdkafka::admin::AlterConfig::new(rdkafka::admin::ResourceSpecifier::Topic(&settings.commit_topic))
            .set("cleanup.policy", "compact,delete");
    runtime.block_on(admin.alter_configs(&[policy], &AdminOptions::new())).unwrap();
    runtime.block_on(admin.delete_records(&all, &AdminOptions::new())).unwrap();
    let unsure = life::resolve(&settings, &part.id, &token);
    assert!(matches!(unsure, Err(StoreError::Transient { .. })), "{unsure:?}");
    // A life whose past is gone cannot know whether it was fenced.
    life.writer.lock().producer = None;
    let next = Part { id: part_id("sink-1", 1, 1), ..part };
    assert!(matches!(life.commit(&next), Err(StoreError::Fenced)));
}

#[test]
fn a_damaged_batch_stops_nobody() {
    let settings = settings(&kafka!());
    ensure_topics(&settings);
    let life = begin(&settings, "sink-1", 1);
    let mut part = part(part_id("sink-1", 1, 0), &["a"], 5);
    // Ends within its third entry; cannot be unpacked at all.
    let whole = entries(["x", "y", "z"].map(str::to_owned).into_iter());
    part.batches.push(batch("b", 1, 3, whole.slice(..whole.len() - 1)));
    let mut packed = batch("c", 2, 7, Bytes::from_static(b"not gzip"));
    Arc::make_mut(&mut packed.header).encoding = Encoding::Gzip;
    part.batches.push(packed);
    let committed = life.commit(&part).unwrap();
    assert_eq!((committed.events, committed.dead_letters), (7, 8));
    assert_eq!((texts(&settings, "a").len(), texts(&settings, "b").len()), (5, 2));
    let letters = read(&settings, &settings.dead_letter_topic);
    let reasons: Vec<&str> = letters.iter().map(|(_, reason)| reason.as_deref().unwrap()).collect();
    assert_eq!(letters.len(), 2);
    for start in ["damaged from event 2 on", "damaged from event 0 on"] {
        assert!(reasons.iter().any(|reason| reason.starts_with(start)), "{reasons:?}");
    }
}
