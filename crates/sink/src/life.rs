//! One life of a sink: drives its [`Collector`] between the edges and the store, until it is told to stop, has another
//! duty, or was fenced by another member of the group.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use weir_link::Connection;
use weir_model::{BatchHeader, BatchId, ChunkIdentity, Epoch, GroupId, Incarnation, LogId, NodeId, PartId};
use weir_shape::transform::Transform;
use weir_shape::{UNPACKED_BYTES_MAX, keep_chunks};
use weir_store::{Backend, Committed, Outcome, Part, PartBatch, Partition, Store, StoreError, Token};
use weir_telemetry::{TagTable, names};
use weir_transit::{Arrival, Collector, CollectorConfig, CollectorOutput, Resolution, StageKey, ToSink};

use crate::lives::Duty;
use crate::peer::{self, Arrived, Peer};
use crate::stage::Stage;
use crate::transforming::{Shed, Transforming};

/// How often time passes for the collector.
const TICK: Duration = Duration::from_millis(20);
/// Waits between attempts at a store that fails: doubled up to the end, with jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How long a stopping sink waits for its store. What is not committed by then, the edges give to others.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// What the driver hears of.
pub(crate) enum Input {
    Hello { log: Arc<LogId>, peer: Peer },
    Disconnected { log: Arc<LogId>, session: Epoch },
    Message { log: Arc<LogId>, message: ToSink },
    Batch { log: Arc<LogId>, session: Epoch, arrived: Arrived },
}

/// What a task at the store reports.
enum Done {
    /// `batches` as they came; `filtered` events of them were dropped by transforms.
    Committed {
        part: PartId,
        stored: Committed,
        filtered: u64,
        took: Duration,
        batches: Vec<PartBatch>,
    },
    Resolved {
        log: Arc<LogId>,
        part: PartId,
        resolution: Resolution,
    },
    Fenced,
}

/// Why a life ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In good order: to stop, or to begin anew with another duty.
    Stopped,
    Fenced,
}

/// What a life is made of.
pub(crate) struct LifeParts<'a> {
    pub(crate) sink: &'a NodeId,
    pub(crate) group: &'a GroupId,
    pub(crate) transforms: Arc<[Transform]>,
    pub(crate) config: CollectorConfig,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) incarnation: Incarnation,
    pub(crate) stage: &'a Stage,
    pub(crate) tags: &'a TagTable,
    pub(crate) connections: &'a mut mpsc::Receiver<Connection>,
    pub(crate) duty: &'a mut watch::Receiver<Duty>,
    pub(crate) stop: &'a CancellationToken,
}

/// A batch that no store has yet.
struct Held {
    // Without chunks in its header: the collector has their fingerprints, and with single events there are many.
    batch: PartBatch,
    // How many entries each of its chunks has.
    chunk_entries: Box<[u64]>,
}

struct Driver {
    group: GroupId,
    transforms: Arc<[Transform]>,
    collector: Collector,
    backend: Arc<dyn Backend>,
    store: Arc<dyn Store>,
    peers: BTreeMap<Arc<LogId>, Peer>,
    staged: HashMap<StageKey, Held>,
    work: JoinSet<Done>,
    // As last reported.
    repeated: u64,
}

