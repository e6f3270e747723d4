//! One program under test: started, awaited, frozen, killed, and never left behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until;

/// How many lines of its log an error about a process shows.
const TAIL_LINES: usize = 20;

/// A running (or stopped) program. Both its outputs are appended to one log file. Killed on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    command: Command,
    log: PathBuf,
    /// Where in the log the latest start began, in bytes.
    log_start: u64,
    child: Child,
}

/// What a ready line told: `weir ready role=edge forward=127.0.0.1:24224 metrics=127.0.0.1:9464`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready(BTreeMap<String, String>);

impl Process {
    /// Starts a program; what it says goes to `NAME.log` in `logs`.
    ///
    /// # Errors
    /// If it cannot be started or the log cannot be written.
    pub fn start(name: &str, mut command: Command, logs: &Path) -> Result<Process> {
        let log = logs.join(format!("{name}.log"));
        let (child, log_start) = spawn(&mut command, &log)?;
        Ok(Process { name: name.to_owned(), command, log, log_start, child })
    }

    /// Starts the same program again, after [`Process::kill_9`] or [`Process::stop`].
    ///
    /// # Errors
    /// If it still runs or cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.exited()?.is_some(), "{} still runs", self.name);
        (self.child, self.log_start) = spawn(&mut self.command, &self.log)?;
        Ok(())
    }

    /// Waits for a line that holds `text` since the latest start, and gives the line.
    ///
    /// # Errors
    /// After `timeout`, or at once if the program ends without that line; with the last lines of the log.
    pub fn wait_for_line(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let what = format!("{} to say `{text}`", self.name);
        let line = until(&what, timeout, || {
            // Asked before the log is read: what a program says last is said before it ends.
            let exited = self.exited()?;
            let said = self.said()?;
            // A line without its end may still grow.
            let mut lines = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            match (lines.find(|line| line.contains(text)), exited) {
                (Some(line), _) => Ok(Ok(line.trim_end().to_owned())),
                (None, Some(status)) => Ok(Err(anyhow!("{} ended ({status}) before `{text}`", self.name))),
                (None, None) => bail!("{} bytes of log without it", said.len()),
            }
        });
        line.and_then(|line| line).with_context(|| self.tail())
    }

    /// Waits for the ready line of `weir`.
    ///
    /// # Errors
    /// See [`Process::wait_for_line`].
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<Ready> {
        self.wait_for_line(Ready::PREFIX, timeout).map(|line| Ready::parse(&line))
    }

    /// Waits for the program to end by itself.
    ///
    /// # Errors
    /// After `timeout`, with the last lines of the log.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        until(&what, timeout, || self.exited()?.context("it runs")).with_context(|| self.tail())
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Errors
    /// If it still runs after `timeout`; it is then left running.
    pub fn stop(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_exit(timeout)
    }

    /// SIGKILL: nothing of the program runs any more when this returns.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill_9(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGSTOP: the program hangs, while the kernel still accepts connections in its name.
    ///
    /// # Errors
    /// If it does not run.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Waits until every thread of a frozen program stands still; the signal alone does not.
    ///
    /// # Errors
    /// After `timeout`, or if the program is gone.
    pub fn wait_frozen(&self, timeout: Duration) -> Result<()> {
        until(&format!("{} to stand still", self.name), timeout, || {
            for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
                let stat = fs::read_to_string(thread?.path().join("stat"))?;
                ensure!(stat.contains(") T "), "{stat}");
            }
            Ok(())
        })
    }

    /// SIGCONT: the end of a [`Process::freeze`].
    ///
    /// # Errors
    /// If it does not run.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends any signal, such as [`Signal::HUP`].
    ///
    /// # Errors
    /// If the program does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // A child that ended keeps its id until it is waited for, so the id cannot belong to anyone else here.
        ensure!(self.exited()?.is_none(), "{} does not run\n{}", self.name, self.tail());
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// The id of the running program, for [`crate::rss`] and [`crate::connections`].
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the program ended; nothing while it runs.
    ///
    /// # Errors
    /// If the system refuses to tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// All that the program said since its latest start.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn said(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let since = bytes.get(usize::try_from(self.log_start)?..).unwrap_or_default();
        Ok(String::from_utf8_lossy(since).into_owned())
    }

    fn tail(&self) -> String {
        let said = self.said().unwrap_or_else(|error| error.to_string());
        let lines: Vec<_> = said.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("the last lines of {}:\n{}", self.log.display(), last.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already is as good as killed.
        let _ = self.kill_9();
    }
}

