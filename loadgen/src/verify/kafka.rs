//! Events in Kafka: the committed messages of whole topics, from their beginning to their end.

use std::{
    collections::BTreeSet,
    io,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use super::judge::{Judge, Place};

/// How long brokers may say nothing at all before reading is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Which topics to read.
#[derive(Clone, Debug)]
pub(crate) enum Topics {
    /// These; all must exist.
    Named(Vec<String>),
    /// All whose names start with this.
    Prefix(String),
}

/// Shows all committed events to `judge`, one topic after the other.
///
/// # Errors
/// The brokers cannot be reached, or fall silent before a partition's end; `NotFound` when a topic is not there
/// (yet), which is worth another try.
pub(crate) fn read(bootstrap: &str, topics: &Topics, judge: &mut Judge<'_>) -> anyhow::Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "weir-loadgen-verify") // asked for by the library; nothing is ever committed
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .create()?;
    let metadata = consumer.fetch_metadata(None, SILENCE_MAX).context("brokers do not list their topics")?;
    if let Topics::Named(names) = topics {
        for name in names {
            if !metadata.topics().iter().any(|topic| topic.name() == name) {
                return Err(absent(format!("there is no topic {name}")));
            }
        }
    }
    for topic in metadata.topics() {
        let wanted = match topics {
            Topics::Named(names) => names.iter().any(|name| name == topic.name()),
            Topics::Prefix(prefix) => topic.name().starts_with(prefix.as_str()),
        };
        if wanted {
            if topic.partitions().is_empty() {
                return Err(absent(format!("topic {} shows no partitions", topic.name())));
            }
            let partitions = topic.partitions().iter().map(|partition| partition.id()).collect();
            read_topic(&consumer, topic.name(), partitions, judge)
                .with_context(|| topic.name().to_owned())?;
        }
    }
    Ok(())
}

fn absent(what: String) -> anyhow::Error {
    io::Error::new(io::ErrorKind::NotFound, what).into()
}

/// Reads one topic. Ends of partitions name no topic, hence never two topics at once.
fn read_topic(
    consumer: &BaseConsumer,
    topic: &str,
    mut open: BTreeSet<i32>,
    judge: &mut Judge<'_>,
) -> anyhow::Result<()> {
    let mut assignment = TopicPartitionList::new();
    for partition in &open {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut heard = Instant::now();
    let mut trouble = String::from("none reported");
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                if open.contains(&message.partition()) {
                    let place = Place::Offset(topic, message.partition(), message.offset());
                    judge.event(message.payload().unwrap_or_default(), place);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                heard = Instant::now();
                open.remove(&partition);
            }
            Some(Err(error)) => trouble = error.to_string(), // the library goes on trying
            None => {}
        }
        if heard.elapsed() > SILENCE_MAX {
            bail!("no word for {} s from partitions {open:?}; trouble: {trouble}", SILENCE_MAX.as_secs());
        }
    }
    consumer.unassign()?;
    Ok(())
}
