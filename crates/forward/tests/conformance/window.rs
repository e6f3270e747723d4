//! Packed entries are inflated through a sliding window and only walked over; what comes of them is what inflating them whole and
//! decoding every value gives.

use std::io::{self, Read};

use proptest::prelude::*;
use rmpv::Value;
use weir_forward::unpack::unpack;
use weir_forward::{Batch, Event, Fault, Limits, Reason, Session, Skips};
use weir_model::Encoding;

use crate::bytes::{cat, gzip, zstd};
use crate::outcome::NOW_NS;
use crate::property::{changes, encode, mutate, value};

/// Several windows, and small enough to be passed now and then.
const LIMIT: usize = 1 << 20;
const WINDOW: usize = 256 << 10;

/// What is stored of a stream, and what is left out.
#[derive(Debug, PartialEq)]
struct Seen {
    entries: Vec<Vec<u8>>,
    invalid: u32,
    truncated: u32,
    markers: u32,
}

/// The whole stream, read by the libraries' own way.
fn inflate(encoding: Encoding, packed: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut plain = Vec::new();
    let read = match encoding {
        _ if packed.is_empty() => Ok(0),
        Encoding::Gzip => {
            flate2::read::MultiGzDecoder::new(packed).take(LIMIT as u64 + 1).read_to_end(&mut plain)
        }
        _ => frames(packed, &mut plain),
    };
    match read {
        _ if plain.len() > LIMIT => Err(Fault::DecompressLimit { limit: LIMIT }),
        Err(_) => Err(Fault::DecompressError),
        Ok(_) => Ok(plain),
    }
}

/// Frame by frame, for the library overlooks a wrong size where the last block is empty and its output has no room for
/// that size.
fn frames(mut packed: &[u8], plain: &mut Vec<u8>) -> io::Result<usize> {
    while !packed.is_empty() && plain.len() <= LIMIT {
        let said = zstd::zstd_safe::get_frame_content_size(packed);
        let mut frame = zstd::stream::read::Decoder::with_buffer(packed)?.single_frame();
        let came = frame.by_ref().take(LIMIT as u64 + 1).read_to_end(plain)?;
        if plain.len() <= LIMIT && said.is_ok_and(|said| said.is_some_and(|said| said != came as u64)) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        packed = frame.finish();
    }
    Ok(plain.len())
}

/// Every value decoded.
fn decode(plain: &[u8]) -> Seen {
    let mut seen = Seen { entries: Vec::new(), invalid: 0, truncated: 0, markers: 0 };
    let mut rest = plain;
    while !rest.is_empty() {
        let start = rest;
        let Ok(value) = rmpv::decode::read_value(&mut rest) else {
            seen.truncated += 1;
            break;
        };
        let bytes = &start[..start.len() - rest.len()];
        match kind(&value) {
            Kind::Entry => seen.entries.push(bytes.to_vec()),
            Kind::Marker => seen.markers += 1,
            Kind::Other => seen.invalid += 1,
        }
    }
    seen
}

enum Kind {
    Entry,
    Marker,
    Other,
}

fn kind(value: &Value) -> Kind {
    let Value::Array(parts) = value else { return Kind::Other };
    let [time, Value::Map(_), ..] = &parts[..] else { return Kind::Other };
    match time {
        Value::Array(inner) => match inner.first() {
            Some(Value::Ext(0, data)) if matches!(data[..], [0xff, 0xff, 0xff, 0xfe | 0xff, 0, 0, 0, 0]) => {
                Kind::Marker
            }
            Some(time) if is_time(time) => Kind::Entry,
            _ => Kind::Other,
        },
        time if is_time(time) => Kind::Entry,
        _ => Kind::Other,
    }
}

fn is_time(value: &Value) -> bool {
    match value {
        Value::Nil | Value::Integer(_) => true,
        Value::F32(time) => time.is_finite(),
        Value::F64(time) => time.is_finite(),
        Value::Ext(0, data) => data.len() == 8,
        Value::Ext(-1, data) => matches!(data.len(), 4 | 8 | 12),
        _ => false,
    }
}

/// Whether a value begins at this byte, which is `c1`: the decoder takes that one for a nil, so a nil in its place changes
/// nothing. Of a value that is cut this cannot be told.
fn begins_a_value(plain: &[u8], at: usize) -> bool {
    let mut other = plain.to_vec();
    other[at] = 0xc0;
    let all = |mut rest: &[u8]| {
        let mut all = Vec::new();
        while let Ok(value) = rmpv::decode::read_value(&mut rest) {
            all.extend(encode(&value));
        }
        all
    };
    all(plain) == all(&other)
}

