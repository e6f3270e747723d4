//! JSON strings.
//!
//! Left out on purpose: everything else of JSON; see `json.rs`.

/// Appends `text` as a JSON string, quotes included; what is no UTF-8 becomes U+FFFD.
#[inline]
pub(crate) fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        write_other(out, text);
    }
    out.push(b'"');
}

/// Whether all of `text` is ASCII that stands for itself in a JSON string.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    // The last chunk may overlap the one before: cheaper than bytes one by one.
    let (chunks, _) = text.as_chunks::<16>();
    if !chunks.is_empty() {
        return chunks.iter().chain(text.last_chunk()).all(is_plain_chunk);
    }
    let wide = |half: &[u8; 4]| u64::from(u32::from_le_bytes(*half));
    match (text.first_chunk::<8>(), text.last_chunk::<8>(), text.first_chunk::<4>(), text.last_chunk::<4>()) {
        (Some(first), Some(last), ..) => {
            is_plain_word(u64::from_le_bytes(*first)) && is_plain_word(u64::from_le_bytes(*last))
        }
        (.., Some(first), Some(last)) => is_plain_word(wide(first) | wide(last) << 32),
        _ => text.iter().all(|&byte| ESCAPES[usize::from(byte)] == PLAIN),
    }
}

/// Looks at sixteen bytes at once: the compiler makes vector instructions of it, as there is no early end.
#[inline]
fn is_plain_chunk(chunk: &[u8; 16]) -> bool {
    let special = |byte: u8| byte.wrapping_sub(0x20) >= 0x60 || byte == b'"' || byte == b'\\';
    chunk.iter().fold(0, |found, &byte| found | u8::from(special(byte))) == 0
}

/// Looks at eight bytes at once: no bit 7 set, and nothing to escape.
#[inline]
fn is_plain_word(word: u64) -> bool {
    (word | escaped(word)) & BIT_7 == 0
}

const BIT_7: u64 = 0x8080_8080_8080_8080;

/// Bit 7 of each byte below 0x20, of each quote and each backslash; and perhaps of bytes behind such a one.
#[inline]
fn escaped(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Subtracting borrows into bit 7 of a byte that is smaller; a byte above it may be tainted by the borrow, but
    // then there was a small one already.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let quote = below(word ^ (ONES * u64::from(b'"')), 1);
    let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
    (below(word, 0x20) | quote | backslash) & BIT_7
}

#[cold]
fn write_other(out: &mut Vec<u8>, text: &[u8]) {
    if simdutf8::basic::from_utf8(text).is_ok() {
        return escape(out, text);
    }
    for chunk in text.utf8_chunks() {
        escape(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Appends valid UTF-8 with a backslash where one is needed.
fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        let clean = clean_bytes(text);
        out.extend_from_slice(&text[..clean]);
        let Some(&byte) = text.get(clean) else { return };
        match ESCAPES[usize::from(byte)] {
            b'u' => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let (high, low) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            letter => out.extend_from_slice(&[b'\\', letter]),
        }
        text = &text[clean + 1..];
    }
}

/// How many bytes from the start on need no backslash.
fn clean_bytes(text: &[u8]) -> usize {
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = escaped(u64::from_le_bytes(*word));
        if found != 0 {
            // The first one found is a true one.
            return 8 * index + found.trailing_zeros() as usize / 8;
        }
    }
    let clean = |byte: &u8| *byte >= 0x80 || ESCAPES[usize::from(*byte)] == PLAIN;
    8 * words.len() + rest.iter().take_while(|byte| clean(byte)).count()
}

/// Stands for itself.
const PLAIN: u8 = 0;

/// The letter behind the backslash for each byte that needs one. Bytes of more than ASCII are marked as well, for
/// they must be checked.
const ESCAPES: [u8; 256] = escapes();

const fn escapes() -> [u8; 256] {
    let mut escapes = [PLAIN; 256];
    let mut byte = 0;
    while byte < 256 {
        escapes[byte] = match byte as u8 {
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0c => b'f',
            b'\r' => b'r',
            b'"' => b'"',
            b'\\' => b'\\',
            0x00..0x20 | 0x80.. => b'u',
            _ => PLAIN,
        };
        byte += 1;
    }
    escapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..=255_u8 {
            for len in 1..40 {
                for at in 0..len {
                    let mut text = vec![b'x'; len];
                    text[at] = byte;
                    let mut out = Vec::new();
                    write_text(&mut out, &text);
                    let read: String = serde_json::from_slice(&out).unwrap();
                    assert_eq!(read, String::from_utf8_lossy(&text));
                    assert_eq!(
                        out.len() == len + 2,
                        is_plain(&text),
                        "{byte:#x}: the fast path is for plain text"
                    );
                }
            }
        }
    }
}
