//! `weir`: the program. Reads files and arguments, starts the roles, waits for signals.
//!
//! Everything that decides anything lives in the other crates; this one wires and words.

#![allow(clippy::print_stdout, reason = "a command answers on standard output")]

mod api;
mod certificates;
mod configuration;
mod controlled;
mod controller;
mod data_dir;
mod export;
mod fleet;
mod http;
mod live;
mod logs;
mod node;
mod rollout;
mod standalone;
mod status;
mod systemd;
mod tap;
mod terminal;
mod topology;
mod upgrade;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

// A log node allocates and frees batches on many threads; glibc's allocator keeps what they leave behind.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long a process that is done waits for threads that block.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

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
    /// Runs a controller: it keeps revisions of the topology and rolls them out to the nodes.
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "Examples:\n  weir controller --config /etc/weir/controller.toml\n  weir controller backup weir.backup\n  weir controller restore --config /etc/weir/controller.toml weir.backup"
    )]
    Controller {
        /// The node file of this controller.
        #[arg(long, value_name = "FILE", required = true)]
        config: Option<PathBuf>,
        #[command(subcommand)]
        command: Option<controller::ControllerCommand>,
    },
    /// Rolls a revision of the topology out to the fleet, through a controller.
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Shows the fleet: each node, what it runs and how it does. The same as `weir status` with a controller.
    #[command(
        after_help = "Example:\n  weir fleet --controller https://ctl-1:24230 --token-file token --ca tls/ca.crt"
    )]
    Fleet(fleet::Access),
    /// Validates node and topology files: exit 0 or 1, each problem with file, line, column and a hint.
    #[command(after_help = "Example:\n  weir check topology/*.toml topology/local/*.toml")]
    Check {
        /// Node and topology files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Looks at a topology.
    #[command(subcommand)]
    Topology(topology::TopologyCommand),
    /// Says what a node is doing (exit 0 if it is ready, else 1) or, through a controller, what all nodes are doing.
    #[command(
        after_help = "Examples:\n  weir status\n  weir status 127.0.0.1:24311 --output json\n  weir status --controller https://ctl-1:24230 --token-file token --ca tls/ca.crt"
    )]
    Status(status::StatusArgs),
    /// Shows a sample of the events that an edge takes in, live.
    #[command(
        after_help = "Example:\n  weir tap 127.0.0.1:24311 --tag 'app.**' --rate 5 --redact password,token\n\nAn edge shows events only to its own host."
    )]
    Tap(tap::TapArgs),
    /// Prints completions for a shell.
    #[command(after_help = "Example:\n  weir completions bash > /usr/share/bash-completion/completions/weir")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages.
    #[command(after_help = "Example:\n  weir man /usr/local/share/man/man1")]
    Man {
        /// Where to.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Keeps the small certificate authority of a cluster.
    #[command(subcommand)]
    Ca(certificates::CaCommand),
    /// Looks into the logs of an edge, read-only, also while it is stopped.
    #[command(subcommand)]
    Log(logs::LogCommand),
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
        Command::Standalone(args) => run_node(|sockets| standalone::run(args, sockets)),
        Command::Edge { config } => run_node(|sockets| node::edge(&config, sockets)),
        Command::Sink { config } => run_node(|_| node::sink(&config)),
        Command::Controller { command: Some(command), .. } => runtime()?.block_on(controller::keep(command)),
        Command::Controller { config, command: None } => {
            // clap has seen to it that one of the two is there.
            runtime()?.block_on(controller::run(&config.unwrap_or_default()))
        }
        Command::Rollout(command) => runtime()?.block_on(rollout::run(command)),
        Command::Fleet(access) => runtime()?.block_on(fleet::status(&access)),
        Command::Check { files } => Ok(configuration::check(&files)),
        Command::Topology(command) => topology::run(command),
        Command::Status(args) if args.address.is_none() && args.access.is_given() => {
            runtime()?.block_on(fleet::status(&args.access))
        }
        Command::Status(args) => status::run(&args),
        Command::Tap(args) => tap::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "weir", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir)?;
            clap_mangen::generate_to(Arguments::command(), &dir)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Ca(command) => certificates::run(command),
        Command::Log(command) => logs::run(command),
    }
}

/// Runs a node to its end, and what follows it.
fn run_node<N: Future<Output = anyhow::Result<node::Ended>>>(
    node: impl FnOnce(Vec<TcpListener>) -> N,
) -> anyhow::Result<ExitCode> {
    let sockets = upgrade::sockets();
    let runtime = runtime()?;
    let ended = runtime.block_on(node(sockets))?;
    // Everything that matters has ended; a look-up of a name may hang.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    match ended {
        node::Ended::Stopped => Ok(ExitCode::SUCCESS),
        node::Ended::Replaced(sockets) => match upgrade::replace(&sockets)? {},
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    raise_open_files();
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Each sender is an open file; the soft limit is low for the sake of programs that use `select`.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused, fewer senders fit, and the log says so when it comes to that.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
