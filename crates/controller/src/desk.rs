//! The leader's desk: every change of what the controller knows is made here, one after the other.
//!
//! A change is decided in memory, written to the state together with its line in the audit log, and only then true:
//! for agents ([`Orders`]), for the API and for whoever watches. If the state cannot be reached, nothing happened.

mod revisions;
mod rollouts;
mod tokens;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::RwLock;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio_util::sync::CancellationToken;

use crate::check::{Judge, Problem};
use crate::events::Events;
use crate::fleet::Fleet;
use crate::records::{self, AUDIT, AuditEntry, REVISIONS, Revision, TOKENS, audit_key};
use crate::rollout::{PolicyError, RequestError, Rollout, WaveError};
use crate::state::{Change, Standing, State, StateError};
use crate::tokens::Token;

pub use revisions::Upload;
pub use rollouts::{Progress, StartRequest};

/// How long the fleet may change before a roll-out looks at it: many reports make one look.
const LOOK: Duration = Duration::from_millis(200);

/// How long a roll-out may go without a look: time passes too.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Most tokens.
const TOKENS_MAX: usize = 1000;

/// Texts of revisions that are kept at hand, packed: those that agents are told.
const TEXTS_KEPT: usize = 4;

/// Why something was not done. The text is for the person who asked.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// There is no such thing.
    #[error("there is no {0}")]
    Missing(String),
    /// The text is refused.
    #[error("the topology is refused: {} problems", .0.len())]
    Unsound(Vec<Problem>),
    /// The roll-out cannot do that now.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Another roll-out is under way.
    #[error("roll-out {0} is under way")]
    Busy(u64),
    /// The fleet runs it already.
    #[error("the fleet runs revision {0} already")]
    Already(u64),
    /// The roll-out cannot be planned.
    #[error(transparent)]
    Waves(#[from] WaveError),
    /// The policy makes no sense.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// There are enough tokens.
    #[error("there are {TOKENS_MAX} tokens, and no more")]
    TokensFull,
    /// Without an admin token nobody could make another.
    #[error("this is the last admin token")]
    LastAdmin,
    /// A value is not what it should be.
    #[error("{0}")]
    Value(String),
    /// The state said no.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What agents are told.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// The roll-out that counts; none before the first.
    pub rollout: Option<Arc<Rollout>>,
    /// Number of the newest revision.
    pub newest: u64,
}

/// What must be read before anything is changed.
#[derive(Default)]
struct Books {
    /// Whether they were read since this controller began to lead.
    open: bool,
    rollout: Option<Rollout>,
    /// The roll-out as the state has it.
    kept: Option<Vec<u8>>,
    revisions: u64,
    audit: u64,
}

/// The leader's desk.
pub struct Desk {
    state: Arc<dyn State>,
    judge: Box<Judge>,
    books: Mutex<Books>,
    orders: watch::Sender<Orders>,
    tokens: RwLock<BTreeMap<String, Token>>,
    texts: Mutex<HashMap<u64, Bytes>>,
    /// The agents.
    pub fleet: Fleet,
    /// What happens.
    pub events: Events,
}

impl Desk {
    /// A desk over `state`. `judge` says what no library of this crate can: whether the stores take their settings.
    #[must_use]
    pub fn new(state: Arc<dyn State>, judge: Box<Judge>) -> Self {
        Self {
            state,
            judge,
            books: Mutex::default(),
            orders: watch::Sender::default(),
            tokens: RwLock::default(),
            texts: Mutex::default(),
            fleet: Fleet::default(),
            events: Events::default(),
        }
    }