/// What the session makes of a message with this payload.
fn session(encoding: Encoding, packed: &[u8]) -> Result<Seen, Fault> {
    let how: &[u8] = if encoding == Encoding::Gzip { b"\xa4gzip" } else { b"\xa4zstd" };
    let message = cat![
        b"\x93\xa1t\xc6",
        u32::try_from(packed.len()).unwrap().to_be_bytes(),
        packed,
        b"\x82\xa5chunk\xa1c\xaacompressed",
        how
    ];
    let mut session =
        Session::new(Limits { message_bytes_max: 8 << 20, unpacked_bytes_max: LIMIT, pack_bytes_max: 1 });
    session.buffer().extend_from_slice(&message);
    let seen = |entries, skips: Skips| Seen {
        entries,
        invalid: skips.count(Reason::InvalidEntry),
        truncated: skips.count(Reason::TruncatedEntry),
        markers: skips.count(Reason::GroupMarker),
    };
    match session.next(NOW_NS) {
        Ok(Some(Event::Batch(Batch { header, payload, skipped, .. }))) => {
            let plain = unpack(header.encoding, &payload, LIMIT).unwrap();
            let entries: Vec<Vec<u8>> =
                weir_forward::scan::entries(&plain).map(|entry| entry.unwrap().bytes.to_vec()).collect();
            assert_eq!(entries.concat(), &plain[..]);
            assert_eq!(header.events(), entries.len() as u64);
            assert_eq!(header.chunks[0].entries, entries.len() as u64);
            assert_eq!(header.unpacked_bytes, plain.len() as u64);
            Ok(seen(entries, skipped))
        }
        Ok(Some(Event::Ack { skipped, .. })) => Ok(seen(Vec::new(), skipped)),
        Err(violation) => Err(violation.fault),
        other => panic!("{other:?}"),
    }
}

/// Entries of every type and of sizes around those of windows, and now and then something else.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let time = prop_oneof![
        (1..200_u32).prop_map(Value::from),
        Just(Value::Nil),
        (1.0..100.0_f64).prop_map(Value::from),
        (0..9_u8).prop_map(|secs| Value::Ext(0, vec![0, 0, 0, secs, 0, 0, 0, 5])),
    ];
    let time = prop_oneof![
        3 => time.clone(),
        1 => (time, value()).prop_map(|(time, more)| Value::Array(vec![time, more])),
        1 => Just(Value::Array(vec![Value::Ext(0, vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])])),
    ];
    let around = |size: usize| size.saturating_sub(80)..size + 80;
    let size = prop_oneof![
        30 => 0..60_usize,
        8 => around(1 << 10),
        4 => around(WINDOW / 2),
        4 => around(WINDOW),
        1 => around(2 * WINDOW),
        1 => 0..3 * WINDOW,
    ];
    // Text that packs well, or hardly at all; not a byte that looks like more MessagePack than it is.
    let text = (size, any::<bool>(), any::<u32>()).prop_map(|(size, noise, seed)| {
        let mut state = seed | 1;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state & 0x7f) as u8
        };
        Value::Binary(if noise { (0..size).map(|_| byte()).collect() } else { vec![b'a'; size] })
    });
    let entry = (time, text, value())
        .prop_map(|(time, text, more)| Value::Array(vec![time, Value::Map(vec![(text, more)])]));
    let any = prop_oneof![12 => entry, 1 => value()];
    prop::collection::vec(any.prop_map(|value| encode(&value)), 0..12).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_window_shows_what_a_full_decode_shows(
        plain in stream(),
        plain_changes in prop_oneof![2 => changes(0), 1 => changes(3)],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        is_gzip in any::<bool>(),
        packed_changes in prop_oneof![3 => changes(0), 1 => changes(2)],
    ) {
        let plain = mutate(plain, &plain_changes);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(plain.len() + 1)).collect();
        cuts.extend([0, plain.len()]);
        cuts.sort_unstable();
        let encoding = if is_gzip { Encoding::Gzip } else { Encoding::Zstd };
        let pack = |plain: &[u8]| if is_gzip { gzip(plain) } else { zstd(plain) };
        let members: Vec<u8> = cuts.windows(2).flat_map(|cut| pack(&plain[cut[0]..cut[1]])).collect();
        let packed = mutate(members, &packed_changes);
        match (inflate(encoding, &packed), session(encoding, &packed)) {
            // What is malformed may be found before what does not inflate.
            (Err(_), Err(Fault::MalformedEntries { .. } | Fault::TooDeep)) => {}
            (Err(whole), window) => prop_assert_eq!(window, Err(whole)),
            (Ok(plain), Err(Fault::MalformedEntries { at })) => {
                prop_assert!(plain[at] == 0xc1 && begins_a_value(&plain, at), "{at}");
            }
            (Ok(plain), window) => {
                let whole = decode(&plain);
                let c1 = plain.iter().enumerate().filter(|(_, byte)| **byte == 0xc1).take(20);
                for (at, _) in c1.filter(|_| whole.truncated == 0) {
                    prop_assert!(!begins_a_value(&plain, at), "malformed at {at}");
                }
                prop_assert_eq!(window, Ok(whole));
            }
        }
    }
}
