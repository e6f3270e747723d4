//! Sender connections: bytes to batches, batches to logs, acknowledgements back once the disks have them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use weir_forward::{Batch, Event, Limits, Session, Skips};
use weir_routing::RouteCache;
use weir_spool::AppendError;
use weir_telemetry::{TagCounter, TagTable, names};
use weir_topology::Overflow;

use crate::plan::{Plan, Target};

/// Bytes read from a socket at once.
const READ_BYTES: usize = 128 << 10;
/// Bytes of one connection that may be on their way to the disk; at this bound it is not read.
const UNSYNCED_BYTES_MAX: usize = 16 << 20;
/// Acknowledgements that a sender does not read; beyond it they are dropped and counted (R45).
const ACK_BYTES_MAX: usize = 256 << 10;
/// A batch that cannot be stored for so long ends its connection: never acknowledge late (R42).
const ACK_DEADLINE: Duration = Duration::from_secs(60);
/// How long a closing connection is read and discarded, so that a reset does not destroy due acknowledgements (R60).
const LINGER: Duration = Duration::from_secs(1);
/// Bound of each connection's caches of routes and tag counters.
const TAG_CACHE: usize = 256;

/// What all connections share.
pub(crate) struct Intake {
    plan: Arc<ArcSwap<Plan>>,
    tags: TagTable,
}

impl Intake {
    pub(crate) fn new(plan: Arc<ArcSwap<Plan>>, tags: TagTable) -> Self {
        Self { plan, tags }
    }
}

