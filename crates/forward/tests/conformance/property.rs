//! What must hold for inputs that nobody thought of.

use proptest::prelude::*;
use rmpv::Value;
use weir_forward::scan::{ScanError, skip};

use crate::bytes::{blob, cat, gzip};
use crate::outcome::feed;

pub(crate) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-200_i64..200).prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,40}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::from),
        (any::<i8>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, data)| Value::Ext(kind, data)),
    ];
    leaf.prop_recursive(4, 40, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
            prop::collection::vec((inner.clone(), inner), 0..18).prop_map(Value::Map),
        ]
    })
}

pub(crate) fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes
}

/// Changes, drops or doubles a byte here and there.
pub(crate) fn mutate(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    for (index, kind, byte) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = index.index(bytes.len());
        match kind % 4 {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, *byte),
            2 => bytes[at] = *byte,
            _ => bytes.truncate(at),
        }
    }
    bytes
}

pub(crate) fn changes(most: usize) -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 0..=most)
}

/// Some message, mostly of the right shape.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let record = prop::collection::vec(("[a-c]".prop_map(Value::from), value()), 0..4).prop_map(Value::Map);
    let entry = prop_oneof![
        9 => (0..200_u32, record).prop_map(|(time, record)| Value::Array(vec![time.into(), record])),
        1 => value(),
    ];
    let options = prop_oneof![
        Just(&b"\xc0"[..]),
        Just(&b"\x80"[..]),
        Just(&b"\x81\xa5chunk\xa1c"[..]),
        Just(&b"\x82\xaacompressed\xa4gzip\xa5chunk\xc4\x01c"[..]),
    ];
    (0..4_u8, prop::collection::vec(entry, 0..5), options).prop_map(|(mode, entries, options)| {
        let stream: Vec<u8> = entries.iter().flat_map(encode).collect();
        match mode {
            0 => cat![b"\x93\xa1t", blob(&stream), options],
            1 => cat![b"\x93\xa1t", blob(&gzip(&stream)), options],
            2 => cat![b"\x93\xa1t", [0x90 | entries.len() as u8], stream, options],
            _ => cat![b"\x94\xa1t\x01", entries.first().map(encode).unwrap_or(vec![0x80]), options],
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_scanner_agrees_with_a_full_decoder(value in value(), changes in changes(3)) {
        let bytes = mutate(encode(&value), &changes);
        let mut rest = &bytes[..];
        let decoded = rmpv::decode::read_value(&mut rest);
        match (decoded, skip(&bytes)) {
            (Ok(_), Ok(skipped)) => prop_assert_eq!(skipped.len(), bytes.len() - rest.len()),
            (Err(_), Err(_)) => {}
            // The decoder takes the one byte that MessagePack never uses for a nil.
            (Ok(_), Err(ScanError::Malformed { at })) => prop_assert_eq!(bytes[at], 0xc1),
            (decoded, skipped) => prop_assert!(false, "{:?} but {:?}", decoded, skipped),
        }
    }

    #[test]
    fn fragments_do_not_matter(
        messages in prop::collection::vec(message(), 1..4),
        changes in changes(2),
        size in 1_usize..50,
    ) {
        let input = mutate(messages.concat(), &changes);
        prop_assert_eq!(feed([&input[..]]), feed(input.chunks(size)));
    }
}
