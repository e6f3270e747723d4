//! Roll-outs: started, moved on, halted and called back.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weir_model::NodeId;

use super::{Act, Books, Desk, DeskError};
use crate::records::{self, ROLLOUTS, rollout_key};
use crate::rollout::{By, Phase, Policy, RequestError, RevisionRef, Rollout, Start, View, members, waves};
use crate::state::{Change, StateError};

/// Whom the audit log names for what the controller does by itself.
const SELF: &str = "controller";

/// A roll-out that is asked for.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// The revision to roll out; an earlier one is fine.
    pub revision: u64,
    /// In which order.
    #[serde(default)]
    pub order: By,
    /// How careful.
    #[serde(default)]
    pub policy: Policy,
}

/// How far a wave is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WaveProgress {
    /// Its label.
    pub label: String,
    /// Its nodes.
    pub nodes: usize,
    /// Those that run the revision.
    pub applied: usize,
    /// Those that are not connected.
    pub away: usize,
    /// Those that refused it.
    pub refused: usize,
}

/// A roll-out as people see it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Progress {
    /// Counted from 1.
    pub id: u64,
    /// What is rolled out.
    pub to: RevisionRef,
    /// What the fleet ran before.
    pub from: Option<RevisionRef>,
    /// Who started it.
    pub author: String,
    /// When.
    pub started: Timestamp,
    /// How careful.
    pub policy: Policy,
    /// Where it stands.
    #[serde(flatten)]
    pub phase: Phase,
    /// The current wave, counted from 0.
    pub wave: usize,
    /// How far each is.
    pub waves: Vec<WaveProgress>,
}

impl Progress {
    fn of(rollout: &Rollout, view: &View) -> Self {
        let count =
            |nodes: &[NodeId], test: &dyn Fn(&NodeId) -> bool| nodes.iter().filter(|node| test(node)).count();
        let hash = &rollout.to.hash;
        let runs = |node: &NodeId| view.get(node).is_some_and(|seen| seen.applied.as_ref() == Some(hash));
        let away = |node: &NodeId| view.get(node).is_none_or(|seen| !seen.connected);
        let refused = |node: &NodeId| {
            view.get(node)
                .is_some_and(|seen| seen.refused.as_ref().is_some_and(|(refused, _)| refused == hash))
        };
        let waves = rollout.waves.iter().map(|wave| WaveProgress {
            label: wave.label.clone(),
            nodes: wave.nodes.len(),
            applied: count(&wave.nodes, &runs),
            away: count(&wave.nodes, &away),
            refused: count(&wave.nodes, &refused),
        });
        Self {
            id: rollout.id,
            to: rollout.to.clone(),
            from: rollout.from.clone(),
            author: rollout.author.clone(),
            started: rollout.started,
            policy: rollout.policy.clone(),
            phase: rollout.phase.clone(),
            wave: rollout.wave,
            waves: waves.collect(),
        }
    }
}

impl Desk {
    /// Starts a roll-out.
    ///
    /// # Errors
    /// [`DeskError`]: another is under way, the revision is missing or no longer sound, the order or the policy makes
    /// no sense.
    pub async fn start(&self, request: StartRequest, author: &str) -> Result<Progress, DeskError> {
        request.policy.check()?;
        let revision = self.revision(request.revision).await?;
        let revision =
            revision.ok_or_else(|| DeskError::Missing(format!("revision {}", request.revision)))?;
        let topology = self.topology(revision.number).await?;
        let mut books = self.books().await?;
        let now = Timestamp::now();
        let id = books.rollout.as_ref().map_or(0, |last| last.id) + 1;
        let mut change = Change::new();
        if let Some(last) = &books.rollout {
            let mut last = last.clone();
            last.supersede(id, now).map_err(|_| DeskError::Busy(last.id))?;
            let runs = matches!(last.phase, Phase::Done { .. }) && last.to.hash == revision.hash;
            if runs {
                return Err(DeskError::Already(last.to.number));
            }
            change = change.put(rollout_key(last.id), records::written(&last)?);
        }
        let view = self.fleet.view();
        let connected: BTreeSet<NodeId> =
            view.iter().filter(|(_, seen)| seen.connected).map(|(name, _)| name.clone()).collect();
        let waves = waves(&members(&topology), &request.order, &connected)?;
        self.fleet.forget_refusals();
        let rollout = Rollout::start(
            Start {
                id,
                to: revision.reference(),
                from: books.rollout.as_ref().and_then(|last| last.stable().cloned()),
                author: author.to_owned(),
                policy: request.policy,
                waves,
            },
            &self.fleet.view(),
            now,
        );
        let written = records::written(&rollout)?;
        let key = rollout_key(id);
        change = change.absent(&key).put(&key, written.clone());
        let detail = format!("revision {} in {} waves", revision.number, rollout.waves.len());
        let act = Act { actor: author, action: "rollout.start", subject: format!("rollout {id}"), detail };
        self.commit(&mut books, change, act).await?;
        let progress = Progress::of(&rollout, &view);
        books.kept = Some(written);
        books.rollout = Some(rollout);
        self.publish(&books);
        self.events.tell("rollout.started", &id.to_string(), format!("revision {}", revision.number), now);
        Ok(progress)
    }

