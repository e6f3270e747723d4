//! Streams that carry whole messages: the control stream both ways, and lanes one way.

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};

use crate::CloseReason;
use crate::framing::{Decoder, Oversize, prefix};

/// Longest control message, in bytes. A longer one is refused by the sender; a peer that sends one anyway
/// loses the stream.
pub const CONTROL_BYTES_MAX: usize = 8 << 20;

/// Longest head of a lane message, in bytes. Refused like [`CONTROL_BYTES_MAX`].
pub const HEAD_BYTES_MAX: usize = 1 << 20;

/// First byte of a control stream. A stream exists for the peer only once something was written to it.
const CONTROL_OPENING: [u8; 1] = *b"c";

/// What the other side is told when it broke the framing and a stream is stopped for it.
const CODE_FRAMING: VarInt = VarInt::from_u32(1);

/// Why a message could not be sent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SendError {
    /// A section is too long. Nothing was sent; the stream can go on.
    #[error(transparent)]
    Oversize(#[from] Oversize),
    /// The peer stopped this stream.
    #[error("the peer stopped the stream (code {0})")]
    Stopped(u64),
    /// An earlier send was cancelled in the middle of a message, so the stream makes no sense any more.
    #[error("an earlier message was cut short; the stream cannot go on")]
    Torn,
    /// The connection has ended.
    #[error("connection ended: {0}")]
    Closed(CloseReason),
}

/// Why no message could be received.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecvError {
    /// The peer declared a section longer than is allowed. The stream was stopped.
    #[error(transparent)]
    Oversize(#[from] Oversize),
    /// The stream ended in the middle of a message.
    #[error("the stream ended in the middle of a message")]
    Truncated,
    /// The stream did not begin as this kind of stream does. It was stopped.
    #[error("the stream does not begin as it should")]
    Opening,
    /// The peer gave this stream up.
    #[error("the peer reset the stream (code {0})")]
    Reset(u64),
    /// The connection has ended.
    #[error("connection ended: {0}")]
    Closed(CloseReason),
}

impl From<WriteError> for SendError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped(code.into_inner()),
            WriteError::ConnectionLost(error) => Self::Closed(error.into()),
            // Finished or reset by ourselves; 0-RTT is never used.
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Torn,
        }
    }
}

impl From<ReadError> for RecvError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(code.into_inner()),
            ReadError::ConnectionLost(error) => Self::Closed(error.into()),
            // Stopped by ourselves after a fault in the framing; the others need calls that we never make.
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                Self::Opening
            }
        }
    }
}

#[derive(Debug)]
struct Writer<const N: usize> {
    stream: SendStream,
    torn: bool,
}

impl<const N: usize> Writer<N> {
    fn new(stream: SendStream) -> Self {
        Self { stream, torn: false }
    }

    async fn send(&mut self, sections: [Bytes; N], limits: [usize; N]) -> Result<(), SendError> {
        if self.torn {
            return Err(SendError::Torn);
        }
        let mut chunks = Vec::with_capacity(N + 1);
        chunks.push(prefix(&sections, limits)?);
        chunks.extend(sections);
        // Stays so when this future is dropped in the middle, or when the stream fails.
        self.torn = true;
        self.stream.write_all_chunks(&mut chunks).await?;
        self.torn = false;
        Ok(())
    }

    /// Ends the stream and waits until the peer's QUIC has all of it.
    async fn finish(mut self) -> Result<(), SendError> {
        if self.torn || self.stream.finish().is_err() {
            return Err(SendError::Torn);
        }
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(SendError::Stopped(code.into_inner())),
            Err(error) => Err(WriteError::from(error).into()),
        }
    }
}

/// A dropped quinn stream ends as if it had been finished; a message that was cut short must not look whole.
impl<const N: usize> Drop for Writer<N> {
    fn drop(&mut self) {
        if self.torn {
            let _ = self.stream.reset(CODE_FRAMING);
        }
    }
}

#[derive(Debug)]
struct Reader<const N: usize> {
    stream: RecvStream,
    decoder: Decoder<N>,
}

impl<const N: usize> Reader<N> {
    fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: Decoder::default() }
    }

    /// The next message, or `None` where the peer ended the stream between two messages. Safe to cancel.
    async fn recv(&mut self, limits: [usize; N]) -> Result<Option<[Bytes; N]>, RecvError> {
        loop {
            match self.stream.read(self.decoder.spare()).await? {
                Some(count) => match self.decoder.advance(count, limits) {
                    Ok(None) => {}
                    Ok(message) => return Ok(message),
                    Err(oversize) => {
                        let _ = self.stream.stop(CODE_FRAMING);
                        return Err(oversize.into());
                    }
                },
                None if self.decoder.at_boundary() => return Ok(None),
                None => return Err(RecvError::Truncated),
            }
        }
    }
}

