//! Inflating a payload, bounded: what comes out never exceeds a limit, whatever the input declares.
//!
//! Both formats are read as one concatenated stream of members or frames (R33), every checksum is verified, and a
//! cut or trailing garbage is an error (R35). Left out on purpose: what the bytes mean.

use std::borrow::Cow;
use std::io::{self, Read};

use weir_model::Encoding;

/// Why a payload could not be inflated.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It holds more than was allowed; nothing beyond the limit was kept in memory.
    #[error("the payload inflates to more than {limit} bytes")]
    Limit {
        /// Bytes allowed.
        limit: usize,
    },
    /// Not of the format, cut short, a wrong checksum or length, or garbage behind the end.
    #[error("the payload does not inflate")]
    Damaged(#[source] io::Error),
}

/// The plain bytes of a payload: inflated, `limit` bytes at most, or borrowed where it is plain already.
///
/// # Errors
/// [`UnpackError`] when the payload is damaged or inflates to more than `limit` bytes.
pub fn unpack(encoding: Encoding, payload: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, UnpackError> {
    // An empty payload is an empty stream in every encoding (R37), though neither format has an empty file.
    if payload.is_empty() {
        return Ok(Cow::Borrowed(payload));
    }
    match encoding {
        Encoding::Plain => Ok(Cow::Borrowed(payload)),
        Encoding::Gzip => {
            inflate(flate2::bufread::MultiGzDecoder::new(payload), payload.len(), limit).map(Cow::Owned)
        }
        // The window that a frame declares is bounded at 2^27 bytes, zstd's own default.
        Encoding::Zstd => zstd::stream::read::Decoder::with_buffer(payload)
            .map_err(UnpackError::Damaged)
            .and_then(|decoder| inflate(decoder, payload.len(), limit))
            .map(Cow::Owned),
    }
}

fn inflate(decoder: impl Read, packed: usize, limit: usize) -> Result<Vec<u8>, UnpackError> {
    // A first guess from what was received, not from what it declares; logs shrink to a quarter or so.
    let mut out = Vec::with_capacity(packed.saturating_mul(4).min(limit));
    // One byte more than allowed tells "too much" from "just enough"; the latter reads on to the checksum.
    let most = (limit as u64).saturating_add(1);
    decoder.take(most).read_to_end(&mut out).map_err(UnpackError::Damaged)?;
    if out.len() > limit { Err(UnpackError::Limit { limit }) } else { Ok(out) }
}
