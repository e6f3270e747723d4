//! The sink's side: gathers batches, cuts parts, asks for promises, and says what is committed.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use weir_model::{Epoch, Fingerprint, Incarnation, LogId, NodeId, PartId, Seq, SeqRanges};

use crate::Partition;
use crate::frame::{Resolution, ToEdge, WIRE_VERSION};
use crate::recent::RecentBounds;
use crate::twins::{Chunks, Twins, Verdict};

/// What another member will need to settle a part, as the store writes it.
pub type MakeToken = Box<dyn Fn(&PartId, &[Partition]) -> Bytes + Send>;

/// How many committed parts are remembered, so that an edge that was away need not ask the store.
const RECENT_PARTS: usize = 10_000;
/// How soon a batch is tried again whose chunk may be on its way through another sink.
const RECALL_AGAIN: Duration = Duration::from_secs(1);
/// Chunks named in one message.
const RECALL_CHUNKS: usize = 100_000;

/// The collector's bounds.
#[derive(Debug, Clone)]
pub struct CollectorConfig {
    /// A queue with as many bytes is cut at once.
    pub part_bytes: u64,
    /// A queue whose oldest batch waits as long is cut.
    pub part_age: Duration,
    /// Bytes that all edges together may have staged here; shared evenly as credit.
    pub stage_bytes: u64,
    /// While the store has its hands full, nothing is asked for beyond so many staged bytes: the edges' logs have it. All
    /// of `stage_bytes` is for parts that are being gathered. A quarter as many may be on their way.
    pub ahead_bytes: u64,
    /// The same for chunks, which take memory wherever their payloads are.
    pub ahead_chunks: usize,
    /// Most partitions in one part.
    pub partitions_max: usize,
    /// Parts that the store commits at the same time.
    pub parallel_parts: usize,
    /// An edge that does not answer for as long is disconnected; one that is away is waited for as long where what it
    /// knows of a chunk matters.
    pub prepare_timeout: Duration,
    /// The edges of the topology. Until they have come, or the time is up, a new life takes them for away.
    pub edges: BTreeSet<NodeId>,
    /// Which chunks of the store are remembered. For as long, a new life asks the edges what they know of older ones.
    pub recent: RecentBounds,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            part_bytes: 64 << 20,
            part_age: Duration::from_secs(1),
            stage_bytes: 256 << 20,
            ahead_bytes: 128 << 20,
            ahead_chunks: 1 << 20,
            partitions_max: 256,
            parallel_parts: 1,
            prepare_timeout: Duration::from_secs(10),
            edges: BTreeSet::new(),
            recent: RecentBounds::default(),
        }
    }
}

/// A staged batch, unique within one life of the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StageKey(pub u64);

/// A batch as it comes from an edge.
#[derive(Debug, Clone, Default)]
pub struct Arrival {
    /// Its place in the edge's log.
    pub seq: Seq,
    /// Bytes of its payload.
    pub bytes: u64,
    /// Where its events go, but for what is stored already.
    pub partitions: Vec<Partition>,
    /// The senders' chunks that it holds.
    pub chunks: Vec<Fingerprint>,
    /// Whether some partitions of the part that it was in are stored.
    pub half_done: bool,
    /// See [`BatchHead::recall`](crate::BatchHead).
    pub recall: bool,
}

/// What the driver must do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CollectorOutput {
    /// Send a control message to an edge.
    Control {
        /// To whose log.
        log: Arc<LogId>,
        /// In which session; a message of an older one is dropped.
        session: Epoch,
        /// What to say.
        message: ToEdge,
    },
    /// All edges have promised: have the store commit the part, until it has (report with
    /// [`Collector::committed`]) or the life is over.
    Commit {
        /// The part.
        part: PartId,
        /// Its batches; those of one log ascend.
        keys: Vec<StageKey>,
        /// The union of their partitions, sorted.
        partitions: Vec<Partition>,
    },
    /// Have the store settle a part; report with [`Collector::resolved`].
    Resolve {
        /// Who asks.
        log: Arc<LogId>,
        /// The part in doubt.
        part: PartId,
        /// Its token.
        token: Bytes,
    },
    /// Some chunks of this batch are in the store already: keep the others alone.
    Cut {
        /// The batch.
        key: StageKey,
        /// For each of its chunks as they are now, whether it stays.
        keep: Vec<bool>,
    },
    /// These payloads are not needed any more.
    Discard(Vec<StageKey>),
    /// This edge does not answer: end its connection.
    Disconnect {
        /// Whose.
        log: Arc<LogId>,
        /// Of which session.
        session: Epoch,
    },
}

