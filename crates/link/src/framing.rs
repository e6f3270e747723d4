//! What a message looks like on a stream, as a value that eats bytes and gives messages.
//!
//! A message of `N` sections is `N` lengths (u32, little endian), then the sections one after the other. A
//! control message has one section, a lane message two: head and payload. There is no checksum: TLS already
//! authenticates every byte.
//!
//! Left out on purpose: streams, sockets and what a section holds. [`Decoder`] is fed by whoever reads.

use bytes::{BufMut, Bytes, BytesMut};

/// How far a buffer may run ahead of the bytes that have arrived, in bytes: a peer that declares 4 GiB and
/// sends nothing costs this much. Beyond it a buffer at most doubles.
const AHEAD_BYTES_MAX: usize = 512 << 10;

/// A section is longer than what this side takes (or, when sending, than a length can say).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("section {section} of a message has {declared} bytes, more than the limit of {limit}")]
pub struct Oversize {
    /// Which section, counted from 0.
    pub section: usize,
    /// The length that the message declares, in bytes.
    pub declared: usize,
    /// The longest that is allowed, in bytes.
    pub limit: usize,
}

/// The lengths that go before `sections` on the wire.
///
/// # Errors
/// [`Oversize`] when a section is longer than its limit, or than a u32 can say.
pub fn prefix<const N: usize>(sections: &[Bytes; N], limits: [usize; N]) -> Result<Bytes, Oversize> {
    let mut prefix = BytesMut::with_capacity(N * 4);
    for (section, bytes) in sections.iter().enumerate() {
        let limit = limits[section].min(u32::MAX as usize);
        if bytes.len() > limit {
            return Err(Oversize { section, declared: bytes.len(), limit });
        }
        prefix.put_u32_le(bytes.len() as u32);
    }
    Ok(prefix.freeze())
}

/// Puts messages of `N` sections together from the bytes of a stream.
///
/// The caller reads into [`spare`](Self::spare) and says how much came ([`advance`](Self::advance)); nothing is
/// read beyond the message at hand, so dropping a read half-way loses nothing. Every section ends up in its own
/// buffer of exactly its length: handing out a slice of the receive buffer instead would save one copy and let
/// a payload of 100 bytes pin the 64 KiB that the socket delivered it in.
#[derive(Debug)]
pub struct Decoder<const N: usize> {
    prefix: [[u8; 4]; N],
    prefix_filled: usize,
    lengths: [usize; N],
    sections: [Vec<u8>; N],
    current: usize,
    filled: usize,
}

impl<const N: usize> Default for Decoder<N> {
    fn default() -> Self {
        Self {
            prefix: [[0; 4]; N],
            prefix_filled: 0,
            lengths: [0; N],
            sections: std::array::from_fn(|_| Vec::new()),
            current: 0,
            filled: 0,
        }
    }
}

