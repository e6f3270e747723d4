//! One sender's connection, from its first message to its last: it is read, what is in it is stored, and acknowledgements
//! are written, all in one task.
//!
//! Left out on purpose: who gets in (`door/`), and what becomes of a batch (`intake.rs`).

use std::collections::HashMap;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, timeout};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::WaitForCancellationFuture;

use weir_forward::{Event, Session, Skips, Violation};
use weir_routing::RouteCache;
use weir_telemetry::{TagCounter, names};
use weir_topology::Ack;

use crate::door::{Allowance, Counted, Door, Holding, Judgement, Meter, Peer, Rewrite, Settings, Stream};
use crate::intake::{Pending, Stored, TAG_CACHE, now_ns};
use crate::store::{self, RouteTarget};

/// Bytes read from a busy socket at once.
const READ_BYTES: usize = 128 << 10;
/// The most bytes for which a buffer is made at once, for senders of large messages.
const READ_BYTES_MAX: usize = 1 << 20;
/// Room in the buffer below which it is replaced: small reads fill it up before that.
const ROOM_MIN: usize = 16 << 10;
/// Bytes read from an idle socket, by the way of the stack: thousands of idle connections have no buffer at all.
const SIP_BYTES: usize = 4 << 10;
/// Rest after which a busy connection counts as idle and gives its buffer back.
const REST: Duration = Duration::from_secs(1);
/// Bytes of one connection that may be on their way to the disk; at this bound it is not read.
const UNSYNCED_BYTES_MAX: usize = 8 << 20;
/// Acknowledgements that a sender does not read; beyond it they are dropped and counted (R45).
const ACK_BYTES_MAX: usize = 256 << 10;
/// How long a closing connection is read on, so that a reset does not destroy due acknowledgements (R60).
const LINGER: Duration = Duration::from_secs(1);
/// Bytes after which it is not, at the latest.
const LINGER_BYTES: usize = 64 << 10;
/// How long a connection that ends between two messages may take to get there.
const LAST_MESSAGE: Duration = Duration::from_secs(10);
/// How long acknowledgements that a closing sender does not read are offered.
const LAST_ACKS: Duration = Duration::from_secs(5);
/// Wait of a connection for which there is no memory.
const MEMORY_AGAIN: Duration = Duration::from_millis(20);
/// How long a connection may go beyond its share of memory to finish its message; others wait for it.
const FINISH: Duration = Duration::from_secs(30);
/// How long none of it may come meanwhile.
const FINISH_QUIET: Duration = Duration::from_secs(3);
/// How late an idle connection may notice that its settings changed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

pub(crate) struct Connection {
    pub(crate) door: Arc<Door>,
    pub(crate) peer: Peer,
    pub(crate) routes: RouteCache,
    pub(crate) tags: HashMap<Arc<str>, TagCounter>,
    pub(crate) pending: FuturesOrdered<Pending>,
    /// Bytes in `pending`.
    pub(crate) unsynced: usize,
    /// Where the newest of them goes.
    pub(crate) targets: Arc<[RouteTarget]>,
    settings: Arc<Settings>,
    stream: Stream,
    session: Session,
    acks: Acks,
    meter: Meter,
    rewrite: Rewrite,
    hostname: Option<Arc<str>>,
    holding: Holding,
    clock: Clock,
    /// It was read in big bites lately.
    busy: bool,
    /// How big: a message like the last one fits in, so that it need not be moved while it comes.
    bite: usize,
    ending: Option<Ending>,
    _counted: Counted,
}

/// When things happened, and until when they must.
struct Clock {
    opened: Instant,
    last_read: Instant,
    /// The unfinished message at the front of the buffer began.
    message: Option<Instant>,
    /// The oldest batch that is not settled became that.
    waiting: Option<Instant>,
    /// Nothing is read before, for a limit was passed.
    paused: Option<Instant>,
    /// It has the right to finish its message since.
    finishing: Option<Instant>,
    /// There is no memory for more of it.
    starved: bool,
}

/// A connection that we close between two messages.
struct Ending {
    by: Instant,
}