#[derive(Debug)]
struct Edge {
    session: Epoch,
    connected: bool,
    received: u64,
    released: u64,
    window: u64,
    held: BTreeMap<Seq, StageKey>,
}

#[derive(Debug)]
struct Staged {
    log: Arc<LogId>,
    session: Epoch,
    seq: Seq,
    bytes: u64,
    partitions: Arc<[Partition]>,
    chunks: Chunks,
    half_done: bool,
    recall: bool,
    // A chunk of it may be on its way elsewhere: not before then.
    not_before: Duration,
    since: Duration,
    part: Option<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    keys: BTreeSet<StageKey>,
    bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Preparing { since: Duration },
    Ready,
    Committing,
}

#[derive(Debug)]
struct Part {
    id: PartId,
    keys: Vec<StageKey>,
    partitions: Vec<Partition>,
    // Whether each edge has promised.
    edges: BTreeMap<Arc<LogId>, bool>,
    // Edges that have not said yet what they know of the chunks of others.
    asked: BTreeMap<NodeId, Asked>,
    began: Duration,
    stage: Stage,
}

#[derive(Debug)]
enum Asked {
    /// So many answers are owed, since then.
    Owes(usize, Duration),
    /// To be asked when it is back.
    Away,
}

/// The collector's state in numbers, for people and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectorStatus {
    /// Edges with a session.
    pub edges: usize,
    /// Batches staged.
    pub batches: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their chunks.
    pub chunks: usize,
    /// Parts being prepared or committed.
    pub parts: usize,
    /// Those of them that the store is committing.
    pub committing: usize,
    /// Chunks of the store that are remembered.
    pub recent_chunks: usize,
    /// Batches, since this life began, that came by another edge too and were not committed again.
    pub repeated: u64,
}

/// The sink's side of the conversation, for one life.
pub struct Collector {
    config: CollectorConfig,
    sink: NodeId,
    incarnation: Incarnation,
    token: MakeToken,
    now: Duration,
    edges: BTreeMap<Arc<LogId>, Edge>,
    connected_count: usize,
    // Edges that are out of reach, and until when they are waited for.
    away: BTreeMap<NodeId, Duration>,
    staged: BTreeMap<StageKey, Staged>,
    staged_bytes: u64,
    staged_chunks: usize,
    queues: BTreeMap<Arc<[Partition]>, Queue>,
    parts: BTreeMap<u64, Part>,
    next_key: u64,
    next_part: u64,
    born: Option<Duration>,
    twins: Twins,
    // Batches whose right to their chunks is to be looked at again.
    review: BTreeSet<StageKey>,
    doubtful: BTreeSet<(Duration, StageKey)>,
    repeated: u64,
    recent: HashSet<PartId>,
    recent_order: VecDeque<PartId>,
    // Of parts below this number it is not known here whether they were committed.
    forgotten: u64,
    draining: bool,
    outputs: VecDeque<CollectorOutput>,
}

impl Collector {
    /// Begins a life. `token` is the store's: what another member needs to settle a part.
    #[must_use]
    pub fn new(config: CollectorConfig, sink: NodeId, incarnation: Incarnation, token: MakeToken) -> Self {
        Self {
            twins: Twins::new(config.recent),
            born: None,
            review: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            repeated: 0,
            config,
            sink,
            incarnation,
            token,
            now: Duration::ZERO,
            edges: BTreeMap::new(),
            connected_count: 0,
            away: BTreeMap::new(),
            staged: BTreeMap::new(),
            staged_bytes: 0,
            staged_chunks: 0,
            queues: BTreeMap::new(),
            parts: BTreeMap::new(),
            next_key: 0,
            next_part: 0,
            recent: HashSet::new(),
            recent_order: VecDeque::new(),
            forgotten: 0,
            draining: false,
            outputs: VecDeque::new(),
        }
    }

