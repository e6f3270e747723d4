//! `weir`: the program. Reads files and arguments, starts the roles, waits for signals.
//!
//! Everything that decides anything lives in the other crates; this one wires and words.

#![allow(clippy::print_stdout, reason = "a command answers on standard output")]

mod certificates;
mod configuration;
mod data_dir;
mod explain;
mod live;
mod logs;
mod node;
mod standalone;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

// A log node allocates and frees batches on many threads; glibc's allocator keeps what they leave behind.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes Fluentd Forward traffic, makes it durable, and stores it once.
#[derive(Parser)]
#[command(
    name = "weir",
    version,
    after_help = "Examples:\n  weir standalone\n  weir check topology/local.toml topology/local/edge-1.toml\n  weir edge --config /etc/weir/node.toml"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs an edge and a sink in one process; without arguments it needs no configuration.
    #[command(
        after_help = "Example:\n  weir standalone --data-dir /var/lib/weir --output /var/log/collected"
    )]
    Standalone(standalone::StandaloneArgs),
    /// Runs one edge node.
    Edge {
        /// The node file of this host.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Runs one sink node.
    Sink {
        /// The node file of this host.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Validates node and topology files: exit 0 or 1, each problem with file, line, column and a hint.
    #[command(after_help = "Example:\n  weir check topology/*.toml topology/local/*.toml")]
    Check {
        /// Node and topology files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Looks at a topology.
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// Keeps the small certificate authority of a cluster.
    #[command(subcommand)]
    Ca(certificates::CaCommand),
    /// Looks into the logs of an edge, read-only, also while it is stopped.
    #[command(subcommand)]
    Log(logs::LogCommand),
}

#[derive(Subcommand)]
enum TopologyCommand {
    /// Validates topology files, like `weir check`.
    Check {
        /// Topology files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Draws racks, edges, groups, stores and routes as text.
    Show {
        /// The topology file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Says which route, groups, nodes and failover order a tag takes.
    Explain {
        /// The topology file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The tag.
        tag: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weir: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Standalone(args) => runtime()?.block_on(standalone::run(args)),
        Command::Edge { config } => runtime()?.block_on(node::edge(&config)),
        Command::Sink { config } => runtime()?.block_on(node::sink(&config)),
        Command::Check { files } | Command::Topology(TopologyCommand::Check { files }) => {
            Ok(configuration::check(&files))
        }
        Command::Topology(TopologyCommand::Show { file }) => explain::show(&file),
        Command::Topology(TopologyCommand::Explain { file, tag }) => explain::explain(&file, &tag),
        Command::Ca(command) => certificates::run(command),
        Command::Log(command) => logs::run(command),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
