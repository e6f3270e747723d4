//! `weir-benches`: the hot parts of Weir, one by one, and a gate that catches what makes them slower.
//!
//! Time is noise on a shared machine; the number of instructions is not. `gate` runs each part under valgrind's
//! callgrind, which counts them, and holds them against `baseline.toml`. `time` tells what a part takes by the
//! clock, for whoever works on one. The parts are in `parts.rs`; whole processes are measured by
//! `weir-loadgen bench`.

#![allow(clippy::print_stdout, reason = "a command answers on standard output")]

mod gate;
mod link;
mod parts;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

/// Measures the hot parts of Weir.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Counts the instructions of every part and compares them with the baseline; exit 1 if one grew.
    Gate {
        /// Write what is counted now as the new baseline.
        #[arg(long)]
        bless: bool,
        /// The baseline; by default the one beside this program's source.
        #[arg(long, value_name = "FILE")]
        baseline: Option<PathBuf>,
        /// Only these parts.
        #[arg(value_name = "PART")]
        parts: Vec<String>,
    },
    /// Times parts for a second each.
    Time {
        /// Only these parts.
        #[arg(value_name = "PART")]
        parts: Vec<String>,
    },
    /// Does a part's work once; this is what runs under valgrind.
    #[command(hide = true)]
    Run {
        /// Which.
        part: String,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Gate { bless, baseline, parts } => {
            let baseline =
                baseline.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("baseline.toml"));
            gate::run(&baseline, bless, &parts)
        }
        Command::Time { parts } => {
            for part in parts::named(&parts)? {
                let mut prepared = (part.prepare)()?;
                let (begun, mut best, mut rounds) = (Instant::now(), Duration::MAX, 0);
                while begun.elapsed() < Duration::from_secs(1) {
                    let start = Instant::now();
                    parts::hot(&mut *prepared);
                    best = best.min(start.elapsed());
                    rounds += 1;
                }
                let each = best.as_nanos() as f64 / part.units as f64;
                println!("{:<16} {each:>9.1} ns per {}, best of {rounds}", part.name, part.unit);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { part } => {
            for part in parts::named(&[part])? {
                let mut prepared = (part.prepare)()?;
                // Once unseen, for what happens only once; then counted.
                prepared();
                parts::hot(&mut *prepared);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