    /// An edge opens a session. Whatever it sent in an older one and did not promise is dropped.
    /// Says whether the session stands; an older one than the present does not.
    pub fn hello(&mut self, log: &Arc<LogId>, session: Epoch) -> bool {
        if let Some(edge) = self.edges.get(log) {
            if edge.session >= session {
                return false;
            }
            let old = edge.session;
            self.disconnected(log, old);
        }
        let fresh =
            Edge { session, connected: true, received: 0, released: 0, window: 0, held: BTreeMap::new() };
        self.connected_count += 1;
        let window = self.credit().total(&fresh);
        self.edges.insert(log.clone(), Edge { window, ..fresh });
        self.control(
            log,
            ToEdge::Welcome {
                version: WIRE_VERSION,
                sink: self.sink.clone(),
                incarnation: self.incarnation,
                window,
            },
        );
        if self.draining {
            self.control(log, ToEdge::Draining);
        }
        self.config.edges.remove(&log.edge);
        self.away.remove(&log.edge);
        self.ask_late(log);
        true
    }

    /// The connection of that session is gone.
    pub fn disconnected(&mut self, log: &Arc<LogId>, session: Epoch) {
        let Some(edge) = self.edges.get_mut(log) else { return };
        if edge.session != session || !edge.connected {
            return;
        }
        edge.connected = false;
        self.connected_count -= 1;
        // A part that lacks this edge's promise will never have it; one that has it may still be committed.
        let lost: Vec<u64> = self
            .parts
            .iter()
            .filter(|(_, part)| part.edges.get(log) == Some(&false))
            .map(|(&number, _)| number)
            .collect();
        for number in lost {
            self.abandon(number);
        }
        self.away.insert(log.edge.clone(), self.now + self.config.prepare_timeout);
        for asked in self.parts.values_mut().filter_map(|part| part.asked.get_mut(&log.edge)) {
            *asked = Asked::Away;
        }
        let held: Vec<StageKey> = match self.edges.get(log) {
            Some(edge) => edge.held.values().copied().collect(),
            None => Vec::new(),
        };
        let queued: Vec<StageKey> = held
            .into_iter()
            .filter(|key| self.staged.get(key).is_some_and(|staged| staged.part.is_none()))
            .collect();
        self.discard(queued);
        self.review_twins();
        self.start_commits();
    }

    /// A batch has arrived. Gives the key under which the driver keeps its payload; `None` when the session is
    /// over or the batch is held already, and the payload is to be dropped.
    pub fn batch(
        &mut self,
        log: &Arc<LogId>,
        session: Epoch,
        arrival: Arrival,
        now: Duration,
    ) -> Option<StageKey> {
        self.pass(now);
        let Arrival { seq, bytes, partitions, chunks, half_done, recall } = arrival;
        let edge = self.edges.get_mut(log)?;
        if edge.session != session || !edge.connected || edge.held.contains_key(&seq) {
            return None;
        }
        let key = StageKey(self.next_key);
        self.next_key += 1;
        edge.held.insert(seq, key);
        edge.received += bytes;
        let (log, since, chunks): (_, _, Chunks) = (log.clone(), self.now, chunks.into());
        self.twins.arrive(key, !half_done, &chunks);
        if half_done {
            self.review.extend(self.twins.holders(&chunks));
        }
        self.review.insert(key);
        let (partitions, not_before) = (partitions.into(), Duration::ZERO);
        self.staged_bytes += bytes;
        self.staged_chunks += chunks.len();
        let part = None;
        let staged = Staged {
            log: log.clone(),
            session,
            seq,
            bytes,
            partitions,
            chunks,
            half_done,
            recall,
            not_before,
            since,
            part,
        };
        self.staged.insert(key, staged);
        if self.review_twins() {
            self.cut();
        }
        self.widen(&log);
        Some(key)
    }

