//! The edge's side: which sink gets a batch, what is promised to whom, and what is done. Changes of the group's sinks are
//! in `adopt.rs`, chunks that came through other edges too in `repeats.rs`.

mod adopt;
mod repeats;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use weir_model::{Epoch, Fingerprint, LogId, NodeId, PartId, Seq, SeqRanges};

use crate::Partition;
use crate::frame::{Resolution, ToEdge, ToSink, WIRE_VERSION};
use crate::journal::{JournalRecord, Recovered, add_partitions};

/// Chooses the sink of a tag: a pure function of the tag and the live set.
pub trait Placement: Send {
    /// The first live sink in the tag's candidate order; `None` when none is live.
    fn owner(&self, tag: &str, live: &dyn Fn(&NodeId) -> bool) -> Option<NodeId>;
}

/// The dispatcher's bounds.
#[derive(Debug, Clone)]
pub struct DispatcherConfig {
    /// Batches known but not sent; at this bound [`Dispatcher::wants_more`] says no and the log waits unread.
    pub waiting_batches_max: usize,
    /// How long an unreachable sink keeps its tags before they move to the next candidate.
    pub failover_after: Duration,
    /// How long an unreachable sink's promised parts wait for it before another member is asked to settle them.
    pub resolve_after: Duration,
    /// How long after a change of the live sinks a batch's chunks are looked for at other edges too, before they are
    /// committed: the window of repeats.
    pub recall_for: Duration,
    /// Chunks remembered that sinks asked for in vain, so that they go where their twins went.
    pub sought_max: usize,
}

impl Default for DispatcherConfig {
    fn default() -> Self {
        Self {
            waiting_batches_max: 16_384,
            failover_after: Duration::from_secs(2),
            resolve_after: Duration::from_secs(5),
            recall_for: Duration::from_secs(600),
            sought_max: 100_000,
        }
    }
}

/// What the driver must do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DispatcherOutput {
    /// Put the batch on its lane to `sink`. The session says over which connection.
    Send {
        /// To whom.
        sink: NodeId,
        /// In which session.
        session: Epoch,
        /// Which batch of the log.
        seq: Seq,
        /// Its tag, which chooses the lane.
        tag: Arc<str>,
        /// Partitions of it that are stored already.
        done: Vec<Partition>,
        /// See [`BatchHead::recall`](crate::BatchHead).
        recall: bool,
    },
    /// Look for these chunks among the log's recent ones and report with [`Dispatcher::recalled`].
    Recall {
        /// Who asks.
        sink: NodeId,
        /// In which session.
        session: Epoch,
        /// For which part.
        part: PartId,
        /// The chunks.
        chunks: Vec<Fingerprint>,
        /// Further chunks, of batches that are half done there.
        half_done: Vec<Fingerprint>,
    },
    /// Send a control message to `sink`.
    Control {
        /// To whom.
        sink: NodeId,
        /// In which session; a message of an older one is dropped.
        session: Epoch,
        /// What to say.
        message: ToSink,
    },
    /// Append to the journal, in order; report with [`Dispatcher::journaled`] once it is durable.
    Journal(JournalRecord),
    /// More of the log needs nothing any more: see [`Dispatcher::done`].
    Trim,
    /// End the session with this sink, and connect again.
    HangUp {
        /// Which sink.
        sink: NodeId,
    },
    /// This sink was left out of the group and has nothing of ours any more: end its session, and stay away.
    Gone {
        /// Which sink.
        sink: NodeId,
    },
}

/// What a sink looks like from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Not reachable since then.
    Down { since: Duration },
    /// Said hello, not answered yet; down since then in everybody's eyes.
    Greeting { session: Epoch, since: Duration },
    /// Talking.
    Up { session: Epoch, draining: bool },
}

#[derive(Debug)]
struct Sink {
    link: Link,
    // Whether the present epoch counts it as live.
    live: bool,
    // Left out of the group; it stays for what was promised to it.
    leaving: bool,
    window_total: u64,
    sent_total: u64,
    in_flight_bytes: u64,
    in_flight: BTreeSet<Seq>,
}

