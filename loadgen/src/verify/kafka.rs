//! Events in Kafka: the committed messages of whole topics, from their beginning to their end.

use std::{
    io,
    sync::Arc,
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

/// Partitions read at one time. Each has a queue of up to 4 MiB.
const AT_ONCE: usize = 64;

/// Messages taken from one partition before the others have their turn.
const MESSAGES_AT_ONCE: usize = 1000;

/// Which topics to read.
#[derive(Clone, Debug)]
pub(crate) enum Topics {
    /// These; all must exist.
    Named(Vec<String>),
    /// All whose names start with this.
    Prefix(String),
}

/// Shows all committed events to `judge`.
///
/// # Errors
/// The brokers cannot be reached, or fall silent before a partition's end; `NotFound` when a topic is not there
/// (yet), which is worth another try.
pub(crate) fn read(bootstrap: &str, topics: &Topics, judge: &mut Judge<'_>) -> anyhow::Result<()> {
    let consumer: Arc<BaseConsumer> = Arc::new(
        ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "weir-loadgen-verify") // asked for by the library; nothing is ever committed
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "20") // at a partition's end the broker answers late
            .set("queued.max.messages.kbytes", "4096")
            .set("fetch.queue.backoff.ms", "10") // a full queue is soon empty again
            .create()?,
    );
    let metadata = consumer.fetch_metadata(None, SILENCE_MAX).context("brokers do not list their topics")?;
    if let Topics::Named(names) = topics {
        for name in names {
            if !metadata.topics().iter().any(|topic| topic.name() == name) {
                return Err(absent(format!("there is no topic {name}")));
            }
        }
    }
    let mut partitions = Vec::new();
    for topic in metadata.topics() {
        let wanted = match topics {
            Topics::Named(names) => names.iter().any(|name| name == topic.name()),
            Topics::Prefix(prefix) => topic.name().starts_with(prefix.as_str()),
        };
        if wanted {
            if topic.partitions().is_empty() {
                return Err(absent(format!("topic {} shows no partitions", topic.name())));
            }
            partitions.extend(topic.partitions().iter().map(|part| (topic.name().to_owned(), part.id())));
        }
    }
    partitions.chunks(AT_ONCE).try_for_each(|some| read_partitions(&consumer, some, judge))
}

fn absent(what: String) -> anyhow::Error {
    io::Error::new(io::ErrorKind::NotFound, what).into()
}

/// Reads these partitions to their ends, each from a queue of its own: ends of partitions do not name their topic.
fn read_partitions(
    consumer: &Arc<BaseConsumer>,
    partitions: &[(String, i32)],
    judge: &mut Judge<'_>,
) -> anyhow::Result<()> {
    let mut assignment = TopicPartitionList::new();
    for (topic, partition) in partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut open = Vec::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        let queue = consumer.split_partition_queue(topic, *partition);
        open.push((topic.as_str(), queue.with_context(|| format!("{topic}/{partition} has no queue"))?));
    }
    let mut heard = Instant::now();
    let mut trouble = String::from("none reported");
    while !open.is_empty() {
        let mut news = false;
        open.retain(|(topic, queue)| {
            for _ in 0..MESSAGES_AT_ONCE {
                match queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        let place = Place::Offset(topic, message.partition(), message.offset());
                        judge.event(message.payload().unwrap_or_default(), place);
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => {
                        news = true;
                        return false;
                    }
                    Some(Err(error)) => trouble = error.to_string(), // the library goes on trying
                    None => return true,
                }
                news = true;
            }
            true
        });
        if news {
            heard = Instant::now();
        } else if heard.elapsed() > SILENCE_MAX {
            let (topic, count) = (open[0].0, open.len());
            bail!(
                "no word for {} s from {topic} and {} more; trouble: {trouble}",
                SILENCE_MAX.as_secs(),
                count - 1
            );
        }
        // Errors of the whole client come here, and a pause when there is nothing to do.
        let pause = if news { Duration::ZERO } else { Duration::from_millis(5) };
        if let Some(Err(error)) = consumer.poll(pause) {
            trouble = error.to_string();
        }
    }
    consumer.unassign()?;
    Ok(())
}
