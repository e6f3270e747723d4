//! What an agent and the controller say to each other, over one control stream of the link.
//!
//! A message is a byte with the version of this talk, then a MessagePack map with named fields: either side may be
//! newer by fields that the other does not know. The agent opens the stream and says [`FromAgent::Hello`] first.
//! Who it is, its certificate says.

use std::io::Read;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of this talk.
pub const VERSION: u8 = 1;

/// Longest text of a topology, in bytes. The controller refuses a longer one when it is uploaded.
pub const TEXT_BYTES_MAX: usize = 4 << 20;

/// Longest reason or ailment, in bytes; the rest is cut off.
pub const REASON_BYTES_MAX: usize = 4 << 10;

/// Most logs that a report names; the rest is left out.
pub const LOGS_MAX: usize = 1000;

/// The controller does not lead: try another, at once.
pub const CODE_NOT_LEADING: u32 = 10;

/// The controller stops: come back later.
pub const CODE_STOPPING: u32 = 11;

/// The same node connected a second time: the later connection is the one that counts.
pub const CODE_REPLACED: u32 = 12;

/// The peer does not keep to this talk.
pub const CODE_TALK: u32 = 13;

/// The agent's certificate is revoked, or of an authority that is trusted no more.
pub const CODE_DISTRUSTED: u32 = 14;

/// A revision, by number and content. The number is for people; only the hash is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// As the controller counts.
    pub number: u64,
    /// SHA-256 of the text, in hex.
    pub hash: String,
}

/// A revision that the node did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Which.
    pub revision: Revision,
    /// Why, for people.
    pub reason: String,
}

/// How much a log holds that no store has yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogDepth {
    /// Whose.
    pub group: String,
    /// Its bytes.
    pub bytes: f64,
    /// The age of the oldest batch.
    pub oldest_seconds: f64,
}

/// The first message of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// `edge` or `sink`.
    pub role: String,
    /// Where the node stands.
    pub rack: String,
    /// The version of its program.
    pub version: String,
    /// What it runs.
    pub applied: Option<Revision>,
}

/// How a node does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What it runs.
    pub applied: Option<Revision>,
    /// What it refused last, if it was not assigned another one since.
    pub refused: Option<Refused>,
    /// Why it cannot do its work, if it cannot.
    pub ailment: Option<String>,
    /// Its logs.
    pub logs: Vec<LogDepth>,
    /// Since the last report.
    pub events_per_second: f64,
    /// Since the last report.
    pub bytes_per_second: f64,
    /// Since the last report.
    pub errors_per_second: f64,
    /// How long the process runs.
    pub uptime_seconds: u64,
}

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromAgent {
    /// Once, first.
    Hello(Hello),
    /// At the pace that was set, and when something changed.
    Report(Report),
}

/// What a controller says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// How often to report, and how far agents should spread when they all come back at once.
    Pace {
        /// Milliseconds between reports.
        report_ms: u32,
        /// Milliseconds within which a lost agent comes back, at a moment of its own choice.
        return_ms: u32,
    },
    /// Run this.
    Assign {
        /// Which.
        revision: Revision,
        /// Its text; see [`pack`].
        text: Bytes,
    },
}

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The peer speaks another version.
    #[error("the peer speaks version {0} of this talk, and this program {VERSION}; upgrade the older one")]
    Version(u8),
    /// It is not what it should be.
    #[error("the peer's message cannot be read")]
    Content(#[from] rmp_serde::decode::Error),
    /// The text of a topology is too long or damaged.
    #[error("the text of the assigned revision cannot be unpacked: {0}")]
    Text(String),
}

/// A message in bytes.
///
/// # Panics
/// Never: these types always encode.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    let mut bytes = vec![VERSION];
    if let Err(error) = rmp_serde::encode::write_named(&mut bytes, message) {
        unreachable!("writing to memory: {error}");
    }
    bytes.into()
}

/// A message from bytes.
///
/// # Errors
/// [`TalkError`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, TalkError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(rmp_serde::from_slice(rest)?),
        first => Err(TalkError::Version(first.map_or(0, |(version, _)| *version))),
    }
}

/// A text as it travels: one zstd frame.
///
/// # Errors
/// [`TalkError::Text`] when memory is short.
pub fn pack(text: &str) -> Result<Bytes, TalkError> {
    zstd::encode_all(text.as_bytes(), 3).map(Bytes::from).map_err(|error| TalkError::Text(error.to_string()))
}

/// The text from what travelled.
///
/// # Errors
/// [`TalkError::Text`]: damaged, no UTF-8, or longer than [`TEXT_BYTES_MAX`].
pub fn unpack(packed: &[u8]) -> Result<String, TalkError> {
    let bad = |error: std::io::Error| TalkError::Text(error.to_string());
    let mut text = String::new();
    let decoder = zstd::Decoder::new(packed).map_err(bad)?;
    decoder.take(TEXT_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(bad)?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(TalkError::Text(format!("longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// `text`, cut to [`REASON_BYTES_MAX`].
#[must_use]
pub fn shortened(mut text: String) -> String {
    if text.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_these_bytes() {
        let revision = Revision { number: 7, hash: "ab".into() };
        let assign = ToAgent::Assign { revision, text: Bytes::from_static(b"x") };
        let bytes = encode(&assign);
        assert_eq!(
            bytes.as_ref(),
            b"\x01\x81\xa6Assign\x82\xa8revision\x82\xa6number\x07\xa4hash\xa2ab\xa4text\xc4\x01x"
        );
        assert_eq!(decode::<ToAgent>(&bytes).unwrap(), assign);
        let pace = ToAgent::Pace { report_ms: 5000, return_ms: 1000 };
        assert_eq!(
            encode(&pace).as_ref(),
            b"\x01\x81\xa4Pace\x82\xa9report_ms\xcd\x13\x88\xa9return_ms\xcd\x03\xe8"
        );
        let hello = Hello { role: "edge".into(), rack: "r".into(), version: "1".into(), applied: None };
        assert_eq!(
            encode(&FromAgent::Hello(hello)).as_ref(),
            b"\x01\x81\xa5Hello\x84\xa4role\xa4edge\xa4rack\xa1r\xa7version\xa11\xa7applied\xc0"
        );
    }

    #[test]
    fn a_later_field_and_a_missing_one_are_no_harm() {
        let later = b"\x01\x81\xa6Report\x82\xa5later\xc3\xaeuptime_seconds\x05";
        let report = Report { uptime_seconds: 5, ..Report::default() };
        assert_eq!(decode::<FromAgent>(later).unwrap(), FromAgent::Report(report));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        assert!(matches!(decode::<ToAgent>(b""), Err(TalkError::Version(0))));
        assert!(matches!(decode::<ToAgent>(b"\x02\x80"), Err(TalkError::Version(2))));
        assert!(matches!(decode::<ToAgent>(b"\x01\x80"), Err(TalkError::Content(_))));
        let long = pack(&"x".repeat(TEXT_BYTES_MAX + 1)).unwrap();
        assert!(long.len() < 1000 && unpack(&long).is_err());
        assert!(unpack(b"no frame").is_err());
        assert_eq!(unpack(&pack("größe").unwrap()).unwrap(), "größe");
        assert_eq!(shortened("ü".repeat(REASON_BYTES_MAX)).len(), REASON_BYTES_MAX);
    }
}
