//! Inflating a payload, bounded: what comes out never exceeds a limit, whatever the input declares.
//!
//! Both formats are read as one concatenated stream of members or frames (R33), every checksum is verified, and a
//! cut or trailing garbage is an error (R35). Left out on purpose: what the bytes mean.

use std::borrow::Cow;
use std::io::{self, Read};

use weir_model::Encoding;

/// What comes out is counted before memory is taken for more than so many bytes: a small bomb must not cost what it
/// claims, not even for a moment, for many may come at once.
const UNCOUNTED_BYTES_MAX: usize = 16 << 20;

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
    let inflated = match encoding {
        Encoding::Plain => return Ok(Cow::Borrowed(payload)),
        Encoding::Gzip => inflate(|| Ok(flate2::bufread::MultiGzDecoder::new(payload)), payload.len(), limit),
        // The window that a frame declares is bounded at 2^27 bytes, zstd's own default.
        Encoding::Zstd => inflate(|| zstd::stream::read::Decoder::with_buffer(payload), payload.len(), limit),
    };
    inflated.map(Cow::Owned)
}

fn inflate<R: Read>(
    decoder: impl Fn() -> io::Result<R>,
    packed: usize,
    limit: usize,
) -> Result<Vec<u8>, UnpackError> {
    let few = limit.min(UNCOUNTED_BYTES_MAX);
    // A first guess from what was received, not from what it declares; logs shrink to a quarter or so.
    let mut out = Vec::with_capacity(packed.saturating_mul(4).min(few));
    let mut reading = decoder().map_err(UnpackError::Damaged)?;
    // One byte more than allowed tells "too much" from "just enough"; the latter reads on to the checksum.
    reading.by_ref().take(few as u64 + 1).read_to_end(&mut out).map_err(UnpackError::Damaged)?;
    if out.len() <= few {
        return Ok(out);
    }
    // Rare in good faith: counted to the end before there is memory for it.
    let so_far = out.len();
    drop(out);
    let most = (limit.saturating_sub(so_far) as u64).saturating_add(1);
    let rest = io::copy(&mut reading.take(most), &mut io::sink()).map_err(UnpackError::Damaged)?;
    let bytes = usize::try_from(rest).unwrap_or(usize::MAX).saturating_add(so_far);
    if bytes > limit {
        return Err(UnpackError::Limit { limit });
    }
    let mut out = Vec::with_capacity(bytes);
    decoder().and_then(|mut again| again.read_to_end(&mut out)).map_err(UnpackError::Damaged)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: usize) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&vec![7; bytes]).unwrap();
        gzip.finish().unwrap()
    }

    // Around the size from which it is counted first, and around the limit.
    #[test]
    fn all_sizes_come_out_whole_or_not_at_all() {
        let some = UNCOUNTED_BYTES_MAX;
        for (bytes, limit, fits) in [
            (0, 0, true),
            (1, 0, false),
            (some, some, true),
            (some + 1, some, false),
            (some + 1, some + 1, true),
            (2 * some, 2 * some, true),
            (2 * some + 1, 2 * some, false),
        ] {
            for (encoding, packed) in [
                (Encoding::Gzip, gzip(bytes)),
                (Encoding::Zstd, zstd::bulk::compress(&vec![7; bytes], 1).unwrap()),
            ] {
                match unpack(encoding, &packed, limit) {
                    Ok(plain) => assert!(fits && plain.len() == bytes, "{bytes} within {limit}"),
                    Err(UnpackError::Limit { .. }) => assert!(!fits, "{bytes} within {limit}"),
                    Err(error) => panic!("{bytes} within {limit}: {error:?}"),
                }
            }
        }
    }

    #[test]
    fn what_is_counted_first_is_checked_to_its_end() {
        let mut cut = gzip(2 * UNCOUNTED_BYTES_MAX);
        cut.truncate(cut.len() - 1);
        let damaged = unpack(Encoding::Gzip, &cut, 4 * UNCOUNTED_BYTES_MAX);
        assert!(matches!(damaged, Err(UnpackError::Damaged(_))), "{damaged:?}");
    }
}