    /// An edge has looked for chunks that came by others.
    pub fn recalled(
        &mut self,
        log: &Arc<LogId>,
        part: &PartId,
        stored: &[Fingerprint],
        elsewhere: &[Fingerprint],
    ) {
        // Whatever it was asked for, the store has these.
        self.twins.stored(stored.iter().copied(), self.now);
        self.review.extend(self.twins.holders(stored));
        match self.own_part(part) {
            Some(found) if stored.is_empty() && elsewhere.is_empty() => {
                if let Some(Asked::Owes(owed, _)) = found.asked.get_mut(&log.edge) {
                    *owed -= 1;
                    if *owed == 0 {
                        found.asked.remove(&log.edge);
                    }
                }
                found.look_if_ready();
            }
            Some(found) if found.stage != Stage::Committing => {
                let (number, keys) = (found.id.number, found.keys.clone());
                let again = self.now + RECALL_AGAIN;
                for key in keys {
                    let Some(staged) = self.staged.get_mut(&key) else { continue };
                    if staged.chunks.iter().any(|chunk| elsewhere.contains(chunk)) {
                        staged.not_before = again;
                        self.doubtful.insert((again, key));
                    }
                }
                self.abandon(number);
            }
            _ => {}
        }
        self.review_twins();
        self.cut();
        self.start_commits();
    }

    /// An edge has promised its batches to the part.
    pub fn promised(&mut self, log: &Arc<LogId>, part: &PartId) {
        if let Some(part) = self.own_part(part)
            && let Some(answer) = part.edges.get_mut(log)
        {
            *answer = true;
            part.look_if_ready();
        }
        self.start_commits();
    }

    /// An edge will not promise: those batches are no longer ours, and the part's id is dead.
    pub fn refused(&mut self, log: &Arc<LogId>, part: &PartId, gone: &SeqRanges) {
        if part.incarnation != self.incarnation {
            return;
        }
        self.abandon(part.number);
        let keys: Vec<StageKey> = match self.edges.get(log) {
            Some(edge) => gone.seqs().filter_map(|seq| edge.held.get(&seq).copied()).collect(),
            None => Vec::new(),
        };
        let keys = keys
            .into_iter()
            .filter(|key| self.staged.get(key).is_some_and(|staged| staged.part.is_none()))
            .collect();
        self.discard(keys);
        self.review_twins();
    }

    /// An edge asks what became of a part.
    pub fn resolve(&mut self, log: &Arc<LogId>, part: PartId, token: Bytes) {
        if self.recent.contains(&part) {
            self.control(log, ToEdge::Resolved { part, resolution: Resolution::Committed });
            return;
        }
        // Still at work on it. Who asks has promised, and will be told.
        if self.own_part(&part).is_some_and(|found| found.edges.contains_key(log)) {
            self.promised(log, &part);
            return;
        }
        // One of this life's that is neither at work nor committed was given up: its id is dead, and the store never
        // heard of it. Asking the store would fence this very life.
        if part.sink == self.sink
            && part.incarnation == self.incarnation
            && (self.forgotten..self.next_part).contains(&part.number)
        {
            self.control(log, ToEdge::Resolved { part, resolution: Resolution::Void });
            return;
        }
        self.outputs.push_back(CollectorOutput::Resolve { log: log.clone(), part, token });
    }

    /// The store has settled a part.
    pub fn resolved(&mut self, log: &Arc<LogId>, part: PartId, resolution: Resolution) {
        self.control(log, ToEdge::Resolved { part, resolution });
    }

    /// The store has committed a part.
    pub fn committed(&mut self, part: &PartId) {
        if part.incarnation != self.incarnation {
            return;
        }
        let Some(done) = self.parts.remove(&part.number) else { return };
        for log in done.edges.keys() {
            self.control(log, ToEdge::Committed { part: done.id.clone() });
        }
        self.recent.insert(done.id.clone());
        self.recent_order.push_back(done.id);
        if self.recent_order.len() > RECENT_PARTS
            && let Some(old) = self.recent_order.pop_front()
        {
            self.forgotten = self.forgotten.max(old.number + 1);
            self.recent.remove(&old);
        }
        for key in &done.keys {
            if let Some(staged) = self.staged.get(key) {
                self.twins.stored(staged.chunks.iter().copied(), self.now);
            }
        }
        self.discard(done.keys);
        self.review_twins();
        self.cut();
        self.start_commits();
        self.widen_all();
    }

