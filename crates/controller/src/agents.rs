//! The controller's side of the talk with agents.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use weir_agent::talk::{
    CODE_DISTRUSTED, CODE_NOT_LEADING, CODE_REPLACED, CODE_STOPPING, CODE_TALK, FromAgent, Report, Revision,
    ToAgent, decode, encode,
};
use weir_link::{Connection, ControlReceiver, ControlSender, Identity, Listener};
use weir_telemetry::names;

use crate::desk::{Desk, Orders};
use crate::fleet::News;
use crate::rollout::RevisionRef;
use crate::state::Standing;

/// How long an agent may take to introduce itself.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// Texts on their way at once: a whole fleet that is told of a large topology takes turns.
const SENDS_MAX: usize = 64;

/// Connections at once: a fleet of 20 000 and those that are about to be replaced.
const CONNECTIONS_MAX: usize = 25_000;

/// Takes agents until `stop`. `trust` is who this controller is and whom it trusts, now and later.
pub(crate) async fn serve(
    listener: Arc<Listener>,
    trust: watch::Receiver<Identity>,
    desk: Arc<Desk>,
    stop: CancellationToken,
) {
    let sessions = TaskTracker::new();
    let sends = Arc::new(Semaphore::new(SENDS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let connection = match accepted {
            None => break,
            Some(Ok(connection)) => connection,
            Some(Err(error)) => {
                names::CONTROLLER_HANDSHAKES_FAILED_TOTAL.with([]).increment(1);
                tracing::debug!(%error, "an agent was not let in");
                continue;
            }
        };
        if sessions.len() >= CONNECTIONS_MAX {
            connection.close(CODE_STOPPING, "too many agents");
            continue;
        }
        let session = Session {
            connection,
            trust: trust.clone(),
            desk: Arc::clone(&desk),
            sends: Arc::clone(&sends),
            stop: stop.clone(),
        };
        sessions.spawn(session.run());
    }
    listener.close(CODE_STOPPING, "the controller stops").await;
    sessions.close();
    sessions.wait().await;
}

struct Session {
    connection: Connection,
    trust: watch::Receiver<Identity>,
    desk: Arc<Desk>,
    sends: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Session {
    async fn run(self) {
        let mut standing = self.desk.standing();
        let follows = |standing: &Standing| *standing != Standing::Leading;
        if follows(&standing.borrow()) {
            self.connection.close(CODE_NOT_LEADING, "another controller leads");
            return;
        }
        tokio::select! {
            () = self.talk() => {}
            _ = standing.wait_for(follows) => self.connection.close(CODE_NOT_LEADING, "another controller leads"),
            () = self.stop.cancelled() => self.connection.close(CODE_STOPPING, "the controller stops"),
            () = self.distrusted() => {
                tracing::warn!(agent = %self.connection.peer(), "its certificate is not trusted any more");
                self.connection.close(CODE_DISTRUSTED, "your certificate is not trusted any more");
            }
            _ = self.connection.closed() => {}
        }
    }

    /// Returns once the agent's certificate would not be let in any more.
    async fn distrusted(&self) {
        let mut trust = self.trust.clone();
        while trust.changed().await.is_ok() {
            if !trust.borrow_and_update().accepts(&self.connection) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    async fn talk(&self) {
        let opening = async {
            let (sender, mut receiver) = self.connection.accept_control().await.ok()?;
            let message = receiver.recv().await.ok()??;
            match decode::<FromAgent>(&message) {
                Ok(FromAgent::Hello(hello)) => Some((sender, receiver, hello)),
                _ => None,
            }
        };
        let Ok(Some((mut sender, mut receiver, hello))) = timeout(HELLO_MAX, opening).await else {
            self.connection.close(CODE_TALK, "no hello that this controller understands");
            return;
        };
        if self.desk.opened().await.is_err() {
            self.connection.close(CODE_STOPPING, "the state cannot be reached");
            return;
        }
        let (name, desk) = (self.connection.peer().clone(), &self.desk);
        let runs = hello.applied.clone().map(RevisionRef::from);
        let remote = self.connection.remote_address();
        let Some((session, replaced)) = desk.fleet.connected(&name, hello, remote, Timestamp::now()) else {
            self.connection.close(CODE_STOPPING, "too many agents");
            return;
        };
        // Dropped however this ends, also when the whole session is cancelled.
        let _left = Left { desk, name: &name, session };
        desk.events.tell("agent.connected", name.as_str(), remote.ip().to_string(), Timestamp::now());
        names::CONTROLLER_AGENTS.with([]).set(desk.fleet.count() as f64);
        tokio::select! {
            () = self.listen(&mut receiver, session) => {}
            () = self.order(&mut sender, runs) => {}
            () = replaced.cancelled() => self.connection.close(CODE_REPLACED, "this node connected again"),
        }
    }

    async fn listen(&self, receiver: &mut ControlReceiver, session: u64) {
        loop {
            let Ok(Some(message)) = receiver.recv().await else { return };
            match decode::<FromAgent>(&message) {
                Ok(FromAgent::Report(report)) => self.reported(session, report),
                Ok(FromAgent::Hello(_)) | Err(_) => {
                    self.connection.close(CODE_TALK, "not a report that this controller understands");
                    return;
                }
            }
        }
    }

    fn reported(&self, session: u64, mut report: Report) {
        report.logs.truncate(weir_agent::talk::LOGS_MAX);
        let name = self.connection.peer();
        let now = Timestamp::now();
        for news in self.desk.fleet.reported(name, session, report, now) {
            let (kind, text) = match news {
                News::Applied(number) => ("agent.applied", format!("revision {number}")),
                News::Refused(number, why) => {
                    names::CONTROLLER_REFUSALS_TOTAL.with([]).increment(1);
                    tracing::warn!(agent = %name, revision = number, %why, "an agent refused a revision");
                    ("agent.refused", format!("revision {number}: {why}"))
                }
                News::Unwell(why) => ("agent.unwell", why),
                News::Well => ("agent.well", String::new()),
            };
            self.desk.events.tell(kind, name.as_str(), text, now);
        }
    }

    /// Tells the agent what it ought to run, whenever that changes.
    async fn order(&self, sender: &mut ControlSender, runs: Option<RevisionRef>) {
        let mut orders = self.desk.orders();
        let mut told: Option<(String, u32)> = None;
        let mut paced = None;
        loop {
            let pace = self.desk.fleet.pace();
            if paced != Some(pace) {
                let (report_ms, return_ms) = pace;
                if sender.send(encode(&ToAgent::Pace { report_ms, return_ms })).await.is_err() {
                    return;
                }
                paced = Some(pace);
            }
            let wanted = orders.borrow_and_update().clone();
            if told.is_none() && self.is_ahead(&wanted, runs.as_ref()) {
                // An old backup must not take a whole fleet back at once: a roll-out may, wave by wave.
            } else if let Some((revision, attempt)) = self.assigned(&wanted) {
                let order = (revision.hash.clone(), attempt);
                let first = told.is_none() && runs.as_ref().is_some_and(|runs| runs.hash == revision.hash);
                if told.as_ref() != Some(&order) && !(first && runs.as_ref() == Some(&revision)) {
                    match self.tell(sender, &revision).await {
                        Told::Gone => return,
                        Told::Later => {
                            tokio::time::sleep(Duration::from_secs(1)).await;
                            continue;
                        }
                        Told::Yes => {}
                    }
                }
                told = Some(order);
            }
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return },
                // The fleet grows or shrinks, and with it the pace.
                () = tokio::time::sleep(Duration::from_secs(60)) => {}
            }
        }
    }

    /// Whether the node runs a revision that this controller has not made yet: one that was made by another, or that a
    /// restored state does not know. Nothing is changed then until the next roll-out.
    fn is_ahead(&self, orders: &Orders, runs: Option<&RevisionRef>) -> bool {
        let Some(runs) = runs.filter(|runs| runs.number > orders.newest) else { return false };
        let (Some(rollout), name) = (orders.rollout.as_ref(), self.connection.peer()) else { return false };
        let Some(assigned) = rollout.assigned(name).filter(|assigned| assigned.hash != runs.hash) else {
            return false;
        };
        if !rollout.phase.ended() && *assigned == rollout.to {
            return false;
        }
        let text = format!(
            "runs revision {}, which this controller does not know; the next roll-out changes it",
            runs.number
        );
        tracing::warn!(agent = %name, "it {text}");
        self.desk.events.tell("agent.ahead", name.as_str(), text, Timestamp::now());
        true
    }

    fn assigned(&self, orders: &Orders) -> Option<(RevisionRef, u32)> {
        let rollout = orders.rollout.as_ref()?;
        Some((rollout.assigned(self.connection.peer())?.clone(), rollout.attempt))
    }

    async fn tell(&self, sender: &mut ControlSender, revision: &RevisionRef) -> Told {
        let Ok(_permit) = self.sends.acquire().await else { return Told::Gone };
        let text = match self.desk.packed(revision.number).await {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(agent = %self.connection.peer(), revision = revision.number, error = %crate::check::worded(&error), "the revision cannot be sent");
                return Told::Later;
            }
        };
        let revision = Revision { number: revision.number, hash: revision.hash.clone() };
        match sender.send(encode(&ToAgent::Assign { revision, text })).await {
            Ok(()) => Told::Yes,
            Err(_) => Told::Gone,
        }
    }
}

enum Told {
    Yes,
    Later,
    Gone,
}

struct Left<'a> {
    desk: &'a Desk,
    name: &'a weir_model::NodeId,
    session: u64,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        let now = Timestamp::now();
        if self.desk.fleet.lost(self.name, self.session, now) {
            self.desk.events.tell("agent.lost", self.name.as_str(), "", now);
        }
        names::CONTROLLER_AGENTS.with([]).set(self.desk.fleet.count() as f64);
    }
}

/// Shows on `/metrics` whether this controller leads.
pub(crate) async fn show_standing(mut standing: watch::Receiver<Standing>) {
    loop {
        let leads = *standing.borrow_and_update() == Standing::Leading;
        names::CONTROLLER_LEADING.with([]).set(f64::from(u8::from(leads)));
        if standing.changed().await.is_err() {
            return;
        }
    }
}
