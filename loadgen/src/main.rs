//! `weir-loadgen` makes numbered Forward traffic and proves what the stores hold of it.
//!
//! `send` writes records that name their stream, their place in it and the sum of their content, and keeps
//! a ledger of what was acknowledged; `verify` reads the stores and holds them against that ledger; `bench`
//! measures. The code of Weir itself is left out on purpose: a generator that shared its encoder could not find its faults.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod ack;
mod bench;
mod canonical;
mod chunk;
mod encode;
mod ledger;
mod records;
mod send;
mod verify;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit status of a run that failed; wrong use ends with 2 (clap's own).
const FAILED: u8 = 1;

/// Makes numbered Forward traffic and proves what the stores hold of it.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send numbered records to Forward listeners.
    Send(send::SendArgs),
    /// Hold what the stores have against what was sent.
    Verify(verify::VerifyArgs),
    /// Measure Weir beside a physical yardstick, and beside other collectors where they are installed.
    Bench(bench::BenchArgs),
    /// The yardstick of `bench`: sockets to one synced file.
    #[command(hide = true)]
    BenchCopy(bench::copy::CopyArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Send(args) => send::command(&args),
        Command::Verify(args) => verify::command(args),
        Command::Bench(args) => bench::command(&args),
        Command::BenchCopy(args) => bench::copy::command(&args).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("weir-loadgen: {error:#}");
        ExitCode::from(FAILED)
    })
}
