//! What is not throughput: latency, a backlog that drains, a start with a large log, and idling.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use super::{
    Bench,
    ballast::Ballast,
    cases::Case,
    flow::{self, Running},
    load::{self, Load, Sent},
    report::{CaseReport, Figures},
    traffic::Traffic,
    weir::{Cluster, Store, metric},
};

/// A paced load has room for so many unacknowledged chunks on each connection, so that it never waits.
const PACED_WINDOW: usize = 256;
/// How long a paced load lasts at scale 1.
const PACED_SECONDS: f64 = 5.0;
/// A part of as long a load comes first and is not counted: memory that a virtual machine touches for the first time costs
/// ten times as much, and latency is what a receiver that runs has.
const WARM: f64 = 0.3;
/// How long an idle pair is watched at scale 1.
const IDLE: Duration = Duration::from_secs(10);
/// Nothing that is waited for takes so long.
const PATIENCE: Duration = Duration::from_secs(300);
/// Stored events, as a sink counts them.
const STORED: &str = "weir_store_events_total";

impl Bench<'_> {
    /// Acknowledgement latency at half of what the edge takes at most, beside the yardstick at the same rate.
    pub(super) fn latency(&self, case: &Case, report: &mut CaseReport) -> anyhow::Result<()> {
        let traffic = Arc::new(Traffic::new(case.shape)?);
        let rate = self.most(case, &traffic, false)? / 2.0;
        let warm = self.paced(case, rate);
        let load = Load { first: case.load.connections, ..warm };
        let warm = Load { events: (warm.events as f64 * WARM) as u64, ..warm };
        let measure = |forward| {
            load::run(forward, &traffic, warm)?;
            load::run(forward, &traffic, load).map(|sent| paced_figures(&sent))
        };
        for _ in 0..self.args.repetitions {
            let dir = self.scratch()?;
            let (_copy, forward) = super::yardstick(dir.path())?;
            report.add(CaseReport::COPY, measure(forward)?);
            let dir = self.scratch()?;
            let cluster = Cluster::new(&self.weir, dir.path(), &Store::File)?;
            let running = cluster.run(false)?;
            report.add("weir", measure(running.forward)?);
        }
        Ok(())
    }

    /// A backlog drains while new traffic comes at half of the end-to-end rate. The yardstick takes that traffic beside a
    /// thread that writes as much as the sink did: what the disk alone makes of it.
    pub(super) fn backlog(&self, case: &Case, report: &mut CaseReport) -> anyhow::Result<()> {
        let traffic = Arc::new(Traffic::new(case.shape)?);
        let most = self.most(case, &traffic, true)?;
        let backlog = self.sized(self.args.backlog_gib, case);
        let load = Load { events: backlog, first: case.load.connections, ..self.paced(case, most / 2.0) };
        let quiet = {
            let dir = self.scratch()?;
            let running = Cluster::new(&self.weir, dir.path(), &Store::File)?.run(true)?;
            load::run(running.forward, &traffic, self.paced(case, most / 2.0))?
        };
        let dir = self.scratch()?;
        let cluster = Cluster::new(&self.weir, dir.path(), &Store::File)?;
        let (edge, forward, _) = cluster.edge()?;
        let kept = load::run(forward, &traffic, Load { events: backlog, ..case.load })?;
        let (sink, page) = cluster.sink()?;
        let begun = Instant::now();
        let arriving = {
            let traffic = traffic.clone();
            std::thread::spawn(move || load::run(forward, &traffic, load))
        };
        let all = (kept.events + load_events(&traffic, load)) as f64;
        until("the backlog is stored", || Ok(metric(page, STORED, "")? >= all))?;
        let seconds = begun.elapsed().as_secs_f64();
        let written = flow::finished_bytes(&cluster.output()) as f64 / seconds;
        let sent = arriving.join().map_err(|_| anyhow::anyhow!("the senders died"))??;
        let mut figures = beside_backlog(&quiet, &sent);
        figures.insert("end_to_end_events_per_second", most);
        figures.insert("drain_events_per_second", all / seconds);
        figures.insert("drain / end_to_end", all / seconds / most);
        for (name, process) in [("edge_peak_mib", &edge), ("sink_peak_mib", &sink)] {
            figures.insert(name, mib(process.usage().resident_peak));
        }
        report.add("weir", figures);
        drop((edge, sink, dir));

        let dir = self.scratch()?;
        let (_copy, forward) = super::yardstick(dir.path())?;
        let quiet = load::run(forward, &traffic, load)?;
        let ballast = Ballast::start(dir.path(), written)?;
        let sent = load::run(forward, &traffic, load)?;
        ballast.end()?;
        report.add(CaseReport::COPY, beside_backlog(&quiet, &sent));
        Ok(())
    }

    /// An edge that was killed with a large log starts again: until it listens, and until a sink has a batch.
    pub(super) fn restart(&self, case: &Case, report: &mut CaseReport) -> anyhow::Result<()> {
        let traffic = Arc::new(Traffic::new(case.shape)?);
        let dir = self.scratch()?;
        let cluster = Cluster::new(&self.weir, dir.path(), &Store::File)?;
        let (mut edge, forward, _) = cluster.edge()?;
        let events = self.sized(self.args.restart_gib, case);
        let sent = load::run(forward, &traffic, Load { events, ..case.load })?;
        let mut figures = Figures::new();
        for round in 0..self.rounds() {
            edge.kill();
            let begun = Instant::now();
            let (again, _, page) = cluster.edge()?;
            edge = again;
            figures.insert("listening_seconds", begun.elapsed().as_secs_f64());
            figures.insert("resident_mib", mib(edge.usage().resident));
            if round + 1 == self.rounds() {
                // The sink is there when the edge is killed for the last time: it has nothing yet.
                edge.kill();
                let (_sink, sink_page) = cluster.sink()?;
                let begun = Instant::now();
                let (last, ..) = cluster.edge()?;
                until("a batch is sent", || Ok(metric(sink_page, "weir_sink_batches_total", "")? > 0.0))?;
                figures.insert("first_batch_seconds", begun.elapsed().as_secs_f64());
                drop(last);
                figures.insert("log_gib", events as f64 * case.shape.event_bytes as f64 / f64::from(1 << 30));
                report.add("weir", figures);
                return Ok(());
            }
            let held = metric(page, "weir_log_batches", "")?;
            let sent = sent.events as f64 / traffic.unit_events() as f64;
            ensure!(
                held == 0.0 || held >= sent,
                "the log holds {held} batches after a start, {sent} were sent"
            );
            report.add("weir", figures.clone());
        }
        Ok(())
    }

    /// An edge and a sink, connected, with nothing to do.
    pub(super) fn idle(&self, report: &mut CaseReport) -> anyhow::Result<()> {
        let dir = self.scratch()?;
        let cluster = Cluster::new(&self.weir, dir.path(), &Store::File)?;
        let (sink, page) = cluster.sink()?;
        let (edge, ..) = cluster.edge()?;
        until("the edge is connected", || Ok(metric(page, "weir_sink_edges", "")? > 0.0))?;
        let watch = IDLE.mul_f64(self.scale.min(1.0));
        for _ in 0..self.args.repetitions {
            let before = [edge.usage(), sink.usage()];
            std::thread::sleep(watch);
            let mut figures = Figures::new();
            for ((cpu, memory), (process, before)) in
                [("edge_cpu_percent", "edge_resident_mib"), ("sink_cpu_percent", "sink_resident_mib")]
                    .into_iter()
                    .zip([&edge, &sink].into_iter().zip(before))
            {
                let now = process.usage();
                let spent = now.cpu_seconds - before.cpu_seconds;
                figures.insert(cpu, 100.0 * spent / watch.as_secs_f64());
                figures.insert(memory, mib(now.resident));
            }
            report.add("weir", figures);
        }
        Ok(())
    }

    /// The most events a second that Weir takes of this traffic, to its log or to files; the better of two runs.
    fn most(&self, case: &Case, traffic: &Arc<Traffic>, to_files: bool) -> anyhow::Result<f64> {
        let mut most: f64 = 0.0;
        for _ in 0..2 {
            let dir = self.scratch()?;
            let cluster = Cluster::new(&self.weir, dir.path(), &Store::File)?;
            let running: Running = cluster.run(to_files)?;
            let begun = Instant::now();
            let sent = load::run(running.forward, traffic, case.load)?;
            let seconds = if to_files {
                flow::complete(&cluster.output(), sent.events)?.duration_since(begun).as_secs_f64()
            } else {
                sent.seconds
            };
            most = most.max(sent.events as f64 / seconds);
        }
        Ok(most)
    }

    fn paced(&self, case: &Case, rate: f64) -> Load {
        let events = (rate * PACED_SECONDS * self.scale.min(1.0)) as u64;
        Load { rate: Some(rate), window: PACED_WINDOW, events: events.max(1), ..case.load }
    }

    /// How many events of a case make so many GiB.
    fn sized(&self, gib: f64, case: &Case) -> u64 {
        let gib = if self.args.smoke { 0.02 } else { gib };
        (gib * f64::from(1 << 30) / case.shape.event_bytes as f64) as u64
    }
}

/// Figures of new traffic beside a backlog, or what stands for one, and of the same without.
fn beside_backlog(without: &Sent, beside: &Sent) -> Figures {
    let mut figures = paced_figures(beside);
    let without = without.ack_micros.value_at_quantile(0.99) as f64 / 1e3;
    figures.insert("ack_p99_ms_without_backlog", without);
    if let Some(beside) = figures.get("ack_p99_ms") {
        figures.insert("ack_p99 / without_backlog", beside / without);
    }
    figures
}

fn load_events(traffic: &Traffic, load: Load) -> u64 {
    let (unit, connections) = (traffic.unit_events() as u64, u64::from(load.connections));
    load.events.div_ceil(unit * connections).max(1) * unit * connections
}

pub(super) fn paced_figures(sent: &Sent) -> Figures {
    flow::figures(sent, sent.seconds)
}

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Waits until `done`, looking often; an error when it takes too long.
pub(super) fn until(what: &str, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !done().with_context(|| format!("waiting until {what}"))? {
        ensure!(begun.elapsed() < PATIENCE, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
