//! One group's way out: drives its [`Dispatcher`]. The log is read, batches go over sessions to sinks, promises
//! go to the journal, and what the store has is trimmed.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use weir_link::{Connection, Dialer};
use weir_model::{BatchHeader, Epoch, GroupId, LogId, NodeId, Seq, SeqRanges};
use weir_routing::Ring;
use weir_spool::{GroupLog, Journal, Options, Reader, Stored};
use weir_telemetry::{Health, names};
use weir_transit::{
    Dispatcher, DispatcherConfig, DispatcherOutput, DispatcherStatus, JournalRecord, Placement, RecentBounds,
    RecordError, Recovered, ToEdge,
};

use crate::StartError;
use crate::failure::Failure;
use crate::hand::{Hand, InHand, Room};
use crate::note::LogNote;
use crate::promises::{JournalJob, keep_journal};
use crate::repeats::{self, Repeats};
use crate::session::{self, Outgoing, SessionHandle};

/// Bytes of the log read at once.
const READ_BYTES: usize = 2 << 20;
/// How often in a row the log is read without asking whether the dispatcher wants more. Between two calls the disk would stand
/// still until the driver has had its turn.
const READS: u32 = 8;
/// Above this the journal is rewritten as a snapshot.
const JOURNAL_BYTES_MAX: u64 = 4 << 20;
/// How often time passes for the dispatcher.
const TICK: Duration = Duration::from_millis(100);
/// Waits between attempts to reach a sink, in milliseconds.
const RETRY: std::ops::Range<u64> = 100..600;
/// How often they double while a sink takes no session up.
const DOUBLINGS_MAX: u32 = 3;
/// Failures in a row for which there is one line in the log.
const FAILURES_A_LINE: u32 = 60;

/// Why a group's log does not open.
#[derive(Debug)]
pub(crate) enum OpenFailed {
    Log(weir_spool::OpenError),
    Journal(RecordError),
    Recent(RecordError),
    Read(weir_spool::ReadError),
}

impl From<repeats::OpenFailed> for OpenFailed {
    fn from(failed: repeats::OpenFailed) -> Self {
        match failed {
            repeats::OpenFailed::Journal(source) => Self::Log(source),
            repeats::OpenFailed::Record(source) => Self::Recent(source),
            repeats::OpenFailed::Log(source) => Self::Read(source),
        }
    }
}

/// A group's log with all that lies beside it.
pub(crate) struct Opened {
    pub(crate) log: GroupLog,
    pub(crate) journal: Journal,
    pub(crate) recovered: Recovered,
    pub(crate) repeats: Arc<Repeats>,
    pub(crate) recent: Journal,
}

impl Opened {
    /// Gives it up again.
    pub(crate) async fn close(self) {
        self.journal.close().await;
        self.recent.close().await;
        self.log.close().await;
    }
}

impl OpenFailed {
    pub(crate) fn of(self, group: &GroupId) -> StartError {
        let group = group.clone();
        match self {
            Self::Log(source) => StartError::Log { group, source },
            Self::Journal(source) => StartError::Journal { group, source },
            Self::Recent(source) => StartError::Recent { group, source },
            Self::Read(source) => StartError::Read { group, source },
        }
    }
}

/// Opens a group's log, what its journal remembers, and the chunks that it took lately.
pub(crate) fn open(dir: &Path, quota_bytes: u64, bounds: RecentBounds) -> Result<Opened, OpenFailed> {
    // The journal first: it knows the highest number ever named to a sink.
    std::fs::create_dir_all(dir)
        .map_err(|source| OpenFailed::Log(weir_spool::OpenError::Io { path: dir.to_owned(), source }))?;
    let (journal, replay) = Journal::open(dir, "promises").map_err(OpenFailed::Log)?;
    let mut recovered = Recovered::default();
    for record in &replay.records {
        recovered.replay(JournalRecord::decode(record).map_err(OpenFailed::Journal)?);
    }
    let promised = recovered.promises.values().filter_map(|(ranges, _)| ranges.iter().last());
    let named = promised.chain(recovered.done.iter().last()).map(|range| range.end).max();
    let next_at_least = Seq(named.unwrap_or(0));
    let options = Options { quota_bytes, next_at_least, ..Options::default() };
    let (log, recovery) = GroupLog::open(dir, options).map_err(OpenFailed::Log)?;
    if !recovery.damaged.is_empty() {
        error!(dir = %dir.display(), damaged = ?recovery.damaged, "records of the log are damaged and set aside; see `weir log verify`");
        recovered.done.insert_all(&recovery.damaged);
    }
    if recovery.torn_bytes > 0 {
        info!(dir = %dir.display(), bytes = recovery.torn_bytes, "cut off a torn tail: it was never acknowledged");
    }
    let (repeats, recent) = repeats::open(dir, &log, &recovery, &recovered, bounds)?;
    // What the log has trimmed away needs nothing more, whatever the journal forgot.
    recovered.done.insert_range(0..recovery.first.0);
    Ok(Opened { log, journal, recovered, repeats, recent })
}

