//! What a sink costs a Kafka cluster does not grow with its tags. Alone in its process: it counts the process's
//! connections.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use weir_model::{
    BatchHeader, BatchId, Encoding, GroupId, Incarnation, LogId, MinuteTally, NodeId, PartId, Seq,
};
use weir_store::{Backend, Part, PartBatch};
use weir_store_kafka::{KafkaBackend, KafkaSettings};

const TAGS: u64 = 1000;

/// This process's established connections to one of `ports`.
fn connections(ports: &HashSet<u16>) -> usize {
    let ours: HashSet<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let tables =
        ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(|table| fs::read_to_string(table).unwrap());
    tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter(|line| {
            // proc(5): local address, remote address, state (01 is established), …, inode.
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = u16::from_str_radix(fields[2].rsplit(':').next().unwrap(), 16).unwrap();
            fields[3] == "01" && ports.contains(&port) && ours.contains(fields[9])
        })
        .count()
}

fn part(number: u64, tags: u64) -> Part {
    let log = Arc::new(LogId {
        edge: NodeId::new("edge-1").unwrap(),
        group: GroupId::new("g").unwrap(),
        incarnation: Incarnation(5),
    });
    let batches = (0..tags).map(|tag| {
        let mut payload = Vec::new();
        for n in 0..10 {
            rmp::encode::write_array_len(&mut payload, 2).unwrap();
            rmp::encode::write_uint(&mut payload, 1_700_000_000).unwrap();
            rmp::encode::write_map_len(&mut payload, 1).unwrap();
            rmp::encode::write_str(&mut payload, "m").unwrap();
            rmp::encode::write_str(&mut payload, &format!("event {n}")).unwrap();
        }
        let bytes = payload.len() as u64;
        let header = BatchHeader {
            tag: format!("tag.{tag}").into(),
            encoding: Encoding::Plain,
            received_ns: 1_700_000_000_000_000_000,
            chunks: Vec::new(),
            unpacked_bytes: bytes,
            minutes: vec![MinuteTally { minute: 28_333_333, events: 10, bytes, digest: 0 }],
        };
        PartBatch {
            id: BatchId { log: Arc::clone(&log), seq: Seq(number * tags + tag) },
            header: Arc::new(header),
            done: Vec::new(),
            payload: Arc::new(Bytes::from(payload)),
        }
    });
    let id = PartId { sink: NodeId::new("sink-1").unwrap(), incarnation: Incarnation(1), number };
    Part { id, partitions: vec!["".into()], batches: batches.collect() }
}

/// Waits for the connections to come down to what they stay at: short-lived clients close theirs in their own time.
async fn settled(ports: &HashSet<u16>, most: usize) -> usize {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let now = connections(ports);
        if now <= most || Instant::now() > deadline {
            return now;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_thousand_tags_cost_the_connections_of_one() {
    let Ok(brokers) = std::env::var("WEIR_TEST_KAFKA") else {
        eprintln!("skipped: WEIR_TEST_KAFKA is not set");
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let mut settings = KafkaSettings::new(GroupId::new(&format!("c{now}")).unwrap(), &brokers);
    settings.topic = format!("c{now}-{{tag}}");
    // So many topics at once take a small cluster a while.
    settings.timeouts.delivery = Duration::from_secs(120);
    settings.timeouts.transaction = Duration::from_secs(180);
    let (commits, letters) = (settings.commit_topic.clone(), settings.dead_letter_topic.clone());

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let cluster = admin.inner().fetch_metadata(Some("none"), Duration::from_secs(10)).unwrap();
    let mut ports: HashSet<u16> = cluster.brokers().iter().map(|broker| broker.port() as u16).collect();
    ports.extend(brokers.split(',').map(|broker| broker.rsplit(':').next().unwrap().parse::<u16>().unwrap()));
    let count = cluster.brokers().len();
    drop(admin);

    let backend = KafkaBackend::new(settings).unwrap();
    let store = backend.begin(&NodeId::new("sink-1").unwrap(), Incarnation(1)).await.unwrap();
    // One for each broker, one for bootstrapping, one to the coordinator of our transactions.
    let most = count + 2;
    store.commit(&part(0, 1)).await.unwrap();
    let one = settled(&ports, most).await;
    let begun = Instant::now();
    assert_eq!(store.commit(&part(1, TAGS)).await.unwrap().events, 10 * TAGS);
    let first = begun.elapsed();
    let begun = Instant::now();
    store.commit(&part(2, TAGS)).await.unwrap();
    let thousand = connections(&ports);
    eprintln!(
        "{count} broker(s): {one} connections with 1 tag, {thousand} with {TAGS}; \
         {TAGS} topics in one transaction: {first:?} when new, then {:?}",
        begun.elapsed()
    );
    assert!(one >= 1 && one <= most, "{one} connections with one tag and {count} brokers");
    assert!(thousand <= most, "{thousand} connections with {TAGS} tags and {count} brokers");
    store.end().await;
    assert_eq!(settled(&ports, 0).await, 0);

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let topics: Vec<String> =
        (0..TAGS).map(|tag| format!("c{now}-tag.{tag}")).chain([commits, letters]).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    admin.delete_topics(&topics, &AdminOptions::new()).await.unwrap();
}
