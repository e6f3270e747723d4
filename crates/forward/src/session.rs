//! One connection after its handshake: bytes in, events out.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use weir_model::{BatchHeader, ChunkIdentity, Encoding};
use xxhash_rust::xxh3::xxh3_64;

use crate::frame::{Frame, Framer};
use crate::json::{self, Lexer};
use crate::message::{Body, CHUNK_BYTES_MAX, Packing, TAG_BYTES_MAX, ack, outline};
use crate::outcome::{Batch, Event, Fault, Reason, Refused, Skips, Violation};
use crate::pack::{Pack, Single};
use crate::scan::{Entry, is_group_marker, map, time};
use crate::sieve::Sieve;
use crate::tally::Tally;
use crate::unpack::look_through;
use crate::writer::Writer;

/// How many values that are no messages may follow each other before the peer is taken for some other protocol:
/// every ASCII byte is a MessagePack integer (R7).
const STRANGERS_MAX: u32 = 16;

/// So many inflated bytes cost what one byte on the wire costs. Logs rarely shrink that much; bombs do.
const INFLATED_PER_BYTE: usize = 16;

/// How much one connection may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one message on the wire. Above: the connection is closed, as soon as a header says so.
    /// Not below 257 MiB, because Fluentd sends chunks of 256 MiB in one message (R13).
    pub message_bytes_max: usize,
    /// Bytes of the packed entries of one message when inflated. Above: the message is refused (R36).
    pub unpacked_bytes_max: usize,
    /// Bytes of single-event messages that are packed into one batch. Above: another batch begins.
    pub pack_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes_max: 512 << 20, unpacked_bytes_max: 256 << 20, pack_bytes_max: 1 << 20 }
    }
}

/// One connection after its handshake.
///
/// The driver reads the socket into [`buffer`](Self::buffer) and calls [`next`](Self::next) until that says `None`.
pub struct Session {
    limits: Limits,
    buffer: BytesMut,
    wire: Wire,
    strangers: u32,
    /// Single-event messages that wait for more of their kind; only within one call of `next`.
    pack: Option<Box<Pack>>,
    /// What was found behind the pack and comes out after it.
    held: Option<Result<Event, Violation>>,
    /// The last tag: the next message mostly has the same.
    tag: Arc<str>,
    ended: Option<Violation>,
    cost: u64,
}

/// What the connection speaks; its first byte decides.
enum Wire {
    Unknown,
    MessagePack(Box<Framer>),
    Json(Lexer),
}

/// A value of the stream. Arrays are MessagePack, whatever they were.
enum Value {
    Array(Bytes, Frame),
    Heartbeat,
    Stranger,
}

/// What one value of the stream turned out to be.
enum Step {
    Event(Event),
    /// A single event has begun another pack; this one is full, or of another kind.
    Full(Box<Pack>),
    Nothing,
    Incomplete,
}

