//! The agent itself: a worker that applies what is assigned, and a caller that keeps a controller informed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use weir_link::{CloseReason, Connection, ControlReceiver, ControlSender, DialError, Dialer, RecvError};
use weir_model::NodeId;

use crate::comeback::Comeback;
use crate::keep::{Kept, keep};
use crate::talk::{
    CODE_NOT_LEADING, CODE_REPLACED, CODE_STOPPING, CODE_TALK, FromAgent, Hello, LOGS_MAX, Refused, Report,
    Revision, ToAgent, decode, encode, shortened, unpack,
};
use crate::{Adopt, Vitals};

/// How often the node's health is looked at. A change is reported at once.
const LOOK: Duration = Duration::from_secs(1);

/// The bounds of the pace that a controller may set.
const REPORT_MS: std::ops::RangeInclusive<u32> = 200..=60_000;

/// Where a controller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Its name, as in its certificate.
    pub name: NodeId,
    /// `host:port` of its `listen.agents`.
    pub address: String,
}

/// What an agent needs.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// `edge` or `sink`.
    pub role: String,
    /// Where the node stands.
    pub rack: String,
    /// The version of the program.
    pub version: String,
    /// The file in which the last good revision is kept.
    pub kept: PathBuf,
    /// All controllers: one leads, and the agent finds it.
    pub controllers: Vec<Controller>,
}

/// What an agent has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// What the node runs.
    pub applied: Option<Revision>,
    /// What it refused last.
    pub refused: Option<Refused>,
    /// The controller that it is connected to.
    pub controller: Option<NodeId>,
}

/// The node's side of the controller.
pub struct Agent {
    settings: AgentSettings,
    dialer: Arc<Dialer>,
    adopt: Arc<dyn Adopt>,
    began: Instant,
    wanted: watch::Sender<Option<Kept>>,
    standing: watch::Sender<Standing>,
    comeback: Mutex<Comeback>,
}

impl Agent {
    /// An agent of a node that runs `applied` already.
    #[must_use]
    pub fn new(
        settings: AgentSettings,
        dialer: Arc<Dialer>,
        adopt: Arc<dyn Adopt>,
        applied: Option<Revision>,
    ) -> Self {
        let standing = Standing { applied, ..Standing::default() };
        Self {
            settings,
            dialer,
            adopt,
            began: Instant::now(),
            wanted: watch::Sender::new(None),
            standing: watch::Sender::new(standing),
            comeback: Mutex::default(),
        }
    }

    /// What the agent has come to, now and later.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Works until `stop`. An application under way is ended first.
    pub async fn run(&self, stop: CancellationToken) {
        let calls = async {
            tokio::select! {
                () = self.call() => {}
                () = stop.cancelled() => {}
            }
        };
        tokio::join!(calls, self.work(&stop));
        self.dialer.close(0, "the node stops").await;
    }

