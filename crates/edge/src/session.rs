//! One QUIC connection to one sink: control messages both ways, batches over lanes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use weir_link::{Connection, ControlReceiver, ControlSender, LaneSender};
use weir_model::{Epoch, NodeId, Seq, SeqRanges};
use weir_spool::{GroupLog, Stored};
use weir_transit::{BatchHead, Partition, ToEdge, ToSink};

use crate::hand::InHand;
use crate::ship::Input;

/// Streams per connection: one lost packet stalls one of them. A tag always takes the same, so its order holds.
const LANES: u32 = 8;
/// How long a peer may take to answer the first message.
const GREETING_MAX: Duration = Duration::from_secs(5);

/// A batch on its way to a lane. The payload may be at hand still; otherwise it is read from the log again.
pub(crate) struct Outgoing {
    pub(crate) seq: Seq,
    pub(crate) done: Vec<Partition>,
    pub(crate) recall: bool,
    pub(crate) stored: Option<InHand>,
}

/// The driver's end of a session. Dropping it ends the connection.
pub(crate) struct SessionHandle {
    pub(crate) epoch: Epoch,
    control: mpsc::UnboundedSender<ToSink>,
    lanes: Vec<mpsc::UnboundedSender<Outgoing>>,
    connection: Connection,
    welcomed: Arc<AtomicBool>,
}

impl SessionHandle {
    /// Where the sink is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// The sink has taken the session up.
    pub(crate) fn welcome(&self) {
        self.welcomed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_welcomed(&self) -> bool {
        self.welcomed.load(Ordering::Relaxed)
    }

    pub(crate) fn control(&self, message: ToSink) {
        let _ = self.control.send(message);
    }

    /// Queues a batch. What is queued is bounded by the sink's credit, and mostly without payload.
    pub(crate) fn send(&self, tag: &str, outgoing: Outgoing) {
        let lane = xxhash_rust::xxh3::xxh3_64(tag.as_bytes()) as usize % self.lanes.len();
        let _ = self.lanes[lane].send(outgoing);
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.connection.close(0, "session over");
    }
}

/// Begins a session on a fresh connection: the tasks report to `inbox` until the connection is gone. `welcomed` is for whoever
/// dials: it says whether the session came to be of use.
pub(crate) fn begin(
    connection: Connection,
    sink: NodeId,
    epoch: Epoch,
    hello: ToSink,
    log: GroupLog,
    inbox: mpsc::Sender<Input>,
    welcomed: Arc<AtomicBool>,
) -> SessionHandle {
    let (control, queue) = mpsc::unbounded_channel();
    let (mut lanes, mut receivers) = (Vec::new(), Vec::new());
    for _ in 0..LANES {
        let (sender, receiver) = mpsc::unbounded_channel();
        lanes.push(sender);
        receivers.push(receiver);
    }
    let handle = SessionHandle { epoch, control, lanes, connection: connection.clone(), welcomed };
    tokio::spawn(async move {
        if let Err(why) = run(&connection, &sink, epoch, hello, queue, receivers, log, &inbox).await {
            debug!(%sink, %why, "session over");
        }
        connection.close(0, "session over");
        let _ = inbox.send(Input::Disconnected { sink, session: epoch }).await;
    });
    handle
}

#[allow(clippy::too_many_arguments, reason = "the pieces of one session, handed over once")]
async fn run(
    connection: &Connection,
    sink: &NodeId,
    epoch: Epoch,
    hello: ToSink,
    queue: mpsc::UnboundedReceiver<ToSink>,
    receivers: Vec<mpsc::UnboundedReceiver<Outgoing>>,
    log: GroupLog,
    inbox: &mpsc::Sender<Input>,
) -> Result<(), String> {
    let (mut sender, receiver) = tokio::time::timeout(GREETING_MAX, connection.open_control())
        .await
        .map_err(|_| "the sink does not answer".to_owned())?
        .map_err(|error| error.to_string())?;
    sender.send(hello.encode()).await.map_err(|error| error.to_string())?;
    let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
    tasks.spawn(write_control(sender, queue));
    tasks.spawn(read_control(receiver, sink.clone(), epoch, inbox.clone()));
    for (number, receiver) in (0..).zip(receivers) {
        let lane = connection.open_lane(number).await.map_err(|error| error.to_string())?;
        tasks.spawn(drive_lane(lane, receiver, log.clone(), inbox.clone()));
    }
    // The first to end ends the session.
    match tasks.join_next().await {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) => Err(error.to_string()),
        None => Ok(()),
    }
}

async fn write_control(
    mut sender: ControlSender,
    mut queue: mpsc::UnboundedReceiver<ToSink>,
) -> Result<(), String> {
    while let Some(message) = queue.recv().await {
        sender.send(message.encode()).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

async fn read_control(
    mut receiver: ControlReceiver,
    sink: NodeId,
    session: Epoch,
    inbox: mpsc::Sender<Input>,
) -> Result<(), String> {
    while let Some(bytes) = receiver.recv().await.map_err(|error| error.to_string())? {
        let message = ToEdge::decode(&bytes).map_err(|error| error.to_string())?;
        if let ToEdge::Welcome { version, .. } = &message
            && *version != weir_transit::WIRE_VERSION
        {
            warn!(%sink, theirs = version, ours = weir_transit::WIRE_VERSION, "the sink speaks another version of the link");
            return Err("another version".to_owned());
        }
        let input = Input::Message { sink: sink.clone(), session, message };
        if inbox.send(input).await.is_err() {
            return Ok(());
        }
    }
    Err("the sink closed".to_owned())
}

async fn drive_lane(
    mut lane: LaneSender,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    log: GroupLog,
    inbox: mpsc::Sender<Input>,
) -> Result<(), String> {
    while let Some(Outgoing { seq, done, recall, stored }) = queue.recv().await {
        // Counted until QUIC has it.
        let kept = stored;
        let stored = match &kept {
            Some(kept) => kept.stored.clone(),
            None => match fetch(log.clone(), seq).await? {
                Some(stored) => stored,
                None => {
                    let gone: SeqRanges = std::iter::once(seq).collect();
                    let _ = inbox.send(Input::Damaged(gone)).await;
                    continue;
                }
            },
        };
        let head = BatchHead { seq, done, recall, header: stored.header };
        lane.send(head.encode(), stored.payload).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Reads one record from the log again; `None` when it is damaged.
async fn fetch(log: GroupLog, seq: Seq) -> Result<Option<Stored>, String> {
    let wanted: Arc<SeqRanges> = Arc::new(std::iter::once(seq).collect());
    let fetched = tokio::task::spawn_blocking(move || log.fetch(&wanted))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    Ok(fetched.records.into_iter().next())
}
