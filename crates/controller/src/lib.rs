//! The controller: revisions of the topology, the agents of all nodes, and how the one reaches the other.
//!
//! Read [`rollout`] first: the plan and the watch over it, a value without I/O or clock. [`desk`] is where the leader
//! changes anything; [`state`] keeps it, in one file or in etcd. [`api`] is the door for people, `agents` the one for
//! nodes. What must not be lost is in the state; agents say the rest again when they come back.
//!
//! Left out on purpose: the data path. Nothing here is asked when an event is taken, sent or stored, and every node
//! runs on for ever without a controller.

mod agents;
pub mod api;
pub mod backup;
pub mod check;
pub mod client;
pub mod desk;
pub mod diff;
pub mod events;
pub mod fleet;
pub mod records;
pub mod rollout;
pub mod secrets;
mod serve;
pub mod state;
pub mod tls;
pub mod tokens;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use weir_link::{Identity, Listener, Settings};
use weir_telemetry::Health;

use crate::desk::Desk;
use crate::state::{Standing, State};
use crate::tls::ServerTls;

/// What a controller needs to start.
pub struct ControllerSettings {
    /// Where the API listens.
    pub api: TcpListener,
    /// The API's certificate; without one it speaks plain HTTP.
    pub tls: Option<ServerTls>,
    /// Where agents connect.
    pub agents: SocketAddr,
    /// The controller's certificate for agents.
    pub identity: Identity,
    /// Settings of the link to agents.
    pub link: Settings,
    /// Where the first admin token is written.
    pub token_file: PathBuf,
}

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The agents' address is not free, or not ours.
    #[error(transparent)]
    Bind(#[from] weir_link::BindError),
    /// The API's address cannot be read.
    #[error("the API's address cannot be read")]
    Api(#[source] io::Error),
}

/// A running controller.
pub struct Controller {
    desk: Arc<Desk>,
    state: Arc<dyn State>,
    api: SocketAddr,
    agents: SocketAddr,
    listener: Arc<Listener>,
    trust: watch::Sender<Identity>,
    tls: Option<ServerTls>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Controller {
    /// Begins to serve. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(
        settings: ControllerSettings,
        desk: Arc<Desk>,
        state: Arc<dyn State>,
        health: &Health,
    ) -> Result<Self, StartError> {
        let api = settings.api.local_addr().map_err(StartError::Api)?;
        let listener = Arc::new(Listener::bind(settings.agents, &settings.identity, settings.link)?);
        let agents = listener.local_addr();
        let stop = CancellationToken::new();
        let router = api::router(Arc::clone(&desk));
        let (trust, trusted) = watch::channel(settings.identity);
        let tasks = vec![
            tokio::spawn(serve::serve(settings.api, router, settings.tls.clone(), stop.clone())),
            tokio::spawn(self::agents::serve(
                Arc::clone(&listener),
                trusted,
                Arc::clone(&desk),
                stop.clone(),
            )),
            tokio::spawn({
                let (desk, stop) = (Arc::clone(&desk), stop.clone());
                async move { desk.run(stop).await }
            }),
            tokio::spawn(until(stop.clone(), self::agents::show_standing(state.standing()))),
            tokio::spawn(until(stop.clone(), stand(Arc::clone(&desk), settings.token_file, health.clone()))),
        ];
        Ok(Self { desk, state, api, agents, listener, trust, tls: settings.tls, stop, tasks })
    }

    /// Where the API listens.
    #[must_use]
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Where agents connect.
    #[must_use]
    pub fn agents(&self) -> SocketAddr {
        self.agents
    }

    /// The desk.
    #[must_use]
    pub fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// Shows other certificates from the next handshake on: `identity` to agents, and what is in the API's files now
    /// to its users. Agents that `identity` does not trust are shown out.
    ///
    /// # Errors
    /// [`tls::TlsError`]: the API keeps its certificate.
    pub fn reload(&self, identity: &Identity) -> Result<(), tls::TlsError> {
        self.listener.replace_identity(identity);
        self.trust.send_replace(identity.clone());
        self.tls.as_ref().map_or(Ok(()), ServerTls::reload)
    }

    /// Ends requests and talks, and lets another controller lead.
    pub async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
        self.state.resign().await;
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Makes the first token whenever this controller begins to lead, and keeps the health true.
async fn stand(desk: Arc<Desk>, token_file: PathBuf, health: Health) {
    let mut standing = desk.standing();
    loop {
        let now = standing.borrow_and_update().clone();
        let known = match &now {
            Standing::Leading => match desk.first_token(&token_file).await {
                Ok(made) => {
                    if made {
                        tracing::warn!(file = %token_file.display(), "the first admin token is in this file");
                    }
                    Ok(())
                }
                Err(error) => Err(check::worded(&error)),
            },
            Standing::Following(Some(_)) => Ok(()),
            Standing::Following(None) => Err("no controller leads".to_owned()),
        };
        let again = known.is_err() && now == Standing::Leading;
        health.set_condition("state", known);
        tokio::select! {
            changed = standing.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(std::time::Duration::from_secs(1)), if again => {}
        }
    }
}
