//! The one way in which an edge ends by itself: what its disk holds is unknown, and only a new start finds out.

use tokio::sync::watch;

/// What went wrong, told once; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Failure(watch::Sender<Option<String>>);

impl Failure {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Tells; the first word stands.
    pub(crate) fn raise(&self, what: String) {
        self.0.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(what);
            first
        });
    }

    /// Waits until there is a failure.
    pub(crate) async fn raised(&self) -> String {
        let mut told = self.0.subscribe();
        match told.wait_for(Option::is_some).await {
            Ok(told) => told.clone().unwrap_or_default(),
            // Nobody is left who could tell.
            Err(_) => std::future::pending().await,
        }
    }
}
