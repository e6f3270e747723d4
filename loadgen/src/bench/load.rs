//! Senders of a bench: many connections on one thread, each with a window of unacknowledged units.
//!
//! A load ends when the receiver has closed every connection, which it does once it has dealt with all that
//! came: so a load without acknowledgements ends where one with them does.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Semaphore,
    task::JoinSet,
};

use super::traffic::{Traffic, Unit, number_of};
use crate::ack;

/// Longest wait for an acknowledgement that is told apart: an hour, in microseconds.
const ACK_MICROS_MAX: u64 = 3_600_000_000;
/// A load without any progress for so long has failed.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Connections that are being set up at one time.
const CONNECTING_MAX: usize = 128;

/// How much is sent, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) connections: u32,
    /// Number of the first of them. Chunk ids follow from it: what goes to one edge twice must not look like a retry.
    pub(super) first: u32,
    /// Events in all; rounded up to whole units for each connection.
    pub(super) events: u64,
    /// Units of one connection that may be unacknowledged.
    pub(super) window: usize,
    /// Events a second over all connections; as fast as it goes without.
    pub(super) rate: Option<f64>,
}

/// What came of a load.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) events: u64,
    /// From the moment when all were connected until the last connection was closed by the receiver.
    pub(super) seconds: f64,
    /// From the moment a unit was due to be sent until its last acknowledgement, in microseconds; empty without
    /// acknowledgements.
    pub(super) ack_micros: Histogram<u64>,
}

struct Shared {
    traffic: Arc<Traffic>,
    load: Load,
    ack_micros: Mutex<Histogram<u64>>,
    connecting: Semaphore,
}

/// Sends a load to `to`; blocks until it is done.
///
/// # Errors
/// A connection failed, an acknowledgement was wrong, or nothing moved for a minute.
pub(super) fn run(to: SocketAddr, traffic: &Arc<Traffic>, load: Load) -> anyhow::Result<Sent> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(send(to, traffic.clone(), load))
}

async fn send(to: SocketAddr, traffic: Arc<Traffic>, load: Load) -> anyhow::Result<Sent> {
    let per_unit = traffic.unit_events() as u64;
    let units = load.events.div_ceil(per_unit * u64::from(load.connections)).max(1);
    let ack_micros = Mutex::new(Histogram::new_with_bounds(1, ACK_MICROS_MAX, 3)?);
    let connecting = Semaphore::new(CONNECTING_MAX);
    let shared = Arc::new(Shared { traffic, load, ack_micros, connecting });
    let mut dials = JoinSet::new();
    for number in 0..load.connections {
        let shared = shared.clone();
        dials.spawn(async move {
            // Thousands at once would overflow the listener's backlog and wait for lost SYNs.
            let _turn = shared.connecting.acquire().await?;
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            let socket = socket.connect(to).await.with_context(|| format!("connecting to {to}"))?;
            socket.set_nodelay(true)?;
            anyhow::Ok((number, socket))
        });
    }
    let mut sockets = Vec::new();
    while let Some(dialled) = dials.join_next().await {
        sockets.push(dialled??);
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (number, socket) in sockets {
        let (reader, writer) = socket.into_split();
        let connection = Arc::new(Connection {
            shared: shared.clone(),
            number,
            units,
            begun,
            window: Semaphore::new(load.window.max(1)),
            open: Mutex::default(),
        });
        tasks.spawn(connection.clone().write(writer));
        tasks.spawn(connection.read(reader));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let ack_micros = shared.ack_micros.lock().clone();
    Ok(Sent { events: units * per_unit * u64::from(load.connections), seconds, ack_micros })
}

struct Connection {
    shared: Arc<Shared>,
    number: u32,
    units: u64,
    begun: Instant,
    /// Free places in the window.
    window: Semaphore,
    /// Units that are not acknowledged: when each was due.
    open: Mutex<VecDeque<Instant>>,
}

impl Connection {
    async fn write(self: Arc<Self>, mut socket: OwnedWriteHalf) -> anyhow::Result<()> {
        let traffic = &self.shared.traffic;
        let acked = traffic.unit_acks() > 0;
        let mut unit = Unit::default();
        for number in 0..self.units {
            let due = match self.due(number) {
                // A unit that is late is sent at once, and its lateness counts.
                Some(due) => {
                    tokio::time::sleep_until(due.into()).await;
                    Some(due)
                }
                None => None,
            };
            if acked {
                let place = tokio::time::timeout(STALL_MAX, self.window.acquire()).await;
                place.with_context(|| format!("no acknowledgement for {STALL_MAX:?}"))??.forget();
                self.open.lock().push_back(due.unwrap_or_else(Instant::now));
            }
            traffic.unit(&mut unit, self.shared.load.first + self.number, number);
            let body = unit.body.as_deref().unwrap_or_default();
            for part in [&unit.head[..], body, &unit.tail[..]] {
                let written = tokio::time::timeout(STALL_MAX, socket.write_all(part)).await;
                written.with_context(|| format!("nothing was read for {STALL_MAX:?}"))?.context("sending")?;
            }
        }
        if acked {
            // All places free again: everything is acknowledged.
            let all = u32::try_from(self.shared.load.window.max(1))?;
            let places = tokio::time::timeout(STALL_MAX, self.window.acquire_many(all)).await;
            let _all = places.with_context(|| format!("no acknowledgement for {STALL_MAX:?}"))??;
        }
        socket.shutdown().await.context("ending a connection")
    }

    async fn read(self: Arc<Self>, mut socket: OwnedReadHalf) -> anyhow::Result<()> {
        let per_unit = self.shared.traffic.unit_acks() as u64;
        let mut input = Vec::with_capacity(4096);
        let mut acks = 0;
        loop {
            // Without acknowledgements this only waits for the end; the writer sees to it that it comes.
            let read = match socket.read_buf(&mut input).await {
                // As Fluentd ends a connection. Whether all was acknowledged is what counts.
                Err(error) if error.kind() == ErrorKind::ConnectionReset && per_unit > 0 => 0,
                read => read.context("waiting for acknowledgements")?,
            };
            if read == 0 {
                ensure!(acks == self.units * per_unit, "closed after {acks} acknowledgements");
                return Ok(());
            }
            let mut taken = 0;
            while let Some((id, bytes)) = ack::parse(&input[taken..])? {
                if number_of(id) != Some(acks) {
                    bail!("{id:?} was acknowledged in place of number {acks}");
                }
                taken += bytes;
                acks += 1;
                if acks.is_multiple_of(per_unit) {
                    let due = self.open.lock().pop_front().context("acknowledged what was not sent")?;
                    self.shared.ack_micros.lock().record(due.elapsed().as_micros().max(1) as u64)?;
                    self.window.add_permits(1);
                }
            }
            input.drain(..taken);
        }
    }

    /// When a unit is to be sent; connections take turns.
    fn due(&self, number: u64) -> Option<Instant> {
        let load = &self.shared.load;
        let turn = number * u64::from(load.connections) + u64::from(self.number);
        let per_unit = self.shared.traffic.unit_events() as f64;
        load.rate.map(|rate| self.begun + Duration::from_secs_f64(turn as f64 * per_unit / rate))
    }
}
