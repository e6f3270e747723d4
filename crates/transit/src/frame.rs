//! What the two sides say to each other. Control messages and batch heads are MessagePack (`rmp-serde`);
//! payloads travel beside them as raw bytes.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use weir_model::{Epoch, Fingerprint, Incarnation, LogId, NodeId, PartId, Seq, SeqRanges};

use crate::Partition;

/// The version of this conversation. Both sides name theirs first; a difference ends the connection with a
/// clear error, before any batch is sent.
pub const WIRE_VERSION: u16 = 2;

/// From an edge to a sink, on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSink {
    /// Opens a session: whatever the sink still holds of this log's older sessions is no longer its to commit,
    /// but for what was promised.
    Hello {
        /// [`WIRE_VERSION`] of the edge.
        version: u16,
        /// Whose batches will follow.
        log: LogId,
        /// Greater than that of any earlier session of this log with any sink.
        session: Epoch,
    },
    /// The batches asked for are promised to this part, durably.
    Promise {
        /// The part that was prepared.
        part: PartId,
    },
    /// Some of the batches asked for are not this sink's: nothing is promised.
    Refuse {
        /// The part that was prepared.
        part: PartId,
        /// The batches that the sink must forget.
        gone: SeqRanges,
    },
    /// Asks what became of a promised part.
    Resolve {
        /// The part in doubt.
        part: PartId,
        /// What the store needs to fence and find it.
        token: Bytes,
    },
    /// Answers [`ToEdge::Recall`].
    Recalled {
        /// The part that is being prepared.
        part: PartId,
        /// Chunks that the store has, in batches of this edge.
        stored: Vec<Fingerprint>,
        /// Chunks that the store may have, or that another sink may commit, in batches of this edge: ask again later.
        elsewhere: Vec<Fingerprint>,
    },
}

/// From a sink to an edge, on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToEdge {
    /// Answers [`ToSink::Hello`].
    Welcome {
        /// [`WIRE_VERSION`] of the sink.
        version: u16,
        /// Which sink this is.
        sink: NodeId,
        /// Its present life.
        incarnation: Incarnation,
        /// Bytes of payload that the edge may send in this session, in all.
        window: u64,
    },
    /// More credit.
    Window {
        /// Bytes of payload that the edge may have sent since the session began; never less than before.
        total: u64,
    },
    /// Asks the edge to promise these batches to this part.
    Prepare {
        /// The part that will be committed if all its edges agree.
        part: PartId,
        /// This edge's batches in it.
        ranges: SeqRanges,
        /// What another sink will need to settle the part if this one dies.
        token: Bytes,
    },
    /// Asks whether these chunks, which other edges have sent for this part, have come through this edge before.
    Recall {
        /// The part that is being prepared.
        part: PartId,
        /// The chunks, but for those below.
        chunks: Vec<Fingerprint>,
        /// Chunks in batches of which some partitions are stored.
        half_done: Vec<Fingerprint>,
    },
    /// All chunks of these batches are in the store already: they are done.
    Repeated {
        /// The batches.
        ranges: SeqRanges,
    },
    /// The part is in the store.
    Committed {
        /// The part.
        part: PartId,
    },
    /// The part will never be committed; what was promised to it is free, and still staged at this sink.
    Abandoned {
        /// The part.
        part: PartId,
    },
    /// Answers [`ToSink::Resolve`].
    Resolved {
        /// The part.
        part: PartId,
        /// What became of it.
        resolution: Resolution,
    },
    /// The sink is about to stop: send nothing more, wait for the rest.
    Draining,
}

/// What became of a part in doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolution {
    /// All of it is in the store.
    Committed,
    /// Nothing of it is, or ever will be.
    Void,
    /// Exactly these partitions of it are, and no other ever will be under its id.
    Partial(Vec<Partition>),
    /// Only the part's own sink can say.
    NotHere,
}

/// What precedes a batch's payload on a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchHead {
    /// Its place in the log named by the session's `Hello`.
    pub seq: Seq,
    /// Partitions whose events of this batch are in the store already: to be left out.
    pub done: Vec<Partition>,
    /// Whether the edge has counted other sinks as live lately: its twins may lie elsewhere, see [`ToEdge::Recall`].
    pub recall: bool,
    /// The encoded [`BatchHeader`](weir_model::BatchHeader), as it lies in the log.
    pub header: Bytes,
}

/// Why bytes from a peer are not a message.
#[derive(Debug, thiserror::Error)]
#[error("a message of {bytes} bytes from the peer does not decode; do both run compatible versions?")]
pub struct FrameError {
    /// How long the message was.
    pub bytes: usize,
    /// What the decoder says.
    #[source]
    pub source: rmp_serde::decode::Error,
}

fn encode(message: &impl Serialize) -> Bytes {
    rmp_serde::to_vec(message).expect("a message is plain data and a Vec never refuses a write").into()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    rmp_serde::from_slice(bytes).map_err(|source| FrameError { bytes: bytes.len(), source })
}

macro_rules! wire {
    ($($message:ty),*) => {$(
        impl $message {
            /// The message as bytes for the wire.
            #[must_use]
            pub fn encode(&self) -> Bytes {
                encode(self)
            }

            /// Reads what `encode` wrote.
            ///
            /// # Errors
            /// [`FrameError`] when the bytes are no such message.
            pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
                decode(bytes)
            }
        }
    )*};
}

wire!(ToSink, ToEdge, BatchHead);

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> PartId {
        PartId { sink: NodeId::new("s1").unwrap(), incarnation: Incarnation(5), number: 9 }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    // Nodes of different ages speak to each other: a change of these bytes is a new WIRE_VERSION.
    #[test]
    fn version_2_is_these_bytes() {
        let prepare = ToEdge::Prepare {
            part: part(),
            ranges: [Seq(1), Seq(2), Seq(7)].into_iter().collect(),
            token: Bytes::from_static(b"tk"),
        };
        assert_eq!(
            hex(&prepare.encode()),
            "81a7507265706172659393a2733192000509929201039207\
             08c402746b"
        );
        let head =
            BatchHead { seq: Seq(3), done: vec!["d".into()], recall: true, header: Bytes::from_static(b"h") };
        assert_eq!(hex(&head.encode()), "940391a164c3c40168");
        let recall = ToEdge::Recall { part: part(), chunks: vec![Fingerprint(1, 2)], half_done: Vec::new() };
        assert_eq!(hex(&recall.encode()), "81a6526563616c6c9393a27331920005099192".to_owned() + "010290");
    }

    #[test]
    fn what_is_encoded_decodes() {
        let frames = [
            ToEdge::Draining,
            ToEdge::Window { total: u64::MAX },
            ToEdge::Resolved { part: part(), resolution: Resolution::Partial(vec!["a/b".into()]) },
        ];
        for frame in frames {
            assert_eq!(ToEdge::decode(&frame.encode()).unwrap(), frame);
        }
        assert!(ToSink::decode(b"\xc1garbage").is_err());
    }
}