/// What the driver hears of.
pub(crate) enum Input {
    Connected {
        sink: NodeId,
        connection: Connection,
        /// Becomes true when the sink takes the session up.
        welcomed: Arc<AtomicBool>,
    },
    Disconnected {
        sink: NodeId,
        session: Epoch,
    },
    Message {
        sink: NodeId,
        session: Epoch,
        message: ToEdge,
    },
    Read(ReadOn),
    Damaged(SeqRanges),
    Journaled(usize),
    /// The disk is full, and the journal has no more room of its own: records wait.
    JournalFull,
    JournalFailed,
    /// The log has too little room, by so many bytes: the oldest batches are to go.
    MakeRoom {
        bytes: u64,
        answer: oneshot::Sender<()>,
    },
    /// Tell when the store has the batch: `false` if it was dropped.
    AwaitCommit {
        seq: Seq,
        answer: oneshot::Sender<bool>,
    },
}

/// What comes next in the log.
pub(crate) struct ReadOn {
    /// Each with its room in memory, if there was some.
    records: Vec<(Stored, Option<Room>)>,
    damaged: SeqRanges,
    /// Where it will go on.
    position: Seq,
    /// The reader, when it stops here.
    reader: Option<Box<Reader>>,
}

/// What a shipper is made of.
pub(crate) struct ShipperParts {
    pub(crate) edge: NodeId,
    pub(crate) rack: String,
    pub(crate) group: GroupId,
    pub(crate) note: LogNote,
    pub(crate) log: GroupLog,
    pub(crate) journal: Journal,
    pub(crate) recovered: Recovered,
    pub(crate) repeats: Arc<Repeats>,
    /// How long after a change of the live sinks chunks are looked for at other edges.
    pub(crate) recall_for: Duration,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) health: Health,
    pub(crate) failure: Failure,
}

/// A running driver of one group.
pub(crate) struct Shipper {
    stop: CancellationToken,
    driver: JoinHandle<()>,
    saver: JoinHandle<()>,
    inbox: mpsc::Sender<Input>,
    sinks: watch::Sender<LogNote>,
    // Below this number all is in the store; none while something is on its way.
    empty: watch::Receiver<Option<Seq>>,
    status: watch::Receiver<Option<DispatcherStatus>>,
}

impl Shipper {
    /// `recent` is where the chunks of trimmed batches are kept.
    pub(crate) fn start(parts: ShipperParts, recent: Journal) -> Self {
        let stop = CancellationToken::new();
        let (empty_tx, empty) = watch::channel(None);
        let (status_tx, status) = watch::channel(None);
        let (sinks, adopted) = watch::channel(parts.note.clone());
        let (inbox, inputs) = mpsc::channel(1024);
        let (group, repeats) = (parts.group.clone(), parts.repeats.clone());
        let saver =
            tokio::spawn(repeats::keep_saved(group, repeats, recent, repeats::SAVE_EVERY, stop.clone()));
        let (inbox_, stop_) = (inbox.clone(), stop.clone());
        let driver = tokio::spawn(drive(parts, (inbox_, inputs), adopted, stop_, empty_tx, status_tx));
        Self { stop, driver, saver, inbox, sinks, empty, status }
    }