    /// Applies what is wanted, one after the other; what was overtaken meanwhile is left out.
    async fn work(&self, stop: &CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() { return },
            }
            let Some(kept) = wanted.borrow_and_update().clone() else { continue };
            self.apply(kept).await;
        }
    }

    async fn apply(&self, kept: Kept) {
        let revision = kept.revision.clone();
        let number = revision.number;
        // The same text under another number, as from a controller that was set up anew: nothing to apply.
        let same =
            self.standing.borrow().applied.as_ref().is_some_and(|applied| applied.hash == revision.hash);
        let outcome = if same { Ok(()) } else { self.adopt.adopt(&kept.text).await };
        match outcome {
            Ok(()) => {
                tracing::info!(revision = number, "the revision is applied");
                let path = self.settings.kept.clone();
                let kept = tokio::task::spawn_blocking(move || keep(&path, &kept)).await;
                match kept {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::error!(%error, "the applied revision could not be kept: a restart would use the one before");
                    }
                    Err(error) => tracing::error!(%error, "the applied revision could not be kept"),
                }
                self.standing.send_modify(|standing| {
                    standing.applied = Some(revision);
                    standing.refused = None;
                });
            }
            Err(reason) => {
                tracing::error!(revision = number, %reason, "the revision is refused; what ran runs on");
                let refused = Refused { revision, reason: shortened(reason) };
                self.standing.send_modify(|standing| standing.refused = Some(refused));
            }
        }
    }

    /// Finds the controller that leads and stays with it, for ever.
    async fn call(&self) {
        let mut next = 0;
        loop {
            let wait = self.comeback.lock().wait(rand::random());
            sleep(wait).await;
            // Once around. A controller that does not lead says so at once.
            let count = self.settings.controllers.len();
            let mut met = false;
            for _ in 0..count {
                let controller = &self.settings.controllers[next % count];
                match self.visit(controller).await {
                    Visit::Left => {
                        met = true;
                        break;
                    }
                    Visit::NotThere => next += 1,
                }
            }
            let mut comeback = self.comeback.lock();
            if met { comeback.succeeded() } else { comeback.failed() }
        }
    }

    async fn visit(&self, controller: &Controller) -> Visit {
        let connection = match self.dialer.dial(&controller.address, &controller.name).await {
            Ok(connection) => connection,
            // A person must mend it: certificates do not fit together by waiting.
            Err(error @ DialError::Untrusted { .. }) => {
                tracing::warn!(%error, "the controller cannot be talked to; the node runs on");
                return Visit::NotThere;
            }
            Err(error) => {
                tracing::debug!(%error, "no controller here");
                return Visit::NotThere;
            }
        };
        let began = Instant::now();
        let ended = self.converse(&connection, &controller.name).await;
        self.standing.send_modify(|standing| standing.controller = None);
        match ended {
            Ended::NotLeading => Visit::NotThere,
            Ended::Because(reason) => {
                tracing::warn!(controller = %controller.name, %reason, "the controller is lost; the node runs on");
                // One that hangs up at once is no better than none.
                if began.elapsed() < Duration::from_secs(1) { Visit::NotThere } else { Visit::Left }
            }
        }
    }

    async fn converse(&self, connection: &Connection, name: &NodeId) -> Ended {
        let (mut sender, mut receiver) = match connection.open_control().await {
            Ok(streams) => streams,
            Err(error) => return Ended::Because(error.to_string()),
        };
        let hello = Hello {
            role: self.settings.role.clone(),
            rack: self.settings.rack.clone(),
            version: self.settings.version.clone(),
            applied: self.standing.borrow().applied.clone(),
        };
        if let Err(error) = sender.send(encode(&FromAgent::Hello(hello))).await {
            return ended(connection, error.to_string()).await;
        }
        // The receiver must not be cancelled in the middle of a message by a tick: each half has its own future.
        let pace = watch::Sender::new(*REPORT_MS.start());
        let paced = pace.subscribe();
        let reason = tokio::select! {
            reason = self.listen(&mut receiver, &pace, connection, name) => reason,
            reason = self.report(&mut sender, paced) => reason,
        };
        ended(connection, reason).await
    }

    async fn listen(
        &self,
        receiver: &mut ControlReceiver,
        pace: &watch::Sender<u32>,
        connection: &Connection,
        name: &NodeId,
    ) -> String {
        loop {
            let message = match receiver.recv().await {
                Ok(Some(message)) => message,
                Ok(None) | Err(RecvError::Closed(CloseReason::Ours)) => {
                    return "it ended the talk".to_owned();
                }
                Err(error) => return error.to_string(),
            };
            let taken = decode(&message).and_then(|message| match message {
                ToAgent::Pace { report_ms, return_ms } => {
                    if self.standing.borrow().controller.is_none() {
                        tracing::info!(controller = %name, "connected to the controller");
                        self.standing.send_modify(|standing| standing.controller = Some(name.clone()));
                    }
                    pace.send_replace(report_ms.clamp(*REPORT_MS.start(), *REPORT_MS.end()));
                    self.comeback.lock().set_spread(Duration::from_millis(return_ms.into()));
                    Ok(())
                }
                ToAgent::Assign { revision, text } => {
                    let text = unpack(&text)?;
                    if crate::hash(&text) != revision.hash {
                        return Err(crate::talk::TalkError::Text("it does not have its hash".to_owned()));
                    }
                    self.wanted.send_replace(Some(Kept { revision, text }));
                    Ok(())
                }
            });
            if let Err(error) = taken {
                connection.close(CODE_TALK, "unreadable");
                return error.to_string();
            }
        }
    }

    async fn report(&self, sender: &mut ControlSender, mut pace: watch::Receiver<u32>) -> String {
        let mut looks = interval(LOOK.min(Duration::from_millis(u64::from(*pace.borrow()) * 5)));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut standing = self.standing.subscribe();
        let mut said = Said { at: Instant::now(), vitals: self.adopt.vitals().await };
        let mut first = true;
        loop {
            let mut news = first;
            first = false;
            tokio::select! {
                _ = looks.tick() => {}
                changed = standing.changed() => news |= changed.is_ok(),
                changed = pace.changed() => if changed.is_err() { return "the agent ended".to_owned() },
            }
            let due = said.at.elapsed() >= Duration::from_millis((*pace.borrow()).into());
            let vitals = self.adopt.vitals().await;
            if !(due || news || vitals.ailment != said.vitals.ailment) {
                continue;
            }
            let report = self.worded(&said, &vitals);
            if let Err(error) = sender.send(encode(&FromAgent::Report(report))).await {
                return error.to_string();
            }
            // Rates over an instant say nothing: news keeps the old figures to count from.
            if due {
                said = Said { at: Instant::now(), vitals };
            } else {
                said.vitals.ailment = vitals.ailment;
            }
        }
    }

    fn worded(&self, before: &Said, vitals: &Vitals) -> Report {
        let seconds = before.at.elapsed().as_secs_f64();
        let rate =
            |before: f64, now: f64| if seconds < 0.1 { 0.0 } else { (now - before).max(0.0) / seconds };
        let standing = self.standing.borrow().clone();
        let then = &before.vitals;
        Report {
            applied: standing.applied,
            refused: standing.refused,
            ailment: vitals.ailment.clone().map(shortened),
            logs: vitals.logs.iter().take(LOGS_MAX).cloned().collect(),
            events_per_second: rate(then.events_total, vitals.events_total),
            bytes_per_second: rate(then.bytes_total, vitals.bytes_total),
            errors_per_second: rate(then.errors_total, vitals.errors_total),
            uptime_seconds: self.began.elapsed().as_secs(),
        }
    }
}

/// What was reported last.
struct Said {
    at: Instant,
    vitals: Vitals,
}

enum Visit {
    /// There was a talk, and it ended.
    Left,
    /// There is no controller, or it does not lead.
    NotThere,
}

enum Ended {
    NotLeading,
    Because(String),
}

/// Why a talk ended: the connection knows better than its streams, if it ended.
async fn ended(connection: &Connection, reason: String) -> Ended {
    // A stream may fail a moment before its connection has taken the peer's last word.
    let Ok(closed) = tokio::time::timeout(Duration::from_millis(500), connection.closed()).await else {
        connection.close(0, "the talk ended");
        return Ended::Because(reason);
    };
    match closed {
        CloseReason::Peer { code, .. } if code == u64::from(CODE_NOT_LEADING) => Ended::NotLeading,
        CloseReason::Peer { code, .. } if code == u64::from(CODE_STOPPING) => {
            Ended::Because("it stops".to_owned())
        }
        CloseReason::Peer { code, .. } if code == u64::from(CODE_REPLACED) => {
            Ended::Because("another process has this node's name".to_owned())
        }
        _ => Ended::Because(reason),
    }
}