/// Why a connection is not read any more.
enum End {
    /// The sender closed, or its connection broke.
    Eof,
    /// We close, politely: between two messages.
    Polite,
    /// We close, and what still comes is not looked at.
    Refused,
}

/// What a connection woke up for.
enum Turn {
    Stored(Stored),
    Read,
    Eof,
    /// Nothing more came, and nothing is unfinished.
    Quiet,
    Tick,
    Stop,
}

impl Connection {
    pub(crate) fn new(
        door: Arc<Door>,
        settings: Arc<Settings>,
        stream: Stream,
        peer: Peer,
        hostname: Option<Arc<str>>,
        session: Session,
        counted: Counted,
    ) -> Self {
        door.metrics.opened.increment(1);
        door.metrics.open.increment(1.0);
        let now = Instant::now();
        let meter = meter(&settings, &peer);
        // What its source owes, a connection before may have left.
        let owed = meter.charge(door.now(), 0, 0);
        Self {
            meter,
            rewrite: Rewrite::new(&settings.config, &peer, hostname.as_deref()),
            hostname,
            holding: Holding::new(door.budget.clone(), counted.held()),
            door,
            peer,
            settings,
            stream,
            session,
            routes: RouteCache::new(TAG_CACHE),
            tags: HashMap::new(),
            pending: FuturesOrdered::new(),
            unsynced: 0,
            targets: Arc::default(),
            acks: Acks::default(),
            clock: Clock {
                opened: now,
                last_read: now,
                message: None,
                waiting: None,
                paused: (!owed.is_zero()).then(|| now + owed),
                finishing: None,
                starved: false,
            },
            busy: false,
            bite: READ_BYTES,
            ending: None,
            _counted: counted,
        }
    }

    pub(crate) async fn run(mut self) {
        let end = self.receive().await;
        // Apart: an idle connection has no room for its end.
        Box::pin(self.finish(&end)).await;
    }

    async fn receive(&mut self) -> End {
        let door = self.door.clone();
        let mut stopped = pin!(door.stop.cancelled());
        let mut timer = pin!(tokio::time::sleep(LOOK_AGAIN));
        loop {
            if let Some(end) = self.take_what_is_there().await {
                return end;
            }
            let turn = std::future::poll_fn(|cx| self.poll_turn(cx, stopped.as_mut(), timer.as_mut())).await;
            match turn {
                Turn::Read => self.clock.last_read = Instant::now(),
                Turn::Stored(stored) => {
                    if !self.note(stored) {
                        return End::Refused;
                    }
                }
                Turn::Eof => return End::Eof,
                Turn::Quiet => return End::Polite,
                Turn::Stop => self.end_soon(),
                Turn::Tick => {
                    if let Some(end) = self.look_at_the_clock() {
                        return end;
                    }
                }
            }
        }
    }

    /// Takes the messages that are complete, as far as limits let it.
    async fn take_what_is_there(&mut self) -> Option<End> {
        // What a message costs shows when it is unpacked: a source that owes pays first, whichever connection owes it.
        while self.may_take() && !self.owes() {
            match self.session.next(now_ns()) {
                Ok(Some(event)) => {
                    self.clock.message = None;
                    if self.clock.finishing.take().is_some() {
                        self.holding.let_go();
                    }
                    if let Some(end) = self.judge_and_take(event) {
                        return Some(end);
                    }
                }
                Ok(None) => {
                    if self.session.buffer().is_empty() {
                        self.clock.message = None;
                    } else if self.clock.message.is_none() {
                        self.clock.message = Some(Instant::now());
                    }
                    break;
                }
                Err(violation) => {
                    if let Some(end) = self.refuse(violation).await {
                        return Some(end);
                    }
                }
            }
        }
        self.hold();
        None
    }

