//! One sink's life on a set of receivers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};
use weir_model::{BatchId, Incarnation, NodeId, PartId};
use weir_store::{Committed, Outcome, Part, PartBatch, Partition, Store, StoreError, Token};

use crate::ForwardSettings;
use crate::balance::Balance;
use crate::connection::{self, Connection, TlsError};
use crate::message::{self, Message};

/// First byte of a token; the part's id follows.
const VERSION: u8 = b'F';
/// Parts whose end is remembered, and batches of unfinished parts.
const REMEMBERED: usize = 65_536;
/// Batches that are sent before their acknowledgements are waited for.
const PIPELINE: usize = 64;
/// Idle connections kept for each receiver.
const POOLED: usize = 4;

/// What all lives of this process share.
pub(crate) struct Shared {
    settings: ForwardSettings,
    tls: Option<Arc<ClientConfig>>,
    balance: Mutex<Balance>,
    pool: Mutex<HashMap<usize, Vec<Connection>>>,
    state: Mutex<State>,
    possible_duplicates: AtomicU64,
}

#[derive(Default)]
struct State {
    /// The life of each sink that may commit.
    lives: HashMap<NodeId, Incarnation>,
    committed: Memory<PartId>,
    /// Acknowledged batches of parts that are not committed yet: a retry does not send them again.
    acknowledged: Memory<(PartId, BatchId)>,
    recovering: bool,
}

/// The last so many of something.
struct Memory<T> {
    known: HashSet<T>,
    order: VecDeque<T>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), order: VecDeque::new() }
    }
}

impl<T: std::hash::Hash + Eq + Clone> Memory<T> {
    fn add(&mut self, item: T) {
        if self.known.insert(item.clone()) {
            self.order.push_back(item);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn has(&self, item: &T) -> bool {
        self.known.contains(item)
    }
}

impl Shared {
    pub(crate) fn new(settings: ForwardSettings) -> Result<Self, TlsError> {
        Ok(Self {
            tls: settings.tls.as_ref().map(connection::client).transpose()?,
            balance: Mutex::new(Balance::new(&settings.servers)),
            pool: Mutex::default(),
            state: Mutex::default(),
            possible_duplicates: AtomicU64::new(0),
            settings,
        })
    }

    pub(crate) fn begin(&self, sink: &NodeId, incarnation: Incarnation) {
        self.state.lock().lives.insert(sink.clone(), incarnation);
    }

    pub(crate) fn possible_duplicates(&self) -> u64 {
        self.possible_duplicates.load(Ordering::Relaxed)
    }

    async fn connection(&self, server: usize) -> io::Result<Connection> {
        let pooled = self.pool.lock().get_mut(&server).and_then(Vec::pop);
        match pooled {
            Some(connection) => Ok(connection),
            None => Connection::open(&self.settings, self.tls.as_ref(), &self.settings.servers[server]).await,
        }
    }

    fn give_back(&self, server: usize, connection: Connection) {
        let mut pool = self.pool.lock();
        let kept = pool.entry(server).or_default();
        if kept.len() < POOLED {
            kept.push(connection);
        }
    }

    /// Takes note that a receiver failed, and tries it again and again in the background.
    fn failed(self: &Arc<Self>, server: usize, error: &io::Error) {
        self.pool.lock().remove(&server);
        let address = &self.settings.servers[server].address;
        if !self.balance.lock().set_failed(server, true) {
            return;
        }
        warn!(%address, %error, "a receiver does not take events; others get them until it does");
        if std::mem::replace(&mut self.state.lock().recovering, true) {
            return;
        }
        let shared = self.clone();
        tokio::spawn(async move { shared.recover().await });
    }

    /// Until all receivers work again.
    async fn recover(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.settings.recover_every).await;
            let failed = self.balance.lock().failed();
            for server in &failed {
                let target = &self.settings.servers[*server];
                if let Ok(connection) = Connection::open(&self.settings, self.tls.as_ref(), target).await {
                    info!(address = target.address, "a receiver works again");
                    self.balance.lock().set_failed(*server, false);
                    self.give_back(*server, connection);
                }
            }
            let mut state = self.state.lock();
            if self.balance.lock().failed().is_empty() {
                state.recovering = false;
                return;
            }
        }
    }
}

pub(crate) struct ForwardStore {
    shared: Arc<Shared>,
    sink: NodeId,
    incarnation: Incarnation,
}

impl ForwardStore {
    pub(crate) fn new(shared: Arc<Shared>, sink: NodeId, incarnation: Incarnation) -> Self {
        Self { shared, sink, incarnation }
    }

