//! What is refused at a listener: counted by reason, and told in the log with its sender.

use std::fmt::Display;

use tracing::warn;
use weir_telemetry::names;

/// The refusals of one listener.
pub(crate) struct Refusals {
    listener: String,
    counted: weir_telemetry::Refusals,
}

impl Refusals {
    pub(crate) fn new(listener: &str) -> Self {
        let name = listener.to_owned();
        let counter = move |reason| names::FORWARD_REFUSED_TOTAL.with([name.as_str(), reason]);
        Self { listener: listener.to_owned(), counted: weir_telemetry::Refusals::new(counter) }
    }

    /// Counts one, and logs it unless the last line of this reason is too recent.
    pub(crate) fn note(&self, reason: &'static str, peer: &dyn Display, detail: impl Display) {
        if let Some(silent) = self.counted.note(reason) {
            warn!(listener = self.listener, %peer, reason, silent, "refused a sender: {detail}");
        }
    }
}