    /// Closes, unless it was a whole message that has come too often: that is kept aside, and what is behind it goes on.
    async fn refuse(&mut self, violation: Violation) -> Option<End> {
        let reason = violation.fault.label();
        let cost = self.session.cost();
        self.charge(1, cost);
        names::FORWARD_VIOLATIONS_TOTAL.with([reason]).increment(1);
        self.door.refusals.note(reason, &self.peer, &violation);
        let Some(refused) = violation.refused.filter(|refused| refused.chunk.is_some()) else {
            return Some(End::Refused);
        };
        let ack = refused.ack.clone();
        let door = self.door.clone();
        let Some(path) = Box::pin(door.quarantine.refuse(*refused)).await else { return Some(End::Refused) };
        names::FORWARD_QUARANTINED_TOTAL.with([]).increment(1);
        door.refusals.note(
            "quarantined",
            &self.peer,
            format_args!("its chunk is kept in {}", path.display()),
        );
        self.take(Event::Ack { ack, skipped: Skips::default() });
        None
    }

    fn judge_and_take(&mut self, event: Event) -> Option<End> {
        let cost = self.session.cost();
        let batch = match event {
            Event::Batch(batch) => batch,
            Event::Ack { skipped, .. } | Event::Skipped(skipped) => {
                self.charge(skipped.iter().map(|(_, times)| u64::from(times)).sum(), cost);
                self.take(event);
                self.after_a_message();
                return None;
            }
        };
        self.follow_settings();
        let batch = self.rewrite.apply(batch);
        let (events, bytes) = (batch.header.events(), batch.payload.len() as u64);
        self.bite = (batch.payload.len() + 2 * ROOM_MIN).clamp(READ_BYTES, READ_BYTES_MAX);
        self.warn_of_size(bytes);
        let left_out: u64 = batch.skipped.iter().map(|(_, times)| u64::from(times)).sum();
        match self.meter.take(self.door.now(), &batch.header.tag, events + left_out, bytes + cost) {
            Judgement::Pass => self.take(Event::Batch(batch)),
            Judgement::Slow(wait) => {
                self.clock.paused = Some(Instant::now() + wait);
                self.take(Event::Batch(batch));
            }
            Judgement::Drop => {
                self.door.refusals.note("limit_drop", &self.peer, "its events are dropped, over a limit");
                if !batch.acks.is_empty() {
                    self.take(Event::Ack { ack: batch.acks, skipped: batch.skipped });
                }
            }
            Judgement::Close => {
                self.door.refusals.note("limit_close", &self.peer, "it is over a limit");
                return Some(End::Refused);
            }
        }
        if self.clock.waiting.is_none() && !self.pending.is_empty() {
            self.clock.waiting = Some(Instant::now());
        }
        self.after_a_message();
        None
    }

    /// Whether the limits have it wait for what its source took before.
    fn owes(&mut self) -> bool {
        if self.meter.is_free() || self.session.buffer().is_empty() {
            return false;
        }
        self.charge(0, 0);
        !self.may_take()
    }

    /// What gives no batch is not for nothing either.
    fn charge(&mut self, events: u64, bytes: u64) {
        let wait = self.meter.charge(self.door.now(), events, bytes);
        if !wait.is_zero() {
            self.clock.paused = Some(Instant::now() + wait);
        }
    }

    fn after_a_message(&mut self) {
        if self.settings.config.deny_keepalive {
            self.end_soon();
        }
    }

    fn warn_of_size(&self, bytes: u64) {
        if self.settings.config.chunk_size_warn_limit.is_some_and(|limit| bytes > limit.0) {
            let detail = format_args!("taken, but {bytes} bytes are more than `chunk_size_warn_limit`");
            self.door.refusals.note("large_chunk", &self.peer, detail);
        }
    }

    /// Settings may change while we are connected.
    fn follow_settings(&mut self) {
        let settings = self.door.settings();
        if Arc::ptr_eq(&settings, &self.settings) {
            return;
        }
        if !Arc::ptr_eq(&settings.rules, &self.settings.rules) {
            self.meter = meter(&settings, &self.peer);
        }
        self.rewrite = Rewrite::new(&settings.config, &self.peer, self.hostname.as_deref());
        self.settings = Arc::clone(&settings);
    }

    /// No longer than now or the next message.
    fn end_soon(&mut self) {
        self.ending.get_or_insert_with(|| Ending { by: Instant::now() + LAST_MESSAGE });
    }

