//! The group logs of this edge and their shippers: what a revision opens, changes and gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use weir_link::Dialer;
use weir_model::{GroupId, NodeId};
use weir_spool::GroupLog;
use weir_telemetry::{Health, names};
use weir_topology::{Ack, Group, Overflow, Topology};
use weir_transit::RecentBounds;

use crate::failure::Failure;
use crate::note::{LogNote, LogState};
use crate::repeats::Repeats;
use crate::ship::{self, Opened, Shipper, ShipperParts};
use crate::store::Target;
use crate::{Applied, GroupStatus, StartError};

/// How often draining logs are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What all groups share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) edge: NodeId,
    pub(crate) rack: String,
    pub(crate) logs: PathBuf,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) health: Health,
    pub(crate) failure: Failure,
}

/// The logs that are open.
pub(crate) struct Groups {
    shared: Shared,
    running: BTreeMap<GroupId, Running>,
    // Directories of logs that nobody works on.
    detached: BTreeSet<String>,
}

struct Running {
    note: LogNote,
    overflow: Overflow,
    ack: Ack,
    log: GroupLog,
    repeats: Arc<Repeats>,
    shipper: Shipper,
    in_use: Arc<()>,
}

impl Groups {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared, running: BTreeMap::new(), detached: BTreeSet::new() }
    }

    /// Opens the logs of those groups that have none open. All, or none and the reason.
    pub(crate) async fn open(&self, topology: &Topology) -> Result<Vec<(GroupId, Opened)>, StartError> {
        let mut opened: Vec<(GroupId, Opened)> = Vec::new();
        for group in topology.groups.iter().filter(|group| !self.running.contains_key(&group.id)) {
            match open(self.dir(&group.id), group.quota.0, bounds(group), group.id.clone()).await {
                Ok(log) => opened.push((group.id.clone(), log)),
                Err(error) => {
                    for (_, opened) in opened {
                        opened.close().await;
                    }
                    return Err(error);
                }
            }
        }
        Ok(opened)
    }

    /// Takes up a topology whose new logs are `opened`. Groups that it does not have are drained. Cannot fail.
    pub(crate) fn take(&mut self, topology: &Topology, opened: Vec<(GroupId, Opened)>) -> Applied {
        let mut applied = Applied::default();
        let mut opened: BTreeMap<GroupId, Opened> = opened.into_iter().collect();
        for group in &topology.groups {
            let note = LogNote::attached(group);
            if let Some(log) = opened.remove(&group.id) {
                applied.added.push(group.id.clone());
                self.begin(&group.id, note, Rules::of(group), log);
            } else if self.change(group, note) {
                applied.changed.push(group.id.clone());
            }
        }
        let wanted: BTreeSet<&GroupId> = topology.groups.iter().map(|group| &group.id).collect();
        let gone: Vec<GroupId> = self.running.keys().filter(|id| !wanted.contains(id)).cloned().collect();
        for id in gone {
            if self.let_drain(&id) {
                applied.draining.push(id);
            }
        }
        self.count();
        applied
    }

    /// One target for each group of the topology that is running.
    pub(crate) fn targets(&self, topology: &Topology) -> Vec<Arc<Target>> {
        // All of them together leave a part of what is left to connections in any case.
        let memory = usize::try_from(topology.forward.memory.0).unwrap_or(usize::MAX);
        let share = memory / 4 / topology.groups.len().max(1);
        let target = |group: &Group| {
            let running = self.running.get(&group.id)?;
            Some(Arc::new(Target::new(
                group.id.clone(),
                (running.log.clone(), running.repeats.clone(), running.shipper.inbox()),
                (running.overflow.clone(), running.ack),
                share,
                running.in_use.clone(),
            )))
        };
        topology.groups.iter().filter_map(target).collect()
    }

    /// Looks for logs of groups that the topology does not have, and goes on delivering them where their sinks are
    /// known.
    pub(crate) async fn find_others(&mut self) {
        let Ok(entries) = std::fs::read_dir(&self.shared.logs) else { return };
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            let (name, dir) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let Ok(id) = GroupId::new(&name) else { continue };
            if self.running.contains_key(&id) {
                continue;
            }
            match LogNote::read(&dir) {
                Ok(Some(mut note)) if note.state != LogState::Detached => {
                    match open(dir.clone(), note.quota_bytes, RecentBounds::default(), id.clone()).await {
                        Ok(log) => {
                            info!(group = %id, "its group has left the topology: the log is drained");
                            note.state = LogState::Draining;
                            self.begin(&id, note, Rules::default(), log);
                            continue;
                        }
                        Err(error) => {
                            let error = &error as &dyn std::error::Error;
                            warn!(group = %id, error, "a log whose group has left the topology cannot be drained");
                        }
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    warn!(group = %id, dir = %dir.display(), "a log whose group is not in the topology, and whose sinks are not known: add the group again to deliver what is in it");
                }
                Err(error) => warn!(group = %id, %error, "the note beside a log cannot be read"),
            }
            self.detached.insert(name);
        }
        self.count();
    }

    /// What each open log looks like now.
    pub(crate) fn status(&self) -> Vec<GroupStatus> {
        let status = |(id, running): (&GroupId, &Running)| GroupStatus {
            group: id.clone(),
            state: running.note.state,
            quota_bytes: running.note.quota_bytes,
            depth: running.log.depth(),
            dispatch: running.shipper.status(),
        };
        self.running.iter().map(status).collect()
    }

    /// Gives the sinks a moment to commit, then closes everything.
    pub(crate) async fn stop(&mut self, deadline: Instant) {
        let running = std::mem::take(&mut self.running);
        for group in running.values() {
            let durable = *group.log.durable().borrow();
            group.shipper.wait_empty(durable, deadline).await;
        }
        for group in running.into_values() {
            group.shipper.stop().await;
            group.log.close().await;
        }
    }

    fn dir(&self, id: &GroupId) -> PathBuf {
        self.shared.logs.join(id.as_str())
    }

    fn begin(&mut self, id: &GroupId, note: LogNote, rules: Rules, opened: Opened) {
        let Opened { log, journal, recovered, repeats, recent } = opened;
        write(&note, &self.dir(id));
        self.detached.remove(id.as_str());
        let parts = ShipperParts {
            edge: self.shared.edge.clone(),
            rack: self.shared.rack.clone(),
            group: id.clone(),
            note: note.clone(),
            log: log.clone(),
            journal,
            recovered,
            repeats: repeats.clone(),
            recall_for: rules.recall_for,
            dialer: self.shared.dialer.clone(),
            health: self.shared.health.clone(),
            failure: self.shared.failure.clone(),
        };
        let shipper = Shipper::start(parts, recent);
        let Rules { overflow, ack, .. } = rules;
        let in_use = Arc::new(());
        self.running.insert(id.clone(), Running { note, overflow, ack, log, repeats, shipper, in_use });
    }

    // Says whether anything about the group is new.
    fn change(&mut self, group: &Group, note: LogNote) -> bool {
        let dir = self.dir(&group.id);
        let Some(running) = self.running.get_mut(&group.id) else { return false };
        let overflow = std::mem::replace(&mut running.overflow, group.overflow.clone());
        let ack = std::mem::replace(&mut running.ack, group.ack);
        let other_window = running.repeats.set_bounds(bounds(group));
        let before = std::mem::replace(&mut running.note, note);
        let note = &running.note;
        if before != *note {
            write(note, &dir);
        }
        if before.quota_bytes != note.quota_bytes {
            running.log.set_quota(note.quota_bytes);
        }
        if (before.rack_affinity, &before.sinks) != (note.rack_affinity, &note.sinks) {
            running.shipper.adopt(note.clone());
        }
        before != *note || overflow != group.overflow || ack != group.ack || other_window
    }

    // Says whether the group was not drained before.
    fn let_drain(&mut self, id: &GroupId) -> bool {
        let dir = self.dir(id);
        let Some(running) = self.running.get_mut(id) else { return false };
        if running.note.state == LogState::Draining {
            return false;
        }
        running.note.state = LogState::Draining;
        write(&running.note, &dir);
        info!(group = %id, "the group has left the topology: what is in its log is delivered, then it is closed");
        true
    }

    async fn close_drained(&mut self) {
        let drained = |running: &Running| {
            running.note.state == LogState::Draining
                && Arc::strong_count(&running.in_use) == 1
                && running.shipper.is_empty(*running.log.durable().borrow())
        };
        let ids: Vec<GroupId> =
            self.running.iter().filter(|(_, running)| drained(running)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let Some(Running { mut note, log, shipper, .. }) = self.running.remove(&id) else { continue };
            shipper.stop().await;
            log.close().await;
            note.state = LogState::Detached;
            write(&note, &self.dir(&id));
            names::LOG_BYTES.with([id.as_str()]).set(0.0);
            names::LOG_BATCHES.with([id.as_str()]).set(0.0);
            names::LOG_OLDEST_SECONDS.with([id.as_str()]).set(0.0);
            self.shared.health.remove_condition(&ship::condition(&id));
            self.detached.insert(id.as_str().to_owned());
            info!(group = %id, "drained: all of its log is stored; the empty log stays, and a group of this id would go on with it");
            self.count();
        }
    }

    fn count(&self) {
        let draining =
            self.running.values().filter(|running| running.note.state == LogState::Draining).count();
        for (state, count) in [
            (LogState::Attached, self.running.len() - draining),
            (LogState::Draining, draining),
            (LogState::Detached, self.detached.len()),
        ] {
            names::LOGS.with([state.to_string().as_str()]).set(count as f64);
        }
    }
}

