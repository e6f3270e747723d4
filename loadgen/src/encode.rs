//! MessagePack by hand: just the forms that Forward traffic needs, appended to a byte vector.
//!
//! Written by hand for speed, and so that Weir's own codec is judged by something that is not itself.
//! Decoding is left out; acknowledgements have their own small parser in [`crate::ack`].

use serde_json::Value;

/// The Forward extension type of an event time (Forward protocol v1, "EventTime Ext Format").
const EVENT_TIME_FIXEXT8: [u8; 2] = [0xd7, 0x00];

/// Appends an array header for `len` elements.
pub(crate) fn array(out: &mut Vec<u8>, len: u32) {
    container(out, len, 0x90, 0xdc, 0xdd);
}

/// Appends a map header for `len` pairs.
pub(crate) fn map(out: &mut Vec<u8>, len: u32) {
    container(out, len, 0x80, 0xde, 0xdf);
}

fn container(out: &mut Vec<u8>, len: u32, fix: u8, wide16: u8, wide32: u8) {
    if len < 16 {
        out.push(fix | len as u8);
    } else if let Ok(len) = u16::try_from(len) {
        out.push(wide16);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(wide32);
        out.extend_from_slice(&len.to_be_bytes());
    }
}

/// Appends a string in its shortest form.
pub(crate) fn str(out: &mut Vec<u8>, text: &str) {
    let len = text.len();
    if len < 32 {
        out.push(0xa0 | len as u8);
    } else if let Ok(len) = u8::try_from(len) {
        out.extend_from_slice(&[0xd9, len]);
    } else if let Ok(len) = u16::try_from(len) {
        out.push(0xda);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(0xdb);
        out.extend_from_slice(&(len as u32).to_be_bytes());
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends a binary of which `fill` appends the content; always with a length of 32 bits, set afterwards.
pub(crate) fn bin(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(0xc6);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let len = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&len.to_be_bytes());
}

/// Appends an unsigned integer in its shortest form.
pub(crate) fn uint(out: &mut Vec<u8>, number: u64) {
    if number < 0x80 {
        out.push(number as u8);
    } else if let Ok(number) = u8::try_from(number) {
        out.extend_from_slice(&[0xcc, number]);
    } else if let Ok(number) = u16::try_from(number) {
        out.push(0xcd);
        out.extend_from_slice(&number.to_be_bytes());
    } else if let Ok(number) = u32::try_from(number) {
        out.push(0xce);
        out.extend_from_slice(&number.to_be_bytes());
    } else {
        wide_uint(out, number);
    }
}

/// Appends an unsigned integer in nine bytes, however small.
pub(crate) fn wide_uint(out: &mut Vec<u8>, number: u64) {
    out.push(0xcf);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Appends a signed integer: the shortest form when not negative, else the fixint or 64 bits.
fn int(out: &mut Vec<u8>, number: i64) {
    match number {
        0.. => uint(out, number as u64),
        -32..0 => out.push(number as u8),
        _ => {
            out.push(0xd3);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

/// Appends a Forward event time.
pub(crate) fn event_time(out: &mut Vec<u8>, seconds: u32, nanoseconds: u32) {
    out.extend_from_slice(&EVENT_TIME_FIXEXT8);
    out.extend_from_slice(&seconds.to_be_bytes());
    out.extend_from_slice(&nanoseconds.to_be_bytes());
}

/// Appends any JSON value, maps in the order in which they iterate.
pub(crate) fn value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(no_or_yes) => out.push(0xc2 | u8::from(*no_or_yes)),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => uint(out, number),
            (None, Some(number)) => int(out, number),
            (None, None) => {
                out.push(0xcb);
                out.extend_from_slice(&number.as_f64().unwrap_or_default().to_be_bytes());
            }
        },
        Value::String(text) => str(out, text),
        Value::Array(items) => {
            array(out, items.len() as u32);
            items.iter().for_each(|item| self::value(out, item));
        }
        Value::Object(fields) => {
            map(out, fields.len() as u32);
            for (key, item) in fields {
                str(out, key);
                self::value(out, item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bytes(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        fill(&mut out);
        out
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(bytes(|o| array(o, 3)), [0x93]);
        assert_eq!(bytes(|o| array(o, 1000)), [0xdc, 0x03, 0xe8]);
        assert_eq!(bytes(|o| array(o, 70_000)), [0xdd, 0x00, 0x01, 0x11, 0x70]);
        assert_eq!(bytes(|o| map(o, 8)), [0x88]);
        assert_eq!(bytes(|o| str(o, "ack")), *b"\xa3ack");
        assert_eq!(bytes(|o| str(o, &"x".repeat(32)))[..2], [0xd9, 32]);
        assert_eq!(bytes(|o| str(o, &"x".repeat(300)))[..3], [0xda, 0x01, 0x2c]);
        assert_eq!(bytes(|o| str(o, &"x".repeat(65_536)))[..5], [0xdb, 0, 1, 0, 0]);
        assert_eq!(bytes(|o| bin(o, |o| o.push(7))), [0xc6, 0, 0, 0, 1, 7]);
        assert_eq!(bytes(|o| wide_uint(o, 5)), [0xcf, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(bytes(|o| event_time(o, 1, 2)), [0xd7, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
        assert_eq!(
            bytes(|o| value(o, &json!({"a": [true, false, null, -1, -33]}))),
            [0x81, 0xa1, b'a', 0x95, 0xc3, 0xc2, 0xc0, 0xff, 0xd3, 255, 255, 255, 255, 255, 255, 255, 0xdf]
        );
    }

    #[test]
    fn every_width_reads_back() {
        for text in [
            "0",
            "127",
            "128",
            "255",
            "256",
            "65535",
            "65536",
            "4294967296",
            "18446744073709551615",
            "-32",
            "-129",
        ] {
            let number: serde_json::Number = text.parse().unwrap();
            let encoded = bytes(|o| value(o, &Value::Number(number)));
            assert_eq!(rmpv::decode::read_value(&mut &encoded[..]).unwrap().to_string(), text);
        }
    }
}
