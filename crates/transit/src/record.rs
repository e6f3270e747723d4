//! How a record lies in a file: the version, then MessagePack. Left out on purpose: frames and checksums, which are the
//! file's.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// First byte of each record.
const VERSION: u8 = 1;

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by a program that this one does not know.
    #[error("record version {0:?} is unknown; this program reads version {VERSION}")]
    Version(Option<u8>),
    /// The version is known and the rest does not decode.
    #[error("the record does not decode")]
    Malformed(#[source] rmp_serde::decode::Error),
}

pub(crate) fn encode(record: &impl Serialize) -> Bytes {
    let mut out = vec![VERSION];
    rmp_serde::encode::write(&mut out, record)
        .expect("a record is plain data and a Vec never refuses a write");
    out.into()
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => rmp_serde::from_slice(rest).map_err(RecordError::Malformed),
        other => Err(RecordError::Version(other.map(|(&version, _)| version))),
    }
}