#[derive(Debug)]
struct Batch {
    tag: Arc<str>,
    bytes: u64,
    // The sink that asked for a chunk of it, and goes before the tag's own.
    sought_by: Option<NodeId>,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Waiting(Option<NodeId>),
    Sent(NodeId),
    Promised(PartId),
}

#[derive(Debug)]
struct Promise {
    ranges: SeqRanges,
    token: Bytes,
    state: PromiseState,
    // In which session it was asked for; that of an earlier start is over whatever its number.
    session: Option<Epoch>,
    // Some sink said that only the part's own can settle it.
    owner_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PromiseState {
    // Not durable yet; then to be told to the sink.
    Journaling,
    // Durable; the sink works on it, or is away.
    Given,
    // That sink was asked what became of it.
    Asked(NodeId),
}

// What follows once the journal has a record.
#[derive(Debug)]
enum After {
    Nothing,
    Promise(PartId),
}

/// One sink as seen by the dispatcher, for people and metrics.
#[derive(Debug, Clone)]
pub struct SinkStatus {
    /// Which sink.
    pub sink: NodeId,
    /// Whether a session is open.
    pub connected: bool,
    /// Bytes sent and not yet committed.
    pub in_flight_bytes: u64,
    /// Bytes that may still be sent.
    pub credit_bytes: u64,
}

/// The dispatcher's state in numbers, for people and metrics.
#[derive(Debug, Clone)]
pub struct DispatcherStatus {
    /// The present epoch.
    pub epoch: Epoch,
    /// Batches known and not sent.
    pub waiting: usize,
    /// Parts promised and not settled.
    pub promised_parts: usize,
    /// Batches that a store has, since this start.
    pub committed: u64,
    /// Batches that were taken from an unreachable sink, since this start.
    pub failovers: u64,
    /// Each sink of the group.
    pub sinks: Vec<SinkStatus>,
}

/// The edge's side of the conversation, for one group log.
pub struct Dispatcher {
    config: DispatcherConfig,
    log: LogId,
    placement: Box<dyn Placement>,
    epoch: Epoch,
    now: Duration,
    sinks: BTreeMap<NodeId, Sink>,
    batches: BTreeMap<Seq, Batch>,
    waiting: BTreeMap<Option<NodeId>, BTreeSet<Seq>>,
    waiting_count: usize,
    recovered: Recovered,
    promises: BTreeMap<PartId, Promise>,
    // Batches that were taken from a sink, and in which session of it, for the sake of another's question.
    taken_back: BTreeMap<Seq, (NodeId, Epoch)>,
    // Chunks that sinks asked for before they were here, each with the last that asked: its twin may be there.
    sought: HashMap<Fingerprint, NodeId>,
    sought_order: VecDeque<(Duration, Fingerprint)>,
    // When the live set last changed.
    unsettled: Duration,
    journaling: VecDeque<After>,
    outputs: VecDeque<DispatcherOutput>,
    committed: u64,
    failovers: u64,
}

impl Dispatcher {
    /// Takes up a group log's batches where the journal left them.
    ///
    /// The first output is a journal record that must be durable before any session begins: the driver sees
    /// to that by reporting [`journaled`](Self::journaled) before it calls [`greet`](Self::greet).
    #[must_use]
    pub fn new(
        config: DispatcherConfig,
        log: LogId,
        sinks: impl IntoIterator<Item = NodeId>,
        placement: Box<dyn Placement>,
        mut recovered: Recovered,
        now: Duration,
    ) -> Self {
        recovered.times_started += 1;
        let times = recovered.times_started;
        let promises = std::mem::take(&mut recovered.promises)
            .into_iter()
            .map(|(part, (ranges, token))| {
                let state = PromiseState::Given;
                (part, Promise { ranges, token, state, session: None, owner_only: false })
            })
            .collect();
        Self {
            config,
            log,
            placement,
            epoch: Epoch(u64::from(times) << 32),
            now,
            sinks: sinks.into_iter().map(|name| (name, Sink::new(now, true))).collect(),
            batches: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            recovered,
            promises,
            taken_back: BTreeMap::new(),
            sought: HashMap::new(),
            sought_order: VecDeque::new(),
            unsettled: now,
            journaling: VecDeque::from([After::Nothing]),
            outputs: VecDeque::from([DispatcherOutput::Journal(JournalRecord::Started { times })]),
            committed: 0,
            failovers: 0,
        }
    }

