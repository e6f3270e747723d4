//! Where edges come in: the listener, which a revision may move, shut, or give another certificate.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use weir_link::{BindError, Connection, Identity, Listener, Settings};
use weir_telemetry::{Refusals, names};

/// Connections that wait for the store to be there.
const WAITING_MAX: usize = 64;

/// The door of a sink.
pub(crate) struct Front {
    settings: Settings,
    connections: mpsc::Sender<Connection>,
    state: Mutex<State>,
}

struct State {
    /// As it was asked for; its port may be 0.
    asked: SocketAddr,
    identity: Identity,
    shut: bool,
    listener: Arc<Listener>,
    accepting: JoinHandle<()>,
}

impl Front {
    /// Begins to listen. The connections come out of the receiver.
    pub(crate) fn bind(
        asked: SocketAddr,
        identity: Identity,
        settings: Settings,
    ) -> Result<(Self, mpsc::Receiver<Connection>), BindError> {
        let (connections, accepted) = mpsc::channel(WAITING_MAX);
        let (listener, accepting) = listen(asked, &identity, &settings, connections.clone())?;
        let state = Mutex::new(State { asked, identity, shut: false, listener, accepting });
        Ok((Self { settings, connections, state }, accepted))
    }

    /// Where edges connect, with the real port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.state().listener.local_addr()
    }

    /// Listens at another address. Connections made at the old one live on.
    pub(crate) fn move_to(&self, asked: SocketAddr) -> Result<(), BindError> {
        let mut state = self.state();
        if state.asked == asked {
            return Ok(());
        }
        let (listener, accepting) = listen(asked, &state.identity, &self.settings, self.connections.clone())?;
        state.accepting.abort();
        (state.asked, state.listener, state.accepting) = (asked, listener, accepting);
        if state.shut {
            state.listener.refuse_new();
        }
        Ok(())
    }

    /// Shows and trusts another identity from the next connection on.
    pub(crate) fn replace_identity(&self, identity: &Identity) {
        let mut state = self.state();
        state.identity = identity.clone();
        if !state.shut {
            state.listener.replace_identity(identity);
        }
    }

    /// Refuses new connections, or takes them again.
    pub(crate) fn shut(&self, shut: bool) {
        let mut state = self.state();
        state.shut = shut;
        if shut {
            state.listener.refuse_new();
        } else {
            state.listener.replace_identity(&state.identity);
        }
    }

    /// Closes the socket and every connection on it.
    pub(crate) async fn close(&self) {
        let listener = self.state().listener.clone();
        listener.close(0, "the sink stops").await;
        self.state().accepting.abort();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(
    asked: SocketAddr,
    identity: &Identity,
    settings: &Settings,
    connections: mpsc::Sender<Connection>,
) -> Result<(Arc<Listener>, JoinHandle<()>), BindError> {
    let listener = Arc::new(Listener::bind(asked, identity, settings.clone())?);
    let accepting = tokio::spawn({
        let listener = listener.clone();
        async move {
            while let Some(accepted) = listener.accept().await {
                match accepted {
                    Ok(connection) => {
                        if connections.send(connection).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => refused(error.reason.label(), &error.remote, &error.reason),
                }
            }
        }
    });
    Ok((listener, accepting))
}

/// Counts a peer that is not let in, and logs it: whoever is refused comes again several times in a second.
pub(crate) fn refused(reason: &'static str, peer: &dyn Display, detail: &dyn Display) {
    // Of all sinks in this process.
    static REFUSALS: LazyLock<Refusals> =
        LazyLock::new(|| Refusals::new(|reason| names::SINK_REFUSED_TOTAL.with([reason])));
    if let Some(silent) = REFUSALS.note(reason) {
        warn!(%peer, reason, silent, "refused an edge: {detail}");
    }
}