    fn lives(&self) -> bool {
        self.shared.state.lock().lives.get(&self.sink) == Some(&self.incarnation)
    }

    /// Batches of the part that no receiver has acknowledged yet.
    fn due<'a>(&self, part: &'a Part) -> Vec<&'a PartBatch> {
        let state = self.shared.state.lock();
        let due = |batch: &&PartBatch| {
            batch.done.is_empty() && !state.acknowledged.has(&(part.id.clone(), batch.id.clone()))
        };
        part.batches.iter().filter(due).collect()
    }

    /// Sends batches over one connection, and notes each that is acknowledged.
    async fn send(&self, server: usize, part: &PartId, batches: &[&PartBatch]) -> io::Result<()> {
        let mut connection = self.shared.connection(server).await?;
        let ack_timeout = self.shared.settings.ack_timeout;
        for batches in batches.chunks(PIPELINE) {
            let mut chunks: HashMap<String, BatchId> = HashMap::new();
            for batch in batches {
                let chunk = message::chunk(&batch.id);
                let message = self.message(batch, chunk.clone()).await?;
                within(ack_timeout, connection.send(&message)).await?;
                chunks.insert(chunk, batch.id.clone());
            }
            let mut open: HashSet<String> = chunks.keys().cloned().collect();
            while !open.is_empty() {
                within(ack_timeout, connection.acknowledged(&mut open)).await?;
                let mut state = self.shared.state.lock();
                let done = chunks.iter().filter(|(chunk, _)| !open.contains(*chunk));
                done.for_each(|(_, id)| state.acknowledged.add((part.clone(), id.clone())));
            }
        }
        self.shared.give_back(server, connection);
        Ok(())
    }

    async fn message(&self, batch: &PartBatch, chunk: String) -> io::Result<Message> {
        let (payload, header, zstd) =
            (batch.payload.clone(), batch.header.clone(), self.shared.settings.zstd);
        // It may come from a spill file, and inflating takes its time.
        spawn_blocking(move || {
            message::message(&header, payload.load()?, &chunk, zstd).map_err(io::Error::other)
        })
        .await
        .map_err(io::Error::other)?
    }
}

async fn within<T>(limit: std::time::Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[async_trait]
impl Store for ForwardStore {
    fn token(&self, id: &PartId, _partitions: &[Partition]) -> Token {
        Token([&[VERSION], id.to_string().as_bytes()].concat().into())
    }

    async fn commit(&self, part: &Part) -> Result<Committed, StoreError> {
        let (mut tried, mut last) = (Vec::new(), None);
        loop {
            if !self.lives() {
                return Err(StoreError::Fenced);
            }
            let due = self.due(part);
            if due.is_empty() {
                break;
            }
            let Some(server) = self.shared.balance.lock().next(&tried) else {
                let source = last.unwrap_or_else(|| io::Error::other("there is no receiver"));
                return Err(StoreError::transient(format!("sending part {}", part.id), source));
            };
            tried.push(server);
            match self.send(server, &part.id, &due).await {
                Ok(()) => drop(self.shared.balance.lock().set_failed(server, false)),
                Err(error) => {
                    self.shared.failed(server, &error);
                    last = Some(error);
                }
            }
        }
        let mut state = self.shared.state.lock();
        if state.lives.get(&self.sink) != Some(&self.incarnation) {
            return Err(StoreError::Fenced);
        }
        state.committed.add(part.id.clone());
        let mut committed = Committed::default();
        for batch in part.batches.iter().filter(|batch| batch.done.is_empty()) {
            committed.events += batch.header.events();
            committed.bytes += batch.header.unpacked_bytes;
        }
        Ok(committed)
    }

    async fn resolve(&self, id: &PartId, token: &Token) -> Result<Outcome, StoreError> {
        if token.0 != [&[VERSION], id.to_string().as_bytes()].concat() {
            return Err(StoreError::Token { part: id.clone() });
        }
        let mut state = self.shared.state.lock();
        if state.committed.has(id) {
            return Ok(Outcome::Committed);
        }
        if state.lives.get(&id.sink) == Some(&id.incarnation) {
            state.lives.remove(&id.sink);
        }
        // Receivers cannot be asked. What they have of it they get again, under the same chunk ids.
        let count = self.shared.possible_duplicates.fetch_add(1, Ordering::Relaxed) + 1;
        warn!(part = %id, count, "nobody can say whether a part reached its receivers: its events may arrive twice");
        Ok(Outcome::Void)
    }

    async fn end(&self) {
        let mut state = self.shared.state.lock();
        if state.lives.get(&self.sink) == Some(&self.incarnation) {
            state.lives.remove(&self.sink);
        }
    }
}
