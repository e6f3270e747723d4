//! What is refused at a listener: counted by reason, and told in the log with its sender.

use std::fmt::Display;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::warn;
use weir_telemetry::names;

/// The refusals of one listener.
pub(crate) struct Refusals(ArcSwap<Named>);

struct Named {
    listener: String,
    counted: weir_telemetry::Refusals,
}

impl Refusals {
    pub(crate) fn new(listener: &str) -> Self {
        Self(ArcSwap::from_pointee(Named::new(listener)))
    }

    /// Goes on under this name.
    pub(crate) fn rename(&self, listener: &str) {
        if self.0.load().listener != listener {
            self.0.store(Arc::new(Named::new(listener)));
        }
    }

    /// Counts one, and logs it unless the last line of this reason is too recent.
    pub(crate) fn note(&self, reason: &'static str, peer: &dyn Display, detail: impl Display) {
        let named = self.0.load();
        if let Some(silent) = named.counted.note(reason) {
            warn!(listener = named.listener, %peer, reason, silent, "refused a sender: {detail}");
        }
    }
}

impl Named {
    fn new(listener: &str) -> Self {
        let name = listener.to_owned();
        let counter = move |reason| names::FORWARD_REFUSED_TOTAL.with([name.as_str(), reason]);
        Self { listener: listener.to_owned(), counted: weir_telemetry::Refusals::new(counter) }
    }
}