    /// Whether [`offer`](Self::offer) may be called: otherwise the log waits, on disk.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.waiting_count < self.config.waiting_batches_max
    }

    /// The next durable batch of the log, with the senders' chunks in it. Batches come in order, each once.
    pub fn offer(&mut self, seq: Seq, tag: Arc<str>, bytes: u64, chunks: &[Fingerprint]) {
        if self.recovered.done.contains(seq) {
            return;
        }
        let sought_by = chunks.iter().find_map(|chunk| self.sought.get(chunk)).cloned();
        let promised = self.promises.iter().find(|(_, promise)| promise.ranges.contains(seq));
        let place = promised.map_or(Place::Waiting(None), |(part, _)| Place::Promised(part.clone()));
        let waits = promised.is_none();
        self.batches.insert(seq, Batch { tag, bytes, sought_by, place });
        if waits {
            self.wait_again(seq);
        }
    }

    /// These batches are gone from the log (damaged, or dropped by policy): nothing more is done with those
    /// that are neither sent nor promised.
    pub fn forget(&mut self, gone: &SeqRanges) {
        for seq in gone.seqs() {
            let waiting = match self.batches.get(&seq) {
                None => !self.promises.values().any(|promise| promise.ranges.contains(seq)),
                Some(batch) => matches!(batch.place, Place::Waiting(_)),
            };
            if waiting {
                self.leave_waiting(seq);
                self.batches.remove(&seq);
                self.recovered.done.insert(seq);
            }
        }
        self.outputs.push_back(DispatcherOutput::Trim);
    }

    /// Gives up those of these batches that are neither promised nor half done, to make room in the log by policy. Returns which;
    /// a sink that has some of them staged learns so when it asks for the promise.
    pub fn drop_batches(&mut self, wanted: &SeqRanges) -> SeqRanges {
        let mut dropped = wanted.clone();
        dropped.remove_all(&self.recovered.done);
        self.promises.values().for_each(|promise| dropped.remove_all(&promise.ranges));
        // A retry of what is half done would store its stored half again.
        self.recovered.half_done.keys().for_each(|seq| dropped.remove_range(seq.0..seq.0 + 1));
        let known: Vec<Seq> = dropped
            .iter()
            .flat_map(|range| self.batches.range(Seq(range.start)..Seq(range.end)).map(|(&seq, _)| seq))
            .collect();
        for seq in known {
            self.leave_waiting(seq);
            if let Some(Batch { place: Place::Sent(sink), bytes, .. }) = self.batches.remove(&seq) {
                self.landed(&sink, bytes);
                if let Some(state) = self.sinks.get_mut(&sink) {
                    state.in_flight.remove(&seq);
                }
            }
        }
        if !dropped.is_empty() {
            self.recovered.replay(JournalRecord::Dropped { ranges: dropped.clone() });
            self.journal(JournalRecord::Dropped { ranges: dropped.clone() }, After::Nothing);
            self.outputs.push_back(DispatcherOutput::Trim);
        }
        dropped
    }

