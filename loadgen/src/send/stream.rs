//! One numbered stream over one connection at a time: paced, windowed, resent when the connection is lost.
//!
//! [`Stream::run`] owns the socket; what a chunk looks like is in [`crate::chunk`].

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{sleep_until, timeout},
};

use super::Shared;
use crate::{
    ack,
    chunk::{Chunk, Mode},
    ledger::{Ranges, StreamLedger},
    records::Moment,
};

/// The first wait after a lost connection; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// The longest wait between two tries to connect.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long one try to connect may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Chunks are put together for one write until it has this many bytes.
const WRITE_BYTES: usize = 64 * 1024;

/// Why a conversation ended without a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All is sent, and acknowledged if that was asked for.
    Done,
    /// The run is being stopped.
    Stopped,
}

/// One stream, its place in the traffic and what is still open of it.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    index: usize,
    name: String,
    /// How many records it has in all.
    total: u64,
    /// The number of the first record that no chunk holds yet.
    next: u64,
    /// How many chunks were opened.
    opened: usize,
    /// Chunks that are not done, oldest first; bounded by the window, which holds back new ones.
    open: VecDeque<Chunk>,
    /// How many of `open` are in this connection's output.
    offered: usize,
    /// Since when something is owed (an acknowledgement, a connection, room to write) without progress.
    waiting_since: Option<Instant>,
    done: Ranges,
    /// What was offered to more than one connection.
    resent: Ranges,
}

impl Stream {
    /// Stream number `index` of the run, with `total` records.
    pub(super) fn new(shared: Arc<Shared>, stop: watch::Receiver<bool>, index: usize, total: u64) -> Self {
        let name = shared.stream_name(index);
        Self {
            shared,
            stop,
            index,
            name,
            total,
            next: 0,
            opened: 0,
            open: VecDeque::new(),
            offered: 0,
            waiting_since: None,
            done: Ranges::default(),
            resent: Ranges::default(),
        }
    }

    /// Sends the stream to its end; gives its name, what the ledger says of it, and why it ended early.
    pub(super) async fn run(mut self) -> (String, StreamLedger, Option<anyhow::Error>) {
        let failure = self.send_all().await.err();
        let mut maybe = Ranges::default();
        self.open.iter().for_each(|chunk| maybe.add(chunk.first, u64::from(chunk.count)));
        let mut ledger = StreamLedger { acked: self.done, maybe, resent: self.resent, sent: None };
        if !self.shared.ack {
            let sent = std::mem::take(&mut ledger.acked);
            ledger.maybe.0.extend_from_slice(&sent.0);
            ledger.sent = Some(sent);
        }
        let all = [&mut ledger.acked, &mut ledger.maybe, &mut ledger.resent];
        for ranges in all.into_iter().map(Some).chain([ledger.sent.as_mut()]) {
            ranges.into_iter().for_each(Ranges::settle);
        }
        (self.name, ledger, failure)
    }

