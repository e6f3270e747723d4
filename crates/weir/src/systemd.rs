//! What systemd is told, where it asks for that (`Type=notify`, `WatchdogSec`).

use sd_notify::NotifyState;
use tracing::debug;

/// The node serves.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("")]);
}

/// The node reads its files again; [`ready`] follows.
pub(crate) fn reloading() {
    let mut state = vec![NotifyState::Reloading];
    // `Type=notify-reload` wants to know when.
    state.extend(NotifyState::monotonic_usec_now());
    tell(&state);
}

/// The node ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The node waits for something before it can serve; people see what in `systemctl status`.
pub(crate) fn waiting(what: &str) {
    tell(&[NotifyState::Status(what)]);
}

/// Shows that the runtime works, as often as systemd wants, until it ends: also while a node reloads or drains.
pub(crate) fn watchdog() {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(within / 3);
        loop {
            ticks.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    });
}

fn tell(state: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "systemd was not told");
    }
}
