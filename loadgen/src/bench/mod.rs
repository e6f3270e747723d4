//! `weir-loadgen bench`: Weir beside a physical yardstick, and beside other collectors where they are installed.
//!
//! Each repetition runs all subjects one after another in fresh directories, so that a ratio compares what
//! happened within the same seconds. Start reading at [`command`]; what a case measures is in [`cases`], how in
//! [`flow`] (throughput) and [`states`] (everything else).

#![allow(clippy::print_stdout, reason = "a command answers on standard output")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::Args;

mod ballast;
mod borders;
mod cases;
pub(crate) mod copy;
mod crowd;
mod flow;
mod hostile;
mod kafka;
mod load;
mod others;
mod process;
mod report;
mod states;
mod tap;
mod traffic;
mod weir;

use cases::{Case, Job};
use report::{CaseReport, Report};

/// Options of `bench`.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// Only cases whose name starts with this, or, with `*` for any part, those of the whole matrix
    /// MODE x BYTES x TAGS x CONNECTIONS, as `log/*/250B/1t/4c`; may be given more than once.
    #[arg(long = "case", value_name = "TEXT")]
    cases: Vec<String>,
    /// List the cases and end.
    #[arg(long)]
    list: bool,
    /// Counted runs of each subject in each case, after one that is not counted.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Stretches every run: 1 sends about 500 MB.
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    scale: f64,
    /// A short run of everything: it shows that the bench works, its figures mean nothing.
    #[arg(long, conflicts_with_all = ["scale", "repetitions"])]
    smoke: bool,
    /// Size of the backlog that drains in the case `backlog`, in GiB.
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    backlog_gib: f64,
    /// Size of the log in the case `restart`, in GiB.
    #[arg(long, default_value_t = 2.0, value_parser = scale)]
    restart_gib: f64,
    /// Brokers of a Kafka to write to; without it its cases are skipped.
    #[arg(long, value_name = "HOST:PORT", env = "WEIR_TEST_KAFKA")]
    kafka: Option<String>,
    /// Where logs and files go while it runs: on the disk that is to be measured.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The `weir` to measure; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    weir: Option<PathBuf>,
    /// Leave installed Fluent Bit, Vector and Fluentd alone.
    #[arg(long)]
    only_weir: bool,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn scale(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|scale| (1e-4..=1e3).contains(scale))
        .ok_or_else(|| "wanted a number from 0.0001 to 1000".to_owned())
}

/// What the runs of a bench share.
struct Bench<'a> {
    args: &'a BenchArgs,
    weir: PathBuf,
    scale: f64,
}

/// Runs the bench; success when every run ended well, whatever its figures.
///
/// # Errors
/// A subject could not be started or did not do its job; the figures until then are printed.
pub(crate) fn command(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let scale = if args.smoke { 0.01 } else { args.scale };
    let cases = cases::wanted(&args.cases, scale);
    ensure!(!cases.is_empty(), "no case has such a name; --list shows them");
    if args.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(ExitCode::SUCCESS);
    }
    let files = 8192 + 64;
    rlimit::increase_nofile_limit(files * 2).context("raising the limit of open files")?;
    let weir = match &args.weir {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("weir"),
    };
    let bench = Bench { args, weir, scale };
    let mut report = Report::new(bench.version()?);
    bench.announce();
    let mut outcome = Ok(());
    for case in &cases {
        if case.job == Job::Kafka && args.kafka.is_none() {
            println!("{}\n  skipped: no --kafka\n", case.name);
            continue;
        }
        let yardstick = match case.job {
            Job::Kafka => CaseReport::CLIENT,
            Job::Tap => CaseReport::UNTAPPED,
            _ => CaseReport::COPY,
        };
        let mut figures = CaseReport::new(&case.name, yardstick);
        outcome = bench.case(case, &mut figures).with_context(|| format!("case {}", case.name));
        figures.finish();
        println!("{}", figures.table());
        report.add(figures);
        if outcome.is_err() {
            break;
        }
    }
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

impl Bench<'_> {
    fn version(&self) -> anyhow::Result<String> {
        let mut command = std::process::Command::new(&self.weir);
        let output = command.arg("--version").output();
        let output = output.with_context(|| {
            format!("running {}; is it built? --weir names another one", self.weir.display())
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn announce(&self) {
        for collector in others::Collector::ALL {
            if !self.args.only_weir && !collector.is_here() {
                println!("{} is not on the PATH: skipped", collector.program());
            }
        }
        let dir = rustix::fs::statfs(&self.args.dir);
        // TMPFS_MAGIC of statfs(2).
        if dir.is_ok_and(|stat| stat.f_type == 0x0102_1994) {
            println!(
                "{} is in memory: syncs cost nothing there, and no figure means much",
                self.args.dir.display()
            );
        }
    }

    /// A fresh directory for one run; removed when the value goes.
    fn scratch(&self) -> anyhow::Result<tempfile::TempDir> {
        let dir = std::path::absolute(&self.args.dir)?;
        tempfile::Builder::new().prefix("weir-bench-").tempdir_in(dir).context("making a scratch directory")
    }

    /// How often each subject runs; the first run warms up caches, and memory that was never touched before.
    fn rounds(&self) -> u32 {
        if self.args.smoke { 1 } else { self.args.repetitions + 1 }
    }

    fn case(&self, case: &Case, report: &mut CaseReport) -> anyhow::Result<()> {
        match case.job {
            Job::Log | Job::File => self.flow(case, report),
            Job::Kafka => self.kafka(case, report),
            Job::Latency => self.latency(case, report),
            Job::Backlog => self.backlog(case, report),
            Job::Restart => self.restart(case, report),
            Job::Idle => self.idle(report),
            Job::IdleConnections => self.idle_connections(case, report),
            Job::Storm => self.storm(case, report),
            Job::Tap => self.tap(case, report),
            Job::Hostile(foe) => self.hostile(case, foe, report),
        }
    }
}

/// Starts the yardstick in `dir`; gives where senders connect.
fn yardstick(dir: &Path) -> anyhow::Result<(process::Process, std::net::SocketAddr)> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("bench-copy").arg("--file").arg(dir.join("copy"));
    let mut copy = process::Process::start("copy", command, dir)?;
    let forward = copy.wait_ready("forward", std::time::Duration::from_secs(20))?;
    Ok((copy, forward))
}
