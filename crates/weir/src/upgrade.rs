//! Another binary takes this process over, in place: SIGUSR2.
//!
//! The process finishes with its connections, closes its logs, and becomes the program that lies at its path now, under the
//! same number. The listening sockets stay open all the while: who connects waits in their queues until the new program
//! has opened the logs, and nobody is refused. Their numbers stand in `WEIR_LISTEN_FDS`.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use rustix::io::{FdFlags, fcntl_setfd};

/// Where the numbers of passed sockets stand, separated by commas.
const PASSED: &str = "WEIR_LISTEN_FDS";
/// The first socket that systemd passes (sd_listen_fds(3)).
const SYSTEMD_FIRST: RawFd = 3;

/// Whether the program that lies at this process's path starts, and takes the node's files as they are.
pub(crate) async fn check(files: &[PathBuf]) -> anyhow::Result<()> {
    let program = program()?;
    let mut command = tokio::process::Command::new(&program);
    match files {
        [] => command.arg("--version"),
        files => command.arg("check").args(files),
    };
    let checked = command.output().await;
    let checked = checked.with_context(|| format!("{} does not start", program.display()))?;
    if !checked.status.success() {
        let said = String::from_utf8_lossy(&checked.stderr);
        bail!("{} refuses the files of this node ({}): {}", program.display(), checked.status, said.trim());
    }
    Ok(())
}

/// Becomes the other program. Comes back only if that fails.
pub(crate) fn replace(sockets: &[OwnedFd]) -> anyhow::Result<std::convert::Infallible> {
    let program = program()?;
    for socket in sockets {
        // All other descriptors of this process end with it.
        fcntl_setfd(socket, FdFlags::empty())?;
    }
    let numbers: Vec<String> = sockets.iter().map(|socket| socket.as_raw_fd().to_string()).collect();
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1)).env(PASSED, numbers.join(","));
    command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID").env_remove("LISTEN_FDNAMES");
    Err(command.exec()).with_context(|| format!("cannot become {}", program.display()))
}

/// The listening TCP sockets that this process was started with, by the program before it or by systemd. Call it once, before
/// the process opens anything.
pub(crate) fn sockets() -> Vec<TcpListener> {
    let variable = |name| std::env::var(name).ok();
    let passed = variable(PASSED).into_iter().flat_map(|numbers| {
        numbers.split(',').filter_map(|number| number.parse().ok()).collect::<Vec<RawFd>>()
    });
    let ours = variable("LISTEN_PID") == Some(std::process::id().to_string());
    let count: RawFd =
        variable("LISTEN_FDS").filter(|_| ours).and_then(|count| count.parse().ok()).unwrap_or(0);
    let activated = SYSTEMD_FIRST..SYSTEMD_FIRST.saturating_add(count);
    passed.chain(activated).filter(|number| *number >= SYSTEMD_FIRST).filter_map(adopt).collect()
}

#[allow(unsafe_code, reason = "a descriptor that came with the process has no owner yet")]
fn adopt(number: RawFd) -> Option<TcpListener> {
    // SAFETY: who started this process names the descriptors that it passes, each once, and none of them is used here yet:
    // `sockets` is called before anything is opened. One that is not open fails the first call below.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    if fcntl_setfd(&socket, FdFlags::CLOEXEC).is_err() {
        std::mem::forget(socket);
        return None;
    }
    let socket = TcpListener::from(socket);
    // Anything else that was passed is closed.
    socket.local_addr().is_ok().then_some(socket)
}

/// What lies at the path of this process now. Linux marks the path of a program that was replaced.
fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("cannot tell the program's own path")?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}
