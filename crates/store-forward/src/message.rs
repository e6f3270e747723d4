//! A batch as a message, and acknowledgements. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use weir_forward::unpack::{UnpackError, unpack};
use weir_model::{BatchHeader, BatchId, Encoding};
use xxhash_rust::xxh3::xxh3_128;

/// Most bytes of a batch when inflated; no edge takes one that comes near it.
const UNPACKED_BYTES_MAX: usize = 512 << 20;

/// The chunk id of a batch: 24 characters of base64, as Fluentd's. It follows from what the batch is called for ever,
/// and so is the same each time that it is sent.
pub(crate) fn chunk(id: &BatchId) -> String {
    BASE64.encode(xxh3_128(id.to_string().as_bytes()).to_be_bytes())
}

/// The message up to its payload, the payload, and the options behind it.
pub(crate) struct Message {
    pub(crate) head: Vec<u8>,
    pub(crate) payload: bytes::Bytes,
    pub(crate) options: Vec<u8>,
}

/// `[tag, payload, {"chunk", "size", "compressed"}]`. What came compressed goes on so, unless it is zstd and that is not
/// taken.
pub(crate) fn message(
    header: &BatchHeader,
    payload: bytes::Bytes,
    chunk: &str,
    zstd: bool,
) -> Result<Message, UnpackError> {
    let (payload, compressed) = match header.encoding {
        Encoding::Plain => (payload, "text"),
        Encoding::Gzip => (payload, "gzip"),
        Encoding::Zstd if zstd => (payload, "zstd"),
        Encoding::Zstd => (unpack(Encoding::Zstd, &payload, UNPACKED_BYTES_MAX)?.into_owned().into(), "text"),
    };
    let (mut head, mut options) = (Vec::new(), Vec::new());
    // A Vec takes every write, and no batch is longer than 32 bits tell.
    let _ = rmp::encode::write_array_len(&mut head, 3);
    let _ = rmp::encode::write_str(&mut head, &header.tag);
    let _ = rmp::encode::write_bin_len(&mut head, u32::try_from(payload.len()).unwrap_or(u32::MAX));
    let _ = rmp::encode::write_map_len(&mut options, 3);
    let _ = rmp::encode::write_str(&mut options, "chunk");
    let _ = rmp::encode::write_str(&mut options, chunk);
    let _ = rmp::encode::write_str(&mut options, "size");
    let _ = rmp::encode::write_uint(&mut options, header.events());
    let _ = rmp::encode::write_str(&mut options, "compressed");
    let _ = rmp::encode::write_str(&mut options, compressed);
    Ok(Message { head, payload, options })
}

/// What the front of a receiver's answers is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not all of it.
    Incomplete,
    /// The acknowledgement of a chunk, and its bytes.
    Ack(String, usize),
    /// Something else: no acknowledgement can be trusted any more.
    Strange,
}

/// Reads the acknowledgement at the front.
pub(crate) fn answer(bytes: &[u8]) -> Answer {
    let mut rest = bytes;
    match rmpv::decode::read_value_with_max_depth(&mut rest, 8) {
        Ok(value) => {
            let pairs = value.as_map().map(Vec::as_slice).unwrap_or_default();
            let ack = pairs.iter().find(|(key, _)| key.as_str() == Some("ack")).map(|(_, value)| value);
            let ack = ack.and_then(|ack| match ack {
                rmpv::Value::Binary(bytes) => std::str::from_utf8(bytes).ok(),
                ack => ack.as_str(),
            });
            ack.map_or(Answer::Strange, |ack| Answer::Ack(ack.to_owned(), bytes.len() - rest.len()))
        }
        Err(_) if bytes.len() < 512 && !matches!(bytes.first(), Some(0xc1)) => Answer::Incomplete,
        Err(_) => Answer::Strange,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(answer(b"\x81\xa3ack\xa2x\n\x81"), Answer::Ack("x\n".into(), 8));
        assert_eq!(answer(b"\x81\xa3ack\xc4\x01x"), Answer::Ack("x".into(), 8));
        for cut in 0..8 {
            assert_eq!(answer(&b"\x81\xa3ack\xa2x\n"[..cut]), Answer::Incomplete, "cut to {cut}");
        }
        for strange in [&b"\x80"[..], b"\xc1", b"\x01", b"\x81\xa3nak\xa1x", b"\x81\xa3ack\x05"] {
            assert_eq!(answer(strange), Answer::Strange, "{strange:?}");
        }
    }

    #[test]
    fn a_batch_has_one_chunk_id_for_ever() {
        use std::sync::Arc;
        use weir_model::{Incarnation, LogId, Seq};
        let log = Arc::new(LogId {
            edge: "edge-1".parse().unwrap(),
            group: "old".parse().unwrap(),
            incarnation: Incarnation(7),
        });
        let id = |seq| BatchId { log: log.clone(), seq: Seq(seq) };
        // Receivers may have seen it: a change of it makes duplicates, once, on every upgrade.
        assert_eq!(chunk(&id(1)), chunk(&id(1)));
        assert_ne!(chunk(&id(1)), chunk(&id(2)));
        assert_eq!(chunk(&id(1)).len(), 24);
    }
}
