//! One edge's connection: its control stream and its lanes, turned into inputs for the driver.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use weir_link::{Connection, ControlReceiver, ControlSender, LaneReceiver};
use weir_model::{BatchHeader, Epoch, GroupId, LogId};
use weir_transit::{BatchHead, ToEdge, ToSink, WIRE_VERSION};

use crate::front::refused;
use crate::life::Input;
use crate::stage::{Stage, Staged};

/// How long a peer may take with its first message.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// How long an edge waits that is not let in.
const REFUSED_FOR: Duration = Duration::from_millis(300);
/// Longest payload of one batch: the most that an edge takes from a sender in one message.
const PAYLOAD_BYTES_MAX: usize = 512 << 20;

/// A batch that has arrived.
pub(crate) struct Arrived {
    pub(crate) head: BatchHead,
    pub(crate) header: BatchHeader,
    pub(crate) bytes: u64,
    pub(crate) payload: Arc<Staged>,
}

/// What the driver keeps of a connected edge.
pub(crate) struct Peer {
    pub(crate) session: Epoch,
    pub(crate) control: mpsc::UnboundedSender<ToEdge>,
    pub(crate) connection: Connection,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.connection.close(0, "session over");
    }
}

/// Serves a connection until it ends, and says so to the driver.
pub(crate) async fn serve(connection: Connection, group: GroupId, stage: Stage, inbox: mpsc::Sender<Input>) {
    let mut opened = None;
    if let Err(why) = run(&connection, &group, stage, &inbox, &mut opened).await {
        tracing::debug!(edge = %connection.peer(), %why, "connection over");
    }
    connection.close(0, "session over");
    if let Some((log, session)) = opened {
        let _ = inbox.send(Input::Disconnected { log, session }).await;
    }
}

async fn run(
    connection: &Connection,
    group: &GroupId,
    stage: Stage,
    inbox: &mpsc::Sender<Input>,
    opened: &mut Option<(Arc<LogId>, Epoch)>,
) -> Result<(), String> {
    let (sender, mut receiver) = tokio::time::timeout(GREETING_MAX, connection.accept_control())
        .await
        .map_err(|_| "no control stream".to_owned())?
        .map_err(text)?;
    let hello = tokio::time::timeout(GREETING_MAX, receiver.recv())
        .await
        .map_err(|_| "no hello".to_owned())?
        .map_err(text)?
        .ok_or("closed before a hello")?;
    let ToSink::Hello { version, log, session } = ToSink::decode(&hello).map_err(text)? else {
        return Err("the first message is no hello".to_owned());
    };
    if version != WIRE_VERSION {
        let detail = format!(
            "the edge speaks version {version} of the link, and this sink {WIRE_VERSION}; upgrade one of them"
        );
        return Err(refuse(connection, "version", detail).await);
    }
    if log.edge != *connection.peer() || log.group != *group {
        let detail = format!(
            "the edge comes as {} for group {}, and this sink is of group {group}; do both have the same topology?",
            log.edge, log.group
        );
        return Err(refuse(connection, "name_or_group", detail).await);
    }
    let log = Arc::new(log);
    *opened = Some((log.clone(), session));
    let (control, queue) = mpsc::unbounded_channel();
    let peer = Peer { session, control, connection: connection.clone() };
    inbox.send(Input::Hello { log: log.clone(), peer }).await.map_err(|_| "stopping".to_owned())?;

    let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
    tasks.spawn(write_control(sender, queue));
    tasks.spawn(read_control(receiver, log.clone(), inbox.clone()));
    let (lanes, mut accepted) = mpsc::unbounded_channel();
    let accepting = connection.clone();
    tasks.spawn(async move {
        loop {
            let lane = accepting.accept_lane().await.map_err(text)?;
            if lanes.send(lane).is_err() {
                return Ok(());
            }
        }
    });
    loop {
        tokio::select! {
            Some(lane) = accepted.recv() => {
                tasks.spawn(read_lane(lane, log.clone(), session, stage.clone(), inbox.clone()));
            }
            ended = tasks.join_next() => return match ended {
                Some(Ok(outcome)) => outcome,
                Some(Err(error)) => Err(error.to_string()),
                None => Ok(()),
            },
        }
    }
}

/// Notes that an edge is not let in, and tells it why. QUIC sends no close while its window is full, and a probe of the path's
/// MTU may fill the first one: hence the moment.
async fn refuse(connection: &Connection, reason: &'static str, detail: String) -> String {
    refused(reason, connection.peer(), &detail);
    let _ = tokio::time::timeout(REFUSED_FOR, connection.closed()).await;
    connection.close(0, &detail);
    detail
}

async fn write_control(
    mut sender: ControlSender,
    mut queue: mpsc::UnboundedReceiver<ToEdge>,
) -> Result<(), String> {
    while let Some(message) = queue.recv().await {
        sender.send(message.encode()).await.map_err(text)?;
    }
    Ok(())
}

async fn read_control(
    mut receiver: ControlReceiver,
    log: Arc<LogId>,
    inbox: mpsc::Sender<Input>,
) -> Result<(), String> {
    while let Some(bytes) = receiver.recv().await.map_err(text)? {
        let message = ToSink::decode(&bytes).map_err(text)?;
        let input = Input::Message { log: log.clone(), message };
        inbox.send(input).await.map_err(|_| "stopping".to_owned())?;
    }
    Err("the edge closed".to_owned())
}

async fn read_lane(
    mut lane: LaneReceiver,
    log: Arc<LogId>,
    session: Epoch,
    stage: Stage,
    inbox: mpsc::Sender<Input>,
) -> Result<(), String> {
    while let Some((head, payload)) = lane.recv(PAYLOAD_BYTES_MAX).await.map_err(text)? {
        let head = BatchHead::decode(&head).map_err(text)?;
        let header = BatchHeader::decode(&head.header).map_err(text)?;
        let bytes = Bytes::len(&payload) as u64;
        let payload = stage.put(payload, header.chunks.len());
        let arrived = Arrived { head, header, bytes, payload };
        let input = Input::Batch { log: log.clone(), session, arrived };
        inbox.send(input).await.map_err(|_| "stopping".to_owned())?;
    }
    // A lane may end; the session ends with its control stream.
    std::future::pending().await
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}
