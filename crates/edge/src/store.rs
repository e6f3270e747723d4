//! From a batch to a group's log: once for each chunk, and by the group's rule when the log is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;
use tracing::error;

use weir_forward::keep_chunks;
use weir_model::{BatchHeader, Fingerprint, GroupId, Seq};
use weir_spool::{AppendError, GroupLog};
use weir_telemetry::{Counter, Gauge, names};
use weir_topology::{Ack, Overflow};
use weir_transit::Claim;

use crate::repeats::Repeats;
use crate::ship::Input;

/// How often a batch that found its log full tries again.
const FULL_RETRY: Duration = Duration::from_millis(50);
/// Bounds the memory for cutting a pack of single events, in bytes; packs are far smaller.
const CUT_BYTES_MAX: usize = 64 << 20;

/// Why a batch is not stored as its route asks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotStored {
    /// The log refused.
    #[error("the log of group {group} does not take it: {source}")]
    Log {
        group: GroupId,
        #[source]
        source: AppendError,
    },
    /// It waited for the same chunk on another connection, or for its commit.
    #[error("group {group} did not have it in time")]
    Late { group: GroupId },
    /// The group's log is full, and what waits for room in it takes the group's share of memory.
    #[error(
        "the log of group {group} is full, and what waits for it fills the group's share of forward.memory"
    )]
    Crowded { group: GroupId },
    /// It was dropped from the log before it was committed.
    #[error("it was dropped from the log of group {group} before a store had it")]
    Dropped { group: GroupId },
}

/// One batch on its way into logs.
#[derive(Clone)]
pub(crate) struct Arrived {
    header: Arc<BatchHeader>,
    // The header as bytes.
    encoded: Bytes,
    payload: Bytes,
    chunks: Arc<[Fingerprint]>,
}

impl Arrived {
    pub(crate) fn new(header: BatchHeader, payload: Bytes) -> Self {
        let encoded = header.encode().into();
        let chunks = header.fingerprints().into();
        Self { header: Arc::new(header), encoded, payload, chunks }
    }

    /// The batch with some of its chunks.
    fn keep(&self, keep: &[bool]) -> Self {
        if keep.iter().all(|keep| *keep) {
            return self.clone();
        }
        match keep_chunks(&self.header, &self.payload, keep, CUT_BYTES_MAX) {
            Some((header, payload)) => Self::new(header, payload),
            None => {
                // Rather doubled than lost.
                error!(tag = %self.header.tag, "a batch's header and payload do not fit each other; its repeated chunks are stored again");
                self.clone()
            }
        }
    }
}

/// One group's log as the intake sees it.
pub(crate) struct Target {
    pub(crate) group: GroupId,
    log: GroupLog,
    repeats: Arc<Repeats>,
    overflow: Overflow,
    ack: Ack,
    /// The group's driver: it makes room, and knows what is committed.
    driver: mpsc::Sender<Input>,
    events: Counter,
    bytes: Counter,
    /// Bytes of batches that found the log full, at most `share`, and the order in which they try again.
    waiting: AtomicUsize,
    waiting_shown: Gauge,
    turn: Mutex<()>,
    share: usize,
    /// Bytes of batches that are on their way into the log, be there room in it or not.
    held: AtomicUsize,
    // Held as long as anything may still be appended to the log.
    _in_use: Arc<()>,
}

impl Target {
    pub(crate) fn new(
        group: GroupId,
        (log, repeats, driver): (GroupLog, Arc<Repeats>, mpsc::Sender<Input>),
        (overflow, ack): (Overflow, Ack),
        share: usize,
        in_use: Arc<()>,
    ) -> Self {
        let events = names::EDGE_EVENTS_TOTAL.with([group.as_str()]);
        let bytes = names::EDGE_BYTES_TOTAL.with([group.as_str()]);
        let waiting_shown = names::LOG_WAITING_BYTES.with([group.as_str()]);
        Self {
            group,
            log,
            repeats,
            overflow,
            ack,
            driver,
            events,
            bytes,
            waiting: AtomicUsize::new(0),
            waiting_shown,
            turn: Mutex::new(()),
            share,
            held: AtomicUsize::new(0),
            _in_use: in_use,
        }
    }

