//! `weir rollout`: a revision of the topology to the fleet, through a controller.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use weir_controller::client::Client;

use crate::fleet::{Access, number, print, text_of};
use crate::terminal::table;
use crate::topology::Output;

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Subcommand)]
pub(crate) enum RolloutCommand {
    /// Makes a revision of a topology file and rolls it out: a canary first, then a share of the nodes, then all.
    #[command(
        after_help = "Examples:\n  weir rollout start topology.toml --message \"more quota for app\" --wait\n  weir rollout start topology.toml --by-rack --approve\n  weir rollout start --revision 11"
    )]
    Start(Box<StartArgs>),
    /// Shows the last roll-out.
    Status {
        #[command(flatten)]
        access: Access,
        /// Stays until it has ended or halted; exit 1 unless it is done.
        #[arg(long)]
        wait: bool,
    },
    /// Stops it where it is: nodes that have the revision keep it, no other gets it.
    Halt(ActArgs),
    /// Tries the halted wave again.
    Resume(ActArgs),
    /// Lets the next wave begin, after `start --approve`.
    Approve(ActArgs),
    /// Takes every node back to the revision from before.
    Rollback(ActArgs),
}

#[derive(Args)]
pub(crate) struct StartArgs {
    /// The topology file.
    #[arg(value_name = "FILE", required_unless_present = "revision")]
    file: Option<PathBuf>,
    /// An earlier revision, instead of a file.
    #[arg(long, conflicts_with = "file")]
    revision: Option<u64>,
    /// Why, for those who read it later.
    #[arg(long, short, default_value = "")]
    message: String,
    /// The canary; else one edge and one sink of each group.
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    canary: Vec<String>,
    /// Percents of the nodes, rising, between the canary and all.
    #[arg(long, value_delimiter = ',', default_value = "25")]
    shares: Vec<u8>,
    /// One rack after the other, instead.
    #[arg(long, conflicts_with_all = ["canary", "shares"])]
    by_rack: bool,
    /// Waits for `weir rollout approve` before each wave after the first.
    #[arg(long)]
    approve: bool,
    /// Seconds that a wave must run well before the next.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    settle: u32,
    /// Halts after a failure, instead of rolling back.
    #[arg(long)]
    halt_on_failure: bool,
    /// Stays until it has ended or halted; exit 1 unless it is done.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
pub(crate) struct ActArgs {
    /// Why, for the audit log.
    #[arg(long, short)]
    message: Option<String>,
    #[command(flatten)]
    access: Access,
}

/// Runs `weir rollout`.
pub(crate) async fn run(command: RolloutCommand) -> anyhow::Result<ExitCode> {
    match command {
        RolloutCommand::Start(args) => start(*args).await,
        RolloutCommand::Status { access, wait } => {
            let client = access.client()?;
            if wait {
                return stay(&client, access.output).await;
            }
            let rollout = client.call(Method::GET, "/rollout", None).await?;
            print(access.output, &rollout, progress);
            Ok(ExitCode::SUCCESS)
        }
        RolloutCommand::Halt(args) => act(args, "halt").await,
        RolloutCommand::Resume(args) => act(args, "resume").await,
        RolloutCommand::Approve(args) => act(args, "approve").await,
        RolloutCommand::Rollback(args) => act(args, "rollback").await,
    }
}

async fn start(args: StartArgs) -> anyhow::Result<ExitCode> {
    let client = args.access.client()?;
    let revision = match (&args.file, args.revision) {
        (_, Some(number)) => number,
        (Some(file), None) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let body = json!({"text": text, "message": args.message});
            let uploaded = client
                .call(Method::POST, "/revisions", Some(&body))
                .await
                .with_context(|| format!("{} is not rolled out", file.display()))?;
            for warning in uploaded["warnings"].as_array().into_iter().flatten() {
                eprintln!(
                    "{}:{}: warning: {}",
                    file.display(),
                    warning["line"],
                    text_of(&warning["message"])
                );
            }
            uploaded["revision"]["number"].as_u64().context("the controller's answer has no revision")?
        }
        (None, None) => bail!("name a topology file or --revision"),
    };
    let order = match args.by_rack {
        true => json!({"by": "rack"}),
        false => json!({"by": "share", "canary": args.canary, "shares": args.shares}),
    };
    let policy = json!({
        "settle_seconds": args.settle,
        "approval": args.approve,
        "on_failure": if args.halt_on_failure { "halt" } else { "roll_back" },
    });
    let request = json!({"revision": revision, "order": order, "policy": policy});
    let rollout = client.call(Method::POST, "/rollouts", Some(&request)).await?;
    if args.wait {
        return stay(&client, args.access.output).await;
    }
    print(args.access.output, &rollout, progress);
    Ok(ExitCode::SUCCESS)
}

async fn act(args: ActArgs, request: &str) -> anyhow::Result<ExitCode> {
    let client = args.access.client()?;
    let body = args.message.map(|reason| json!({"reason": reason}));
    let body = body.filter(|_| matches!(request, "halt" | "rollback"));
    let rollout = client.call(Method::POST, &format!("/rollout/{request}"), body.as_ref()).await?;
    print(args.access.output, &rollout, progress);
    Ok(ExitCode::SUCCESS)
}

/// Watches the last roll-out to its end, or until a person must do something.
async fn stay(client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let mut shown = String::new();
    loop {
        let rollout = match client.call(Method::GET, "/rollout", None).await {
            Ok(rollout) => rollout,
            // A controller that restarts is back soon, and so is a leader.
            Err(error) if error.may_pass() => {
                eprintln!("weir: {error}; trying again");
                tokio::time::sleep(LOOK * 4).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let phase = text_of(&rollout["phase"]).to_owned();
        let still = matches!(phase.as_str(), "applying" | "settling" | "rolling_back");
        let now = progress(&rollout).lines().next().unwrap_or_default().to_owned();
        if output == Output::Text && now != shown && still {
            eprintln!("{now}");
            shown = now;
        }
        if !still {
            print(output, &rollout, progress);
            return Ok(if phase == "done" { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A roll-out for people. Its first line says it all.
pub(crate) fn progress(rollout: &Value) -> String {
    let phase = text_of(&rollout["phase"]).replace('_', " ");
    let from = rollout["from"]["number"].as_u64().map_or("nothing".to_owned(), |number| number.to_string());
    let waves = rollout["waves"].as_array().cloned().unwrap_or_default();
    let current = number(&rollout["wave"]) as usize;
    let mut words = format!(
        "roll-out {}: revision {} in place of {from}, wave {} of {}, {phase}\n",
        rollout["id"],
        rollout["to"]["number"],
        current + 1,
        waves.len(),
    );
    let reason = text_of(&rollout["reason"]);
    if !reason.is_empty() {
        let _ = writeln!(words, "  because: {reason}");
    }
    let missing: Vec<&str> = rollout["missing"].as_array().into_iter().flatten().map(text_of).collect();
    if !missing.is_empty() {
        let _ = writeln!(words, "  not back yet: {}", missing.join(", "));
    }
    let mut rows = vec![["  WAVE", "NODES", "APPLIED", "AWAY", "REFUSED"].map(str::to_owned)];
    rows.extend(waves.iter().enumerate().map(|(index, wave)| {
        let mark = if index == current { '>' } else { ' ' };
        let count = |what: &str| number(&wave[what]).to_string();
        let label = format!("{mark} {}", text_of(&wave["label"]));
        [label, count("nodes"), count("applied"), count("away"), count("refused")]
    }));
    words + &table(&rows)
}
