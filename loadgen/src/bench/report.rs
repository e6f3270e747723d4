//! Figures of a bench: medians and spread, as a table for people and as JSON for programs.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::Context;
use serde::Serialize;

/// Figures of one run of one subject, by name. The names say their units.
pub(super) type Figures = BTreeMap<&'static str, f64>;

/// What a subject's figures are called in ratios: these are held against the yardstick's.
const RATIOS: [&str; 3] = ["events_per_second", "ack_p99_ms", "cpu_s_per_million"];

/// All runs of a bench.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: u32,
    machine: Machine,
    cases: Vec<CaseReport>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpus: usize,
    kernel: String,
    cpu: String,
    weir: String,
}

/// All runs of a case.
#[derive(Debug, Serialize)]
pub(super) struct CaseReport {
    case: String,
    /// The subject that the others are held against.
    yardstick: &'static str,
    subjects: BTreeMap<String, Subject>,
    /// Subject against the yardstick, run by run.
    ratios: BTreeMap<String, BTreeMap<String, Spread>>,
}

#[derive(Debug, Default, Serialize)]
struct Subject {
    runs: Vec<Figures>,
    spread: BTreeMap<String, Spread>,
    /// Why runs failed: they have no figures.
    failures: Vec<String>,
}

/// A figure over the repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of at least one value.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, min, max })
    }
}

impl CaseReport {
    /// What other subjects are held against in most cases.
    pub(super) const COPY: &'static str = "copy";
    /// What is held against where somebody looks: the same without.
    pub(super) const UNTAPPED: &'static str = "untapped";
    /// What is held against in Kafka's: its client library alone.
    pub(super) const CLIENT: &'static str = "client alone";

    pub(super) fn new(case: &str, yardstick: &'static str) -> Self {
        Self { case: case.to_owned(), yardstick, subjects: BTreeMap::new(), ratios: BTreeMap::new() }
    }

    /// Adds one run.
    pub(super) fn add(&mut self, subject: &str, figures: Figures) {
        self.subjects.entry(subject.to_owned()).or_default().runs.push(figures);
    }

    /// Adds a run that came to nothing.
    pub(super) fn add_failure(&mut self, subject: &str, why: &anyhow::Error) {
        self.subjects.entry(subject.to_owned()).or_default().failures.push(format!("{why:#}"));
    }

    /// Works out the spread of every figure, and the ratios of paired runs.
    pub(super) fn finish(&mut self) {
        for subject in self.subjects.values_mut() {
            let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
            subject
                .runs
                .iter()
                .flatten()
                .for_each(|(name, value)| values.entry(name).or_default().push(*value));
            let spread =
                values.into_iter().filter_map(|(name, values)| Some((name.to_owned(), Spread::of(values)?)));
            subject.spread = spread.collect();
        }
        let Some(yardstick) = self.subjects.get(self.yardstick) else { return };
        for (name, subject) in self.subjects.iter().filter(|(name, _)| *name != self.yardstick) {
            for figure in RATIOS {
                let pairs = subject.runs.iter().zip(&yardstick.runs);
                let ratios = pairs.filter_map(|(ours, base)| Some(ours.get(figure)? / base.get(figure)?));
                if let Some(spread) = Spread::of(ratios.collect()) {
                    self.ratios.entry(name.clone()).or_default().insert(figure.to_owned(), spread);
                }
            }
        }
    }

    /// One line for each subject: medians, and the least and the most where there are several runs.
    pub(super) fn table(&self) -> String {
        let mut out = format!("{}\n", self.case);
        for (name, subject) in &self.subjects {
            let _ = write!(out, "  {name:<12}");
            for (figure, spread) in &subject.spread {
                let _ = write!(out, "  {figure} {}", shown(*spread));
            }
            for why in &subject.failures {
                let _ = write!(out, "  failed: {why}");
            }
            out.push('\n');
            for (figure, spread) in self.ratios.get(name).into_iter().flatten() {
                let _ = writeln!(out, "  {:<12}  {figure} / {} {}", "", self.yardstick, shown(*spread));
            }
        }
        out
    }
}

impl Report {
    pub(super) fn new(weir: String) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let machine = Machine {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: model.unwrap_or("unknown").to_owned(),
            weir,
        };
        Self { version: 1, machine, cases: Vec::new() }
    }

    pub(super) fn add(&mut self, case: CaseReport) {
        self.cases.push(case);
    }

    /// Writes all of it as JSON.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

fn shown(Spread { median, min, max }: Spread) -> String {
    let number = |value: f64| match value.abs() {
        1e6.. => format!("{:.2}M", value / 1e6),
        1e4.. => format!("{:.0}k", value / 1e3),
        100.0.. => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    };
    if min == max { number(median) } else { format!("{} ({}-{})", number(median), number(min), number(max)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_paired_runs() {
        let mut case = CaseReport::new("c", CaseReport::COPY);
        for (copy, weir) in [(100.0, 50.0), (10.0, 9.0), (40.0, 30.0)] {
            case.add("copy", Figures::from([("events_per_second", copy)]));
            case.add("weir", Figures::from([("events_per_second", weir), ("cpu_s_per_million", 1.0)]));
        }
        case.finish();
        let ratio = case.ratios["weir"]["events_per_second"];
        assert_eq!(ratio, Spread { median: 0.75, min: 0.5, max: 0.9 });
        assert_eq!(case.subjects["copy"].spread["events_per_second"].median, 40.0);
        case.add_failure("other", &anyhow::anyhow!("hung up").context("sending"));
        assert!(case.table().contains("other         failed: sending: hung up"), "{}", case.table());
        assert!(case.table().contains("events_per_second / copy 0.75 (0.50-0.90)"), "{}", case.table());
    }
}
