//! A process under measurement: started, watched, its CPU time and memory read from the kernel, and ended.
//!
//! Children count with their parent, because some collectors put their work into workers.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The kernel's unit of CPU time in /proc, in seconds: USER_HZ is 100 on every Linux.
const TICK: f64 = 0.01;

/// A running process; it is killed when the value goes.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What the kernel has counted for a process and its children.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// User and system time, in seconds; 10 ms are the least.
    pub(super) cpu_seconds: f64,
    /// Resident memory now, in bytes.
    pub(super) resident: u64,
    /// The most resident memory so far, in bytes.
    pub(super) resident_peak: u64,
}

impl Process {
    /// Starts `command`; what it says goes to `<dir>/<name>.log`.
    pub(super) fn start(name: &str, mut command: Command, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = fs::File::options().create(true).append(true).open(&log)?;
        let errors = out.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn();
        let child = child.with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// The address that the process says behind `key` in its last line with ` ready `.
    pub(super) fn wait_ready(&mut self, key: &str, most: Duration) -> anyhow::Result<SocketAddr> {
        let begun = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log)?;
            // The last line may still be on its way.
            let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let line = whole.lines().rev().find(|line| line.contains(" ready "));
            let word = line
                .and_then(|line| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')));
            if let Some(word) = word {
                return word.parse().with_context(|| format!("{}: {word:?} is no address", self.name));
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} instead of getting ready:\n{log}", self.name);
            }
            if begun.elapsed() > most {
                bail!("{} was not ready after {most:?}:\n{log}", self.name);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Forgets what was logged, so that the next start is waited for.
    pub(super) fn clear_log(dir: &Path, name: &str) {
        let _ = fs::remove_file(dir.join(format!("{name}.log")));
    }

    /// What it has used so far; zeros when it is gone.
    pub(super) fn usage(&self) -> Usage {
        usage(self.child.id())
    }

    /// Ends it as a power cut would, but for the kernel's cache.
    pub(super) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Workers first: a parent that is gone cannot name them any more.
        for child in children(self.child.id()) {
            if let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes that `pid` has started and that still run.
fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    all
}

fn usage(pid: u32) -> Usage {
    let mut usage = Usage::default();
    // Fields 14 to 17 of proc(5) stat: user and system time, its own and that of children it has waited for.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
    usage.cpu_seconds = ticks * TICK;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kibibytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    (usage.resident, usage.resident_peak) = (kibibytes("VmRSS:"), kibibytes("VmHWM:"));
    for child in children(pid) {
        let child = self::usage(child);
        usage.cpu_seconds += child.cpu_seconds;
        usage.resident += child.resident;
        usage.resident_peak += child.resident_peak;
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_is_seen_busy_and_its_children_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo it is ready at=127.0.0.1:7 >&2; sh -c 'while :; do :; done' & wait"]);
        let mut process = Process::start("busy", command, dir.path()).unwrap();
        let address = process.wait_ready("at", Duration::from_secs(20)).unwrap();
        assert_eq!(address.port(), 7);
        let begun = Instant::now();
        while process.usage().cpu_seconds < 0.05 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", process.usage());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(process.usage().resident_peak > 100_000, "{:?}", process.usage());
    }
}