/// Closes logs once they are drained, until told to stop.
pub(crate) async fn close_drained(groups: Arc<Mutex<Groups>>, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => groups.lock().await.close_drained().await,
            () = stop.cancelled() => return,
        }
    }
}

async fn open(
    dir: PathBuf,
    quota_bytes: u64,
    bounds: RecentBounds,
    group: GroupId,
) -> Result<Opened, StartError> {
    let opened = tokio::task::spawn_blocking(move || ship::open(&dir, quota_bytes, bounds)).await;
    let opened =
        opened.map_err(|error| StartError::Died { group: group.clone(), reason: error.to_string() })?;
    opened.map_err(|error| error.of(&group))
}

/// What the intake does for a group, and how long its repeats are known.
struct Rules {
    overflow: Overflow,
    ack: Ack,
    recall_for: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { overflow: Overflow::Block, ack: Ack::Edge, recall_for: Duration::from_secs(600) }
    }
}

impl Rules {
    fn of(group: &Group) -> Self {
        Self { overflow: group.overflow.clone(), ack: group.ack, recall_for: group.repeats.window }
    }
}

fn bounds(group: &Group) -> RecentBounds {
    RecentBounds {
        seconds: u32::try_from(group.repeats.window.as_secs()).unwrap_or(u32::MAX),
        chunks: usize::try_from(group.repeats.chunks).unwrap_or(usize::MAX),
    }
}

// Without the note the log is as safe; only a restart would not know its sinks.
fn write(note: &LogNote, dir: &Path) {
    if let Err(error) = note.write(dir) {
        warn!(dir = %dir.display(), %error, "the note beside a log cannot be written");
    }
}
