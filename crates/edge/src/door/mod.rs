//! The door for senders: who gets in, how fast, and what carries them.
//!
//! [`Listeners`] opens and closes sockets as the topology says, while senders stay connected. Each has a [`Door`], which
//! all its connections share: settings that may change at any moment, counts, limits. A connection comes in through
//! [`greet`](mod@greet) (PROXY header, TLS, shared key) and lives in [`crate::connection`].
//!
//! The rooms below decide alone: [`proxy`](mod@proxy) what a balancer's header says, [`bucket`](mod@bucket) and
//! [`limits`](mod@limits) what is too much, [`memory`](mod@memory) who may be read, [`census`](mod@census) how many there
//! are, [`refusals`](mod@refusals) what is told of it, [`rewrite`](mod@rewrite) what is changed of a batch.

mod bucket;
mod census;
mod greet;
mod heartbeat;
mod limits;
mod listeners;
mod memory;
mod peer;
mod proxy;
mod quarantine;
mod refusals;
mod rewrite;
mod settings;
mod stream;
mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use weir_telemetry::{Counter, Gauge, names};

use crate::intake::Intake;

pub use listeners::ListenError;
pub use settings::SettingsError;
pub use tls::TlsError;

pub(crate) use census::Counted;
pub(crate) use limits::{Judgement, Meter};
pub(crate) use listeners::Listeners;
pub(crate) use memory::{Allowance, Budget, Holding};
pub(crate) use peer::Peer;
pub(crate) use rewrite::Rewrite;
pub(crate) use settings::Settings;
pub(crate) use stream::Stream;

use bucket::Nanos;
use census::{Census, Full};
use quarantine::Quarantine;
use refusals::Refusals;

/// Who comes too often would come again at once, and each time costs: it is left to wait for so long, unread.
const WHILE: Duration = Duration::from_secs(1);
/// So many are left to wait at once; each is a socket. Others are closed at once.
const WAITING_MAX: usize = 1024;

/// How a connection ends that may not come in.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum TurnedAway {
    AtOnce,
    InAWhile,
}

/// What all connections of one listener share.
pub(crate) struct Door {
    pub(crate) intake: Arc<Intake>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) refusals: Refusals,
    pub(crate) quarantine: Arc<Quarantine>,
    /// Ends the listener, and its connections between two messages.
    pub(crate) stop: CancellationToken,
    pub(crate) metrics: Metrics,
    names: rewrite::Names,
    settings: ArcSwap<Settings>,
    census: Arc<Census>,
    waiting: Semaphore,
    began: Instant,
}

/// Handles that would cost a look-up for each connection.
pub(crate) struct Metrics {
    pub(crate) open: Gauge,
    pub(crate) opened: Counter,
    pub(crate) acks: Counter,
    pub(crate) acks_unread: Counter,
}

impl Door {
    pub(crate) fn new(
        name: &str,
        settings: Arc<Settings>,
        intake: Arc<Intake>,
        budget: Arc<Budget>,
        quarantine: Arc<Quarantine>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            intake,
            budget,
            refusals: Refusals::new(name),
            quarantine,
            stop,
            metrics: Metrics {
                open: names::FORWARD_CONNECTIONS.with([]),
                opened: names::FORWARD_CONNECTIONS_TOTAL.with([]),
                acks: names::FORWARD_ACKS_TOTAL.with([]),
                acks_unread: names::FORWARD_ACKS_UNREAD_TOTAL.with([]),
            },
            names: rewrite::Names::default(),
            settings: ArcSwap::new(settings),
            census: Arc::default(),
            waiting: Semaphore::new(WAITING_MAX),
            began: Instant::now(),
        })
    }

    #[cfg(test)]
    pub(crate) fn for_tests(settings: Arc<Settings>, intake: Arc<Intake>) -> Arc<Self> {
        let quarantine = Quarantine::new(std::path::PathBuf::new());
        Self::new("l", settings, intake, Budget::new(1 << 20), quarantine, CancellationToken::new())
    }

    /// What holds now. Cheap; a connection asks again and again.
    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// From now on these hold, for connections that are open too.
    pub(crate) fn set(&self, settings: Arc<Settings>) {
        self.settings.store(settings);
    }

    /// Puts renewed certificates in place, unless other settings came in between.
    fn renew(&self, before: &Arc<Settings>, renewed: Arc<Settings>) {
        self.settings.compare_and_swap(before, renewed);
    }

    /// The time that limits go by.
    pub(crate) fn now(&self) -> Nanos {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    /// Whether this address may connect at all.
    fn lets_in(&self, peer: &Peer) -> bool {
        let settings = self.settings();
        let Some(ip) = peer.ip() else { return true };
        let config = &settings.config;
        let within = |networks: &[weir_model::Network]| networks.iter().any(|network| network.contains(ip));
        (config.allow.is_empty() || within(&config.allow)) && !within(&config.deny)
    }

    /// Counts a connection in, or notes why it may not come in.
    pub(crate) fn admit(&self, peer: &Peer) -> Result<Counted, TurnedAway> {
        let settings = self.settings();
        let config = &settings.config;
        if settings.is_balancer(peer) {
            // It speaks for many; each of them is looked at when its name is known.
            let source = peer.source(config.source_prefix_v4, config.source_prefix_v6);
            let counted = self.census.enter(source, config.max_connections, None);
            return counted.map_err(|_| self.full(peer));
        }
        self.admit_sender(peer)
    }

    /// The same for a sender of which a balancer told.
    pub(crate) fn admit_sender(&self, peer: &Peer) -> Result<Counted, TurnedAway> {
        let settings = self.settings();
        let config = &settings.config;
        if !self.lets_in(peer) {
            self.refusals.note("denied", peer, "its address is not allowed here (`allow`, `deny`)");
            return Err(TurnedAway::AtOnce);
        }
        let source = peer.source(config.source_prefix_v4, config.source_prefix_v6);
        if let Err(limit) = settings.rules.connect(self.now(), peer, source) {
            self.refusals.note(
                "connection_rate",
                peer,
                format_args!("more connections than limit {limit:?} lets in"),
            );
            return Err(TurnedAway::InAWhile);
        }
        match self.census.enter(source, config.max_connections, config.max_connections_per_source) {
            Ok(counted) => Ok(counted),
            Err(Full::All) => Err(self.full(peer)),
            Err(Full::Source) => {
                let detail = "as many are open from there as `max_connections_per_source` allows";
                self.refusals.note("max_connections_per_source", peer, detail);
                Err(TurnedAway::AtOnce)
            }
        }
    }

    fn full(&self, peer: &Peer) -> TurnedAway {
        self.refusals.note("max_connections", peer, "as many are open as `max_connections` allows");
        TurnedAway::AtOnce
    }

    /// Closes a socket that may not come in.
    pub(crate) async fn turn_away(self: Arc<Self>, socket: TcpStream, how: TurnedAway) {
        if how == TurnedAway::InAWhile
            && let Ok(_place) = self.waiting.try_acquire()
        {
            let _ = timeout(WHILE, self.stop.cancelled()).await;
        }
        drop(socket);
    }
}