    /// Who leads, now and later.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.state.standing()
    }

    /// What agents are told, now and later.
    pub(crate) fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    /// Keeps the books and moves roll-outs on, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut standing = self.state.standing();
        let mut changes = self.fleet.changes();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = standing.changed() => {}
                () = async { let _ = changes.changed().await; tokio::time::sleep(LOOK).await } => {}
                () = tokio::time::sleep(LOOK_MAX) => {}
            }
            changes.borrow_and_update();
            let leading = *standing.borrow_and_update() == Standing::Leading;
            if let Err(error) = if leading { self.look().await } else { self.close().await } {
                tracing::warn!(error = %crate::check::worded(&error), "the roll-out could not be moved on; trying again");
            }
        }
    }

    async fn close(&self) -> Result<(), StateError> {
        let mut books = self.books.lock().await;
        if books.open {
            *books = Books::default();
            self.orders.send_replace(Orders::default());
            self.tokens.write().clear();
            self.texts.lock().await.clear();
            self.fleet.clear();
        }
        Ok(())
    }

    /// The books, read if they were not yet.
    async fn books(&self) -> Result<MutexGuard<'_, Books>, StateError> {
        let mut books = self.books.lock().await;
        if *self.state.standing().borrow() != Standing::Leading {
            return Err(StateError::NotLeading);
        }
        if !books.open {
            let state = self.state.as_ref();
            let last: Option<Revision> = records::newest(state, REVISIONS, None, 1).await?.pop();
            let audit: Option<AuditEntry> = records::newest(state, AUDIT, None, 1).await?.pop();
            let tokens: Vec<Token> = records::newest(state, TOKENS, None, TOKENS_MAX).await?;
            let rollout = records::last_rollout(state).await?;
            let (rollout, kept) = match rollout {
                Some((rollout, kept)) => (Some(rollout.resumed(Timestamp::now())), Some(kept)),
                None => (None, None),
            };
            *self.tokens.write() = tokens.into_iter().map(|token| (token.id.clone(), token)).collect();
            *books = Books {
                open: true,
                rollout,
                kept,
                revisions: last.map_or(0, |last| last.number),
                audit: audit.map_or(0, |entry| entry.number),
            };
            self.publish(&books);
        }
        Ok(books)
    }

    /// Makes sure that the books are read.
    pub(crate) async fn opened(&self) -> Result<(), StateError> {
        drop(self.books().await?);
        Ok(())
    }

    /// Makes a change together with its line in the audit log.
    async fn commit(&self, books: &mut Books, change: Change, act: Act<'_>) -> Result<(), StateError> {
        let entry = AuditEntry {
            number: books.audit + 1,
            at: Timestamp::now(),
            actor: act.actor.to_owned(),
            action: act.action.to_owned(),
            subject: act.subject,
            detail: act.detail,
        };
        let key = audit_key(entry.number);
        let change = change.absent(&key).put(&key, records::written(&entry)?);
        match self.state.commit(change).await {
            Ok(()) => {
                books.audit = entry.number;
                Ok(())
            }
            Err(error) => {
                // Perhaps it was made, perhaps another controller was faster: what is true is in the state.
                books.open = false;
                Err(error)
            }
        }
    }

    fn publish(&self, books: &Books) {
        self.orders
            .send_replace(Orders { rollout: books.rollout.clone().map(Arc::new), newest: books.revisions });
    }

    /// All that the state holds, as [`backup::restore`](crate::backup::restore) takes it. Changes wait meanwhile.
    ///
    /// # Errors
    /// [`DeskError::State`].
    pub async fn backup(&self, actor: &str) -> Result<String, DeskError> {
        let mut books = self.books().await?;
        let act = Act { actor, action: "backup.take", subject: "state".to_owned(), detail: String::new() };
        self.commit(&mut books, Change::new(), act).await?;
        Ok(crate::backup::take(self.state.as_ref(), Timestamp::now()).await?)
    }

    /// Lines of the audit log, the last first; only those before `before`, if given.
    ///
    /// # Errors
    /// [`DeskError::State`].
    pub async fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, DeskError> {
        let before = before.map(audit_key);
        Ok(records::newest(self.state.as_ref(), AUDIT, before.as_deref(), limit).await?)
    }
}

/// Who does what: a line of the audit log.
struct Act<'a> {
    actor: &'a str,
    action: &'a str,
    subject: String,
    detail: String,
}
