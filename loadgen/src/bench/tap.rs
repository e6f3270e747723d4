//! What an onlooker costs an edge: the same load with `weir tap` attached and without.

use std::{fs, process::Command, sync::Arc, time::Duration};

use anyhow::ensure;

use super::{
    Bench,
    cases::Case,
    load::{self, Load},
    process::Process,
    report::{CaseReport, Figures},
    states::until,
    traffic::Traffic,
    weir::{Cluster, Store},
};

/// What the onlooker is called, in files and messages.
const NAME: &str = "tap";
/// Rest between the warming up and the load.
const SETTLE: Duration = Duration::from_millis(300);

impl Bench<'_> {
    /// An edge whose sink is stopped, at full rate; each round has both, in turns first.
    pub(super) fn tap(&self, case: &Case, report: &mut CaseReport) -> anyhow::Result<()> {
        let traffic = Arc::new(Traffic::new(case.shape)?);
        for round in 0..self.rounds() {
            for tapped in [round % 2 == 1, round % 2 == 0] {
                let dir = self.scratch()?;
                let cluster = Cluster::new(&self.weir, dir.path(), &Store::File)?;
                let (edge, forward, page) = cluster.edge()?;
                let warm = Load { events: case.load.events / 10 + 1, ..case.load };
                load::run(forward, &traffic, warm)?;
                let seen = dir.path().join(format!("{NAME}.log"));
                let lines = || fs::read_to_string(&seen).map_or(0, |text| text.lines().count());
                let onlooker = if tapped {
                    let mut command = Command::new(&self.weir);
                    command.args(["tap", &page.to_string(), "--rate", "1000", "--redact", "message"]);
                    let onlooker = Process::start(NAME, command, dir.path())?;
                    // It looks once a batch has come to its eyes.
                    let mut first = warm.first + warm.connections;
                    until("the onlooker sees something", || {
                        let few = Load { first, events: 1, ..case.load };
                        first += few.connections;
                        load::run(forward, &traffic, few)?;
                        Ok(lines() > 0)
                    })?;
                    Some(onlooker)
                } else {
                    None
                };
                std::thread::sleep(SETTLE);
                let (before, seen_before) = (edge.usage(), lines());
                let sent = load::run(forward, &traffic, Load { first: 1 << 20, ..case.load })?;
                let cpu = edge.usage().cpu_seconds - before.cpu_seconds;
                let seen = lines() - seen_before;
                if let Some(onlooker) = onlooker {
                    onlooker.kill();
                    ensure!(seen > 0, "the onlooker saw nothing");
                }
                if round > 0 || self.args.smoke {
                    let figures = Figures::from([
                        ("events_per_second", sent.events as f64 / sent.seconds),
                        ("cpu_s_per_million", cpu / sent.events as f64 * 1e6),
                        ("ack_p99_ms", sent.ack_micros.value_at_quantile(0.99) as f64 / 1e3),
                        ("shown_events_per_second", seen as f64 / sent.seconds),
                    ]);
                    report.add(if tapped { "tapped" } else { CaseReport::UNTAPPED }, figures);
                }
            }
        }
        Ok(())
    }
}