impl<const N: usize> Decoder<N> {
    /// Where the next bytes of the stream belong. Never empty.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.prefix_filled < N * 4 {
            return &mut self.prefix.as_flattened_mut()[self.prefix_filled..];
        }
        let (section, length) = (&mut self.sections[self.current], self.lengths[self.current]);
        if self.filled == section.len() {
            let target = length.min((section.len() * 2).max(AHEAD_BYTES_MAX));
            section.reserve_exact(target - section.len());
            section.resize(target, 0);
        }
        &mut section[self.filled..]
    }

    /// Takes note that `count` bytes were put at the start of [`spare`](Self::spare), and gives the message if
    /// that completed it. `limits` bounds each section, in bytes.
    ///
    /// # Errors
    /// [`Oversize`] when a declared length is beyond its limit. The stream cannot be read on: nobody knows where
    /// the next message begins.
    pub fn advance(&mut self, count: usize, limits: [usize; N]) -> Result<Option<[Bytes; N]>, Oversize> {
        if self.prefix_filled < N * 4 {
            self.prefix_filled += count;
            if self.prefix_filled < N * 4 {
                return Ok(None);
            }
            for (section, limit) in limits.into_iter().enumerate() {
                let declared = u32::from_le_bytes(self.prefix[section]) as usize;
                if declared > limit {
                    return Err(Oversize { section, declared, limit });
                }
                self.lengths[section] = declared;
            }
        } else {
            self.filled += count;
        }
        while self.current < N && self.filled == self.lengths[self.current] {
            self.current += 1;
            self.filled = 0;
        }
        if self.current < N {
            return Ok(None);
        }
        Ok(Some(std::mem::take(self).sections.map(Bytes::from)))
    }

    /// Whether no message is half read: the only place where a stream may end.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.prefix_filled == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: [usize; 2] = [1 << 20, 1 << 20];

    fn encode(messages: &[[Bytes; 2]]) -> Vec<u8> {
        let mut wire = Vec::new();
        for message in messages {
            wire.extend_from_slice(&prefix(message, LIMITS).unwrap());
            message.iter().for_each(|section| wire.extend_from_slice(section));
        }
        wire
    }

    /// Feeds `wire` in pieces of the given sizes (repeated as needed).
    fn decode(mut wire: &[u8], pieces: &[usize]) -> (Vec<[Bytes; 2]>, bool) {
        let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
        for piece in pieces.iter().cycle() {
            if wire.is_empty() {
                break;
            }
            let spare = decoder.spare();
            let count = spare.len().min(*piece).min(wire.len());
            spare[..count].copy_from_slice(&wire[..count]);
            wire = &wire[count..];
            messages.extend(decoder.advance(count, LIMITS).unwrap());
        }
        (messages, decoder.at_boundary())
    }

    fn section(bytes_max: usize) -> impl Strategy<Value = Bytes> {
        prop_oneof![
            Just(Bytes::new()),
            prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from),
            (any::<u8>(), 0..bytes_max).prop_map(|(byte, length)| Bytes::from(vec![byte; length])),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_any_chunking(
            messages in prop::collection::vec([section(4_000), section(300_000)], 0..6),
            pieces in prop::collection::vec(1_usize..70_000, 1..20),
        ) {
            let (read, at_boundary) = decode(&encode(&messages), &pieces);
            prop_assert_eq!(read, messages);
            prop_assert!(at_boundary);
        }

        #[test]
        fn a_cut_stream_gives_whole_messages_only(
            messages in prop::collection::vec([section(300), section(3_000)], 1..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let wire = encode(&messages);
            let cut = cut.index(wire.len());
            let (read, at_boundary) = decode(&wire[..cut], &[7, 1000, 1]);
            let whole = (0..=messages.len()).rev().find(|n| encode(&messages[..*n]).len() <= cut).unwrap();
            prop_assert_eq!(&read[..], &messages[..whole]);
            prop_assert_eq!(at_boundary, encode(&messages[..whole]).len() == cut);
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_allocate_ahead(
            wire in prop::collection::vec(any::<u8>(), 0..300),
            piece in 1_usize..50,
        ) {
            let mut decoder = Decoder::<2>::default();
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let spare = decoder.spare();
                prop_assert!(!spare.is_empty() && spare.len() <= AHEAD_BYTES_MAX);
                let count = spare.len().min(piece).min(rest.len());
                spare[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                if decoder.advance(count, [u32::MAX as usize; 2]).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_declared_length_beyond_the_limit_is_refused_at_once() {
        let mut decoder = Decoder::<2>::default();
        decoder.spare().copy_from_slice(&[4, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(decoder.advance(8, [4, 8]), Err(Oversize { section: 1, declared: 9, limit: 8 }));
    }

    #[test]
    fn a_buffer_grows_with_what_arrives() {
        let mut decoder = Decoder::<1>::default();
        decoder.spare().copy_from_slice(&u32::MAX.to_le_bytes());
        let unlimited = [u32::MAX as usize];
        decoder.advance(4, unlimited).unwrap();
        let mut arrived = 0;
        for _ in 0..6 {
            let spare = decoder.spare().len();
            assert!(spare <= arrived.max(AHEAD_BYTES_MAX), "{spare} bytes ahead of {arrived}");
            decoder.advance(spare, unlimited).unwrap();
            arrived += spare;
        }
        assert_eq!(decoder.sections[0].capacity(), arrived, "no hidden reserve");
    }

    #[test]
    fn a_section_too_long_to_send_is_refused() {
        let sections = [Bytes::from_static(b"12345")];
        assert_eq!(prefix(&sections, [4]), Err(Oversize { section: 0, declared: 5, limit: 4 }));
        assert_eq!(prefix(&sections, [5]).unwrap(), Bytes::from_static(&[5, 0, 0, 0]));
    }
}