    async fn send_all(&mut self) -> anyhow::Result<()> {
        let mut backoff = BACKOFF_MIN;
        let mut attempt = 0;
        while !self.finished() {
            let before = (self.next, self.open.len());
            for chunk in self.open.iter().take(std::mem::take(&mut self.offered)) {
                self.resent.add(chunk.first, u64::from(chunk.count));
            }
            let fault = match self.connect_and_converse(attempt).await {
                Ok(End::Done) => return Ok(()),
                Ok(End::Stopped) => bail!("{}: stopped", self.name),
                Err(fault) => fault,
            };
            attempt += 1;
            self.shared.counts.errors.fetch_add(1, Relaxed);
            let deadline = *self.waiting_since.get_or_insert_with(Instant::now) + self.shared.give_up;
            if Instant::now() >= deadline {
                return Err(fault.context(format!("{}: gave up", self.name)));
            }
            if before != (self.next, self.open.len()) {
                backoff = BACKOFF_MIN;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                _ = self.stop.wait_for(|stop| *stop) => bail!("{}: stopped", self.name),
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        self.next == self.total && self.open.is_empty()
    }

    async fn connect_and_converse(&mut self, attempt: usize) -> anyhow::Result<End> {
        let addresses = &self.shared.addresses;
        let address = addresses[(self.index + attempt) % addresses.len()].clone();
        let socket = self.connect(&address).await.with_context(|| format!("connecting to {address}"))?;
        if attempt > 0 {
            self.shared.counts.reconnects.fetch_add(1, Relaxed);
        }
        let mut output = self.shared.spare_buffer();
        let end = self.converse(socket, &mut output).await;
        self.shared.keep_buffer(output);
        end.with_context(|| format!("talking to {address}"))
    }

    async fn connect(&self, address: &str) -> anyhow::Result<TcpStream> {
        // Thousands at once would overflow the listener's backlog and wait for lost SYNs.
        let _turn = self.shared.connecting.acquire().await?;
        let socket = timeout(CONNECT_MAX, TcpStream::connect(address)).await.context("no answer")??;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    /// Writes chunks and reads acknowledgements until all is done or the connection fails.
    async fn converse(&mut self, mut socket: TcpStream, output: &mut Vec<u8>) -> anyhow::Result<End> {
        let (mut reader, mut writer) = socket.split();
        let mut stop = self.stop.clone();
        let mut input = Vec::new();
        let mut written = 0;
        let mut heard = Instant::now();
        if self.open.is_empty() {
            self.waiting_since = None;
        }
        loop {
            if written == output.len() {
                written = 0;
                self.refill(output)?;
            }
            if self.finished() {
                // The peer may have gone as soon as it had all: that is no fault of this run.
                let _ = writer.shutdown().await;
                return Ok(End::Done);
            }
            if self.offered == 0 {
                heard = Instant::now();
            }
            let silent_at = heard + self.shared.ack_timeout;
            let wake = self.wake(output.is_empty()).min(silent_at);
            tokio::select! {
                read = reader.read_buf(&mut input) => {
                    ensure!(read? > 0, "closed by the peer with {} chunks open", self.open.len());
                    self.take_acks(&mut input)?;
                    heard = Instant::now();
                }
                wrote = writer.write(&output[written..]), if written < output.len() => {
                    let wrote = wrote?;
                    self.shared.counts.bytes.fetch_add(wrote as u64, Relaxed);
                    written += wrote;
                }
                () = sleep_until(wake.into()) => {
                    let overdue = self.waiting_since.is_some_and(|since| since.elapsed() >= self.shared.give_up);
                    ensure!(!overdue, "no progress for {:?}", self.shared.give_up);
                    ensure!(Instant::now() < silent_at, "no acknowledgement for {:?}", self.shared.ack_timeout);
                }
                _ = stop.wait_for(|stop| *stop) => return Ok(End::Stopped),
            }
        }
    }

    /// When the select loop must look again though the socket is silent.
    fn wake(&self, idle: bool) -> Instant {
        let overdue = self.waiting_since.unwrap_or_else(Instant::now) + self.shared.give_up;
        if idle && self.may_open() { self.due().min(overdue) } else { overdue }
    }

    /// Whether window and stream have room for another chunk.
    fn may_open(&self) -> bool {
        self.open.len() < self.shared.window && self.next < self.total
    }

    /// When the next new chunk may leave.
    fn due(&self) -> Instant {
        self.shared.pace.map_or(self.shared.started, |pace| {
            let stagger = pace
                .event
                .mul_f64(f64::from(self.shared.chunk_events))
                .mul_f64(self.index as f64 * pace.share);
            self.shared.started + stagger + pace.event.mul_f64(self.next as f64)
        })
    }

    /// Settles what `output` held, all of which is written, and puts the next chunks there.
    fn refill(&mut self, output: &mut Vec<u8>) -> anyhow::Result<()> {
        output.clear();
        if !self.shared.ack && self.offered > 0 {
            for chunk in self.open.drain(..std::mem::take(&mut self.offered)) {
                self.shared.count_done(&chunk);
                self.done.add(chunk.first, u64::from(chunk.count));
            }
            self.note_progress();
        }
        while output.len() < WRITE_BYTES {
            if self.offered == self.open.len() {
                if !self.may_open() || self.due() > Instant::now() {
                    break;
                }
                self.open_chunk()?;
            }
            let chunk = &self.open[self.offered];
            let tag = &self.shared.tags[chunk.tag];
            chunk.append(output, self.shared.mode, &self.shared.records, &self.name, tag)?;
            self.offered += 1;
        }
        Ok(())
    }

    fn open_chunk(&mut self) -> anyhow::Result<()> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        let one_each = self.shared.ack && self.shared.mode == Mode::Message;
        let most = if one_each { 1 } else { self.shared.chunk_events };
        let count = u64::from(most).min(self.total - self.next) as u32;
        let now = Instant::now();
        self.open.push_back(Chunk {
            id: self.shared.ack.then(|| STANDARD.encode(rand::random::<[u8; 16]>())),
            first: self.next,
            count,
            tag: (self.index + self.opened) % self.shared.tags.len(),
            time: Moment { seconds: since_epoch.as_secs() as u32, nanoseconds: since_epoch.subsec_nanos() },
            started: now,
        });
        self.waiting_since.get_or_insert(now);
        self.next += u64::from(count);
        self.opened += 1;
        Ok(())
    }

    /// Takes every whole acknowledgement off `input`.
    fn take_acks(&mut self, input: &mut Vec<u8>) -> anyhow::Result<()> {
        let mut taken = 0;
        while let Some((id, bytes)) = ack::parse(&input[taken..])? {
            taken += bytes;
            // Nearly always the first; a server may answer in any order, though.
            let place = self.open.iter().take(self.offered).position(|chunk| chunk.id.as_deref() == Some(id));
            let chunk = place.and_then(|place| self.open.remove(place));
            let chunk = chunk.with_context(|| format!("acknowledges a chunk that is not open: {id:?}"))?;
            self.offered -= 1;
            self.shared.count_done(&chunk);
            self.shared.count_ack(chunk.started.elapsed());
            self.done.add(chunk.first, u64::from(chunk.count));
            self.note_progress();
        }
        input.drain(..taken);
        Ok(())
    }

    fn note_progress(&mut self) {
        self.waiting_since = (!self.open.is_empty()).then(Instant::now);
    }
}
