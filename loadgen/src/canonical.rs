//! The canonical form of a record's content, and its sum: what `send` writes and `verify` checks.
//!
//! Canonical is compact JSON in UTF-8 with sorted keys, as `serde_json` writes it; nothing here reads JSON.

use serde_json::{Map, Value};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// XXH3 (64 bits, seed 0) of `content` in canonical form, in 16 hexadecimal digits.
///
/// `content` is the record without `stream`, `seq` and `sum`.
pub(crate) fn sum(content: &Map<String, Value>) -> String {
    format!("{:016x}", xxh3_64(&text(content)))
}

/// XXH3 (128 bits, seed 0) of the whole `record` in canonical form.
pub(crate) fn hash(record: &Map<String, Value>) -> u128 {
    xxh3_128(&text(record))
}

/// The canonical form.
fn text(map: &Map<String, Value>) -> Vec<u8> {
    // A map of serde_json iterates in the order of its keys (the test below watches over that), and text
    // keys written to memory cannot fail.
    serde_json::to_vec(map).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    fn text(json: &str) -> String {
        let map = serde_json::from_str(json).unwrap();
        String::from_utf8(super::text(&map)).unwrap()
    }

    #[test]
    fn keys_are_sorted_at_every_depth() {
        assert_eq!(text(r#"{ "b": {"d":1, "c": 2}, "a":"\u00e9"}"#), r#"{"a":"é","b":{"c":2,"d":1}}"#);
    }

    #[test]
    fn sum_and_hash_are_those_of_the_canonical_bytes() {
        let Value::Object(empty) = json!({}) else { unreachable!() };
        assert_eq!(super::sum(&empty), format!("{:016x}", xxhash_rust::xxh3::xxh3_64(b"{}")));
        assert_eq!(super::hash(&empty), xxhash_rust::xxh3::xxh3_128(b"{}"));
    }
}