    // Whether batches wait for room in the log.
    fn is_blocked(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    // Whether batches wait for room in the log, and more than so many bytes are on their way into it.
    fn is_blocked_beyond(&self, bytes: usize) -> bool {
        self.is_blocked() && self.held.load(Ordering::Relaxed) > bytes
    }
}

/// One group of a route, and where its batches go when its log is full.
#[derive(Clone)]
pub(crate) struct RouteTarget {
    target: Arc<Target>,
    divert: Option<Arc<Target>>,
    // The route's.
    ack: Option<Ack>,
}

impl RouteTarget {
    /// Counts what is taken in for the group.
    pub(crate) fn count(&self, events: u64, bytes: u64) {
        self.target.events.increment(events);
        self.target.bytes.increment(bytes);
    }
}

/// A batch in memory, counted for its groups until it is stored or refused.
pub(crate) struct Held {
    targets: Arc<[RouteTarget]>,
    bytes: usize,
}

impl Held {
    /// Refused where it would have to wait for a group whose share of memory is used up.
    pub(crate) fn new(targets: &Arc<[RouteTarget]>, bytes: usize) -> Result<Self, NotStored> {
        let full = targets.iter().map(|to| &to.target).find(|target| target.is_blocked_beyond(target.share));
        if let Some(target) = full {
            return Err(NotStored::Crowded { group: target.group.clone() });
        }
        for to in targets.iter() {
            to.target.held.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(Self { targets: targets.clone(), bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for to in self.targets.iter() {
            to.target.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Whether so much waits for room in one of these logs that nothing more is read from senders to it.
pub(crate) fn is_crowded(targets: &[RouteTarget]) -> bool {
    targets.iter().any(|to| to.target.is_blocked_beyond(to.target.share / 2))
}

/// Finds the targets of a route among all; `ack` is what the route says.
pub(crate) fn of_route(groups: &[GroupId], ack: Option<Ack>, all: &[Arc<Target>]) -> Arc<[RouteTarget]> {
    let find = |group: &GroupId| all.iter().find(|target| target.group == *group).cloned();
    let with_divert = |target: Arc<Target>| {
        let divert = match &target.overflow {
            Overflow::Divert(to) => find(to),
            _ => None,
        };
        RouteTarget { target, divert, ack }
    };
    groups.iter().filter_map(find).map(with_divert).collect()
}

/// Stores a batch in every group of its route. Returns when it is as safe in each as route, `listener` or group asks; what
/// is not by the deadline is not acknowledged any more (R42).
pub(crate) async fn everywhere(
    targets: &[RouteTarget],
    batch: Arrived,
    listener: Option<Ack>,
    deadline: Instant,
) -> Result<(), NotStored> {
    let stores = targets.iter().map(|to| store(&to.target, to.divert.as_deref(), batch.clone(), deadline));
    // Each is carried to its end, whatever becomes of the others.
    let outcomes = join_all(stores).await;
    let mut commits = Vec::new();
    for (to, places) in targets.iter().zip(outcomes) {
        let level = Ack::of(to.ack, listener, to.target.ack);
        let awaited = places?.into_iter().filter(|_| level == Ack::Store);
        commits.extend(awaited.map(|(target, seq)| committed(target, seq, deadline)));
    }
    join_all(commits).await.into_iter().collect()
}

/// Where the chunks of a batch lie.
type Places<'a> = Vec<(&'a Target, Seq)>;

/// Stores a batch in the log of `target`, or, where that is full and diverts, in `divert`'s. Returns when it is
/// durable there, be it by an earlier try of its sender. Gives the places; none for what was dropped by policy.
async fn store<'a>(
    target: &'a Target,
    divert: Option<&'a Target>,
    batch: Arrived,
    deadline: Instant,
) -> Result<Places<'a>, NotStored> {
    let mut places = Vec::new();
    if batch.chunks.is_empty() {
        let place = append(target, divert, &batch, deadline).await?;
        if let Some((at, seq)) = place {
            at.repeats.note(seq, &batch.header);
        }
        return Ok(place.into_iter().collect());
    }
    let mut left = batch;
    loop {
        let settled = target.repeats.settled();
        tokio::pin!(settled);
        settled.as_mut().enable();
        let (claims, claimed) = target.repeats.claim(&left.chunks);
        let mut mine: Vec<bool> = claims.iter().map(|claim| *claim == Claim::Mine).collect();
        let mut repeats = 0;
        for (claim, (chunk, mine)) in claims.iter().zip(left.chunks.iter().zip(&mut mine)) {
            match claim {
                Claim::Stored(seq) => places.push((target, *seq)),
                // What was diverted before is known there.
                Claim::Mine => match divert.and_then(|to| Some((to, to.repeats.seq_of(chunk)?))) {
                    Some(place) => {
                        places.push(place);
                        *mine = false;
                    }
                    None => continue,
                },
                Claim::Twice => {}
                Claim::Pending => continue,
            }
            repeats += 1;
        }
        if repeats > 0 {
            names::REPEATED_CHUNKS_TOTAL.with([target.group.as_str()]).increment(repeats);
        }
        let place = if mine.iter().any(|mine| *mine) {
            append(target, divert, &left.keep(&mine), deadline).await?
        } else {
            None
        };
        places.extend(place);
        match place {
            Some((at, seq)) if std::ptr::eq(at, target) => claimed.stored(seq, left.header.received_ns),
            // What was diverted is remembered where it lies; what was dropped, nowhere.
            _ => drop(claimed),
        }
        let pending: Vec<bool> = claims.iter().map(|claim| *claim == Claim::Pending).collect();
        if !pending.iter().any(|pending| *pending) {
            return Ok(places);
        }
        let late = |_| NotStored::Late { group: target.group.clone() };
        tokio::time::timeout_at(deadline, settled).await.map_err(late)?;
        left = left.keep(&pending);
    }
}

/// Appends, or does what the group's rule says when its log is full: `None` for a batch that was dropped.
async fn append<'a>(
    target: &'a Target,
    divert: Option<&'a Target>,
    batch: &Arrived,
    deadline: Instant,
) -> Result<Option<(&'a Target, Seq)>, NotStored> {
    // Behind a batch that waits for room none goes ahead.
    if !target.is_blocked() {
        match try_append(target, batch).await {
            Ok(seq) => return Ok(Some((target, seq))),
            Err(error) if is_full(&error) => {}
            Err(source) => return Err(NotStored::Log { group: target.group.clone(), source }),
        }
    }
    let policy = match target.overflow {
        Overflow::Block => "block",
        Overflow::DropNewest => "drop_newest",
        Overflow::DropOldest => "drop_oldest",
        Overflow::Divert(_) => "divert",
    };
    names::LOG_FULL_TOTAL.with([target.group.as_str(), policy]).increment(1);
    match (&target.overflow, divert) {
        (Overflow::DropNewest, _) => {
            names::LOG_DROPPED_BATCHES_TOTAL.with([target.group.as_str(), policy]).increment(1);
            Ok(None)
        }
        (Overflow::Divert(_), Some(other)) => {
            // The other group's own rule holds there; a chain ends with it.
            let place = Box::pin(append(other, None, batch, deadline)).await?;
            if let Some((at, seq)) = place {
                at.repeats.note(seq, &batch.header);
            }
            Ok(place)
        }
        _ => wait_for_room(target, batch, deadline).await.map(|seq| Some((target, seq))),
    }
}

/// Bytes that wait for room in a log. What was on its way when the log filled up may be more than the share; and what
/// comes by another group's divert is not in `held`.
struct Waiting<'a> {
    target: &'a Target,
    bytes: usize,
}

impl<'a> Waiting<'a> {
    /// Refused beyond the group's share; but a batch that would wait alone may always wait, and where the oldest make
    /// room none waits for long.
    fn new(target: &'a Target, bytes: usize) -> Result<Self, NotStored> {
        let boundless = target.overflow == Overflow::DropOldest;
        let may = |waiting| boundless || waiting == 0 || waiting + bytes <= target.share;
        let more = |waiting| may(waiting).then_some(waiting + bytes);
        let crowded = |_| NotStored::Crowded { group: target.group.clone() };
        target.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(crowded)?;
        target.waiting_shown.increment(bytes as f64);
        Ok(Self { target, bytes })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.target.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
        self.target.waiting_shown.decrement(self.bytes as f64);
    }
}

async fn wait_for_room(target: &Target, batch: &Arrived, deadline: Instant) -> Result<Seq, NotStored> {
    let frame_bytes = batch.encoded.len() + batch.payload.len() + 64;
    let _waiting = Waiting::new(target, frame_bytes)?;
    let refused = |source| NotStored::Log { group: target.group.clone(), source };
    let late = |_| NotStored::Late { group: target.group.clone() };
    let _turn = tokio::time::timeout_at(deadline, target.turn.lock()).await.map_err(late)?;
    loop {
        let full = match try_append(target, batch).await {
            Ok(seq) => return Ok(seq),
            Err(full) if is_full(&full) && Instant::now() < deadline => full,
            Err(error) => return Err(refused(error)),
        };
        if target.overflow == Overflow::DropOldest {
            let over = match full {
                AppendError::Full { bytes, quota } => (bytes + frame_bytes as u64).saturating_sub(quota),
                _ => frame_bytes as u64,
            };
            let bytes = over.max(1);
            let (answer, answered) = oneshot::channel();
            if target.driver.send(Input::MakeRoom { bytes, answer }).await.is_ok() && answered.await.is_ok() {
                continue;
            }
        }
        tokio::time::sleep(FULL_RETRY).await;
    }
}

async fn try_append(target: &Target, batch: &Arrived) -> Result<Seq, AppendError> {
    let seq = target.log.append(batch.encoded.clone(), batch.payload.clone()).await?;
    target.repeats.appended((batch.encoded.len() + batch.payload.len()) as u64);
    Ok(seq)
}

fn is_full(error: &AppendError) -> bool {
    matches!(error, AppendError::Full { .. } | AppendError::DiskFull)
}

/// Waits until the group's store has the batch.
async fn committed(target: &Target, seq: Seq, deadline: Instant) -> Result<(), NotStored> {
    let (answer, answered) = oneshot::channel();
    let late = || NotStored::Late { group: target.group.clone() };
    target.driver.send(Input::AwaitCommit { seq, answer }).await.map_err(|_| late())?;
    match tokio::time::timeout_at(deadline, answered).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(NotStored::Dropped { group: target.group.clone() }),
        Ok(Err(_)) | Err(_) => Err(late()),
    }
}
