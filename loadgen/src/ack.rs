//! Acknowledgements as they come from the socket: `{"ack": "<chunk id>"}` in MessagePack, cut anywhere.
//!
//! Any other message is an error: a Forward server has nothing else to say on such a connection.

use thiserror::Error;

/// Why the bytes cannot be acknowledgements.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum AckError {
    /// The message does not open like an acknowledgement.
    #[error("not an acknowledgement: it starts with {0:02x?}")]
    NotAnAck(Vec<u8>),
    /// The chunk id is not UTF-8.
    #[error("the chunk id of an acknowledgement is not UTF-8")]
    NotText,
}

/// A map of one pair whose key is `ack`.
const OPENING: &[u8] = b"\x81\xa3ack";

/// Takes the first whole acknowledgement off `input`: its chunk id and the bytes it took; `None` when more
/// bytes must come first.
///
/// # Errors
/// The bytes are something else ([`AckError`]).
pub(crate) fn parse(input: &[u8]) -> Result<Option<(&str, usize)>, AckError> {
    let not_an_ack = || AckError::NotAnAck(input[..input.len().min(8)].to_vec());
    let opened = input.len().min(OPENING.len());
    if input[..opened] != OPENING[..opened] {
        return Err(not_an_ack());
    }
    let (len, start) = match input[opened..] {
        [] => return Ok(None),
        [fix @ 0xa0..=0xbf, ..] => (usize::from(fix & 0x1f), opened + 1),
        [0xd9, len, ..] => (usize::from(len), opened + 2),
        [0xda, high, low, ..] => (usize::from(u16::from_be_bytes([high, low])), opened + 3),
        [0xd9 | 0xda, ..] => return Ok(None),
        _ => return Err(not_an_ack()),
    };
    let Some(id) = input.get(start..start + len) else { return Ok(None) };
    let id = std::str::from_utf8(id).map_err(|_| AckError::NotText)?;
    Ok(Some((id, start + len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_every_missing_byte() {
        let long = "x".repeat(300);
        for id in ["", "p8n9gmxTQVC8/nh2wlKKeQ==", &"y".repeat(40), &long] {
            let mut whole = b"\x81".to_vec();
            crate::encode::str(&mut whole, "ack");
            crate::encode::str(&mut whole, id);
            for cut in 0..whole.len() {
                assert_eq!(parse(&whole[..cut]), Ok(None), "{cut} of {}", whole.len());
            }
            let taken = whole.len();
            whole.extend_from_slice(b"\x81\xa3");
            assert_eq!(parse(&whole), Ok(Some((id, taken))));
        }
    }

    #[test]
    fn refuses_what_is_no_ack() {
        for other in [&b"\x82"[..], b"\x81\xa3nak\xa1x", b"\x81\xa3ack\xc0", b"HTTP/1.1"] {
            assert!(matches!(parse(other), Err(AckError::NotAnAck(_))), "{other:?}");
        }
        assert_eq!(parse(b"\x81\xa3ack\xa1\xff"), Err(AckError::NotText));
    }
}