    /// Time has passed. Call it many times a second: it bounds how late a part is cut.
    pub fn tick(&mut self, now: Duration) {
        self.pass(now);
        self.twins.tick(self.now);
        while let Some(&(at, key)) = self.doubtful.first()
            && at <= self.now
        {
            self.doubtful.pop_first();
            self.review.insert(key);
        }
        let late = |since: Duration| self.now >= since + self.config.prepare_timeout;
        let mut silent = BTreeSet::new();
        for part in self.parts.values() {
            if matches!(part.stage, Stage::Preparing { since } if late(since)) {
                silent.extend(
                    part.edges.iter().filter(|(_, promised)| !**promised).map(|(log, _)| log.clone()),
                );
            }
            for (edge, asked) in &part.asked {
                if matches!(asked, Asked::Owes(_, since) if late(*since)) {
                    silent.extend(self.connected().filter(|log| log.edge == *edge).cloned());
                }
            }
        }
        for log in silent {
            let Some(session) = self.edges.get(&log).map(|edge| edge.session) else { continue };
            self.outputs.push_back(CollectorOutput::Disconnect { log: log.clone(), session });
            self.disconnected(&log, session);
        }
        // Whoever is not back by now is dead, or cut off for long, or comes and goes: the others must not wait for it.
        self.away.retain(|_, until| self.now < *until);
        for part in self.parts.values_mut() {
            let patient = self.now < part.began + 2 * self.config.prepare_timeout;
            let waits = |edge: &NodeId| patient && self.away.contains_key(edge);
            part.asked.retain(|edge, asked| !matches!(asked, Asked::Away) || waits(edge));
            part.look_if_ready();
        }
        self.review_twins();
        self.cut();
        self.start_commits();
        self.widen_all();
    }

    /// The sink is about to stop: edges send no more, and what is staged is cut whatever its age.
    pub fn drain(&mut self) {
        self.draining = true;
        let logs: Vec<_> = self.edges.keys().cloned().collect();
        for log in logs {
            self.control(&log, ToEdge::Draining);
        }
        self.cut();
    }

