//! `weir ca`: a cluster's own certificate authority, for those who have none.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use weir_link::ca::Authority;
use weir_model::NodeId;

#[derive(Subcommand)]
pub(crate) enum CaCommand {
    /// Makes an authority: its certificate for all nodes, its key for this host alone.
    #[command(after_help = "Example:\n  weir ca init tls")]
    Init {
        /// Where its files are put.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Issues certificates: `NAME.crt` and `NAME.key` in the directory.
    #[command(after_help = "Example:\n  weir ca issue tls edge-1 --san edge-1.example.net")]
    Issue {
        /// Where the authority lies.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The nodes' names, as in the topology.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<NodeId>,
        /// A further DNS name or address.
        #[arg(long = "san", value_name = "NAME")]
        sans: Vec<String>,
        /// How long it holds.
        #[arg(long, default_value_t = 825)]
        days: u32,
    },
}

pub(crate) fn run(command: CaCommand) -> anyhow::Result<ExitCode> {
    match command {
        CaCommand::Init { dir } => {
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            Authority::create(&dir)?;
            println!("{}", dir.join(weir_link::ca::CA_CERT).display());
        }
        CaCommand::Issue { dir, names, sans, days } => {
            let authority = Authority::open(&dir)?;
            for name in names {
                println!("{}", authority.issue(&name, &sans, days)?.cert.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
