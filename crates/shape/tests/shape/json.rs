//! MessagePack bytes and the JSON that they become.

use proptest::prelude::*;
use rmpv::Value;
use weir_forward::scan::ScanError;
use weir_shape::{Transcoder, write_json};

fn json(msgpack: &[u8]) -> Result<String, ScanError> {
    let mut out = Vec::new();
    let taken = write_json(&mut out, msgpack)?;
    assert_eq!(taken, msgpack.len());
    Ok(String::from_utf8(out).unwrap())
}

fn check(msgpack: &[u8], expected: &str) {
    assert_eq!(json(msgpack).as_deref(), Ok(expected), "{msgpack:02x?}");
    for cut in 0..msgpack.len() {
        let error = write_json(&mut Vec::new(), &msgpack[..cut]).unwrap_err();
        assert!(
            matches!(error, ScanError::Truncated { at } if at <= cut),
            "{msgpack:02x?} cut to {cut}: {error}"
        );
    }
}

#[test]
fn scalars() {
    check(b"\xc0", "null");
    check(b"\xc2", "false");
    check(b"\xc3", "true");
    check(b"\x7f", "127");
    check(b"\xe0", "-32");
    check(b"\xcc\xff", "255");
    check(b"\xcd\xff\xfe", "65534");
    check(b"\xce\xff\xff\xff\xff", "4294967295");
    check(b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615");
    check(b"\xd0\x80", "-128");
    check(b"\xd1\x80\x00", "-32768");
    check(b"\xd2\x80\x00\x00\x00", "-2147483648");
    check(b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808");
}

#[test]
fn floats() {
    check(b"\xca\x3d\xcc\xcc\xcd", "0.1");
    check(b"\xca\x7f\xc0\x00\x00", "\"NaN\"");
    check(b"\xca\xff\x80\x00\x00", "\"-Infinity\"");
    for (float, expected) in [
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (1.0 / 3.0, "0.3333333333333333"),
        (f64::NAN, "\"NaN\""),
        (f64::INFINITY, "\"Infinity\""),
        (f64::NEG_INFINITY, "\"-Infinity\""),
    ] {
        check(&[&[0xcb][..], &float.to_be_bytes()].concat(), expected);
    }
    for float in [f64::MAX, f64::MIN_POSITIVE, 5e-324, 1e16, 1e300, 123_456_789.123_456_79] {
        let text = json(&[&[0xcb][..], &float.to_be_bytes()].concat()).unwrap();
        assert_eq!(text.parse(), Ok(float));
        assert!(text.contains(['.', 'e']), "{text} would read back as an integer");
    }
}

#[test]
fn texts_and_bytes() {
    check(b"\xa0", "\"\"");
    check(b"\xab\"\\/\x08\x0c\n\r\t\x00\x1f\x7f", "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\u{7f}\"");
    check(b"\xd9\x02ab", "\"ab\"");
    check(b"\xda\x00\x02ab", "\"ab\"");
    check(b"\xdb\x00\x00\x00\x02ab", "\"ab\"");
    check(b"\xa4a\xff\"b", "\"a\u{fffd}\\\"b\"");
    check(b"\xa2\xc3\xa9", "\"é\"");
    check(b"\xc4\x02\xc3\xa9", "\"é\"");
    check(b"\xc5\x00\x02a\"", "\"a\\\"\"");
    check(b"\xc6\x00\x00\x00\x01a", "\"a\"");
    check(b"\xc4\x02a\xff", "{\"$binary\":\"Yf8=\"}");
}

#[test]
fn exts() {
    check(b"\xd7\x00\x69\x57\x35\xa5\x28\x77\x35\xf2", "\"2026-01-02T03:04:05.678901234Z\"");
    check(b"\xc7\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01", "\"1970-01-01T00:00:00.000000001Z\"");
    check(b"\xd7\x00\x00\x00\x00\x01\xee\x6b\x28\x01", "\"1970-01-01T00:00:05.000000001Z\"");
    check(b"\xd7\x00\xff\xff\xff\xff\x00\x00\x00\x00", "\"2106-02-07T06:28:15.000000000Z\"");
    check(b"\xd6\x00\x00\x00\x00\x01", "{\"$ext\":[0,\"AAAAAQ==\"]}");
    check(b"\xd4\xff\x01", "{\"$ext\":[-1,\"AQ==\"]}");
    check(b"\xd5\x05ab", "{\"$ext\":[5,\"YWI=\"]}");
    check(b"\xd8\x0512345678abcdefgh", "{\"$ext\":[5,\"MTIzNDU2NzhhYmNkZWZnaA==\"]}");
    check(b"\xc7\x00\x05", "{\"$ext\":[5,\"\"]}");
    check(b"\xc8\x00\x01\x05a", "{\"$ext\":[5,\"YQ==\"]}");
    check(b"\xc9\x00\x00\x00\x01\x05a", "{\"$ext\":[5,\"YQ==\"]}");
}

#[test]
fn containers() {
    check(b"\x90", "[]");
    check(b"\x80", "{}");
    check(b"\x93\x01\x91\x02\x80", "[1,[2],{}]");
    check(b"\xdc\x00\x01\x01", "[1]");
    check(b"\xdd\x00\x00\x00\x01\x01", "[1]");
    check(b"\x82\xa1a\x01\xa1b\x81\xa1a\xc0", "{\"a\":1,\"b\":{\"a\":null}}");
    check(b"\xde\x00\x01\xa1a\x01", "{\"a\":1}");
    check(b"\xdf\x00\x00\x00\x01\xa1a\x01", "{\"a\":1}");
}

#[test]
fn keys_of_other_types() {
    check(b"\x81\xc0\x01", "{\"\":1}");
    check(b"\x81\xc3\x01", "{\"true\":1}");
    check(b"\x81\x07\x01", "{\"7\":1}");
    check(b"\x81\xff\x01", "{\"-1\":1}");
    check(b"\x81\xca\x3f\x80\x00\x00\x01", "{\"1.0\":1}");
    check(b"\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x01", "{\"NaN\":1}");
    check(b"\x81\xc4\x01a\x01", "{\"a\":1}");
    check(b"\x81\xc4\x01\xff\x01", "{\"$msgpack:xAH/\":1}");
    check(b"\x81\x92\x01\xa1\"\x01", "{\"$msgpack:kgGhIg==\":1}");
    check(b"\x81\x81\x01\x02\x01", "{\"$msgpack:gQEC\":1}");
    check(b"\x81\xd4\x05\x01\x01", "{\"$msgpack:1AUB\":1}");
    check(b"\x81\xd7\x00\x00\x00\x00\x01\x00\x00\x00\x00\x01", "{\"1970-01-01T00:00:01.000000000Z\":1}");
}

#[test]
fn the_last_of_equal_keys_wins() {
    check(b"\x82\xa1a\x01\xa1a\x02", "{\"a\":2}");
    check(b"\x83\xa1a\x01\xa1b\x02\xa1a\x03", "{\"b\":2,\"a\":3}");
    check(b"\x83\xa1a\x01\xa1a\x02\xa1b\x03", "{\"a\":2,\"b\":3}");
    check(b"\x82\xa17\x01\x07\x02", "{\"7\":2}");
    check(
        b"\x81\xa1x\x82\xa1a\x82\xa1b\x01\xa1b\x02\xa1a\x82\xa1c\x03\xa1c\x04",
        "{\"x\":{\"a\":{\"c\":4}}}",
    );
    check(b"\x92\x82\xa1a\x01\xa1a\x02\x01", "[{\"a\":2},1]");
    // Same length, beginning and end.
    check(b"\x82\xabaaaa-1-aaaa\x01\xabaaaa-2-aaaa\x02", "{\"aaaa-1-aaaa\":1,\"aaaa-2-aaaa\":2}");
    // More than are compared each with each.
    let mut large = b"\xde\x00\x65".to_vec();
    (0..100_u8).for_each(|key| large.extend([key, 0]));
    large.extend(b"\x05\x01");
    let expected: Vec<_> = (0..100).filter(|key| *key != 5).map(|key| format!("\"{key}\":0")).collect();
    check(&large, &format!("{{{},\"5\":1}}", expected.join(",")));
}

#[test]
fn damage_is_found() {
    assert_eq!(json(b"\x92\x01\xc1"), Err(ScanError::Malformed { at: 2 }));
    assert_eq!(json(b"\x82\x01\x02\x91\xc1\x01"), Err(ScanError::Malformed { at: 4 }));
    let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
    assert!(json(&nested(128)).is_ok());
    assert_eq!(json(&nested(129)), Err(ScanError::TooDeep { at: 128 }));
}

#[test]
fn keys_within_keys_do_not_explode() {
    let mut value = b"\xa1\"".to_vec();
    for _ in 0..120 {
        value = [&[0x81], &value[..], &[0xc0]].concat();
    }
    assert!(json(&value).unwrap().len() < 10 * value.len());
}

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[a-c]{0,2}", any::<String>(), "[ -~]{0,40}"];
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-200..200_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 20, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::vec((text.clone().prop_map(Value::from), inner), 0..24).prop_map(Value::Map),
        ]
    })
}