    /// Batches of which some partitions are stored.
    pub fn half_done(&self) -> impl Iterator<Item = Seq> + '_ {
        self.recovered.half_done.keys().copied()
    }

    /// Batches that were dropped by policy.
    #[must_use]
    pub fn dropped(&self) -> &SeqRanges {
        &self.recovered.dropped
    }

    /// A connection to `sink` is there: begins a session and gives the message that opens it.
    pub fn greet(&mut self, sink: &NodeId) -> Option<(Epoch, ToSink)> {
        self.disconnected(sink, None);
        self.epoch = Epoch(self.epoch.0 + 1);
        let session = self.epoch;
        let since = match self.sinks.get(sink)?.link {
            Link::Down { since } | Link::Greeting { since, .. } => since,
            Link::Up { .. } => self.now,
        };
        self.sinks.get_mut(sink)?.link = Link::Greeting { session, since };
        Some((session, ToSink::Hello { version: WIRE_VERSION, log: self.log.clone(), session }))
    }

    /// The connection of `session` (or whatever session there is) is gone.
    pub fn disconnected(&mut self, sink: &NodeId, session: Option<Epoch>) {
        let now = self.now;
        let Some(state) = self.sinks.get_mut(sink) else { return };
        let current = match state.link {
            Link::Down { .. } => return,
            Link::Greeting { session, .. } | Link::Up { session, .. } => session,
        };
        if session.is_some_and(|session| session != current) {
            return;
        }
        let since = match state.link {
            Link::Greeting { since, .. } => since,
            _ => now,
        };
        state.link = Link::Down { since };
        self.taken_back.retain(|_, (name, _)| name != sink);
        state.in_flight_bytes = 0;
        // Sent and not promised: the sink cannot commit these any more, so they are ours to give again.
        let back = std::mem::take(&mut state.in_flight);
        let mut unanswered = Vec::new();
        for (part, promise) in &mut self.promises {
            if promise.state == PromiseState::Asked(sink.clone()) {
                promise.state = PromiseState::Given;
                unanswered.push(part.clone());
            }
        }
        for part in unanswered {
            self.ask_owner_if_back(&part);
        }
        for seq in back {
            self.wait_again(seq);
        }
        self.review_live();
    }

    /// A message from `sink`, in `session`.
    pub fn handle(&mut self, sink: &NodeId, session: Epoch, message: ToEdge) {
        let Some(state) = self.sinks.get_mut(sink) else { return };
        match (state.link, message) {
            (Link::Greeting { session: current, .. }, ToEdge::Welcome { window, .. })
                if current == session =>
            {
                state.link = Link::Up { session, draining: false };
                state.window_total = window;
                state.sent_total = 0;
                state.in_flight_bytes = 0;
                self.review_live();
                self.ask_owner(sink, session);
            }
            (Link::Up { session: current, .. }, message) if current == session => {
                self.handle_up(sink, session, message);
            }
            _ => {}
        }
    }

    fn handle_up(&mut self, sink: &NodeId, session: Epoch, message: ToEdge) {
        match message {
            ToEdge::Welcome { .. } => {}
            ToEdge::Window { total } => {
                if let Some(state) = self.sinks.get_mut(sink) {
                    state.window_total = state.window_total.max(total);
                }
            }
            ToEdge::Prepare { part, ranges, token } => self.prepare(sink, session, part, ranges, token),
            ToEdge::Recall { part, chunks, half_done } => {
                let sink = sink.clone();
                self.outputs.push_back(DispatcherOutput::Recall { sink, session, part, chunks, half_done });
            }
            ToEdge::Repeated { ranges } => self.settle_repeated(sink, &ranges),
            ToEdge::Committed { part } => self.settle_committed(&part),
            ToEdge::Abandoned { part } => self.settle_abandoned(sink, session, &part),
            ToEdge::Resolved { part, resolution } => self.settle_resolved(sink, &part, resolution),
            ToEdge::Draining => {
                if let Some(state) = self.sinks.get_mut(sink) {
                    state.link = Link::Up { session, draining: true };
                }
                self.review_live();
            }
        }
    }

    fn prepare(&mut self, sink: &NodeId, session: Epoch, part: PartId, ranges: SeqRanges, token: Bytes) {
        if self.promises.contains_key(&part) {
            return; // asked twice: the first answer stands
        }
        let ours = Place::Sent(sink.clone());
        let gone: SeqRanges = ranges
            .seqs()
            .filter(|seq| self.batches.get(seq).is_none_or(|batch| batch.place != ours))
            .collect();
        if !gone.is_empty() || part.sink != *sink {
            self.control(sink, session, ToSink::Refuse { part, gone });
            return;
        }
        for seq in ranges.seqs() {
            if let Some(batch) = self.batches.get_mut(&seq) {
                batch.place = Place::Promised(part.clone());
            }
            if let Some(state) = self.sinks.get_mut(sink) {
                state.in_flight.remove(&seq);
            }
        }
        let record =
            JournalRecord::Promised { part: part.clone(), ranges: ranges.clone(), token: token.clone() };
        self.journal(record, After::Promise(part.clone()));
        let state = PromiseState::Journaling;
        let promise = Promise { ranges, token, state, session: Some(session), owner_only: false };
        self.promises.insert(part, promise);
    }

    /// The oldest `records` that were handed out as [`DispatcherOutput::Journal`] are durable.
    pub fn journaled(&mut self, records: usize) {
        for _ in 0..records {
            let Some(After::Promise(part)) = self.journaling.pop_front() else { continue };
            let Some(promise) = self.promises.get_mut(&part) else { continue };
            if promise.state != PromiseState::Journaling {
                continue;
            }
            promise.state = PromiseState::Given;
            let session = promise.session;
            match self.sinks.get(&part.sink).map(|sink| sink.link) {
                Some(Link::Up { session: current, .. }) if Some(current) == session => {
                    let sink = part.sink.clone();
                    self.control(&sink, current, ToSink::Promise { part });
                }
                // The session in which it was asked for is over; the owner, if it is back, is asked what it did.
                Some(Link::Up { session: current, .. }) => {
                    let sink = part.sink.clone();
                    self.ask(&part, &sink, current);
                }
                _ => {}
            }
        }
    }

    /// Time has passed. Call it several times a second.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.review_live();
        self.ask_others();
        self.let_go();
        self.taken_back.retain(|seq, _| self.batches.contains_key(seq));
        self.forget_sought();
    }

    /// What to do next; call until it has nothing more to say, after each other call.
    pub fn poll_output(&mut self) -> Option<DispatcherOutput> {
        self.outputs.pop_front().or_else(|| self.next_send())
    }

    /// All batches that need nothing more: the log may forget them.
    #[must_use]
    pub fn done(&self) -> &SeqRanges {
        &self.recovered.done
    }

    /// The shortest journal that says what this dispatcher knows.
    ///
    /// Only to be written in the place of a journal that has all records handed out so far.
    #[must_use]
    pub fn snapshot(&self) -> Vec<JournalRecord> {
        let mut recovered = self.recovered.clone();
        recovered.promises = self
            .promises
            .iter()
            .map(|(part, promise)| (part.clone(), (promise.ranges.clone(), promise.token.clone())))
            .collect();
        recovered.snapshot()
    }

    /// Whether every batch offered so far is in a store.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty() && self.promises.is_empty()
    }

    /// The state in numbers.
    #[must_use]
    pub fn status(&self) -> DispatcherStatus {
        DispatcherStatus {
            epoch: self.epoch,
            waiting: self.waiting_count,
            promised_parts: self.promises.len(),
            committed: self.committed,
            failovers: self.failovers,
            sinks: self
                .sinks
                .iter()
                .map(|(name, sink)| SinkStatus {
                    sink: name.clone(),
                    connected: matches!(sink.link, Link::Up { .. }),
                    in_flight_bytes: sink.in_flight_bytes,
                    credit_bytes: sink.window_total.saturating_sub(sink.sent_total),
                })
                .collect(),
        }
    }

    fn next_send(&mut self) -> Option<DispatcherOutput> {
        // While a sink is away from here, other edges may still give it what goes to another from here.
        let recall = self.now < self.unsettled + self.config.recall_for
            || self.sinks.values().any(|sink| !sink.live && !sink.leaving);
        for (name, sink) in &mut self.sinks {
            let Link::Up { session, draining: false } = sink.link else { continue };
            if sink.leaving {
                continue;
            }
            let key = Some(name.clone());
            let Some(queue) = self.waiting.get_mut(&key) else { continue };
            let Some(&seq) = queue.first() else { continue };
            if self.taken_back.get(&seq) == Some(&(name.clone(), session)) {
                // It still holds what was taken back. Sent again in one session, that could cross with a refusal.
                let sink = name.clone();
                self.disconnected(&sink, None);
                self.outputs.push_back(DispatcherOutput::HangUp { sink });
                return self.outputs.pop_front();
            }
            let Some(batch) = self.batches.get_mut(&seq) else { continue };
            // Any credit is enough for one batch, however large; where none is left, one may go alone.
            let alone = sink.in_flight_bytes == 0 && sink.sent_total <= sink.window_total;
            if sink.sent_total >= sink.window_total && !alone {
                continue;
            }
            queue.pop_first();
            self.waiting_count -= 1;
            batch.place = Place::Sent(name.clone());
            sink.sent_total += batch.bytes;
            sink.in_flight_bytes += batch.bytes;
            sink.in_flight.insert(seq);
            let done = self.recovered.half_done.get(&seq).cloned().unwrap_or_default();
            let recall = recall || batch.sought_by.is_some();
            return Some(DispatcherOutput::Send {
                sink: name.clone(),
                session,
                seq,
                tag: batch.tag.clone(),
                done,
                recall,
            });
        }
        None
    }

    fn settle_committed(&mut self, part: &PartId) {
        let Some(promise) = self.promises.remove(part) else { return };
        for seq in promise.ranges.seqs() {
            if let Some(batch) = self.batches.remove(&seq) {
                self.landed(&part.sink, batch.bytes);
                self.committed += 1;
            }
            self.recovered.half_done.remove(&seq);
        }
        self.recovered.done.insert_all(&promise.ranges);
        self.journal(JournalRecord::Committed { part: part.clone() }, After::Nothing);
        self.outputs.push_back(DispatcherOutput::Trim);
    }

    // The sink itself says that it gave the part up. What it got in this session it still holds, and may ask for again.
    fn settle_abandoned(&mut self, sink: &NodeId, session: Epoch, part: &PartId) {
        if part.sink != *sink {
            return;
        }
        let Some(promise) = self.promises.remove(part) else { return };
        self.journal(JournalRecord::Released { part: part.clone() }, After::Nothing);
        let held = promise.session == Some(session);
        for seq in promise.ranges.seqs() {
            let Some(batch) = self.batches.get_mut(&seq) else { continue };
            match self.sinks.get_mut(sink) {
                Some(state) if held && !state.leaving => {
                    batch.place = Place::Sent(sink.clone());
                    state.in_flight.insert(seq);
                }
                _ => self.wait_again(seq),
            }
        }
    }

    fn settle_resolved(&mut self, sink: &NodeId, part: &PartId, resolution: Resolution) {
        match resolution {
            Resolution::Committed => self.settle_committed(part),
            Resolution::NotHere => {
                if let Some(promise) = self.promises.get_mut(part) {
                    promise.owner_only = true;
                    promise.state = PromiseState::Given;
                    if part.sink != *sink {
                        self.ask_owner_if_back(part);
                    }
                }
            }
            Resolution::Void => {
                let Some(promise) = self.promises.remove(part) else { return };
                self.journal(JournalRecord::Released { part: part.clone() }, After::Nothing);
                promise.ranges.seqs().for_each(|seq| self.wait_again(seq));
            }
            Resolution::Partial(done) => {
                let Some(promise) = self.promises.remove(part) else { return };
                let record = JournalRecord::HalfDone { part: part.clone(), done: done.clone() };
                self.journal(record, After::Nothing);
                for seq in promise.ranges.seqs() {
                    add_partitions(self.recovered.half_done.entry(seq).or_default(), &done);
                    self.wait_again(seq);
                }
            }
        }
    }

    // A sink came (back): whatever was promised to it in an earlier session is in doubt until it says.
    fn ask_owner(&mut self, sink: &NodeId, session: Epoch) {
        let parts: Vec<PartId> = self
            .promises
            .iter()
            .filter(|(part, promise)| part.sink == *sink && promise.state == PromiseState::Given)
            .map(|(part, _)| part.clone())
            .collect();
        for part in parts {
            self.ask(&part, sink, session);
        }
    }

    // Another was asked while the owner was away, and did not settle it; the owner may have come back meanwhile.
    fn ask_owner_if_back(&mut self, part: &PartId) {
        if let Some(Link::Up { session, .. }) = self.sinks.get(&part.sink).map(|sink| sink.link) {
            self.ask(part, &part.sink, session);
        }
    }

    // Promises whose sink stays away are settled by another live member of the group.
    fn ask_others(&mut self) {
        let up: Vec<(NodeId, Epoch)> = self
            .sinks
            .iter()
            .filter_map(|(name, sink)| match sink.link {
                Link::Up { session, .. } => Some((name.clone(), session)),
                _ => None,
            })
            .collect();
        if up.is_empty() {
            return;
        }
        let away = |sink: &NodeId| match self.sinks.get(sink).map(|sink| sink.link) {
            None => true, // no longer in the topology
            Some(Link::Down { since } | Link::Greeting { since, .. }) => {
                self.now >= since + self.config.resolve_after
            }
            Some(Link::Up { .. }) => false,
        };
        let parts: Vec<PartId> = self
            .promises
            .iter()
            .filter(|(part, promise)| {
                promise.state == PromiseState::Given && !promise.owner_only && away(&part.sink)
            })
            .map(|(part, _)| part.clone())
            .collect();
        for part in parts {
            let (sink, session) = up[part.number as usize % up.len()].clone();
            self.ask(&part, &sink, session);
        }
    }

    fn ask(&mut self, part: &PartId, sink: &NodeId, session: Epoch) {
        let Some(promise) = self.promises.get_mut(part) else { return };
        promise.state = PromiseState::Asked(sink.clone());
        let message = ToSink::Resolve { part: part.clone(), token: promise.token.clone() };
        self.control(sink, session, message);
    }

    // A change of the live set is a new epoch, and waiting batches are placed again.
    fn review_live(&mut self) {
        if self.count_live() {
            self.place_waiting();
        }
    }

    fn owner(&self, tag: &str) -> Option<NodeId> {
        self.placement.owner(tag, &|node| self.sinks.get(node).is_some_and(|sink| sink.live))
    }

    fn wait_again(&mut self, seq: Seq) {
        let Some(batch) = self.batches.get(&seq) else { return };
        let seeker = batch.sought_by.as_ref().filter(|sink| self.sinks.get(*sink).is_some_and(|s| s.live));
        let owner = seeker.cloned().or_else(|| self.owner(&batch.tag));
        self.wait_for(seq, owner);
    }

    fn wait_for(&mut self, seq: Seq, owner: Option<NodeId>) {
        if let Some(batch) = self.batches.get_mut(&seq) {
            batch.place = Place::Waiting(owner.clone());
            self.waiting.entry(owner).or_default().insert(seq);
            self.waiting_count += 1;
        }
    }

    fn leave_waiting(&mut self, seq: Seq) {
        if let Some(Batch { place: Place::Waiting(owner), .. }) = self.batches.get(&seq)
            && self.waiting.get_mut(owner).is_some_and(|queue| queue.remove(&seq))
        {
            self.waiting_count -= 1;
        }
    }

    fn landed(&mut self, sink: &NodeId, bytes: u64) {
        if let Some(state) = self.sinks.get_mut(sink) {
            state.in_flight_bytes = state.in_flight_bytes.saturating_sub(bytes);
        }
    }

    fn journal(&mut self, record: JournalRecord, after: After) {
        self.outputs.push_back(DispatcherOutput::Journal(record));
        self.journaling.push_back(after);
    }

    fn control(&mut self, sink: &NodeId, session: Epoch, message: ToSink) {
        self.outputs.push_back(DispatcherOutput::Control { sink: sink.clone(), session, message });
    }
}