    /// Where its driver is spoken to.
    pub(crate) fn inbox(&self) -> mpsc::Sender<Input> {
        self.inbox.clone()
    }

    /// Goes on with the sinks of `note`.
    pub(crate) fn adopt(&self, note: LogNote) {
        self.sinks.send_replace(note);
    }

    /// Whether every batch below `durable`, the log's end, is in the store.
    pub(crate) fn is_empty(&self, durable: Seq) -> bool {
        *self.empty.borrow() == Some(durable)
    }

    /// Waits until every batch below `durable` is in the store, or the deadline has come.
    pub(crate) async fn wait_empty(&self, durable: Seq, deadline: Instant) {
        let mut empty = self.empty.clone();
        let _ = tokio::time::timeout_at(deadline, empty.wait_for(|end| *end >= Some(durable))).await;
    }

    /// What the dispatcher last said of itself; nothing before it has begun.
    pub(crate) fn status(&self) -> Option<DispatcherStatus> {
        self.status.borrow().clone()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let _ = self.driver.await;
        let _ = self.saver.await;
    }
}

/// What a group's condition is called in the node's health.
pub(crate) fn condition(group: &GroupId) -> String {
    format!("group {group}")
}

fn placement(note: &LogNote, rack: &str) -> Box<RingPlacement> {
    Box::new(RingPlacement(Ring::new(&note.members(), note.rack_affinity.then_some(rack))))
}

struct RingPlacement(Ring);

impl Placement for RingPlacement {
    fn owner(&self, tag: &str, live: &dyn Fn(&NodeId) -> bool) -> Option<NodeId> {
        self.0.owner(tag, live)
    }
}

struct Driver {
    group: GroupId,
    dispatcher: Dispatcher,
    log: GroupLog,
    repeats: Arc<Repeats>,
    // Who wants to know when the store has a batch.
    awaited: BTreeMap<Seq, Vec<oneshot::Sender<bool>>>,
    sessions: BTreeMap<NodeId, SessionHandle>,
    at_hand: HashMap<Seq, InHand>,
    hand: Hand,
    /// Nothing was let go for a while though there is no room: a sink stands still, and the others must not wait for it.
    stalled: bool,
    released: u64,
    reader: Option<Box<Reader>>,
    durable: watch::Receiver<Seq>,
    jobs: mpsc::UnboundedSender<JournalJob>,
    trim: bool,
    offered: Seq,
    inbox: mpsc::Sender<Input>,
    reported: (u64, u64),
    rack: String,
    dialer: Arc<Dialer>,
    dials: BTreeMap<NodeId, Dial>,
    stop: CancellationToken,
    journal_full: bool,
}

/// An attempt without end to be connected to one sink.
struct Dial {
    address: String,
    stop: CancellationToken,
}