/// Lives one life to its end.
pub(crate) async fn live(parts: LifeParts<'_>) -> End {
    let LifeParts {
        sink,
        group,
        transforms,
        config,
        backend,
        store,
        incarnation,
        stage,
        tags,
        connections,
        duty,
        stop,
    } = parts;
    let began = Instant::now();
    let namer = store.clone();
    let token = move |id: &PartId, partitions: &[Partition]| namer.token(id, partitions).0;
    let mut driver = Driver {
        group: group.clone(),
        transforms,
        collector: Collector::new(config, sink.clone(), incarnation, Box::new(token)),
        backend,
        store,
        peers: BTreeMap::new(),
        staged: HashMap::new(),
        work: JoinSet::new(),
        repeated: 0,
    };
    let (inbox, mut inputs) = mpsc::channel(256);
    let mut edges = JoinSet::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0_u64;
    let mut drain_until: Option<Instant> = None;
    let end = loop {
        tokio::select! {
            Some(connection) = connections.recv() => {
                edges.spawn(peer::serve(connection, group.clone(), stage.clone(), inbox.clone()));
            }
            Some(input) = inputs.recv() => driver.take(input, began.elapsed()),
            Some(done) = driver.work.join_next() => match done {
                Ok(Done::Fenced) => break End::Fenced,
                Ok(done) => driver.done(done, tags),
                Err(error) => {
                    // A panic in a store's library: this life's parts may hang in the air, so it ends; the edges resolve them.
                    error!(%error, "a task at the store died; a new life begins");
                    break End::Fenced;
                }
            },
            Some(_) = edges.join_next() => {}
            _ = tick.tick() => {
                driver.collector.tick(began.elapsed());
                ticks += 1;
                if ticks.is_multiple_of(25) {
                    driver.report(stage);
                }
                if drain_until.is_some_and(|until| driver.collector.is_idle() || Instant::now() > until) {
                    break End::Stopped;
                }
            }
            () = ended(duty, stop), if drain_until.is_none() => {
                info!("draining: edges move on, what is staged is committed");
                driver.collector.drain();
                drain_until = Some(Instant::now() + DRAIN_MAX);
            }
        }
        driver.act(stage);
    };
    driver.act(stage);
    if end == End::Stopped {
        // The last words must reach the edges before their connections go.
        tokio::time::sleep(Duration::from_millis(100)).await;
        driver.store.end().await;
    }
    driver.work.shutdown().await;
    end
}

/// Returns when the life has to end in good order.
async fn ended(duty: &mut watch::Receiver<Duty>, stop: &CancellationToken) {
    tokio::select! {
        _ = duty.changed() => {}
        () = stop.cancelled() => {}
    }
}

impl Driver {
    fn take(&mut self, input: Input, now: Duration) {
        match input {
            Input::Hello { log, peer } => {
                if self.collector.hello(&log, peer.session) {
                    info!(edge = %log.edge, "edge connected");
                    self.peers.insert(log, peer);
                }
            }
            Input::Disconnected { log, session } => {
                self.collector.disconnected(&log, session);
                if self.peers.get(&log).is_some_and(|peer| peer.session == session) {
                    self.peers.remove(&log);
                    info!(edge = %log.edge, "edge disconnected");
                }
            }
            Input::Message { log, message } => match message {
                ToSink::Hello { .. } => warn!(edge = %log.edge, "a second hello in one session; ignored"),
                ToSink::Promise { part } => self.collector.promised(&log, &part),
                ToSink::Refuse { part, gone } => self.collector.refused(&log, &part, &gone),
                ToSink::Resolve { part, token } => self.collector.resolve(&log, part, token),
                ToSink::Recalled { part, stored, elsewhere } => {
                    self.collector.recalled(&log, &part, &stored, &elsewhere);
                }
            },
            Input::Batch { log, session, arrived } => self.stage(&log, session, arrived, now),
        }
    }

    fn stage(&mut self, log: &Arc<LogId>, session: Epoch, arrived: Arrived, now: Duration) {
        let Arrived { head, mut header, bytes, payload } = arrived;
        names::SINK_BATCHES_TOTAL.with([]).increment(1);
        names::SINK_EVENTS_TOTAL.with([]).increment(header.events());
        let mut partitions = self.backend.partitions(&header);
        partitions.retain(|partition| !head.done.contains(partition));
        let arrival = Arrival {
            seq: head.seq,
            bytes,
            partitions,
            chunks: header.fingerprints(),
            half_done: !head.done.is_empty(),
            recall: head.recall,
        };
        let Some(key) = self.collector.batch(log, session, arrival, now) else { return };
        let id = BatchId { log: log.clone(), seq: head.seq };
        let chunk_entries = take_chunk_entries(&mut header);
        let batch = PartBatch { id, header: Arc::new(header), done: head.done, payload };
        self.staged.insert(key, Held { batch, chunk_entries });
    }

