//! The canonical form of a record's content, and its sum: what `send` writes and `verify` checks.

use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

/// XXH3 (64 bits, seed 0) of `content` as compact JSON with sorted keys, in 16 hexadecimal digits.
///
/// `content` is the record without `stream`, `seq` and `sum`.
pub(crate) fn sum(content: &Map<String, Value>) -> String {
    // A map of serde_json iterates in the order of its keys; the test below watches over that.
    format!("{:016x}", xxh3_64(Value::Object(content.clone()).to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        assert_eq!(json!({"b": {"d": 1, "c": 2}, "a": "é"}).to_string(), r#"{"a":"é","b":{"c":2,"d":1}}"#);
    }
}
