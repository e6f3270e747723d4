//! What a batch is called and what its header says of its payload.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::{GroupId, Incarnation, NodeId, Seq};

/// One life of one edge's log for one group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogId {
    /// The edge whose disk holds the log.
    pub edge: NodeId,
    /// The group whose batches the log holds.
    pub group: GroupId,
    /// Random, made when the log was created.
    pub incarnation: Incarnation,
}

/// The identity of a batch: unique in the cluster, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId {
    /// The log that holds it.
    pub log: Arc<LogId>,
    /// Its place there.
    pub seq: Seq,
}

/// How a batch's payload is packed. Whatever it is, unpacked it is a plain concatenation of Forward entries,
/// `[time, record]` each, with nothing between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// One or more gzip members (RFC 1952).
    Gzip,
    /// One or more Zstandard frames (RFC 8878).
    Zstd,
}

/// What a sender's retry is recognised by. The chunk id alone will not do: ids are not unique in the field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChunkIdentity {
    /// The sender's `chunk` option: the MessagePack value as it was received, type byte included.
    pub id: Bytes,
    /// XXH3-64 over the event payload as it was received.
    pub payload_hash: u64,
    /// How many entries of the batch are this chunk's. The chunks of a batch follow each other in it.
    pub entries: u64,
}

/// A chunk identity with its tag, in 16 bytes: what windows of recent chunks keep. The bytes lie on disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fingerprint(pub u64, pub u64);

impl ChunkIdentity {
    /// XXH3-128 over tag, id and payload hash, each text with its length before it. `text` is overwritten.
    fn fingerprint(&self, tag: &str, text: &mut Vec<u8>) -> Fingerprint {
        text.clear();
        for part in [tag.as_bytes(), &self.id] {
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part);
        }
        text.extend_from_slice(&self.payload_hash.to_le_bytes());
        let digest = xxh3_128(text);
        Fingerprint((digest >> 64) as u64, digest as u64)
    }
}

/// What a batch holds for one minute of event time: the ledger's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MinuteTally {
    /// Minutes since 1970-01-01T00:00Z, rounded down.
    pub minute: i64,
    /// Events whose time lies in that minute.
    pub events: u64,
    /// Bytes of their entries, unpacked.
    pub bytes: u64,
    /// Wrapping sum of XXH3-64 over each entry's bytes: the same whatever the order.
    pub digest: u64,
}

/// What an edge knows of a batch without decoding a record; it travels with the payload through log and link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchHeader {
    /// The tag of all its events.
    pub tag: Arc<str>,
    /// How the payload is packed.
    pub encoding: Encoding,
    /// When the edge received it, in nanoseconds since 1970. An event whose own time is 0 or nil takes this one.
    pub received_ns: i64,
    /// The senders' chunk identities. Mostly one; several where single-event messages that arrived together were
    /// packed into one batch; none where the sender asked for no acknowledgement. Either all entries of a
    /// batch belong to chunks or none does.
    pub chunks: Vec<ChunkIdentity>,
    /// Bytes of the payload when unpacked.
    pub unpacked_bytes: u64,
    /// One tally for each minute of event time in the batch, ascending.
    pub minutes: Vec<MinuteTally>,
}

/// Why bytes are not a batch header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Nothing there, or a version that this program does not know.
    #[error("batch header version {0:?} is unknown; this program reads version {version}", version = BatchHeader::VERSION)]
    Version(Option<u8>),
    /// The version is known and the rest does not decode.
    #[error("batch header does not decode")]
    Malformed(#[source] rmp_serde::decode::Error),
}

impl BatchHeader {
    /// First byte of an encoded header. A reader refuses versions it does not know instead of guessing.
    pub const VERSION: u8 = 1;

    /// The fingerprints of its chunks, in their order.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        let mut text = Vec::new();
        self.chunks.iter().map(|chunk| chunk.fingerprint(&self.tag, &mut text)).collect()
    }

    /// How many events the payload holds.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.minutes.iter().map(|minute| minute.events).sum()
    }

    /// The header as bytes: the version, then a MessagePack array.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.tag.len() + 40 * self.minutes.len());
        out.push(Self::VERSION);
        rmp_serde::encode::write(&mut out, self)
            .expect("a header is plain data and a Vec never refuses a write");
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`HeaderError`] when the version is unknown or the bytes are not a header.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        match bytes.split_first() {
            Some((&Self::VERSION, rest)) => rmp_serde::from_slice(rest).map_err(HeaderError::Malformed),
            other => Err(HeaderError::Version(other.map(|(&version, _)| version))),
        }
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.log.edge, self.log.group, self.log.incarnation, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            tag: "app.web".into(),
            encoding: Encoding::Gzip,
            received_ns: 1_700_000_000_000_000_000,
            chunks: vec![ChunkIdentity { id: Bytes::from_static(b"\xa2x\n"), payload_hash: 7, entries: 3 }],
            unpacked_bytes: 99,
            minutes: vec![MinuteTally { minute: 28_333_333, events: 3, bytes: 99, digest: u64::MAX }],
        }
    }

    // These bytes lie on disks: a change of them is a new version, not an edit of this test.
    #[test]
    fn version_1_is_these_bytes() {
        let hex: String = header().encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "0196a76170702e776562a4477a6970cf17979cfe362a00009193c403a2780a07036391\
             94ce01b0551503 63cfffffffffffffffff"
                .replace(' ', "")
        );
    }

    // Edges keep these on disk: another hash would forget what was stored before an upgrade.
    #[test]
    fn a_fingerprint_stays_what_it_is() {
        let of = |tag, chunk: ChunkIdentity| chunk.fingerprint(tag, &mut b"of another".to_vec());
        let chunk = header().chunks[0].clone();
        let print = of("app.web", chunk.clone());
        assert_eq!(print, Fingerprint(13_307_850_767_099_314_848, 14_692_084_728_346_321_098));
        let others = [
            of("app.we", chunk.clone()),
            of("app.web", ChunkIdentity { payload_hash: 8, ..chunk.clone() }),
            of("app.web", ChunkIdentity { id: Bytes::from_static(b"\xa2x\r"), ..chunk.clone() }),
            of("app.web", ChunkIdentity { entries: 4, ..chunk }),
        ];
        assert_eq!(others.map(|other| other == print), [false, false, false, true]);
    }

    #[test]
    fn what_is_encoded_decodes() {
        assert_eq!(BatchHeader::decode(&header().encode()).unwrap(), header());
        assert_eq!(header().events(), 3);
    }

    #[test]
    fn strangers_are_refused() {
        assert!(matches!(BatchHeader::decode(b""), Err(HeaderError::Version(None))));
        assert!(matches!(BatchHeader::decode(b"\x02\x90"), Err(HeaderError::Version(Some(2)))));
        assert!(matches!(BatchHeader::decode(b"\x01\x90"), Err(HeaderError::Malformed(_))));
    }
}