    /// Whether nothing is staged or being committed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.staged.is_empty() && self.parts.is_empty()
    }

    /// What to do next; call until it has nothing more to say, after each other call.
    pub fn poll_output(&mut self) -> Option<CollectorOutput> {
        self.outputs.pop_front()
    }

    /// The state in numbers.
    #[must_use]
    pub fn status(&self) -> CollectorStatus {
        CollectorStatus {
            edges: self.connected_count,
            batches: self.staged.len(),
            bytes: self.staged_bytes,
            chunks: self.staged_chunks,
            parts: self.parts.len(),
            committing: self.committing(),
            recent_chunks: self.twins.len(),
            repeated: self.repeated,
        }
    }

    fn committing(&self) -> usize {
        self.parts.values().filter(|part| part.stage == Stage::Committing).count()
    }

    fn pass(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.born.is_none() {
            self.born = Some(self.now);
            let until = self.now + self.config.prepare_timeout;
            self.away =
                std::mem::take(&mut self.config.edges).into_iter().map(|edge| (edge, until)).collect();
        }
    }

    // Looks at the batches whose right to their chunks may have changed; says whether a queue is full.
    fn review_twins(&mut self) -> bool {
        let mut full = false;
        while let Some(key) = self.review.pop_first() {
            let Some(staged) = self.staged.get_mut(&key) else { continue };
            match (self.twins.judge(key, &staged.chunks), staged.part) {
                // In a part it has the right already, unless a half-done batch has come.
                (Verdict::Commit { .. }, Some(_)) => {}
                (_, Some(number)) => self.abandon(number),
                (Verdict::Wait, None) => self.dequeue(key),
                (Verdict::Commit { .. }, None) if staged.not_before > self.now => self.dequeue(key),
                (Verdict::Commit { keep }, None) => {
                    if keep.contains(&false) {
                        let chunks = std::mem::take(&mut staged.chunks);
                        let of = |kept: bool| {
                            let pairs = chunks.iter().zip(&keep).filter(move |(_, keep)| **keep == kept);
                            pairs.map(|(chunk, _)| *chunk).collect::<Vec<_>>()
                        };
                        staged.chunks = of(true).into();
                        self.staged_chunks -= chunks.len() - staged.chunks.len();
                        let others = self.twins.leave(key, &of(false));
                        self.review.extend(others.into_iter().filter(|other| *other != key));
                        self.outputs.push_back(CollectorOutput::Cut { key, keep });
                    }
                    full |= self.enqueue(key);
                }
                (Verdict::Repeated, None) => {
                    let (log, session) = (staged.log.clone(), staged.session);
                    let ranges = std::iter::once(staged.seq).collect();
                    if self.edges.get(&log).is_some_and(|edge| edge.session == session) {
                        self.control(&log, ToEdge::Repeated { ranges });
                    }
                    self.repeated += 1;
                    self.discard(vec![key]);
                }
            }
        }
        full
    }

    fn own_part(&mut self, part: &PartId) -> Option<&mut Part> {
        if part.sink != self.sink || part.incarnation != self.incarnation {
            return None;
        }
        self.parts.get_mut(&part.number)
    }

    // Puts a staged batch into the queue of its partitions; says whether that queue is full.
    fn enqueue(&mut self, key: StageKey) -> bool {
        let Some(staged) = self.staged.get_mut(&key) else { return false };
        staged.part = None;
        let queue = self.queues.entry(staged.partitions.clone()).or_default();
        if queue.keys.insert(key) {
            queue.bytes += staged.bytes;
        }
        queue.bytes >= self.config.part_bytes
    }

    fn dequeue(&mut self, key: StageKey) {
        let Some(staged) = self.staged.get(&key) else { return };
        if let Some(queue) = self.queues.get_mut(&staged.partitions)
            && queue.keys.remove(&key)
        {
            queue.bytes -= staged.bytes;
            if queue.keys.is_empty() {
                self.queues.remove(&staged.partitions);
            }
        }
    }

    // Cuts parts while the store has room for them: one may be prepared while another is written.
    fn cut(&mut self) {
        while self.parts.len() <= self.config.parallel_parts {
            let keys = self.choose();
            if keys.is_empty() {
                return;
            }
            self.prepare(keys);
        }
    }

    // The batches of the next part: the due queue that has waited longest, and others that are due as far as they fit.
    fn choose(&self) -> Vec<StageKey> {
        let pressed = self.draining || self.staged_bytes >= self.config.stage_bytes / 2;
        let mut due: Vec<(StageKey, &Arc<[Partition]>, &Queue)> = self
            .queues
            .iter()
            .filter_map(|(partitions, queue)| queue.keys.first().map(|&first| (first, partitions, queue)))
            .filter(|(first, _, queue)| {
                pressed
                    || queue.bytes >= self.config.part_bytes
                    || self
                        .staged
                        .get(first)
                        .is_some_and(|staged| self.now >= staged.since + self.config.part_age)
            })
            .collect();
        due.sort_by_key(|(first, _, _)| *first);
        let (mut keys, mut bytes, mut partitions) = (Vec::new(), 0, BTreeSet::new());
        for (_, names, queue) in due {
            let more = names.iter().filter(|name| !partitions.contains(*name)).count();
            if !keys.is_empty() && partitions.len() + more > self.config.partitions_max {
                continue;
            }
            partitions.extend(names.iter().cloned());
            for key in &queue.keys {
                if bytes >= self.config.part_bytes {
                    return keys;
                }
                bytes += self.staged.get(key).map_or(0, |staged| staged.bytes);
                keys.push(*key);
            }
        }
        keys
    }

    fn prepare(&mut self, mut keys: Vec<StageKey>) {
        let number = self.next_part;
        self.next_part += 1;
        let id = PartId { sink: self.sink.clone(), incarnation: self.incarnation, number };
        let mut edges: BTreeMap<Arc<LogId>, SeqRanges> = BTreeMap::new();
        let mut partitions = BTreeSet::new();
        for &key in &keys {
            self.dequeue(key);
            let Some(staged) = self.staged.get_mut(&key) else { continue };
            staged.part = Some(number);
            edges.entry(staged.log.clone()).or_default().insert(staged.seq);
            partitions.extend(staged.partitions.iter().cloned());
        }
        keys.sort_by_key(|key| self.staged.get(key).map(|staged| (staged.log.clone(), staged.seq)));
        let partitions: Vec<Partition> = partitions.into_iter().collect();
        let token = (self.token)(&id, &partitions);
        for (log, ranges) in &edges {
            let message = ToEdge::Prepare { part: id.clone(), ranges: ranges.clone(), token: token.clone() };
            self.control(log, message);
        }
        let asked = self.recall(&id, &keys);
        let edges = edges.into_keys().map(|log| (log, false)).collect();
        let (began, stage) = (self.now, Stage::Preparing { since: self.now });
        self.parts.insert(number, Part { id, keys, partitions, edges, asked, began, stage });
    }

    // Asks all edges for the chunks that others sent, where a twin may have gone through another sink or another
    // life of this one. Gives those that owe answers.
    fn recall(&mut self, part: &PartId, keys: &[StageKey]) -> BTreeMap<NodeId, Asked> {
        let logs: Vec<_> = self.connected().cloned().collect();
        let mut asked = BTreeMap::new();
        for log in logs {
            let questions = self.ask(&log, part, keys);
            if questions > 0 {
                asked.insert(log.edge.clone(), Asked::Owes(questions, self.now));
            }
        }
        if keys.iter().any(|key| self.staged.get(key).is_some_and(|staged| self.is_doubtful(staged))) {
            asked.extend(self.away.keys().map(|edge| (edge.clone(), Asked::Away)));
        }
        asked
    }

    // An edge is back: it is asked for the chunks of all that is not being committed yet.
    fn ask_late(&mut self, log: &Arc<LogId>) {
        let open = self.parts.iter().filter(|(_, part)| part.stage != Stage::Committing);
        let open: Vec<_> = open.map(|(&number, part)| (number, part.id.clone(), part.keys.clone())).collect();
        for (number, id, keys) in open {
            let questions = self.ask(log, &id, &keys);
            let Some(part) = self.parts.get_mut(&number) else { continue };
            part.asked.remove(&log.edge);
            if questions > 0 {
                part.asked.insert(log.edge.clone(), Asked::Owes(questions, self.now));
                part.stage = Stage::Preparing { since: self.now };
            }
            part.look_if_ready();
        }
    }

    // Asks one edge; says how many answers it owes.
    fn ask(&mut self, log: &Arc<LogId>, part: &PartId, keys: &[StageKey]) -> usize {
        let staged = keys.iter().filter_map(|key| self.staged.get(key));
        let asking: Vec<&Staged> =
            staged.filter(|staged| staged.log.edge != log.edge && self.is_doubtful(staged)).collect();
        let of = |half_done: bool| -> Vec<Fingerprint> {
            let staged = asking.iter().filter(|staged| staged.half_done == half_done);
            staged.flat_map(|staged| staged.chunks.iter().copied()).collect()
        };
        let (whole, half_done) = (of(false), of(true));
        let whole = whole.chunks(RECALL_CHUNKS).map(|some| (some.to_vec(), Vec::new()));
        let half_done = half_done.chunks(RECALL_CHUNKS).map(|some| (Vec::new(), some.to_vec()));
        let questions: Vec<_> = whole.chain(half_done).collect();
        let count = questions.len();
        for (chunks, half_done) in questions {
            self.control(log, ToEdge::Recall { part: part.clone(), chunks, half_done });
        }
        count
    }

    // Whether a twin of it may be elsewhere. Of what is stored altogether nothing is written again.
    fn is_doubtful(&self, staged: &Staged) -> bool {
        let young = self.born.is_none_or(|born| self.now < born + self.twins.window());
        (young || staged.recall) && !staged.chunks.is_empty() && !staged.partitions.is_empty()
    }

    fn connected(&self) -> impl Iterator<Item = &Arc<LogId>> {
        self.edges.iter().filter(|(_, edge)| edge.connected).map(|(log, _)| log)
    }

    // With one part at a time they go in the order in which they were cut, so that a tag's order holds.
    fn start_commits(&mut self) {
        let mut running = self.committing();
        for part in self.parts.values_mut() {
            if running >= self.config.parallel_parts {
                return;
            }
            match part.stage {
                Stage::Ready => {
                    part.stage = Stage::Committing;
                    running += 1;
                    self.outputs.push_back(CollectorOutput::Commit {
                        part: part.id.clone(),
                        keys: part.keys.clone(),
                        partitions: part.partitions.clone(),
                    });
                }
                Stage::Preparing { .. } if self.config.parallel_parts == 1 => return,
                _ => {}
            }
        }
    }

    // The part's id is dead; what of it is still ours goes back to its queue. Only before the store has begun.
    fn abandon(&mut self, number: u64) {
        if self.parts.get(&number).is_none_or(|part| part.stage == Stage::Committing) {
            return;
        }
        let Some(part) = self.parts.remove(&number) else { return };
        for log in part.edges.keys() {
            self.control(log, ToEdge::Abandoned { part: part.id.clone() });
        }
        let mut lost = Vec::new();
        for key in part.keys {
            let ours = self.staged.get(&key).is_some_and(|staged| {
                self.edges
                    .get(&staged.log)
                    .is_some_and(|edge| edge.connected && edge.session == staged.session)
            });
            if let Some(staged) = self.staged.get_mut(&key) {
                staged.part = None;
            }
            if ours {
                self.review.insert(key);
            } else {
                lost.push(key);
            }
        }
        self.discard(lost);
    }

    fn discard(&mut self, keys: Vec<StageKey>) {
        for &key in &keys {
            self.dequeue(key);
            let Some(staged) = self.staged.remove(&key) else { continue };
            self.review.extend(self.twins.leave(key, &staged.chunks));
            self.staged_bytes -= staged.bytes;
            self.staged_chunks -= staged.chunks.len();
            if let Some(edge) = self.edges.get_mut(&staged.log)
                && edge.session == staged.session
            {
                edge.held.remove(&staged.seq);
                edge.released += staged.bytes;
            }
        }
        if !keys.is_empty() {
            self.outputs.push_back(CollectorOutput::Discard(keys));
        }
    }

    // What each connected edge may have here and on its way, by now.
    fn credit(&self) -> Credit {
        let edges = self.connected_count.max(1) as u64;
        let CollectorConfig { stage_bytes, ahead_bytes, ahead_chunks, .. } = self.config;
        let is_store_full = self.parts.len() > self.config.parallel_parts;
        let staged = match is_store_full {
            false => stage_bytes,
            true if self.staged_chunks < ahead_chunks => stage_bytes.min(ahead_bytes),
            true => 0,
        };
        let on_its_way = (ahead_bytes / 4 / edges).max(1);
        Credit { staged: staged / edges, on_its_way, step: on_its_way.min(stage_bytes / edges) / 4 }
    }

    fn widen(&mut self, log: &Arc<LogId>) {
        let credit = self.credit();
        let Some(edge) = self.edges.get_mut(log) else { return };
        let total = credit.total(edge);
        let more = total.saturating_sub(edge.window);
        if edge.connected && more > 0 && (more >= credit.step || edge.held.is_empty()) {
            edge.window = total;
            self.control(log, ToEdge::Window { total });
        }
    }

    fn widen_all(&mut self) {
        let logs: Vec<_> = self.connected().cloned().collect();
        for log in logs {
            self.widen(&log);
        }
    }

    fn control(&mut self, log: &Arc<LogId>, message: ToEdge) {
        if let Some(edge) = self.edges.get(log)
            && edge.connected
        {
            let session = edge.session;
            self.outputs.push_back(CollectorOutput::Control { log: log.clone(), session, message });
        }
    }
}

/// An edge's share of the sink's room, in bytes.
#[derive(Debug, Clone, Copy)]
struct Credit {
    /// Staged or on its way.
    staged: u64,
    /// On its way: what still comes when the store has its hands full.
    on_its_way: u64,
    /// More is told when it is as much, not for each batch.
    step: u64,
}

impl Credit {
    // Of all that the edge ever sent in its session, up to where it may.
    fn total(self, edge: &Edge) -> u64 {
        (edge.released + self.staged).min(edge.received + self.on_its_way)
    }
}

impl Part {
    fn look_if_ready(&mut self) {
        let promised = self.edges.values().all(|&promised| promised);
        if promised && self.asked.is_empty() && matches!(self.stage, Stage::Preparing { .. }) {
            self.stage = Stage::Ready;
        }
    }
}