fn expected(value: &Value) -> serde_json::Value {
    match value {
        Value::Nil => serde_json::Value::Null,
        Value::Boolean(truth) => (*truth).into(),
        Value::Integer(n) => n.as_u64().map(Into::into).or(n.as_i64().map(Into::into)).unwrap(),
        Value::F64(n) if n.is_nan() => "NaN".into(),
        Value::F64(n) if n.is_infinite() => if *n > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        Value::F64(n) => (*n).into(),
        Value::String(text) => text.as_str().unwrap().into(),
        Value::Array(items) => items.iter().map(expected).collect(),
        // A later member replaces an earlier one.
        Value::Map(members) => members
            .iter()
            .map(|(key, value)| (key.as_str().unwrap().to_owned(), expected(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => panic!("not generated: {other}"),
    }
}

proptest! {
    #[test]
    fn plain_values_read_back(values in prop::collection::vec(value(), 1..4)) {
        let mut transcoder = Transcoder::new();
        for value in &values {
            let mut msgpack = Vec::new();
            rmpv::encode::write_value(&mut msgpack, value).unwrap();
            let mut out = Vec::new();
            prop_assert_eq!(transcoder.write(&mut out, &msgpack), Ok(msgpack.len()));
            let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(read, expected(value), "{}", String::from_utf8_lossy(&out));
        }
    }

    // Few different keys, so that maps have the keys of the one before, part of them, or one twice.
    #[test]
    fn what_is_remembered_of_one_record_does_not_show_in_the_next(
        maps in prop::collection::vec(prop::collection::vec((0..6_usize, 0..3_u8), 0..4), 1..40),
    ) {
        const KEYS: [&[u8]; 6] = [b"\xa1a", b"\xa1b", b"\xa2a\"", b"\xc4\x01a", b"\x07", b"\xa0"];
        let mut transcoder = Transcoder::new();
        for map in &maps {
            let mut msgpack = vec![0x80 | map.len() as u8];
            for (key, value) in map {
                msgpack.extend_from_slice(KEYS[*key]);
                msgpack.extend_from_slice([&b"\x01"[..], b"\xa2xy", b"\x81\xa1a\x80"][usize::from(*value)]);
            }
            let (mut out, mut alone) = (Vec::new(), Vec::new());
            prop_assert_eq!(transcoder.write(&mut out, &msgpack), Ok(msgpack.len()));
            write_json(&mut alone, &msgpack).unwrap();
            prop_assert_eq!(String::from_utf8(out).unwrap(), String::from_utf8(alone).unwrap());
        }
    }

    // Whatever the bytes say is either refused or JSON, and our scan and the transcoder find the same end.
    #[test]
    fn any_bytes_become_json_or_an_error(bytes in prop::collection::vec(
        prop_oneof![any::<u8>(), 0x80..=0xa4_u8, 0xc0..=0xdf_u8, Just(0)], 0..80,
    )) {
        let mut out = Vec::new();
        let taken = write_json(&mut out, &bytes);
        prop_assert_eq!(taken, weir_forward::scan::skip(&bytes).map(<[u8]>::len).or(taken));
        prop_assert_eq!(taken.is_ok(), weir_forward::scan::skip(&bytes).is_ok());
        if taken.is_ok() {
            let read: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&out);
            prop_assert!(read.is_ok(), "{}", String::from_utf8_lossy(&out));
            prop_assert!(!out.contains(&b'\n'));
            prop_assert!(out.len() <= 12 * bytes.len());
        }
    }
}