    /// The roll-out that counts; none before the first.
    ///
    /// # Errors
    /// [`DeskError::State`].
    pub async fn current(&self) -> Result<Option<Progress>, DeskError> {
        let books = self.books().await?;
        Ok(books.rollout.as_ref().map(|rollout| Progress::of(rollout, &self.fleet.view())))
    }

    /// Roll-outs, the last first; only those before `before`, if given.
    ///
    /// # Errors
    /// [`DeskError::State`].
    pub async fn rollouts(&self, before: Option<u64>, limit: usize) -> Result<Vec<Progress>, DeskError> {
        let before = before.map(rollout_key);
        let found: Vec<Rollout> =
            records::newest(self.state.as_ref(), ROLLOUTS, before.as_deref(), limit).await?;
        let view = self.fleet.view();
        Ok(found.iter().map(|rollout| Progress::of(rollout, &view)).collect())
    }

    /// The revision that every node runs when nothing is rolled out.
    ///
    /// # Errors
    /// [`DeskError::State`].
    pub async fn stable(&self) -> Result<Option<RevisionRef>, DeskError> {
        Ok(self.books().await?.rollout.as_ref().and_then(|rollout| rollout.stable().cloned()))
    }

    /// Stops the roll-out where it is.
    ///
    /// # Errors
    /// [`DeskError::Request`], [`DeskError::State`].
    pub async fn halt(&self, actor: &str, reason: &str) -> Result<Progress, DeskError> {
        let reason = format!("{actor}: {reason}");
        self.ask(actor, "rollout.halt", |rollout, _, now| rollout.halt(reason, now)).await
    }

    /// Tries the halted wave again.
    ///
    /// # Errors
    /// [`DeskError::Request`], [`DeskError::State`].
    pub async fn resume(&self, actor: &str) -> Result<Progress, DeskError> {
        self.fleet.forget_refusals();
        self.ask(actor, "rollout.resume", Rollout::resume).await
    }

    /// Lets the next wave begin.
    ///
    /// # Errors
    /// [`DeskError::Request`], [`DeskError::State`].
    pub async fn approve(&self, actor: &str) -> Result<Progress, DeskError> {
        self.ask(actor, "rollout.approve", Rollout::approve).await
    }

    /// Takes every node back.
    ///
    /// # Errors
    /// [`DeskError::Request`], [`DeskError::State`].
    pub async fn roll_back(&self, actor: &str, reason: &str) -> Result<Progress, DeskError> {
        let reason = format!("{actor}: {reason}");
        self.ask(actor, "rollout.rollback", |rollout, _, now| rollout.roll_back(reason, now)).await
    }

    async fn ask(
        &self,
        actor: &str,
        action: &str,
        request: impl FnOnce(&mut Rollout, &View, Timestamp) -> Result<(), RequestError>,
    ) -> Result<Progress, DeskError> {
        let mut books = self.books().await?;
        let rollout = books.rollout.as_ref().ok_or_else(|| DeskError::Missing("roll-out".to_owned()))?;
        let mut next = rollout.clone();
        let view = self.fleet.view();
        request(&mut next, &view, Timestamp::now())?;
        self.keep(&mut books, next, actor, action).await?;
        books
            .rollout
            .as_ref()
            .map(|rollout| Progress::of(rollout, &view))
            .ok_or_else(|| DeskError::Missing("roll-out".to_owned()))
    }

    /// Shows the roll-out the fleet and the time.
    pub(super) async fn look(&self) -> Result<(), StateError> {
        let mut books = self.books().await?;
        let Some(rollout) = books.rollout.as_ref().filter(|rollout| !rollout.phase.ended()) else {
            return Ok(());
        };
        let mut next = rollout.clone();
        if next.step(&self.fleet.view(), Timestamp::now()) {
            let action = format!("rollout.{}", next.phase.word().replace(' ', "_"));
            return self.keep(&mut books, next, SELF, &action).await;
        }
        books.rollout = Some(next);
        Ok(())
    }

    /// Writes the roll-out in its new phase; only then it counts.
    async fn keep(
        &self,
        books: &mut Books,
        next: Rollout,
        actor: &str,
        action: &str,
    ) -> Result<(), StateError> {
        let written = records::written(&next)?;
        let key = rollout_key(next.id);
        let mut change = Change::new().put(&key, written.clone());
        if let Some(kept) = &books.kept {
            change = change.unchanged(&key, kept.clone());
        }
        let reason = match &next.phase {
            Phase::Halted { reason, .. }
            | Phase::RollingBack { reason, .. }
            | Phase::RolledBack { reason, .. } => reason.clone(),
            _ => format!("wave {} of {}", next.wave + 1, next.waves.len()),
        };
        let act = Act { actor, action, subject: format!("rollout {}", next.id), detail: reason.clone() };
        self.commit(books, change, act).await?;
        let word = next.phase.word().replace(' ', "_");
        tracing::info!(rollout = next.id, phase = %word, reason, "the roll-out moves on");
        self.events.tell(&format!("rollout.{word}"), &next.id.to_string(), reason, Timestamp::now());
        books.kept = Some(written);
        books.rollout = Some(next);
        self.publish(books);
        Ok(())
    }
}
