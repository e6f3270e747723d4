//! Throughput: how fast a subject takes a load to its end, and what that costs.

use std::{
    fs,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{
    Bench,
    cases::{Case, Job},
    load::{self, Sent},
    others::{Collector, Input, Output},
    process::{Process, Usage},
    report::{CaseReport, Figures},
    traffic::Traffic,
    weir::{Cluster, Store},
};

/// Rest between a subject's start and its load.
const SETTLE: Duration = Duration::from_millis(300);
/// How often the output directory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// An output that has not grown for so long is complete, if its lines are.
const STILL: Duration = Duration::from_secs(3);
/// An output that does not get complete has failed after so long without growing.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Who is measured.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Copy,
    Weir,
    Other(Collector, &'static str),
}

impl Subject {
    fn name(self) -> String {
        match self {
            Self::Copy => CaseReport::COPY.to_owned(),
            Self::Weir => "weir".to_owned(),
            Self::Other(collector, to) => format!("{} {to}", collector.program()),
        }
    }
}

/// A subject that runs.
pub(super) struct Running {
    pub(super) forward: SocketAddr,
    pub(super) processes: Vec<(&'static str, Process)>,
    /// Where its lines end up, if that counts.
    pub(super) output: Option<PathBuf>,
}

impl Bench<'_> {
    /// Runs all subjects of a case, in turn, as often as asked for.
    pub(super) fn flow(&self, case: &Case, report: &mut CaseReport) -> anyhow::Result<()> {
        let traffic = Arc::new(Traffic::new(case.shape)?);
        let mut subjects = vec![Subject::Copy, Subject::Weir];
        let outputs: &[_] = if case.job == Job::File { &["file", "two hops"] } else { &["null"] };
        let installed = Collector::ALL.into_iter().filter(|other| !self.args.only_weir && other.is_here());
        for collector in installed {
            subjects.extend(outputs.iter().map(|to| Subject::Other(collector, to)));
        }
        for round in 0..self.rounds() {
            for &subject in &subjects {
                let measured = self.run(subject, case, &traffic);
                let name = subject.name();
                match (measured, subject) {
                    (Ok(figures), _) if round > 0 || self.args.smoke => report.add(&name, figures),
                    (Ok(_), _) => {}
                    // Another collector that does not bear the load says nothing of the rest.
                    (Err(why), Subject::Other(..)) => report.add_failure(&name, &why),
                    (Err(why), _) => return Err(why.context(name)),
                }
            }
        }
        Ok(())
    }

    fn run(&self, subject: Subject, case: &Case, traffic: &Arc<Traffic>) -> anyhow::Result<Figures> {
        let dir = self.scratch()?;
        self.start(subject, case, dir.path())?.measure(traffic, case)
    }

    fn start(&self, subject: Subject, case: &Case, dir: &Path) -> anyhow::Result<Running> {
        Ok(match subject {
            Subject::Copy => {
                let (copy, forward) = super::yardstick(dir)?;
                let processes = vec![("copy", copy)];
                Running { forward, processes, output: None }
            }
            Subject::Weir => {
                let cluster = Cluster::new(&self.weir, dir, &Store::File)?;
                cluster.run(case.job == Job::File)?
            }
            Subject::Other(collector, to) => {
                let output = dir.join("output");
                let last = if to == "null" { Output::Null } else { Output::File(output.clone()) };
                let input = if to == "two hops" { Input::Peer } else { Input::Forward };
                let (process, mut forward) = collector.start("last", dir, input, &last)?;
                let mut processes = vec![("last", process)];
                if input == Input::Peer {
                    let next = Output::Peer(forward);
                    let (first, address) = collector.start("first", dir, Input::Forward, &next)?;
                    processes.push(("first", first));
                    forward = address;
                }
                Running { forward, processes, output: (to != "null").then_some(output) }
            }
        })
    }
}

impl Cluster {
    /// Starts the edge, and the sink where files are wanted.
    pub(super) fn run(&self, to_files: bool) -> anyhow::Result<Running> {
        let mut processes = Vec::new();
        if to_files {
            processes.push(("sink", self.sink()?.0));
        }
        let (edge, forward, _) = self.edge()?;
        processes.push(("edge", edge));
        Ok(Running { forward, processes, output: to_files.then(|| self.output()) })
    }
}

impl Running {
    fn measure(&self, traffic: &Arc<Traffic>, case: &Case) -> anyhow::Result<Figures> {
        // A start is no part of the rate: connections are made, and random numbers gathered, behind its ready line.
        std::thread::sleep(SETTLE);
        let before = self.usages();
        let begun = Instant::now();
        let sent = load::run(self.forward, traffic, case.load)?;
        // Connecting is left out where the load alone counts.
        let seconds = match &self.output {
            Some(output) => complete(output, sent.events)?.duration_since(begun).as_secs_f64(),
            None => sent.seconds,
        };
        let mut figures = figures(&sent, seconds);
        self.costs(&before, sent.events, &mut figures);
        Ok(figures)
    }

    pub(super) fn usages(&self) -> Vec<Usage> {
        self.processes.iter().map(|(_, process)| process.usage()).collect()
    }

    /// Adds CPU time since `before` and memory, over all processes and for each.
    pub(super) fn costs(&self, before: &[Usage], events: u64, figures: &mut Figures) {
        let mut cpu = 0.0;
        for ((name, process), before) in self.processes.iter().zip(before) {
            let now = process.usage();
            let spent = now.cpu_seconds - before.cpu_seconds;
            cpu += spent;
            let peak = now.resident_peak as f64 / f64::from(1 << 20);
            match *name {
                "edge" => {
                    figures.insert("edge_cpu_s_per_million", spent * 1e6 / events as f64);
                    figures.insert("edge_peak_mib", peak);
                }
                "sink" => {
                    figures.insert("sink_cpu_s_per_million", spent * 1e6 / events as f64);
                    figures.insert("sink_peak_mib", peak);
                }
                _ => {
                    *figures.entry("peak_mib").or_default() += peak;
                }
            }
        }
        figures.insert("cpu_s_per_million", cpu * 1e6 / events as f64);
    }
}

/// What a load says by itself.
pub(super) fn figures(sent: &Sent, seconds: f64) -> Figures {
    let mut figures = Figures::from([("events_per_second", sent.events as f64 / seconds)]);
    if !sent.ack_micros.is_empty() {
        for (name, quantile) in [("ack_p50_ms", 0.5), ("ack_p99_ms", 0.99), ("ack_max_ms", 1.0)] {
            figures.insert(name, sent.ack_micros.value_at_quantile(quantile) as f64 / 1e3);
        }
    }
    figures
}

/// Waits until the files below `output` hold `lines` lines and grow no more; the moment when they last grew.
pub(super) fn complete(output: &Path, lines: u64) -> anyhow::Result<Instant> {
    let (mut size, mut grown, mut checked) = (0, Instant::now(), false);
    loop {
        let now = finished_bytes(output);
        if now != size {
            (size, grown, checked) = (now, Instant::now(), false);
        } else if size > 0 && !checked && grown.elapsed() >= STILL {
            // Counting costs time: only once for each size.
            let found = count_lines(output)?;
            ensure!(found <= lines, "{} holds {found} lines, and {lines} were sent", output.display());
            if found == lines {
                return Ok(grown);
            }
            checked = true;
        }
        ensure!(
            grown.elapsed() < STALL_MAX,
            "{} does not grow any more and has {} of {lines} lines",
            output.display(),
            count_lines(output)?
        );
        std::thread::sleep(LOOK);
    }
}

/// Files below `dir` that are no work in progress: nothing below a name that begins with a dot, nor Weir's
/// own corner of a store.
fn finished(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(['.', '_']) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(finished(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

/// Bytes of finished files below `dir`.
pub(super) fn finished_bytes(dir: &Path) -> u64 {
    finished(dir).iter().filter_map(|file| fs::metadata(file).ok()).map(|meta| meta.len()).sum()
}

fn count_lines(dir: &Path) -> anyhow::Result<u64> {
    let mut lines = 0;
    let mut buffer = vec![0; 1 << 20];
    for path in finished(dir) {
        let mut file = fs::File::open(path)?;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            lines += buffer[..read].iter().filter(|&&byte| byte == b'\n').count() as u64;
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finished_files_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::create_dir_all(dir.path().join(".staging")).unwrap();
        fs::write(dir.path().join("a/b/x.jsonl"), "1\n2\n").unwrap();
        fs::write(dir.path().join("y.jsonl"), "3\n").unwrap();
        fs::write(dir.path().join(".staging/z"), "4\n").unwrap();
        assert!(complete(dir.path(), 3).is_ok());
        assert!(complete(dir.path(), 2).unwrap_err().to_string().contains("3 lines, and 2 were sent"));
    }
}