    fn note(&mut self, stored: Stored) -> bool {
        self.clock.waiting = (!self.pending.is_empty()).then(Instant::now);
        match self.settle(stored) {
            Ok(()) => {
                self.hold();
                true
            }
            Err(error) => {
                names::FORWARD_VIOLATIONS_TOTAL.with(["not_stored"]).increment(1);
                let detail =
                    format_args!("closed without acknowledging, a batch could not be stored: {error}");
                self.door.refusals.note("not_stored", &self.peer, detail);
                false
            }
        }
    }

    /// What the listener says of when a sender is told that its events are kept.
    pub(crate) fn ack_level(&self) -> Option<Ack> {
        self.settings.config.ack
    }

    /// Never acknowledge later than this after a batch came (R42).
    pub(crate) fn ack_deadline(&self) -> Duration {
        self.settings.config.ack_deadline
    }

    /// Queues an acknowledgement.
    pub(crate) fn acknowledge(&mut self, ack: &Bytes) {
        if ack.is_empty() {
            return;
        }
        if self.acks.push(ack) {
            self.door.metrics.acks.increment(1);
        } else {
            // The sender does not read them; what it sent is kept all the same.
            self.door.metrics.acks_unread.increment(1);
        }
    }

    /// Tells how much memory this connection takes.
    fn hold(&mut self) {
        let buffered = if self.busy { self.session.buffer().capacity() } else { self.session.buffer().len() };
        self.holding.set(buffered + self.unsynced);
    }

    fn may_take(&self) -> bool {
        // A batch of ours that waits wakes us up again.
        let crowded = !self.pending.is_empty() && store::is_crowded(&self.targets);
        !crowded
            && self.unsynced < UNSYNCED_BYTES_MAX
            && self.clock.paused.is_none_or(|until| until <= Instant::now())
    }

