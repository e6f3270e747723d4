//! Inflating a payload, bounded: what comes out never exceeds a limit, whatever the input declares.
//!
//! Both formats are read as one concatenated stream of members or frames (R33), every checksum is verified, and a
//! cut or trailing garbage is an error (R35). Left out on purpose: what the bytes mean.

use std::borrow::Cow;
use std::io::{self, Read};

use weir_model::Encoding;

use crate::frames::Frames;

/// The inflated bytes that are in memory at once while a payload is only looked through, but for an entry that is larger.
const WINDOW_BYTES: usize = 256 << 10;
/// The same for a payload so small that it hardly needs as many.
const WINDOW_BYTES_MIN: usize = 1 << 10;
/// A first guess of what a packed byte inflates to; logs shrink to a quarter or a tenth.
const RATIO: usize = 8;

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
        Encoding::Gzip => inflate(gzip(payload), payload.len(), limit),
        Encoding::Zstd => inflate(zstd(payload)?, payload.len(), limit),
    };
    inflated.map(Cow::Owned)
}

fn gzip(payload: &[u8]) -> impl Read {
    flate2::bufread::MultiGzDecoder::new(payload)
}

fn zstd(payload: &[u8]) -> Result<impl Read, UnpackError> {
    Frames::new(payload).map_err(UnpackError::Damaged)
}

fn inflate(reader: impl Read, packed: usize, limit: usize) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::with_capacity(packed.saturating_mul(RATIO / 2).min(limit));
    // One byte more than allowed tells "too much" from "just enough"; the latter reads on to the checksum.
    let most = (limit as u64).saturating_add(1);
    reader.take(most).read_to_end(&mut out).map_err(UnpackError::Damaged)?;
    if out.len() > limit { Err(UnpackError::Limit { limit }) } else { Ok(out) }
}

/// Looks through the plain bytes of a payload, of which `limit` are allowed, without having them all in memory.
///
/// `look` gets what lies in the window, and whether nothing follows it; it says how many bytes it is done with. It sees
/// the rest again with more behind it. `inflated` grows by what comes out, of a payload that is refused too.
///
/// # Errors
/// What `look` says, and [`UnpackError`]: then it has seen a part.
pub(crate) fn look_through<E: From<UnpackError>>(
    encoding: Encoding,
    payload: &[u8],
    limit: usize,
    inflated: &mut usize,
    look: impl FnMut(&[u8], bool) -> Result<usize, E>,
) -> Result<(), E> {
    let mut look = look;
    let window = payload.len().saturating_mul(RATIO).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES);
    match encoding {
        Encoding::Gzip if !payload.is_empty() => slide(gzip(payload), window, limit, inflated, look),
        Encoding::Zstd if !payload.is_empty() => slide(zstd(payload)?, window, limit, inflated, look),
        _ => look(payload, true).map(drop),
    }
}

fn slide<E: From<UnpackError>>(
    mut reader: impl Read,
    window: usize,
    limit: usize,
    inflated: &mut usize,
    mut look: impl FnMut(&[u8], bool) -> Result<usize, E>,
) -> Result<(), E> {
    let mut window = vec![0; window];
    let (mut filled, mut left) = (0, limit);
    loop {
        let mut last = false;
        while filled < window.len() && !last {
            let read = reader.read(&mut window[filled..]).map_err(UnpackError::Damaged)?;
            *inflated += read;
            left = left.checked_sub(read).ok_or(UnpackError::Limit { limit })?;
            filled += read;
            last = read == 0;
        }
        let done = look(&window[..filled], last)?.min(filled);
        if last {
            return Ok(());
        }
        window.copy_within(done..filled, 0);
        filled -= done;
        if filled > window.len() / 2 {
            // The entry at its front is large, for a window of this size.
            window.resize(window.len().saturating_mul(2).min(limit.saturating_add(1)).max(filled + 1), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(bytes: usize) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&vec![7; bytes]).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn all_sizes_come_out_whole_or_not_at_all() {
        let some = WINDOW_BYTES;
        for (bytes, limit, fits) in [
            (0, 0, true),
            (1, 0, false),
            (some, some, true),
            (some + 1, some, false),
            (3 * some, 3 * some, true),
            (3 * some + 1, 3 * some, false),
        ] {
            for (encoding, packed) in [
                (Encoding::Gzip, packed(bytes)),
                (Encoding::Zstd, zstd::bulk::compress(&vec![7; bytes], 1).unwrap()),
            ] {
                match unpack(encoding, &packed, limit) {
                    Ok(plain) => assert!(fits && plain.len() == bytes, "{bytes} within {limit}"),
                    Err(UnpackError::Limit { .. }) => assert!(!fits, "{bytes} within {limit}"),
                    Err(error) => panic!("{bytes} within {limit}: {error:?}"),
                }
                // Nothing is done with before all is there, and a part at a time.
                for step in [usize::MAX, 100_000] {
                    let (mut seen, mut inflated, mut whole) = (0, 0, 0);
                    let looked: Result<(), UnpackError> =
                        look_through(encoding, &packed, limit, &mut inflated, |window, last| {
                            whole = whole.max(window.len());
                            let done = if last { window.len() } else { window.len() / step * step };
                            seen += done;
                            Ok(done)
                        });
                    assert_eq!(looked.is_ok(), fits, "{bytes} within {limit}: {looked:?}");
                    assert!(!fits || (seen, inflated) == (bytes, bytes), "{seen} and {inflated} of {bytes}");
                    assert!(step == usize::MAX || whole <= WINDOW_BYTES, "{whole} at once");
                }
            }
        }
    }

    #[test]
    fn a_bomb_costs_a_window_and_ends_at_the_limit() {
        let bomb = packed(64 << 20);
        let (mut inflated, mut whole) = (0, 0);
        let looked: Result<(), UnpackError> =
            look_through(Encoding::Gzip, &bomb, 8 << 20, &mut inflated, |window, _| {
                whole = whole.max(window.len());
                Ok(window.len())
            });
        assert!(matches!(looked, Err(UnpackError::Limit { .. })), "{looked:?}");
        assert!(inflated <= (8 << 20) + WINDOW_BYTES && whole <= WINDOW_BYTES, "{inflated}, {whole} at once");
    }

    #[test]
    fn what_is_looked_through_is_checked_to_its_end() {
        let mut cut = packed(2 * WINDOW_BYTES);
        cut.truncate(cut.len() - 1);
        let looked: Result<(), UnpackError> =
            look_through(Encoding::Gzip, &cut, usize::MAX, &mut 0, |window, _| Ok(window.len()));
        assert!(matches!(looked, Err(UnpackError::Damaged(_))), "{looked:?}");
    }
}