impl Session {
    /// A connection that has sent nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::with_wire(limits, BytesMut::new(), Wire::Unknown)
    }

    /// A connection that has sent these bytes and may not speak JSON: one with a shared key.
    pub(crate) fn with_messagepack(limits: Limits, buffer: BytesMut) -> Self {
        Self::with_wire(limits, buffer, Wire::MessagePack(Box::new(Framer::new())))
    }

    fn with_wire(limits: Limits, buffer: BytesMut, wire: Wire) -> Self {
        Self {
            limits,
            buffer,
            wire,
            strangers: 0,
            pack: None,
            held: None,
            tag: Arc::from(""),
            ended: None,
            cost: 0,
        }
    }

    /// Where the driver puts what it reads, at the end. Payloads are split off it without copying, so whoever
    /// keeps a small payload keeps the read that it came in.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes that the message at the front of the buffer still lacks, at least: what its headers say so far.
    #[must_use]
    pub fn missing(&self) -> usize {
        match &self.wire {
            Wire::MessagePack(framer) => framer.pos().saturating_sub(self.buffer.len()),
            Wire::Unknown | Wire::Json(_) => 0,
        }
    }

    /// What messages have cost beyond the payloads that came of them, since this was asked last, in bytes, for a driver that
    /// limits rates: messages that were refused or left out, and of each that came packed a sixteenth of what it
    /// inflates to, where that is more than it has itself.
    pub fn cost(&mut self) -> u64 {
        std::mem::take(&mut self.cost)
    }

    /// The next complete thing in the buffer, `None` when more bytes are needed. `now_ns` is the wall time of receipt
    /// in nanoseconds since 1970.
    ///
    /// # Errors
    /// [`Violation`]: all that came before has been returned; close. The same is said again on further calls,
    /// except where [`Violation::refused`] has the message: then a further call goes on behind it.
    pub fn next(&mut self, now_ns: i64) -> Result<Option<Event>, Violation> {
        if let Some(held) = self.held.take() {
            return held.map(Some);
        }
        loop {
            let outcome = match self.step(now_ns) {
                Ok(Step::Nothing) => continue,
                Ok(Step::Incomplete) => return Ok(self.pack.take().map(|pack| pack.into_event())),
                Ok(Step::Full(pack)) => return Ok(Some(pack.into_event())),
                Ok(Step::Event(event)) => Ok(event),
                Err(violation) => Err(violation),
            };
            return match self.pack.take() {
                Some(pack) => {
                    self.held = Some(outcome);
                    Ok(Some(pack.into_event()))
                }
                None => outcome.map(Some),
            };
        }
    }

    /// To be asked at the peer's end of file: the bytes of an incomplete message, of which nothing was stored (R1), for
    /// counting.
    #[must_use]
    pub fn finish(&self) -> Option<usize> {
        (self.ended.is_none() && !self.buffer.is_empty()).then_some(self.buffer.len())
    }

    fn step(&mut self, now_ns: i64) -> Result<Step, Violation> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        if let Wire::Unknown = self.wire {
            self.wire = match self.buffer.first() {
                None => return Ok(Step::Incomplete),
                Some(b'[' | b'{') => Wire::Json(Lexer::default()),
                Some(_) => Wire::MessagePack(Box::new(Framer::new())),
            };
        }
        let value = match self.value() {
            Ok(Some(value)) => value,
            Ok(None) => return Ok(Step::Incomplete),
            Err(fault) => return Err(self.end(fault)),
        };
        match value {
            Value::Heartbeat => Ok(Step::Nothing),
            Value::Stranger => self.stranger(),
            Value::Array(message, frame) => {
                self.strangers = 0;
                let step = self.message(&message, &frame, now_ns);
                if matches!(step, Ok(Step::Event(Event::Ack { .. } | Event::Skipped(_))) | Err(_)) {
                    self.cost += message.len() as u64;
                }
                step
            }
        }
    }

    /// Takes the next value off the buffer if it is complete.
    fn value(&mut self) -> Result<Option<Value>, Fault> {
        let limit = self.limits.message_bytes_max;
        match &mut self.wire {
            Wire::Unknown => Ok(None),
            Wire::MessagePack(framer) => {
                let Some(frame) = framer.next(&self.buffer, limit)? else { return Ok(None) };
                let value = self.buffer.split_to(frame.len()).freeze();
                Ok(Some(match frame.array {
                    true => Value::Array(value, frame),
                    // A nil is the heartbeat of old clients (R6).
                    false if *value == [0xc0] => Value::Heartbeat,
                    false => Value::Stranger,
                }))
            }
            Wire::Json(lexer) => {
                let blank = self.buffer.iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
                self.buffer.advance(blank);
                let Some(len) = lexer.next(&self.buffer, limit)? else { return Ok(None) };
                let text = self.buffer.split_to(len);
                if text[0] != b'[' {
                    return if json::is_value(&text) {
                        Ok(Some(Value::Stranger))
                    } else {
                        Err(Fault::MalformedJson)
                    };
                }
                let message = Bytes::from(json::to_messagepack(&text)?);
                let frame = Framer::new().next(&message, usize::MAX)?.ok_or(Fault::MalformedJson)?;
                Ok(Some(Value::Array(message, frame)))
            }
        }
    }

    fn end(&mut self, fault: Fault) -> Violation {
        self.cost += self.buffer.len() as u64;
        self.ended.insert(Violation { fault, refused: None }).clone()
    }

    fn stranger(&mut self) -> Result<Step, Violation> {
        self.strangers += 1;
        if self.strangers >= STRANGERS_MAX {
            return Err(self.end(Fault::NotForward));
        }
        Ok(Step::Event(Event::Skipped(Skips::one(Reason::NotMessage))))
    }

    fn message(&mut self, message: &Bytes, frame: &Frame, now_ns: i64) -> Result<Step, Violation> {
        let Some(outline) = outline(message, frame) else {
            return Ok(Step::Event(Event::Skipped(Skips::one(Reason::InvalidMessage))));
        };
        let options = outline.options;
        let mut skipped = Skips::default();
        if options.invalid {
            skipped.add(Reason::InvalidOptions, 1);
        }
        // Copied: it is kept long after the message, and must not keep the buffer.
        let chunk = options.chunk.map(|range| Bytes::copy_from_slice(&message[range]));
        if let Some(chunk) = chunk.as_ref().filter(|chunk| chunk.len() > CHUNK_BYTES_MAX) {
            return Err(self.end(Fault::ChunkTooLong { bytes: chunk.len() }));
        }
        let is_json = matches!(self.wire, Wire::Json(_));
        let ack = match &chunk {
            None => Bytes::new(),
            Some(chunk) if is_json => json::ack(chunk).into(),
            Some(chunk) => ack(chunk),
        };
        if options.other_signal {
            skipped.add(Reason::UnsupportedSignal, 1);
            return Ok(nothing_to_store(ack, skipped));
        }
        let Some(tag) = self.tag(&message[outline.tag]) else {
            skipped.add(Reason::InvalidTag, 1);
            return Ok(nothing_to_store(ack, skipped));
        };
        let sender = Sender { tag, chunk, ack, skipped };
        match outline.body {
            Body::Packed(_) if is_json => {
                skipped.add(Reason::InvalidMessage, 1);
                Ok(nothing_to_store(sender.ack, skipped))
            }
            Body::Missing => {
                skipped.add(Reason::InvalidMessage, 1);
                Ok(nothing_to_store(sender.ack, skipped))
            }
            Body::Single { time, record } => {
                let metadata = options.metadata.map(|range| &message[range]);
                Ok(self.single(message, [time, record], metadata, sender, now_ns))
            }
            Body::Entries(range) => self.stream(message, range, Packing::Plain, sender, now_ns),
            Body::Packed(range) => self.stream(message, range, options.packing, sender, now_ns),
        }
    }

    /// The tag as text, if it is one.
    fn tag(&mut self, value: &[u8]) -> Option<Arc<str>> {
        let tag = crate::scan::text(value).filter(|tag| tag.len() <= TAG_BYTES_MAX)?;
        if self.tag.as_bytes() != tag {
            self.tag = String::from_utf8_lossy(tag).into();
        }
        Some(Arc::clone(&self.tag))
    }

    /// Puts a single event into the pack; the one before comes out when it does not fit there. The framer has found
    /// all values well-formed, so their kinds are all that is left to look at.
    fn single(
        &mut self,
        message: &[u8],
        [when, record]: [Range<usize>; 2],
        metadata: Option<&[u8]>,
        sender: Sender,
        now_ns: i64,
    ) -> Step {
        let Sender { tag, chunk, ack, mut skipped } = sender;
        let Some((time, _)) =
            time(&message[when.clone()]).filter(|_| map(&message[record.clone()]).is_some())
        else {
            skipped.add(Reason::InvalidEntry, 1);
            return nothing_to_store(ack, skipped);
        };
        if metadata.is_some() && is_group_marker(time, message[when.start]) {
            skipped.add(Reason::GroupMarker, 1);
            return nothing_to_store(ack, skipped);
        }
        // Without metadata both stand in the message as they do in an entry.
        let entry: [&[u8]; 4] = match metadata {
            Some(metadata) => [b"\x92\x92", &message[when], metadata, &message[record]],
            None => [b"\x92", &message[when.start..record.end], b"", b""],
        };
        let single = Single { tag, time, chunk, ack, skipped, entry };
        let full = match &self.pack {
            Some(pack) if pack.takes(&single, self.limits.pack_bytes_max) => None,
            _ => self.pack.replace(Box::new(Pack::new(&single, now_ns))),
        };
        if let Some(pack) = &mut self.pack {
            pack.add(single, self.buffer.len(), self.limits.pack_bytes_max);
        }
        full.map_or(Step::Nothing, Step::Full)
    }

    /// A whole stream of entries: the body of a Forward or PackedForward message.
    fn stream(
        &mut self,
        message: &Bytes,
        range: Range<usize>,
        packing: Packing,
        sender: Sender,
        now_ns: i64,
    ) -> Result<Step, Violation> {
        let (limit, mut inflated) = (self.limits.unpacked_bytes_max, 0);
        let taken = take_stream(&message.slice(range), packing, &sender, now_ns, limit, &mut inflated);
        // The message itself is counted already.
        self.cost += ((inflated / INFLATED_PER_BYTE) as u64).saturating_sub(message.len() as u64);
        taken.map_err(|fault| {
            let Sender { tag, chunk, ack, .. } = sender;
            let refused = Refused { tag, chunk, ack, message: message.clone() };
            Violation { fault, refused: Some(Box::new(refused)) }
        })
    }
}

