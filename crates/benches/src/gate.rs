//! Counts instructions under valgrind and compares them with the baseline.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::parts::{Part, named};

/// What the parts took when they were last looked at and found right.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Baseline {
    /// Another compiler makes other instructions, so counts are compared only with those of the same one.
    rustc: String,
    /// As `std::env::consts::ARCH`.
    arch: String,
    /// Instructions of one round, by part.
    instructions: BTreeMap<String, u64>,
}

/// Runs the gate; failure when a part takes more than the baseline and its tolerance allow.
///
/// # Errors
/// Valgrind is not there, a part does not do its work, or the baseline cannot be read or written.
pub(crate) fn run(path: &Path, bless: bool, parts: &[String]) -> anyhow::Result<ExitCode> {
    let here =
        Baseline { rustc: rustc()?, arch: std::env::consts::ARCH.to_owned(), instructions: BTreeMap::new() };
    let how = "weir-benches gate --bless";
    let known: Option<Baseline> = match std::fs::read_to_string(path) {
        Ok(text) => Some(toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?),
        Err(_) if bless => None,
        Err(error) => bail!("cannot read {}: {error}; make it with: {how}", path.display()),
    };
    let same = known.as_ref().filter(|known| known.rustc == here.rustc && known.arch == here.arch);
    if let (Some(known), None, false) = (&known, same, bless) {
        println!(
            "not compared: the baseline is of {} on {}, and this is {} on {}.\n\
             Check out the last good commit, bless there, then come back: {how}",
            known.rustc, known.arch, here.rustc, here.arch
        );
        return Ok(ExitCode::SUCCESS);
    }
    let (mut counted, mut worse) = (BTreeMap::new(), Vec::new());
    for part in named(parts)? {
        let instructions = count(part)?;
        counted.insert(part.name.to_owned(), instructions);
        let each = instructions / part.units as u64;
        let before = same.and_then(|known| known.instructions.get(part.name).copied());
        let (change, verdict) = match before {
            None => (0.0, if bless { "new" } else { "not in the baseline" }),
            Some(before) => {
                let change = 100.0 * (instructions as f64 / before as f64 - 1.0);
                let verdict = match change {
                    change if change > part.tolerance => "SLOWER",
                    change if change < -part.tolerance => "faster: bless it",
                    _ => "",
                };
                (change, verdict)
            }
        };
        println!("{:<16} {each:>8} instructions per {:<6} {change:>+6.1} %  {verdict}", part.name, part.unit);
        if (verdict == "SLOWER" || before.is_none()) && !bless {
            worse.push(part.name);
        }
    }
    if bless {
        let mut all = same.map(|known| known.instructions.clone()).unwrap_or_default();
        all.extend(counted);
        let text = toml::to_string(&Baseline { instructions: all, ..here })?;
        let head = format!("# Instructions of one round of each hot part; made by: {how}\n");
        std::fs::write(path, head + &text).with_context(|| format!("writing {}", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if worse.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{} cost more than the baseline allows. If that is the price of something better, say so in the commit and: {how}",
        worse.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

/// The instructions that one round of a part takes in this process; the kernel's are not seen.
fn count(part: &Part) -> anyhow::Result<u64> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind.out");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=weir_benches::parts::hot"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["run", part.name])
        .output()
        .context("running valgrind; on Debian: apt-get install valgrind")?;
    ensure!(
        run.status.success(),
        "{} failed under valgrind:\n{}",
        part.name,
        String::from_utf8_lossy(&run.stderr)
    );
    let text = std::fs::read_to_string(&out)?;
    let total =
        text.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
    let total: u64 = total.and_then(|total| total.trim().parse().ok()).context("callgrind says no total")?;
    ensure!(total > 1000, "{}: callgrind saw nothing of the part", part.name);
    Ok(total)
}

fn rustc() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("running rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