impl Ready {
    const PREFIX: &str = "weir ready ";

    fn parse(line: &str) -> Ready {
        let fields = line.split_once(Ready::PREFIX).map_or("", |(_, fields)| fields);
        let pairs = fields.split_whitespace().filter_map(|field| field.split_once('='));
        Ready(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// An address of the line, such as `forward` or `metrics`.
    ///
    /// # Errors
    /// If the line has none of that name.
    pub fn addr(&self, name: &str) -> Result<SocketAddr> {
        let text =
            self.0.get(name).with_context(|| format!("no `{name}=` in the ready line: {:?}", self.0))?;
        text.parse().with_context(|| format!("{name}={text}"))
    }
}

fn spawn(command: &mut Command, log: &Path) -> Result<(Child, u64)> {
    let open = || File::options().create(true).append(true).open(log);
    let file = open().with_context(|| format!("cannot write {}", log.display()))?;
    let start = file.metadata()?.len();
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    Ok((child, start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    const LONG: Duration = Duration::from_secs(10);

    fn shell(scratch: &Scratch, script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("shell", command, scratch.path()).unwrap()
    }

    #[test]
    fn reads_the_ready_line() {
        Scratch::run("ready", |scratch| {
            let line = "weir ready role=edge forward=127.0.0.1:24224 metrics=127.0.0.1:9464";
            let mut process = shell(scratch, &format!("echo early; echo {line} >&2; exec sleep 60"));
            let ready = process.wait_ready(LONG)?;
            assert_eq!(ready.addr("forward")?.port(), 24224);
            assert_eq!(ready.addr("metrics")?.port(), 9464);
            assert!(ready.addr("role").is_err());
            Ok(())
        });
    }

    #[test]
    fn an_early_end_is_told_at_once_with_the_last_lines() {
        Scratch::run("early-end", |scratch| {
            let mut process = shell(scratch, "echo no such file; exit 3");
            let error = format!("{:?}", process.wait_for_line("ready", LONG).unwrap_err());
            assert!(error.contains("exit status: 3") && error.contains("no such file"), "{error}");
            Ok(())
        });
    }

    #[test]
    fn a_restart_forgets_what_was_said_before() {
        Scratch::run("restart", |scratch| {
            let mut process = shell(scratch, "echo started $$; exec sleep 60");
            let first = process.wait_for_line("started", LONG)?;
            assert!(process.restart().is_err());
            process.kill_9()?;
            process.restart()?;
            let second = process.wait_for_line("started", LONG)?;
            assert_ne!(first, second);
            assert_eq!(second, format!("started {}", process.pid()));
            Ok(())
        });
    }

    #[test]
    fn freeze_thaw_and_stop() {
        Scratch::run("freeze", |scratch| {
            let mut process = shell(scratch, "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done");
            process.wait_for_line("up", LONG)?;
            process.freeze()?;
            let state = |process: &Process| fs::read_to_string(format!("/proc/{}/stat", process.pid()));
            until("the freeze", LONG, || {
                let stat = state(&process)?;
                ensure!(stat.contains(") T "), "{stat}");
                Ok(())
            })?;
            process.thaw()?;
            assert_eq!(process.stop(LONG)?.code(), Some(7));
            assert!(process.freeze().is_err());
            Ok(())
        });
    }
}
