//! What comes out of a session: batches, acks, counts of what was left out, and the reasons to close.

use std::sync::Arc;

use bytes::Bytes;
use weir_model::BatchHeader;

use crate::message::CHUNK_BYTES_MAX;
use crate::scan::{DEPTH_MAX, ScanError};
use crate::tally::MINUTES_MAX;
use crate::unpack::UnpackError;

/// The next thing that a driver has to deal with, in the order of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Events to store.
    Batch(Batch),
    /// A message with nothing to store whose sender waits for an ack all the same. It must not overtake the
    /// acks of earlier batches (R39).
    Ack {
        /// The complete ack.
        ack: Bytes,
        /// What was left out of the message.
        skipped: Skips,
    },
    /// Nothing to store and nothing to answer, but something to count.
    Skipped(Skips),
}

/// Events of one tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What is known of the payload.
    pub header: BatchHeader,
    /// Entries, packed as the header says. Shares the session's buffer where the sender's bytes are kept.
    pub payload: Bytes,
    /// Complete acks, one for each chunk of the header and in that order, to be written as a whole once the
    /// batch is as durable as promised (R38, R40). Empty where none is due.
    pub acks: Bytes,
    /// What was left out of the messages.
    pub skipped: Skips,
}

/// Why something in the stream did not become an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// A top-level value that is no array (R7).
    NotMessage,
    /// An array of fewer than two elements, a tag and a time without a record (R5), or JSON in a packed mode.
    InvalidMessage,
    /// A tag that is neither str nor bin (R17), or longer than [`TAG_BYTES_MAX`](crate::TAG_BYTES_MAX).
    InvalidTag,
    /// Options that are neither map nor nil; the events were taken (R15).
    InvalidOptions,
    /// A well-formed value that is no entry (R20).
    InvalidEntry,
    /// A packed stream that ends inside an entry (R21).
    TruncatedEntry,
    /// The mark of Fluent Bit that a group begins or ends (R52).
    GroupMarker,
    /// Metrics, traces or the like instead of logs (R32).
    UnsupportedSignal,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NotMessage,
        Self::InvalidMessage,
        Self::InvalidTag,
        Self::InvalidOptions,
        Self::InvalidEntry,
        Self::TruncatedEntry,
        Self::GroupMarker,
        Self::UnsupportedSignal,
    ];

    /// The name under which it is counted; it never changes.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotMessage => "not_message",
            Self::InvalidMessage => "invalid_message",
            Self::InvalidTag => "invalid_tag",
            Self::InvalidOptions => "invalid_options",
            Self::InvalidEntry => "invalid_entry",
            Self::TruncatedEntry => "truncated_entry",
            Self::GroupMarker => "group_marker",
            Self::UnsupportedSignal => "unsupported_signal",
        }
    }
}

/// How often something was left out, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Skips([u32; Reason::ALL.len()]);

impl Skips {
    pub(crate) fn one(reason: Reason) -> Self {
        let mut skips = Self::default();
        skips.add(reason, 1);
        skips
    }

    pub(crate) fn add(&mut self, reason: Reason, times: usize) {
        let count = &mut self.0[reason as usize];
        *count = count.saturating_add(u32::try_from(times).unwrap_or(u32::MAX));
    }

    pub(crate) fn add_all(&mut self, other: Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
    }

    /// How often for this reason.
    #[must_use]
    pub fn count(&self, reason: Reason) -> u32 {
        self.0[reason as usize]
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u32)> + '_ {
        Reason::ALL.into_iter().map(|reason| (reason, self.count(reason))).filter(|&(_, count)| count > 0)
    }

    /// Whether nothing was left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A reason to close the connection, after all that came before has been delivered and acknowledged (R60).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct Violation {
    /// What was wrong.
    pub fault: Fault,
    /// The message, if the fault lies within one whose end is known. Then, and only then, the session can go on
    /// behind it: a driver that has put the message into quarantine (R46) asks for the next event.
    pub refused: Option<Box<Refused>>,
}

/// A message of which nothing was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its tag.
    pub tag: Arc<str>,
    /// Its chunk id, as [`weir_model::ChunkIdentity::id`].
    pub chunk: Option<Bytes>,
    /// The ack that answers the chunk, should the message be kept elsewhere; empty without a chunk.
    pub ack: Bytes,
    /// The whole message as MessagePack.
    pub message: Bytes,
}

/// What was wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A byte that starts no value; no message border can be found any more.
    #[error("malformed MessagePack")]
    Malformed,
    /// Not JSON, on a connection that began as JSON.
    #[error("malformed JSON")]
    MalformedJson,
    /// Containers nested more than [`DEPTH_MAX`] deep.
    #[error("nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
    /// A message that is, or says that it will be, larger than allowed.
    #[error("the message has more than {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// An outer array with more elements than any message has.
    #[error("an outer array of {elements} elements is no message")]
    OuterArray {
        /// Elements declared.
        elements: usize,
    },
    /// Too many values in a row that are no messages: some other protocol.
    #[error("this is not the Forward protocol")]
    NotForward,
    /// Malformed MessagePack in a packed stream.
    #[error("malformed MessagePack at byte {at} of the packed entries")]
    MalformedEntries {
        /// Offset in the inflated stream.
        at: usize,
    },
    /// A packed stream that inflates to more than allowed.
    #[error("the packed entries inflate to more than {limit} bytes")]
    DecompressLimit {
        /// Bytes allowed.
        limit: usize,
    },
    /// A packed stream that is damaged, cut or followed by garbage.
    #[error("the packed entries do not inflate")]
    DecompressError,
    /// A chunk id longer than [`CHUNK_BYTES_MAX`].
    #[error("a chunk id of {bytes} bytes; up to {CHUNK_BYTES_MAX} are taken")]
    ChunkTooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// More minutes of event time than [`MINUTES_MAX`].
    #[error("events of more than {MINUTES_MAX} different minutes in one message")]
    TooManyMinutes,
}

impl From<UnpackError> for Fault {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Limit { limit } => Self::DecompressLimit { limit },
            UnpackError::Damaged(_) => Self::DecompressError,
        }
    }
}

impl From<ScanError> for Fault {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::TooDeep { .. } => Self::TooDeep,
            ScanError::Malformed { at }
            | ScanError::Truncated { at }
            | ScanError::NotEntry { start: at, .. } => Self::MalformedEntries { at },
        }
    }
}

impl Fault {
    /// The name under which it is counted; it never changes.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MalformedJson => "malformed_json",
            Self::TooDeep => "too_deep",
            Self::TooLarge { .. } => "too_large",
            Self::OuterArray { .. } => "outer_array",
            Self::NotForward => "not_forward",
            Self::MalformedEntries { .. } => "malformed_entries",
            Self::DecompressLimit { .. } => "decompress_limit",
            Self::DecompressError => "decompress_error",
            Self::ChunkTooLong { .. } => "chunk_too_long",
            Self::TooManyMinutes => "too_many_minutes",
        }
    }
}