async fn read_opening<const N: usize>(stream: &mut RecvStream) -> Result<[u8; N], RecvError> {
    let mut opening = [0; N];
    match stream.read_exact(&mut opening).await {
        Ok(()) => Ok(opening),
        Err(ReadExactError::FinishedEarly(_)) => Err(RecvError::Opening),
        Err(ReadExactError::ReadError(error)) => Err(error.into()),
    }
}

/// The sending half of a control stream.
#[derive(Debug)]
pub struct ControlSender(Writer<1>);

impl ControlSender {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self(Writer::new(stream))
    }

    pub(crate) async fn open(mut stream: SendStream) -> Result<Self, SendError> {
        stream.write_all(&CONTROL_OPENING).await?;
        Ok(Self::new(stream))
    }

    /// Sends one message of up to [`CONTROL_BYTES_MAX`] bytes. Returns when QUIC has taken it, not when it has
    /// arrived. Dropping the future half-way makes the stream unusable ([`SendError::Torn`]).
    ///
    /// # Errors
    /// [`SendError`]; after [`SendError::Oversize`] the stream is as it was before.
    pub async fn send(&mut self, message: Bytes) -> Result<(), SendError> {
        self.0.send([message], [CONTROL_BYTES_MAX]).await
    }

    /// Ends the stream and waits until the peer's side has all of it.
    ///
    /// # Errors
    /// [`SendError`] when the peer stopped the stream or the connection ended before that.
    pub async fn finish(self) -> Result<(), SendError> {
        self.0.finish().await
    }
}

/// The receiving half of a control stream.
#[derive(Debug)]
pub struct ControlReceiver(Reader<1>);

impl ControlReceiver {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self(Reader::new(stream))
    }

    pub(crate) async fn accept(mut stream: RecvStream) -> Result<Self, RecvError> {
        if read_opening(&mut stream).await? != CONTROL_OPENING {
            let _ = stream.stop(CODE_FRAMING);
            return Err(RecvError::Opening);
        }
        Ok(Self::new(stream))
    }

    /// Waits for the next message; `None` when the peer ended the stream. May be cancelled and called again.
    ///
    /// # Errors
    /// [`RecvError`]; none of them can be read past.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, RecvError> {
        Ok(self.0.recv([CONTROL_BYTES_MAX]).await?.map(|[message]| message))
    }
}

/// The sending end of a lane. What is sent on one lane arrives in order; a packet lost on one lane holds up no
/// other.
#[derive(Debug)]
pub struct LaneSender {
    number: u32,
    writer: Writer<2>,
}

impl LaneSender {
    pub(crate) async fn open(mut stream: SendStream, number: u32) -> Result<Self, SendError> {
        stream.write_all(&number.to_le_bytes()).await?;
        Ok(Self { number, writer: Writer::new(stream) })
    }

    /// The lane's number, as given to [`open_lane`](crate::Connection::open_lane).
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Sends one message: a head of up to [`HEAD_BYTES_MAX`] bytes and a payload of up to 4 GiB, neither of which
    /// is copied before it is encrypted. Returns when QUIC has taken it, and so waits while the windows are full.
    /// Dropping the future half-way makes the lane unusable ([`SendError::Torn`]).
    ///
    /// # Errors
    /// [`SendError`]; after [`SendError::Oversize`] the lane is as it was before.
    pub async fn send(&mut self, head: Bytes, payload: Bytes) -> Result<(), SendError> {
        self.writer.send([head, payload], [HEAD_BYTES_MAX, usize::MAX]).await
    }

    /// Ends the lane and waits until the peer's side has all of it.
    ///
    /// # Errors
    /// [`SendError`] when the peer stopped the lane or the connection ended before that.
    pub async fn finish(self) -> Result<(), SendError> {
        self.writer.finish().await
    }
}

/// The receiving end of a lane.
#[derive(Debug)]
pub struct LaneReceiver {
    number: u32,
    reader: Reader<2>,
}

impl LaneReceiver {
    pub(crate) async fn accept(mut stream: RecvStream) -> Result<Self, RecvError> {
        let number = u32::from_le_bytes(read_opening(&mut stream).await?);
        Ok(Self { number, reader: Reader::new(stream) })
    }

    /// The lane's number, as its sender gave it.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Waits for the next message (head, payload); `None` when the peer ended the lane. Memory is taken as bytes
    /// arrive, whatever length was declared. May be cancelled and called again.
    ///
    /// # Errors
    /// [`RecvError`], among others when the payload is longer than `payload_max` bytes; none can be read past.
    pub async fn recv(&mut self, payload_max: usize) -> Result<Option<(Bytes, Bytes)>, RecvError> {
        Ok(self.reader.recv([HEAD_BYTES_MAX, payload_max]).await?.map(|[head, payload]| (head, payload)))
    }
}
