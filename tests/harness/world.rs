//! A world of a test's own: a network, mounts and processes that nobody else sees and that end with it.
//!
//! Faults of network and disk stay inside, and nothing is left behind, however the test ends: when its first process
//! dies, the kernel ends the others, and with the last of them network and mounts are gone.

use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::paths::output;
use crate::scratch::Scratch;

/// Set for the process that runs inside.
const INSIDE: &str = "WEIR_TEST_INSIDE";
/// Programs that worlds, networks and disks are made with.
const PROGRAMS: [&str; 7] = ["setpriv", "unshare", "nsenter", "ip", "nft", "mount", "mkfs.ext4"];

/// Runs a test in a world of its own, with a scratch directory: starts the test program again inside new namespaces,
/// for this one test. `test` is the test function's name.
///
/// Where that is impossible (not root, no namespaces, a program is missing), the test is skipped, loudly.
///
/// # Panics
/// If the test fails.
pub fn in_own_world(test: &str, body: impl FnOnce(&Scratch) -> Result<()>) {
    if std::env::var_os(INSIDE).is_some() {
        return Scratch::run(test, |scratch| {
            output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
            body(scratch)
        });
    }
    if let Err(missing) = possible() {
        say(&format!("SKIPPED {test}: {missing:#}"));
        return;
    }
    let mut inside = enter();
    let program = std::env::current_exe().expect("the test program is a file");
    inside.arg(program).args(["--exact", test, "--include-ignored", "--nocapture"]).env(INSIDE, "1");
    let status = inside.status().expect("it ran a moment ago");
    assert!(status.success(), "{test} failed ({status}); see above");
}

/// The beginning of a command line whose rest runs in new namespaces, and ends when this thread does.
fn enter() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private"]);
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command
}

fn possible() -> Result<()> {
    for program in PROGRAMS {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output()?.status.success();
        ensure!(found, "no program `{program}` here; tests/setup.sh installs it");
    }
    output(enter().arg("true"))
        .context("no namespaces for us: run as root, on a kernel that has them")
        .map(drop)
}

/// Prints a line for people, also of a test that passes: what macros print is only shown of those that fail.
pub fn say(line: &str) {
    // With nobody to read it there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}