    fn done(&mut self, done: Done, tags: &TagTable) {
        match done {
            Done::Committed { part, stored, filtered, took, batches } => {
                names::PARTS_TOTAL.with(["committed"]).increment(1);
                names::STORE_EVENTS_TOTAL.with([]).increment(stored.events);
                names::STORE_BYTES_TOTAL.with([]).increment(stored.bytes);
                names::STORE_DEAD_LETTERS_TOTAL.with([]).increment(stored.dead_letters);
                if filtered > 0 {
                    names::STORE_FILTERED_EVENTS_TOTAL.with([self.group.as_str()]).increment(filtered);
                }
                names::STORE_COMMIT_SECONDS.with([]).record(took.as_secs_f64());
                for batch in &batches {
                    tags.counter(&batch.header.tag).add(batch.header.events(), batch.header.unpacked_bytes);
                }
                self.collector.committed(&part);
            }
            Done::Resolved { log, part, resolution } => {
                let outcome = match &resolution {
                    Resolution::Committed => "resolved_committed",
                    Resolution::Void => "resolved_void",
                    Resolution::Partial(_) => "resolved_partial",
                    Resolution::NotHere => "resolved_not_here",
                };
                names::PARTS_TOTAL.with([outcome]).increment(1);
                info!(%part, edge = %log.edge, outcome, "a part in doubt was settled");
                self.collector.resolved(&log, part, resolution);
            }
            Done::Fenced => {}
        }
    }

    // Does all that the collector asks for.
    fn act(&mut self, stage: &Stage) {
        while let Some(output) = self.collector.poll_output() {
            match output {
                CollectorOutput::Control { log, session, message } => {
                    if let Some(peer) = self.peers.get(&log).filter(|peer| peer.session == session) {
                        let _ = peer.control.send(message);
                    }
                }
                CollectorOutput::Commit { part, keys, partitions } => {
                    let batches =
                        keys.iter().filter_map(|key| Some(self.staged.get(key)?.batch.clone())).collect();
                    let part = Part { id: part, partitions, batches };
                    let transforming = (!self.transforms.is_empty()).then(|| Transforming {
                        steps: self.transforms.clone(),
                        backend: self.backend.clone(),
                        stage: stage.clone(),
                    });
                    self.work.spawn(commit(self.store.clone(), part, transforming));
                }
                CollectorOutput::Resolve { log, part, token } => {
                    self.work.spawn(resolve(self.store.clone(), log, part, Token(token)));
                }
                CollectorOutput::Cut { key, keep } => self.cut(key, &keep, stage),
                CollectorOutput::Discard(keys) => {
                    for key in keys {
                        self.staged.remove(&key);
                    }
                }
                CollectorOutput::Disconnect { log, session } => {
                    if self.peers.get(&log).is_some_and(|peer| peer.session == session) {
                        warn!(edge = %log.edge, "the edge does not answer; its connection is ended");
                        self.peers.remove(&log);
                    }
                }
            }
        }
    }

    // Takes the chunks out that the store has by another edge.
    fn cut(&mut self, key: StageKey, keep: &[bool], stage: &Stage) {
        let Some(Held { batch, chunk_entries }) = self.staged.get_mut(&key) else { return };
        let unnamed = |&entries| ChunkIdentity { id: Bytes::new(), payload_hash: 0, entries };
        let chunks = chunk_entries.iter().map(unnamed).collect();
        let header = BatchHeader { chunks, ..BatchHeader::clone(&batch.header) };
        let payload = batch.payload.load().ok();
        match payload.and_then(|payload| keep_chunks(&header, &payload, keep, UNPACKED_BYTES_MAX)) {
            Some((mut header, payload)) => {
                *chunk_entries = take_chunk_entries(&mut header);
                (batch.header, batch.payload) = (Arc::new(header), stage.put(payload, chunk_entries.len()));
            }
            // Rather doubled than lost.
            None => {
                error!(batch = %batch.id, "repeated chunks cannot be cut out of a batch; they are stored again");
            }
        }
    }