    /// Whether more may be read; makes room for it.
    fn may_read(&mut self) -> bool {
        if !self.may_take() {
            return false;
        }
        let (missing, bite) = (self.session.missing(), self.bite);
        let buffer = self.session.buffer();
        let (held, room) = (buffer.len(), buffer.capacity() - buffer.len());
        // What is there is counted already.
        if self.busy && room >= ROOM_MIN {
            self.clock.starved = false;
            return true;
        }
        let wanted = if self.busy { bytes_ahead(missing, held, bite) } else { SIP_BYTES };
        let allowed = match self.holding.allowance(wanted, held > 0) {
            Allowance::Yes(bytes) => {
                self.clock.finishing = None;
                bytes
            }
            Allowance::Finish(bytes) => {
                self.clock.finishing.get_or_insert_with(Instant::now);
                bytes
            }
            Allowance::No => 0,
        };
        if self.busy && allowed >= SIP_BYTES {
            grow(self.session.buffer(), allowed);
            self.hold();
        }
        self.clock.starved = allowed < SIP_BYTES && (room == 0 || !self.busy);
        !self.clock.starved
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        stopped: Pin<&mut WaitForCancellationFuture<'_>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<Turn> {
        self.acks.poll_write(&mut self.stream, cx);
        if !self.pending.is_empty()
            && let Poll::Ready(Some(stored)) = self.pending.poll_next_unpin(cx)
        {
            return Poll::Ready(Turn::Stored(stored));
        }
        if self.ending.is_none() && stopped.poll(cx).is_ready() {
            return Poll::Ready(Turn::Stop);
        }
        if self.may_read() {
            match self.poll_read(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Turn::Eof),
                Poll::Ready(Ok(_)) => return Poll::Ready(Turn::Read),
                Poll::Pending if self.ending.is_some() && self.session.buffer().is_empty() => {
                    return Poll::Ready(Turn::Quiet);
                }
                Poll::Pending => {}
            }
        }
        // The timer is only ever brought forward here; what was put off is seen when it fires.
        let due = self.due();
        if due < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(due);
        }
        timer.poll(cx).map(|()| Turn::Tick)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let buffer = self.session.buffer();
        if self.busy {
            if buffer.capacity() == buffer.len() {
                buffer.reserve(READ_BYTES);
            }
            return poll_read_buf(Pin::new(&mut self.stream), cx, buffer);
        }
        let mut sip = [std::mem::MaybeUninit::<u8>::uninit(); SIP_BYTES];
        let mut sip = ReadBuf::uninit(&mut sip);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut sip))?;
        buffer.extend_from_slice(sip.filled());
        self.busy = sip.remaining() == 0;
        Poll::Ready(Ok(sip.filled().len()))
    }

    /// When the clock must be looked at again.
    fn due(&self) -> Instant {
        let (clock, config) = (&self.clock, &self.settings.config);
        let after = |since: Option<Instant>, limit: Option<Duration>| Some(since? + limit?);
        let idle = self.pending.is_empty() && clock.message.is_none();
        [
            clock.paused,
            clock.starved.then(|| Instant::now() + MEMORY_AGAIN),
            after(clock.finishing, Some(FINISH)),
            after(self.finishing_quietly(), Some(FINISH_QUIET)),
            after(clock.message, config.message_timeout),
            after(idle.then_some(clock.last_read), config.idle_timeout),
            after(clock.waiting, Some(config.ack_deadline)),
            after(self.ending.is_none().then_some(clock.opened), self.age_max()),
            after(self.busy.then_some(clock.last_read), Some(REST)),
            self.ending.as_ref().map(|ending| ending.by),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or_else(|| Instant::now() + LOOK_AGAIN)
    }

    /// Since when nothing comes of a message for which others wait, though there is room for it.
    fn finishing_quietly(&self) -> Option<Instant> {
        let since = self.clock.finishing.filter(|_| !self.clock.starved)?;
        Some(since.max(self.clock.last_read))
    }

    /// Up to a tenth less than the configured age: connections that began together do not end together.
    fn age_max(&self) -> Option<Duration> {
        let max = self.settings.config.max_connection_age?;
        let share = xxhash_rust::xxh3::xxh3_64(self.peer.to_string().as_bytes()) % 1000;
        Some(max - max.mul_f64(share as f64 / 10_000.0))
    }

    fn look_at_the_clock(&mut self) -> Option<End> {
        self.follow_settings();
        let now = Instant::now();
        let over = |since: Option<Instant>, limit: Option<Duration>| {
            since.zip(limit).is_some_and(|(since, limit)| now.saturating_duration_since(since) >= limit)
        };
        if self.clock.paused.is_some_and(|until| until <= now) {
            self.clock.paused = None;
            // What is unfinished could not come meanwhile.
            self.clock.message = self.clock.message.map(|_| now);
        }
        let config = &self.settings.config;
        let refused = if over(self.clock.finishing, Some(FINISH))
            || over(self.finishing_quietly(), Some(FINISH_QUIET))
        {
            Some(("memory", "it took too long to finish a message for which others wait"))
        } else if over(self.clock.message, config.message_timeout) {
            Some(("message_timeout", "its message did not end within `message_timeout`"))
        } else if over(self.clock.waiting, Some(config.ack_deadline)) {
            Some((
                "ack_deadline",
                "closed without acknowledging: its batch was not stored within `ack_deadline`",
            ))
        } else if self.ending.as_ref().is_some_and(|ending| ending.by <= now) {
            Some(("ending", "its last message did not end in time"))
        } else {
            None
        };
        if let Some((reason, detail)) = refused {
            self.door.refusals.note(reason, &self.peer, detail);
            return Some(End::Refused);
        }
        let idle = self.pending.is_empty() && self.clock.message.is_none();
        if idle && over(Some(self.clock.last_read), config.idle_timeout) {
            return Some(End::Polite);
        }
        if over(Some(self.clock.opened), self.age_max()) {
            self.end_soon();
        }
        if self.busy && over(Some(self.clock.last_read), Some(REST)) {
            self.busy = false;
            let buffer = self.session.buffer();
            let rest = BytesMut::from(&buffer[..]);
            *buffer = rest;
            self.hold();
        }
        None
    }

    /// Stores and acknowledges whatever was complete, and says goodbye.
    async fn finish(&mut self, end: &End) {
        // No later than if it went on (R42).
        let deadline = self.clock.waiting.unwrap_or_else(Instant::now) + self.ack_deadline();
        while !self.pending.is_empty() {
            let next = std::future::poll_fn(|cx| {
                self.acks.poll_write(&mut self.stream, cx);
                self.pending.poll_next_unpin(cx)
            });
            let Ok(Some(stored)) = tokio::time::timeout_at(deadline, next).await else { break };
            if !self.note(stored) {
                break;
            }
        }
        // What is on its way into a log is carried to its end all the same, so that it is known when its sender, who
        // was not told, sends it again.
        let mut rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            tokio::spawn(async move { while rest.next().await.is_some() {} });
        }
        let bye = async {
            self.acks.write_all(&mut self.stream).await?;
            self.stream.shutdown().await
        };
        let told = timeout(LAST_ACKS, bye).await;
        self.door.metrics.open.decrement(1.0);
        let incomplete = self.session.buffer().len();
        if matches!(end, End::Refused) {
            // Nobody looks at it any more, and a sender may take its time to go.
            *self.session.buffer() = BytesMut::new();
            self.hold();
        }
        match end {
            End::Eof if incomplete > 0 => {
                names::FORWARD_VIOLATIONS_TOTAL.with(["truncated"]).increment(1);
                let detail = format_args!(
                    "its connection ended within a message, of which {incomplete} bytes had come"
                );
                self.door.refusals.note("truncated", &self.peer, detail);
            }
            End::Eof => {}
            _ if !matches!(told, Ok(Ok(()))) => {}
            End::Polite => _ = timeout(LINGER, self.take_the_rest()).await,
            End::Refused => _ = timeout(LINGER, discard(&mut self.stream)).await,
        }
    }

    /// Takes what a sender had on its way when we closed. What waits for an acknowledgement is left out: none can be
    /// written any more, and its sender will send it again.
    async fn take_the_rest(&mut self) {
        loop {
            match self.session.next(now_ns()) {
                Ok(Some(Event::Batch(batch))) if batch.acks.is_empty() => {
                    let batch = self.rewrite.apply(batch);
                    self.take(Event::Batch(batch));
                    while let Some(stored) = self.pending.next().await {
                        if !self.note(stored) {
                            return;
                        }
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    let read = std::future::poll_fn(|cx| self.poll_read(cx)).await;
                    if !matches!(read, Ok(1..)) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// For how much more room is made: no further than to the end of the message, and not at once to what a header claims (R12).
fn bytes_ahead(missing: usize, held: usize, bite: usize) -> usize {
    missing.min(held).max(bite)
}

/// Room for so many bytes and no more: a buffer that grows by itself doubles.
fn grow(buffer: &mut BytesMut, bytes: usize) {
    // Where it is the only one that has its memory, and the room is before it, nothing new is needed.
    if !buffer.try_reclaim(bytes) {
        let mut larger = BytesMut::with_capacity(buffer.len() + bytes);
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
}

fn meter(settings: &Settings, peer: &Peer) -> Meter {
    let source = peer.source(settings.config.source_prefix_v4, settings.config.source_prefix_v6);
    Meter::new(settings.rules.clone(), peer, source)
}

/// Acknowledgements on their way out: whole ones, in order, as many as fit with each write (R40).
#[derive(Default)]
struct Acks {
    queue: BytesMut,
    /// Something was written that may still lie in the TLS layer.
    unflushed: bool,
    deaf: bool,
}

impl Acks {
    /// Says whether there was room.
    fn push(&mut self, ack: &Bytes) -> bool {
        if self.deaf || self.queue.len() > ACK_BYTES_MAX {
            return false;
        }
        self.queue.extend_from_slice(ack);
        true
    }

    fn poll_write(&mut self, stream: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) {
        while !self.queue.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, &self.queue) {
                Poll::Ready(Ok(written @ 1..)) => {
                    self.unflushed = true;
                    bytes::Buf::advance(&mut self.queue, written);
                }
                // Whoever cannot be answered may still have something to say.
                Poll::Ready(_) => {
                    self.deaf = true;
                    self.queue = BytesMut::new();
                }
                Poll::Pending => return,
            }
        }
        if self.unflushed {
            self.unflushed = Pin::new(stream).poll_flush(cx).is_pending();
            self.queue = BytesMut::new();
        }
    }

    async fn write_all(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        stream.write_all(&std::mem::take(&mut self.queue)).await?;
        stream.flush().await
    }
}

/// Reads on and forgets, so that closing sends no reset.
pub(crate) async fn discard(stream: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 4 << 10];
    let mut total = 0;
    while let Ok(got) = stream.read(&mut buffer).await {
        total += got;
        if got == 0 || total >= LINGER_BYTES {
            return;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Takes every write, and tells one from the other, as a socket does not; it reads what it is given.
    #[derive(Default)]
    pub(crate) struct Recorder {
        pub(crate) writes: Vec<Vec<u8>>,
        pub(crate) input: std::io::Cursor<Vec<u8>>,
    }

    impl AsyncWrite for Recorder {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Recorder {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.input).poll_read(cx, buf)
        }
    }

    /// Senders take one read for one acknowledgement, and half of one for another's [R40].
    #[tokio::test]
    async fn acknowledgements_are_written_whole() {
        let (one, other) = (Bytes::from_static(b"\x81\xa3ack\xa1a"), Bytes::from_static(b"\x81\xa3ack\xa1b"));
        let (mut acks, mut stream) = (Acks::default(), Recorder::default());
        assert!(acks.push(&one) && acks.push(&other));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        acks.poll_write(&mut stream, &mut cx);
        assert!(acks.push(&one));
        acks.write_all(&mut stream).await.unwrap();
        assert_eq!(stream.writes, [[&one[..], &other].concat(), one.to_vec()]);
    }

    /// A batch that hangs on its way to a disk is neither waited for without an end nor acknowledged late [R41, R42].
    #[tokio::test]
    async fn what_hangs_ends_its_connection_in_time() {
        let text = "version = 1\ncluster.name = 'c'\nedge = [{ name = 'e', rack = 'r' }]\n\
                    route = [{ match = '**', groups = ['g'] }]\nforward.ack_deadline = '1s'\n\
                    [[group]]\nid = 'g'\nsink = [{ name = 's', rack = 'r', address = 'h:1' }]\n\
                    store = { kind = 'file', path = 'out' }\n";
        let (topology, _) = weir_topology::parse_topology(text, "topology.toml").unwrap();
        let config = &topology.forward.listeners[0].settings;
        let node = weir_model::NodeId::new("e").unwrap();
        let settings = Arc::new(Settings::new("l", config, &node, None).unwrap());
        let plan = Arc::new(arc_swap::ArcSwap::from_pointee(crate::plan::Plan::empty().unwrap()));
        let tags = weir_telemetry::TagTable::new(weir_telemetry::Direction::In, 1);
        let intake = Arc::new(crate::intake::Intake::new(plan, tags));
        let door = Door::for_tests(settings.clone(), intake);

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, address) = listener.accept().await.unwrap();
        let peer = Peer::Net(address);
        let (counted, session) = (door.admit(&peer).unwrap(), Session::new(settings.limits));
        let mut connection =
            Connection::new(door, settings, Stream::Tcp(socket), peer, None, session, counted);
        connection.pending.push_back(Box::pin(async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            Stored { bytes: 0, ack: Bytes::from_static(b"late"), outcome: Ok(()) }
        }));
        connection.clock.waiting = Some(Instant::now());
        tokio::spawn(connection.run());
        let mut seen = Vec::new();
        timeout(Duration::from_secs(20), sender.read_to_end(&mut seen)).await.expect("it ends").unwrap();
        assert_eq!(seen, b"");
    }

    #[test]
    fn what_a_header_claims_is_not_made_room_for() {
        assert_eq!(bytes_ahead(400 << 20, 20, READ_BYTES), READ_BYTES);
        assert_eq!(bytes_ahead(400 << 20, 1 << 20, READ_BYTES), 1 << 20, "as much again as has come");
        assert_eq!(bytes_ahead(1 << 20, 300 << 20, READ_BYTES), 1 << 20, "to the end and no further");
        assert_eq!(bytes_ahead(0, 1 << 20, READ_BYTES), READ_BYTES);
    }
}