/// Accepts senders until told to stop.
pub(crate) async fn accept(
    intake: Arc<Intake>,
    listener: TcpListener,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                let connection = serve(intake.clone(), socket, peer, stop.clone());
                tasks.spawn(connection);
            }
            Err(error) => {
                // Out of file descriptors, mostly: those that are open go on, and new ones wait a moment.
                warn!(%error, "cannot accept a sender; raise the limit of open files if this goes on");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(intake: Arc<Intake>, socket: TcpStream, peer: SocketAddr, stop: CancellationToken) {
    names::FORWARD_CONNECTIONS_TOTAL.with([]).increment(1);
    let open = names::FORWARD_CONNECTIONS.with([]);
    open.increment(1.0);
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let (read, write) = socket.into_split();
    let (acks, queue) = mpsc::unbounded_channel();
    let queued = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn(write_acks(write, queue, queued.clone()));
    let connection = Connection {
        intake,
        peer,
        session: Session::new(Limits::default()),
        routes: RouteCache::new(TAG_CACHE),
        tags: HashMap::new(),
        pending: FuturesOrdered::new(),
        unsynced: 0,
        acks,
        queued,
    };
    connection.run(read, writer, stop).await;
    open.decrement(1.0);
}

/// Writes acknowledgements, whole ones and in order; ends when the connection drops its end of the queue.
async fn write_acks(
    mut socket: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    queued: Arc<AtomicUsize>,
) {
    while let Some(ack) = queue.recv().await {
        queued.fetch_sub(ack.len(), Ordering::Relaxed);
        if socket.write_all(&ack).await.is_err() {
            return;
        }
    }
    let _ = socket.shutdown().await;
}

/// What became of one batch.
struct Stored {
    bytes: usize,
    ack: Bytes,
    outcome: Result<(), AppendError>,
}

type Pending = Pin<Box<dyn Future<Output = Stored> + Send>>;

struct Connection {
    intake: Arc<Intake>,
    peer: SocketAddr,
    session: Session,
    routes: RouteCache,
    tags: HashMap<Arc<str>, TagCounter>,
    pending: FuturesOrdered<Pending>,
    unsynced: usize,
    acks: mpsc::UnboundedSender<Bytes>,
    queued: Arc<AtomicUsize>,
}

/// Why a connection is not read any more.
enum End {
    /// The sender closed, or its connection broke.
    Eof,
    /// We close.
    Ours,
}

impl Connection {
    async fn run(
        mut self,
        mut read: OwnedReadHalf,
        writer: tokio::task::JoinHandle<()>,
        stop: CancellationToken,
    ) {
        let end = self.receive(&mut read, &stop).await;
        if let (End::Eof, Some(bytes)) = (&end, self.session.finish()) {
            names::FORWARD_VIOLATIONS_TOTAL.with(["truncated"]).increment(1);
            warn!(peer = %self.peer, bytes, reason = "truncated", "the sender's connection ended within a message");
        }
        // Whatever was complete is stored and acknowledged before we go.
        while let Some(stored) = self.pending.next().await {
            if !self.settle(stored) {
                break;
            }
        }
        drop(self);
        let _ = writer.await;
        if matches!(end, End::Ours) {
            let _ = tokio::time::timeout(LINGER, discard(&mut read)).await;
        }
    }

    async fn receive(&mut self, read: &mut OwnedReadHalf, stop: &CancellationToken) -> End {
        loop {
            loop {
                match self.session.next(now_ns()) {
                    Ok(Some(event)) => self.take(event).await,
                    Ok(None) => break,
                    Err(violation) => {
                        let reason = violation.fault.label();
                        names::FORWARD_VIOLATIONS_TOTAL.with([reason]).increment(1);
                        warn!(peer = %self.peer, reason, "connection closed: the sender broke the protocol");
                        return End::Ours;
                    }
                }
                while self.unsynced >= UNSYNCED_BYTES_MAX {
                    let Some(stored) = self.pending.next().await else { break };
                    if !self.settle(stored) {
                        return End::Ours;
                    }
                }
            }
            let buffer = self.session.buffer();
            buffer.reserve(READ_BYTES);
            tokio::select! {
                biased;
                Some(stored) = self.pending.next(), if !self.pending.is_empty() => {
                    if !self.settle(stored) {
                        return End::Ours;
                    }
                }
                got = read.read_buf(self.session.buffer()) => match got {
                    Ok(0) | Err(_) => return End::Eof,
                    Ok(_) => {}
                },
                () = stop.cancelled() => return End::Ours,
            }
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Batch(batch) => self.store(batch).await,
            Event::Ack { ack, skipped } => {
                count(&skipped);
                // Behind the batches that came before it: acknowledgements leave in order.
                self.pending.push_back(Box::pin(async move { Stored { bytes: 0, ack, outcome: Ok(()) } }));
            }
            Event::Skipped(skipped) => count(&skipped),
        }
    }

    async fn store(&mut self, batch: Batch) {
        count(&batch.skipped);
        let Batch { header, payload, acks: ack, .. } = batch;
        let (events, bytes) = (header.events(), payload.len());
        let plan = self.intake.plan.load_full();
        let targets = match self.routes.route(&plan.router, &header.tag) {
            Some(index) => plan.targets(index).to_vec(),
            None => {
                names::EDGE_UNROUTED_EVENTS_TOTAL.with([]).increment(events);
                Vec::new()
            }
        };
        self.tag_counter(&header.tag).add(events, header.unpacked_bytes);
        let encoded = Bytes::from(header.encode());
        for target in &targets {
            target.events.increment(events);
            target.bytes.increment(bytes as u64);
        }
        self.unsynced += bytes;
        let mut future: Pending = Box::pin(async move {
            let appends = targets.iter().map(|target| append(target, encoded.clone(), payload.clone()));
            let outcome = join_all(appends).await.into_iter().collect();
            Stored { bytes, ack, outcome }
        });
        // Polled once here, so that batches enter the logs in the order in which they came.
        if let std::task::Poll::Ready(stored) = futures_util::poll!(&mut future) {
            future = Box::pin(std::future::ready(stored));
        }
        self.pending.push_back(future);
    }

    fn tag_counter(&mut self, tag: &Arc<str>) -> &TagCounter {
        if self.tags.len() >= TAG_CACHE && !self.tags.contains_key(tag) {
            self.tags.clear();
        }
        self.tags.entry(tag.clone()).or_insert_with(|| self.intake.tags.counter(tag))
    }

    // Says whether the connection may go on.
    fn settle(&mut self, stored: Stored) -> bool {
        self.unsynced -= stored.bytes;
        match stored.outcome {
            Ok(()) => {
                if stored.ack.is_empty() {
                    return true;
                }
                names::FORWARD_ACKS_TOTAL.with([]).increment(1);
                if self.queued.fetch_add(stored.ack.len(), Ordering::Relaxed) > ACK_BYTES_MAX {
                    self.queued.fetch_sub(stored.ack.len(), Ordering::Relaxed);
                    return true; // the sender does not read them; what it sent is kept all the same
                }
                let _ = self.acks.send(stored.ack);
                true
            }
            Err(error) => {
                warn!(peer = %self.peer, %error, "connection closed without acknowledging: a batch could not be stored");
                names::FORWARD_VIOLATIONS_TOTAL.with(["not_stored"]).increment(1);
                false
            }
        }
    }
}

async fn append(target: &Target, header: Bytes, payload: Bytes) -> Result<(), AppendError> {
    let group = target.group.as_str();
    let began = tokio::time::Instant::now();
    loop {
        match target.log.append(header.clone(), payload.clone()).await {
            Ok(_) => return Ok(()),
            Err(full @ (AppendError::Full { .. } | AppendError::DiskFull)) => match target.overflow {
                Overflow::DropNewest => {
                    names::LOG_FULL_TOTAL.with([group, "drop_newest"]).increment(1);
                    return Ok(());
                }
                _ if began.elapsed() > ACK_DEADLINE => return Err(full),
                _ => {
                    names::LOG_FULL_TOTAL.with([group, "block"]).increment(1);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Err(error) => return Err(error),
        }
    }
}

fn count(skipped: &Skips) {
    for (reason, times) in skipped.iter() {
        names::FORWARD_SKIPPED_TOTAL.with([reason.label()]).increment(u64::from(times));
    }
}

async fn discard(read: &mut OwnedReadHalf) {
    let mut buffer = vec![0; 16 << 10];
    let mut total = 0;
    while let Ok(got) = read.read(&mut buffer).await {
        total += got;
        if got == 0 || total >= 64 << 10 {
            return;
        }
    }
}

fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}