async fn drive(
    parts: ShipperParts,
    (inbox, mut inputs): (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    mut adopted: watch::Receiver<LogNote>,
    stop: CancellationToken,
    empty: watch::Sender<Option<Seq>>,
    status: watch::Sender<Option<DispatcherStatus>>,
) {
    let ShipperParts {
        edge,
        rack,
        group,
        note,
        log,
        journal,
        recovered,
        repeats,
        recall_for,
        dialer,
        health,
        failure,
    } = parts;
    let began = Instant::now();
    let log_id = LogId { edge, group: group.clone(), incarnation: log.incarnation() };
    let sinks = note.sinks.iter().map(|sink| sink.name.clone());
    let placement = placement(&note, &rack);
    let (jobs, queue) = mpsc::unbounded_channel();
    let first = log.depth().first;
    let mut driver = Driver {
        group: group.clone(),
        dispatcher: Dispatcher::new(
            DispatcherConfig { recall_for, ..DispatcherConfig::default() },
            log_id,
            sinks,
            placement,
            recovered,
            Duration::ZERO,
        ),
        reader: Some(Box::new(log.reader(first))),
        durable: log.durable(),
        log,
        repeats,
        awaited: BTreeMap::new(),
        sessions: BTreeMap::new(),
        at_hand: HashMap::new(),
        hand: Hand::default(),
        stalled: false,
        released: 0,
        jobs,
        trim: false,
        offered: first,
        inbox: inbox.clone(),
        reported: (0, 0),
        rack,
        dialer,
        dials: BTreeMap::new(),
        stop: stop.clone(),
        journal_full: false,
    };
    let log = driver.log.clone();
    let poisoned = log.poisoned();
    tokio::pin!(poisoned);
    let journal_bytes = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let journaling = tokio::spawn(keep_journal(journal, queue, inbox.clone(), journal_bytes.clone()));
    let condition = condition(&group);
    health.set_condition(&condition, Ok(()));

    // No session before the journal has this start: epochs never go back.
    driver.work();
    if !driver.has_begun(&mut inputs).await {
        health.set_condition(&condition, Err("its journal cannot be written".to_owned()));
        failure.raise(format!("the journal of group {group} cannot be written"));
        return;
    }
    driver.dial(&note);
    let hand = driver.hand.clone();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0_u64;
    loop {
        tokio::select! {
            input = inputs.recv() => match input {
                Some(Input::JournalFailed) => {
                    health.set_condition(&condition, Err("its journal cannot be written; see the log".to_owned()));
                    failure.raise(format!("the journal of group {group} cannot be written"));
                    break;
                }
                Some(input) => driver.take(input),
                None => break,
            },
            () = &mut poisoned => {
                health.set_condition(&condition, Err("its log cannot be written; see the log".to_owned()));
                failure.raise(format!("the disk refused a sync of the log of group {group}"));
                break;
            }
            _ = driver.durable.changed() => {}
            () = hand.room() => {}
            Ok(()) = adopted.changed() => {
                let note = adopted.borrow_and_update().clone();
                driver.adopt(&note);
            }
            _ = tick.tick() => {
                driver.dispatcher.tick(began.elapsed());
                driver.trim();
                driver.look_at_hand();
                ticks += 1;
                if ticks.is_multiple_of(10) {
                    driver.awaited.retain(|_, answers| {
                        answers.retain(|answer| !answer.is_closed());
                        !answers.is_empty()
                    });
                    status.send_replace(Some(driver.report()));
                }
                if journal_bytes.load(std::sync::atomic::Ordering::Relaxed) > JOURNAL_BYTES_MAX {
                    journal_bytes.store(0, std::sync::atomic::Ordering::Relaxed);
                    driver.rewrite_journal();
                }
            }
            () = stop.cancelled() => break,
        }
        driver.work();
        let durable = *driver.durable.borrow_and_update();
        let end = (driver.offered >= durable && driver.dispatcher.is_idle()).then_some(durable);
        empty.send_if_modified(|empty| std::mem::replace(empty, end) != end);
    }
    driver.trim();
    driver.sessions.clear();
    drop(driver);
    let _ = journaling.await;
}

impl Driver {
    // Waits until the journal has this start; says whether it does. What comes meanwhile is taken like anything else:
    // the log's first records may be read before the journal is synced.
    async fn has_begun(&mut self, inputs: &mut mpsc::Receiver<Input>) -> bool {
        loop {
            match inputs.recv().await {
                Some(Input::JournalFailed) | None => return false,
                Some(input) => {
                    let begun = matches!(input, Input::Journaled(_));
                    self.take(input);
                    if begun {
                        return true;
                    }
                }
            }
        }
    }

    /// Goes on with other sinks.
    fn adopt(&mut self, note: &LogNote) {
        info!(group = %self.group, sinks = note.sinks.len(), "the group's sinks have changed");
        let sinks = note.sinks.iter().map(|sink| sink.name.clone());
        self.dispatcher.adopt(sinks, placement(note, &self.rack));
        self.dial(note);
    }

    /// Sees to it that each sink is connected to, at its address.
    fn dial(&mut self, note: &LogNote) {
        for sink in &note.sinks {
            if let Some(dial) = self.dials.get(&sink.name) {
                if dial.address == sink.address {
                    continue;
                }
                self.hang_up(&sink.name);
            }
            let stop = self.stop.child_token();
            tokio::spawn(keep_connected(
                self.dialer.clone(),
                sink.name.clone(),
                sink.address.clone(),
                self.inbox.clone(),
                stop.clone(),
            ));
            self.dials.insert(sink.name.clone(), Dial { address: sink.address.clone(), stop });
        }
    }

    /// Ends the session with a sink, and the attempts to be connected to it.
    fn hang_up(&mut self, sink: &NodeId) {
        self.dispatcher.disconnected(sink, None);
        if let Some(dial) = self.dials.remove(sink) {
            dial.stop.cancel();
        }
        self.sessions.remove(sink);
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Connected { sink, connection, welcomed } => {
                if let Some((session, hello)) = self.dispatcher.greet(&sink) {
                    let handle = session::begin(
                        connection,
                        sink.clone(),
                        session,
                        hello,
                        self.log.clone(),
                        self.inbox.clone(),
                        welcomed,
                    );
                    self.sessions.insert(sink, handle);
                }
            }
            Input::Disconnected { sink, session } => {
                self.dispatcher.disconnected(&sink, Some(session));
                if self.sessions.get(&sink).is_some_and(|handle| handle.epoch == session)
                    && self.sessions.remove(&sink).is_some_and(|handle| handle.is_welcomed())
                {
                    warn!(group = %self.group, %sink, "lost the connection to the sink; its unpromised batches go elsewhere");
                }
            }
            Input::Message { sink, session, message } => {
                if matches!(message, ToEdge::Welcome { .. })
                    && let Some(handle) = self.sessions.get(&sink).filter(|handle| handle.epoch == session)
                {
                    handle.welcome();
                    info!(group = %self.group, %sink, address = %handle.address(), "connected to sink");
                }
                self.dispatcher.handle(&sink, session, message);
            }
            Input::Read(ReadOn { records, damaged, position, reader }) => {
                self.damaged(&damaged);
                for (stored, room) in records {
                    self.offer(stored, room);
                }
                self.offered = position;
                if reader.is_some() {
                    self.reader = reader;
                }
            }
            Input::Damaged(gone) => self.damaged(&gone),
            Input::Journaled(records) => {
                self.journal_full = false;
                self.dispatcher.journaled(records);
            }
            Input::JournalFull => {
                if !std::mem::replace(&mut self.journal_full, true) {
                    warn!(group = %self.group, "the disk is full: promises to sinks wait until there is room");
                }
                self.rewrite_journal();
            }
            Input::JournalFailed => {}
            Input::MakeRoom { bytes, answer } => self.make_room(bytes, answer),
            Input::AwaitCommit { seq, answer } => {
                self.awaited.entry(seq).or_default().push(answer);
                self.tell_awaited();
            }
        }
    }

    // Gives up the oldest whole segments, as many as it takes, but for batches that are promised to a part.
    fn make_room(&mut self, bytes: u64, answer: oneshot::Sender<()>) {
        let mut left = bytes;
        let mut dropped = SeqRanges::new();
        for (range, size) in self.log.finished() {
            if left == 0 {
                break;
            }
            let mut whole = SeqRanges::new();
            whole.insert_range(range.clone());
            dropped.insert_all(&self.dispatcher.drop_batches(&whole));
            if self.dispatcher.done().covers(range) {
                left = left.saturating_sub(size);
            }
        }
        if !dropped.is_empty() {
            let labels = [self.group.as_str(), "drop_oldest"];
            names::LOG_DROPPED_BATCHES_TOTAL.with(labels).increment(dropped.len());
            self.repeats.drop_batches(&dropped);
        }
        self.log.trim_and_tell(self.repeats.trimmable(self.dispatcher.done()), answer);
    }

    fn tell_awaited(&mut self) {
        let (done, dropped) = (self.dispatcher.done(), self.dispatcher.dropped());
        let settled = self.awaited.extract_if(.., |seq, _| done.contains(*seq));
        for (seq, answers) in settled {
            for answer in answers {
                let _ = answer.send(!dropped.contains(seq));
            }
        }
    }

    fn offer(&mut self, stored: Stored, room: Option<Room>) {
        match BatchHeader::decode(&stored.header) {
            Ok(header) => {
                let bytes = stored.payload.len() as u64;
                let chunks = self.repeats.note(stored.seq, &header);
                self.dispatcher.offer(stored.seq, header.tag, bytes, &chunks);
                if let Some(room) = room {
                    self.at_hand.insert(stored.seq, InHand::new(stored, room));
                }
            }
            Err(error) => {
                error!(group = %self.group, seq = %stored.seq, %error, "a batch of the log cannot be read; it is set aside");
                self.damaged(&std::iter::once(stored.seq).collect());
            }
        }
    }

    fn damaged(&mut self, gone: &SeqRanges) {
        let mut gone = gone.clone();
        // A batch that was dropped while it waited for its lane is no damage.
        gone.remove_all(self.dispatcher.done());
        if !gone.is_empty() {
            names::LOG_DAMAGED_TOTAL.with([self.group.as_str()]).increment(gone.len());
            self.dispatcher.forget(&gone);
        }
    }

    // Does all that the dispatcher asks for, then reads on if it wants more.
    fn work(&mut self) {
        while let Some(output) = self.dispatcher.poll_output() {
            match output {
                DispatcherOutput::Send { sink, session, seq, tag, done, recall } => {
                    let stored = self.at_hand.remove(&seq);
                    if let Some(handle) = self.sessions.get(&sink).filter(|h| h.epoch == session) {
                        handle.send(&tag, Outgoing { seq, done, recall, stored });
                    }
                }
                DispatcherOutput::Recall { sink, session, part, chunks, half_done } => {
                    let (chunks, half_done) = (self.repeats.find(&chunks), self.repeats.find(&half_done));
                    self.dispatcher.recalled(&sink, session, part, &chunks, &half_done);
                }
                DispatcherOutput::Control { sink, session, message } => {
                    if let Some(handle) = self.sessions.get(&sink).filter(|h| h.epoch == session) {
                        handle.control(message);
                    }
                }
                DispatcherOutput::Journal(record) => {
                    let _ = self.jobs.send(JournalJob::Append(record.encode()));
                }
                DispatcherOutput::Trim => {
                    self.trim = true;
                    self.tell_awaited();
                }
                // The connection goes with its session, and another is made.
                DispatcherOutput::HangUp { sink } => drop(self.sessions.remove(&sink)),
                DispatcherOutput::Gone { sink } => {
                    info!(group = %self.group, %sink, "the sink has left the group and has nothing of ours any more");
                    self.hang_up(&sink);
                }
            }
        }
        // Without a sink there is nobody to whom the rest could go instead: what is read would be thrown away.
        if self.dispatcher.wants_more()
            && (self.hand.has_room() || self.stalled && !self.sessions.is_empty())
            && *self.durable.borrow_and_update() > self.offered
            && let Some(reader) = self.reader.take()
        {
            let (hand, durable) = (self.hand.clone(), self.durable.clone());
            let (inbox, group) = (self.inbox.clone(), self.group.clone());
            tokio::task::spawn_blocking(move || read_on(reader, &hand, &durable, &inbox, &group));
        }
    }

    fn look_at_hand(&mut self) {
        let released = std::mem::replace(&mut self.released, self.hand.released());
        self.stalled = released == self.released && !self.hand.has_room();
    }

    fn trim(&mut self) {
        if self.trim {
            let done = self.dispatcher.done();
            let trimmable = self.repeats.trimmable(done);
            // What must wait for its chunks to be written down is trimmed next time.
            self.trim = trimmable != *done;
            self.log.trim(trimmable);
        }
    }

    fn rewrite_journal(&self) {
        let snapshot = self.dispatcher.snapshot().iter().map(JournalRecord::encode).collect();
        let _ = self.jobs.send(JournalJob::Rewrite(snapshot));
    }

    fn report(&mut self) -> DispatcherStatus {
        let group = self.group.as_str();
        let depth = self.log.depth();
        names::LOG_BYTES.with([group]).set(depth.bytes as f64);
        // Room is given back in whole segments, so the log may still hold what the store has long had.
        let is_done = self.offered >= *self.durable.borrow() && self.dispatcher.is_idle();
        names::LOG_BATCHES.with([group]).set(if is_done { 0.0 } else { depth.records as f64 });
        let oldest = depth.oldest_ns.filter(|_| !is_done).map_or(0.0, |since| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH + Duration::from_nanos(since))
                .map_or(0.0, |age| age.as_secs_f64())
        });
        names::LOG_OLDEST_SECONDS.with([group]).set(oldest);
        let status = self.dispatcher.status();
        names::DISPATCH_EPOCH.with([group]).set(status.epoch.0 as f64);
        names::DISPATCH_PENDING_BATCHES.with([group]).set(status.waiting as f64);
        names::DISPATCH_PROMISED_PARTS.with([group]).set(status.promised_parts as f64);
        let (committed, failovers) = self.reported;
        names::DISPATCH_COMMITTED_BATCHES_TOTAL.with([group]).increment(status.committed - committed);
        names::DISPATCH_FAILOVERS_TOTAL.with([group]).increment(status.failovers - failovers);
        self.reported = (status.committed, status.failovers);
        for sink in &status.sinks {
            let labels = [group, sink.sink.as_str()];
            names::DISPATCH_INFLIGHT_BYTES.with(labels).set(sink.in_flight_bytes as f64);
            names::DISPATCH_CREDIT_BYTES.with(labels).set(sink.credit_bytes as f64);
        }
        status
    }
}