/// Inflates, reads through and adds up a stream of entries. Nothing of it is taken unless all of it is well-formed.
fn take_stream(
    body: &Bytes,
    packing: Packing,
    sender: &Sender,
    received_ns: i64,
    unpacked_bytes_max: usize,
    inflated: &mut usize,
) -> Result<Step, Fault> {
    let encoding = packing.of(body);
    let mut sieve = Sieve::new(Tally::new(received_ns), sender.skipped);
    // Plain entries behind a gap; inflated ones are looked for again, for they are in memory no more.
    let mut copy = None;
    look_through(encoding, body, unpacked_bytes_max, inflated, |piece, last| {
        let keep = |gap: Option<usize>, entry: &Entry<'_>| {
            if let Some(gap) = gap.filter(|_| encoding == Encoding::Plain) {
                copy.get_or_insert_with(|| body[..gap].to_vec()).extend_from_slice(entry.bytes);
            }
        };
        sieve.read(piece, last, keep).map_err(Fault::from)
    })?;
    let Sieve { tally, skips: skipped, gap, pos } = sieve;
    let minutes = tally.finish().ok_or(Fault::TooManyMinutes)?;
    if minutes.is_empty() {
        return Ok(nothing_to_store(sender.ack.clone(), skipped));
    }
    // The sender's own bytes wherever that can be.
    let (encoding, unpacked_bytes, payload) = match (gap, copy, encoding) {
        (None, ..) => (encoding, pos, body.clone()),
        (_, Some(copy), _) => (Encoding::Plain, copy.len(), copy.into()),
        (Some(gap), None, Encoding::Plain) => (Encoding::Plain, gap, body.slice(..gap)),
        (Some(_), None, _) => {
            let mut writer = Writer::new(encoding);
            let mut again = Sieve::new(Tally::new(received_ns), Skips::default());
            look_through(encoding, body, unpacked_bytes_max, inflated, |piece, last| {
                again.read(piece, last, |_, entry| writer.write(entry.bytes)).map_err(Fault::from)
            })?;
            writer.finish().ok_or(Fault::DecompressError)?
        }
    };
    let chunks = sender.chunk.iter().map(|id| ChunkIdentity {
        id: id.clone(),
        payload_hash: xxh3_64(body),
        entries: minutes.iter().map(|minute| minute.events).sum(),
    });
    Ok(Step::Event(Event::Batch(Batch {
        header: BatchHeader {
            tag: Arc::clone(&sender.tag),
            encoding,
            received_ns,
            chunks: chunks.collect(),
            unpacked_bytes: unpacked_bytes as u64,
            minutes,
        },
        payload,
        acks: sender.ack.clone(),
        skipped,
    })))
}

/// What is known of a message besides its events.
struct Sender {
    tag: Arc<str>,
    chunk: Option<Bytes>,
    ack: Bytes,
    skipped: Skips,
}

fn nothing_to_store(ack: Bytes, skipped: Skips) -> Step {
    if !ack.is_empty() {
        Step::Event(Event::Ack { ack, skipped })
    } else if !skipped.is_empty() {
        Step::Event(Event::Skipped(skipped))
    } else {
        Step::Nothing
    }
}
