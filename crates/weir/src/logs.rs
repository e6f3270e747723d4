//! `weir log`: looks into an edge's group logs. Read-only; the edge may run or not.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use weir_model::{BatchHeader, Seq};
use weir_spool::inspect;

#[derive(Subcommand)]
pub(crate) enum LogCommand {
    /// Lists the group logs of a data directory: attached, draining (its group has left the topology, its batches are still
    /// delivered) or detached (nobody works on it; a group of that id takes it up again).
    List {
        /// The edge's data directory.
        #[arg(value_name = "DATA_DIR")]
        dir: PathBuf,
    },
    /// Lists the batches of one group's log.
    Inspect {
        /// The edge's data directory.
        #[arg(value_name = "DATA_DIR")]
        dir: PathBuf,
        /// The group.
        group: String,
        /// The first sequence number shown.
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// Checks every record of every log: exit 1 if one is damaged.
    Verify {
        /// The edge's data directory.
        #[arg(value_name = "DATA_DIR")]
        dir: PathBuf,
    },
    /// Writes the batches of one group's log that the store has not got yet, as Forward messages (PackedForward) that any
    /// edge takes, or as lines of JSON.
    #[command(
        after_help = "Examples:\n  weir log export /var/lib/weir app --send edge-2:24224\n  weir log export /var/lib/weir app -o app.forward\n  weir log export /var/lib/weir app --json --from 100 --to 200\n\nStop the edge first, or its sinks may store what is replayed as well."
    )]
    Export(Box<crate::export::ExportArgs>),
}

pub(crate) fn run(command: LogCommand) -> anyhow::Result<ExitCode> {
    match command {
        LogCommand::List { dir } => {
            for log in logs(&dir)? {
                let segments =
                    inspect::segments(&log).with_context(|| format!("cannot read {}", log.display()))?;
                let note = weir_edge::LogNote::read(&log)
                    .with_context(|| format!("cannot read the note in {}", log.display()))?;
                let state = note.map_or("unknown".to_owned(), |note| note.state.to_string());
                let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
                println!("{:<24} {state:<9} {:>4} segments {bytes:>14} bytes", name(&log), segments.len());
            }
        }
        LogCommand::Inspect { dir, group, from } => {
            let log = dir.join("logs").join(&group);
            let visit = |_: &inspect::SegmentInfo, item: inspect::Item| {
                match item {
                    inspect::Item::Record { record: stored, .. } => match BatchHeader::decode(&stored.header)
                    {
                        Ok(header) => println!(
                            "{:>12} {:>8} events {:>10} bytes  {}",
                            stored.seq,
                            header.events(),
                            stored.payload.len(),
                            header.tag
                        ),
                        Err(error) => println!("{:>12} {error}", stored.seq),
                    },
                    other => println!("{other:?}"),
                }
                ControlFlow::Continue(())
            };
            inspect::visit(&log, Seq(from), visit)
                .with_context(|| format!("cannot read {}", log.display()))?;
        }
        LogCommand::Verify { dir } => {
            let mut sound = true;
            for log in logs(&dir)? {
                let report =
                    inspect::verify(&log).with_context(|| format!("cannot read {}", log.display()))?;
                sound &= report.is_sound();
                let inspect::Report { segments, records, bytes, damage, missing, unfinished_bytes } = &report;
                let verdict = if report.is_sound() { "sound" } else { "DAMAGED" };
                println!(
                    "{:<24} {verdict}: {records} records, {bytes} bytes, {segments} segments",
                    name(&log)
                );
                for (file, place) in damage {
                    println!("  damaged: bytes {} to {} of {}", place.start, place.end, file.display());
                }
                if !missing.is_empty() {
                    println!("  missing: {missing:?}");
                }
                if *unfinished_bytes > 0 {
                    println!(
                        "  {unfinished_bytes} bytes at the end of a segment are not, or not yet, a whole record"
                    );
                }
            }
            if !sound {
                return Ok(ExitCode::FAILURE);
            }
        }
        LogCommand::Export(args) => return crate::export::run(&args),
    }
    Ok(ExitCode::SUCCESS)
}

fn logs(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let dir = dir.join("logs");
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("{} holds no logs", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            logs.push(path);
        }
    }
    logs.sort();
    Ok(logs)
}

fn name(log: &Path) -> String {
    log.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