    fn report(&mut self, stage: &Stage) {
        let status = self.collector.status();
        names::SINK_EDGES.with([]).set(status.edges as f64);
        names::SINK_COMMITTING_PARTS.with([]).set(status.committing as f64);
        names::SINK_RECENT_CHUNKS.with([]).set(status.recent_chunks as f64);
        names::SINK_REPEATED_BATCHES_TOTAL.with([]).increment(status.repeated - self.repeated);
        self.repeated = status.repeated;
        stage.tidy();
        names::STAGE_MEMORY_BYTES.with([]).set(stage.memory_bytes() as f64);
        names::STAGE_DISK_BYTES.with([]).set(stage.disk_bytes() as f64);
    }
}

/// Empties the header of its chunks.
fn take_chunk_entries(header: &mut BatchHeader) -> Box<[u64]> {
    std::mem::take(&mut header.chunks).iter().map(|chunk| chunk.entries).collect()
}

async fn commit(store: Arc<dyn Store>, part: Part, transforming: Option<Transforming>) -> Done {
    let began = Instant::now();
    let mut backoff = Backoff::default();
    // As they came: transforms may leave some out.
    let batches = part.batches.clone();
    let (part, shed) = match transforming {
        Some(transforming) => transforming.part(part, &mut backoff).await,
        None => (part, Shed::default()),
    };
    loop {
        match store.commit(&part).await {
            Ok(mut stored) => {
                let took = began.elapsed();
                stored.dead_letters += shed.damaged;
                return Done::Committed { part: part.id, stored, filtered: shed.filtered, took, batches };
            }
            Err(StoreError::Fenced) => {
                names::STORE_ERRORS_TOTAL.with(["fenced"]).increment(1);
                warn!(part = %part.id, "another member of the group has fenced this sink; a new life begins");
                return Done::Fenced;
            }
            Err(error) => {
                names::STORE_ERRORS_TOTAL.with(["transient"]).increment(1);
                if backoff.is_worth_a_line() {
                    warn!(part = %part.id, error = &error as &dyn std::error::Error, "the store does not take a part; trying again without end");
                }
                backoff.wait().await;
            }
        }
    }
}

async fn resolve(store: Arc<dyn Store>, log: Arc<LogId>, part: PartId, token: Token) -> Done {
    let mut backoff = Backoff::default();
    loop {
        let resolution = match store.resolve(&part, &token).await {
            Ok(Outcome::Committed) => Resolution::Committed,
            Ok(Outcome::Void) => Resolution::Void,
            Ok(Outcome::Partial(done)) => Resolution::Partial(done),
            Err(StoreError::NotHere { .. }) => Resolution::NotHere,
            Err(error @ StoreError::Token { .. }) => {
                error!(%part, %error, "was the group's store changed while parts were in doubt? Put the old one back to settle them");
                Resolution::NotHere
            }
            Err(StoreError::Fenced) => return Done::Fenced,
            Err(error) => {
                names::STORE_ERRORS_TOTAL.with(["transient"]).increment(1);
                if backoff.is_worth_a_line() {
                    warn!(%part, error = &error as &dyn std::error::Error, "the store cannot settle a part yet; trying again");
                }
                backoff.wait().await;
                continue;
            }
        };
        return Done::Resolved { log, part, resolution };
    }
}

/// Exponential waits with jitter.
#[derive(Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The first failure and then each tenth: a store that is down for hours must not fill the log.
    pub(crate) fn is_worth_a_line(&self) -> bool {
        self.tries.is_multiple_of(10)
    }

    pub(crate) async fn wait(&mut self) {
        let (first, most) = BACKOFF;
        let wait = first.saturating_mul(1 << self.tries.min(10)).min(most);
        self.tries = self.tries.saturating_add(1);
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
    }
}
