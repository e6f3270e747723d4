//! `weir ca`: a cluster's own certificate authority, for those who have none.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use weir_link::ca::Authority;
use weir_model::NodeId;

use crate::terminal::table;

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
    /// Issues certificates where one is missing, runs out soon, or is of a replaced authority; prints what it made.
    #[command(after_help = "Example:\n  weir ca renew tls --within 60 edge-1 edge-2")]
    Renew {
        /// Where the authority lies.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The nodes' names. Without any, all that have a certificate in the directory.
        #[arg(value_name = "NAME")]
        names: Vec<NodeId>,
        /// Days of validity below which a certificate is issued anew.
        #[arg(long, value_name = "DAYS", default_value_t = 60)]
        within: u32,
        /// How long the new ones hold.
        #[arg(long, default_value_t = 825)]
        days: u32,
    },
    /// Lists the certificates in the directory: node, days left, serial number, and whether this authority signed it.
    List {
        /// Where the authority lies.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Revokes nodes' certificates: nodes with the new `ca.crt` refuse them from the next handshake on.
    #[command(after_help = "Example:\n  weir ca revoke tls edge-3")]
    Revoke {
        /// Where the authority lies.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The nodes' names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<NodeId>,
    },
    /// Replaces the authority. `ca.crt` trusts old and new until `retire`; `renew` issues all certificates anew.
    Rotate {
        /// Where the authority lies.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Ends the trust in replaced authorities, once every node shows a certificate of the new one.
    Retire {
        /// Where the authority lies.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
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
        CaCommand::Renew { dir, mut names, within, days } => {
            let authority = Authority::open(&dir)?;
            if names.is_empty() {
                names = authority.issued()?.into_iter().map(|listed| listed.node).collect();
            }
            for issued in authority.renew(&names, within, days)? {
                println!("{}", issued.cert.display());
            }
        }
        CaCommand::List { dir } => {
            let now = std::time::SystemTime::now();
            let mut rows = vec![["NODE", "DAYS", "AUTHORITY", "SERIAL"].map(str::to_owned)];
            for listed in Authority::open(&dir)?.issued()? {
                let left = listed.expires.duration_since(now).map_or(0, |left| left.as_secs() / 86_400);
                let signer = if listed.ours { "current" } else { "replaced" };
                rows.push([listed.node.to_string(), left.to_string(), signer.to_owned(), listed.serial]);
            }
            print!("{}", table(&rows));
        }
        CaCommand::Revoke { dir, names } => {
            let authority = Authority::open(&dir)?;
            for name in names {
                println!("{name} {}", authority.revoke(&name)?.serial);
            }
        }
        CaCommand::Rotate { dir } => {
            Authority::rotate(&dir)?;
            println!("{}", dir.join(weir_link::ca::CA_CERT).display());
        }
        CaCommand::Retire { dir } => Authority::open(&dir)?.retire()?,
    }
    Ok(ExitCode::SUCCESS)
}
