//! Into Kafka: Weir beside what the client library alone does with ready-made payloads.
//!
//! The broker's CPU time counts for neither.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::{
    Bench,
    cases::Case,
    flow::{self, Running},
    load,
    report::{CaseReport, Figures},
    states::until,
    traffic::{self, Traffic},
    weir::{Cluster, Store, metric},
};

/// Bytes in one transaction, as in Weir's parts.
const TRANSACTION_BYTES: usize = 16 << 20;
/// Longest wait for the cluster.
const WAIT: Duration = Duration::from_secs(60);

impl Bench<'_> {
    /// Both write the same number of events of the same size, in transactions, compressed with lz4.
    pub(super) fn kafka(&self, case: &Case, report: &mut CaseReport) -> anyhow::Result<()> {
        let brokers = self.args.kafka.as_deref().context("no brokers")?;
        let traffic = Arc::new(Traffic::new(case.shape)?);
        for round in 0..self.rounds() {
            let topic = format!("bench-{:08x}", rand::random::<u32>());
            let client = client_alone(brokers, &format!("{topic}-client"), case)?;
            let dir = self.scratch()?;
            let store = Store::Kafka(brokers.to_owned(), topic);
            let cluster = Cluster::new(&self.weir, dir.path(), &store)?;
            let (sink, page) = cluster.sink()?;
            let (edge, forward, _) = cluster.edge()?;
            let running = Running { forward, processes: vec![("edge", edge), ("sink", sink)], output: None };
            let before = running.usages();
            let begun = Instant::now();
            let sent = load::run(forward, &traffic, case.load)?;
            let all = sent.events as f64;
            until("all is in Kafka", || Ok(metric(page, "weir_store_events_total", "")? >= all))?;
            let mut figures = flow::figures(&sent, begun.elapsed().as_secs_f64());
            running.costs(&before, sent.events, &mut figures);
            if round > 0 || self.args.smoke {
                report.add(CaseReport::CLIENT, client);
                report.add("weir", figures);
            }
        }
        Ok(())
    }
}

/// The client library, fed with ready-made lines as fast as it takes them.
fn client_alone(brokers: &str, topic: &str, case: &Case) -> anyhow::Result<Figures> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", topic)
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "1000000")
        .create()?;
    producer.init_transactions(WAIT)?;
    // What Weir writes for the events of one chunk: compression is as dear for one as for the other.
    let (chunk, bytes) = (case.shape.chunk_events, case.shape.event_bytes);
    let lines: Vec<_> =
        (0..chunk).map(|number| traffic::line(number, bytes, "app.0")).collect::<anyhow::Result<_>>()?;
    let mut lines = lines.iter().cycle();
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
    };
    let (begun, spent) = (Instant::now(), cpu());
    let mut left = case.load.events;
    while left > 0 {
        producer.begin_transaction()?;
        let events = left.min((TRANSACTION_BYTES / bytes) as u64);
        for line in lines.by_ref().take(events as usize) {
            let mut record = BaseRecord::<str, str>::to(topic).key("app.0").payload(line);
            while let Err((error, back)) = producer.send(record) {
                if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
                    bail!("producing: {error}");
                }
                producer.poll(Duration::from_millis(10));
                record = back;
            }
        }
        producer.flush(WAIT)?;
        producer.commit_transaction(WAIT)?;
        left -= events;
    }
    let events = case.load.events as f64;
    Ok(Figures::from([
        ("events_per_second", events / begun.elapsed().as_secs_f64()),
        ("cpu_s_per_million", (cpu() - spent) * 1e6 / events),
    ]))
}