/// Reads the log as far as it is durable and memory has room, once in any case. Blocks on the disk.
fn read_on(
    mut reader: Box<Reader>,
    hand: &Hand,
    durable: &watch::Receiver<Seq>,
    inbox: &mpsc::Sender<Input>,
    group: &GroupId,
) {
    let mut turn = 0;
    loop {
        turn += 1;
        let read = reader.read(READ_BYTES);
        let failed = read.is_err();
        let records = read.unwrap_or_else(|error| {
            error!(%group, %error, "the log cannot be read; trying again");
            std::thread::sleep(Duration::from_millis(500));
            Vec::new()
        });
        let records = records.into_iter().map(|stored| {
            let room = hand.take(&stored);
            (stored, room)
        });
        let (records, damaged, position) = (records.collect(), reader.take_damaged(), reader.position());
        if failed || turn >= READS || !hand.has_room() || position >= *durable.borrow() {
            let _ =
                inbox.blocking_send(Input::Read(ReadOn { records, damaged, position, reader: Some(reader) }));
            return;
        }
        let read = ReadOn { records, damaged, position, reader: None };
        if inbox.blocking_send(Input::Read(read)).is_err() {
            return;
        }
    }
}

/// Connects to a sink, and again whenever the connection is gone.
async fn keep_connected(
    dialer: Arc<Dialer>,
    sink: NodeId,
    address: String,
    inbox: mpsc::Sender<Input>,
    stop: CancellationToken,
) {
    // In a row: it was not reached; it was, but did not take the session up.
    let (mut failures, mut refusals) = (0_u32, 0_u32);
    loop {
        let dialled = tokio::select! {
            dialled = dialer.dial(&address, &sink) => dialled,
            () = stop.cancelled() => return,
        };
        match dialled {
            Ok(connection) => {
                failures = 0;
                let welcomed = Arc::new(AtomicBool::new(false));
                let connected = Input::Connected {
                    sink: sink.clone(),
                    connection: connection.clone(),
                    welcomed: welcomed.clone(),
                };
                if inbox.send(connected).await.is_err() {
                    return;
                }
                let reason = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    reason = connection.closed() => reason,
                };
                if welcomed.load(Ordering::Relaxed) {
                    refusals = 0;
                } else {
                    if refusals.is_multiple_of(FAILURES_A_LINE) {
                        warn!(%sink, %address, %reason, "the sink does not take the session up; trying again");
                    }
                    refusals = refusals.saturating_add(1);
                }
            }
            Err(error) => {
                if failures.is_multiple_of(FAILURES_A_LINE) {
                    warn!(%sink, %address, error = &error as &dyn std::error::Error, "cannot reach the sink; trying again");
                }
                failures = failures.saturating_add(1);
                refusals = 0;
            }
        }
        let doublings = refusals.min(DOUBLINGS_MAX);
        let pause = rand::random_range(RETRY.start << doublings..RETRY.end << doublings);
        let pause = Duration::from_millis(pause);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}
