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
    let (words, rest) = text.as_chunks::<8>();
    if words.is_empty() {
        return rest.iter().all(|&byte| ESCAPES[usize::from(byte)] == PLAIN);
    }
    // The last word may overlap the one before: cheaper than bytes one by one.
    words.iter().chain(text.last_chunk()).all(|word| is_plain_word(u64::from_le_bytes(*word)))
}

/// Looks at eight bytes at once: no bit 7 set, none below 0x20, no quote, no backslash.
#[inline]
fn is_plain_word(word: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Subtracting borrows into bit 7 of a byte that is smaller; a byte above it may be tainted by the borrow, but
    // then there was a small one already.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let special = word
        | below(word, 0x20)
        | below(word ^ (ONES * u64::from(b'"')), 1)
        | below(word ^ (ONES * u64::from(b'\\')), 1);
    special & (ONES << 7) == 0
}

#[cold]
fn write_other(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        escape(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut written = 0;
    for (at, &byte) in text.iter().enumerate() {
        let escape = ESCAPES[usize::from(byte)];
        if escape == PLAIN || byte >= 0x80 {
            continue;
        }
        out.extend_from_slice(&text[written..at]);
        if escape == b'u' {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            let (high, low) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        } else {
            out.extend_from_slice(&[b'\\', escape]);
        }
        written = at + 1;
    }
    out.extend_from_slice(&text[written..]);
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
            for len in 1..20 {
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
