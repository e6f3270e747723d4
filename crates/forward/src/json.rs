//! JSON on the same port (section 11): values are found in the text, and messages turned into MessagePack, from where on
//! they are treated like any other.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::outcome::Fault;
use crate::scan::DEPTH_MAX;

/// Most arrays and objects within each other: what `serde_json` takes without being told otherwise, one below the
/// bound for MessagePack. It also bounds our own recursion.
const JSON_DEPTH_MAX: usize = 127;
const _: () = assert!(JSON_DEPTH_MAX < DEPTH_MAX);

/// The place in the value at the front of the buffer, kept between reads. It finds ends; whether what lies before them
/// is JSON, the parser says.
#[derive(Default)]
pub(crate) struct Lexer {
    pos: usize,
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Lexer {
    /// The length of the value at the front of `bytes` if it is complete. There is no white space before it,
    /// and the caller takes it off before it asks again.
    pub(crate) fn next(&mut self, bytes: &[u8], limit: usize) -> Result<Option<usize>, Fault> {
        while let Some(&byte) = bytes.get(self.pos) {
            // A number or literal has no end of its own.
            let in_token = self.pos > 0 && self.depth == 0 && !self.in_text;
            if in_token && matches!(byte, b'[' | b'{' | b'"' | b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(Some(self.finish()));
            }
            self.pos += 1;
            if self.pos > limit {
                return Err(Fault::TooLarge { limit });
            }
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                _ if self.in_text => continue,
                b'[' | b'{' => {
                    self.depth += 1;
                    if self.depth > JSON_DEPTH_MAX {
                        return Err(Fault::TooDeep);
                    }
                }
                b']' | b'}' => self.depth = self.depth.checked_sub(1).ok_or(Fault::MalformedJson)?,
                _ => continue,
            }
            if self.depth == 0 && !self.in_text {
                return Ok(Some(self.finish()));
            }
        }
        Ok(None)
    }

    fn finish(&mut self) -> usize {
        std::mem::take(self).pos
    }
}

/// Whether `text` is one JSON value.
pub(crate) fn is_value(text: &[u8]) -> bool {
    serde_json::from_str::<IgnoredAny>(&String::from_utf8_lossy(text)).is_ok()
}

/// One JSON value as MessagePack. What is not UTF-8 in it is replaced (R28).
pub(crate) fn to_messagepack(text: &[u8]) -> Result<Vec<u8>, Fault> {
    let text = String::from_utf8_lossy(text);
    let mut out = Vec::with_capacity(text.len());
    let mut parser = serde_json::Deserializer::from_str(&text);
    Transcode(&mut out)
        .deserialize(&mut parser)
        .and_then(|()| parser.end())
        .map_err(|_| Fault::MalformedJson)?;
    Ok(out)
}

/// The ack for a chunk that came as JSON.
pub(crate) fn ack(chunk: &[u8]) -> String {
    // The chunk was JSON before it was MessagePack, so this cannot fail.
    let chunk: serde_json::Value = rmp_serde::from_slice(chunk).unwrap_or_default();
    format!(r#"{{"ack":{chunk}}}"#)
}

/// Appends whatever it is given to the output. It recurses as deep as the lexer allows, [`JSON_DEPTH_MAX`].
struct Transcode<'a>(&'a mut Vec<u8>);

impl Transcode<'_> {
    /// Begins a container whose length is not known yet; returns where to put it.
    fn open(&mut self, marker: u8) -> usize {
        self.0.extend([marker, 0, 0, 0, 0]);
        self.0.len() - 4
    }

    fn close<E: serde::de::Error>(&mut self, at: usize, count: u64) -> Result<(), E> {
        let count = u32::try_from(count).map_err(|_| E::custom("too many elements"))?;
        self.0[at..at + 4].copy_from_slice(&count.to_be_bytes());
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Transcode<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Transcode<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.0.push(0xc0);
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        rmp::encode::write_bool(self.0, value).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        rmp::encode::write_sint(self.0, value).map(|_| ()).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        rmp::encode::write_uint(self.0, value).map(|_| ()).map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        rmp::encode::write_f64(self.0, value).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        rmp::encode::write_str(self.0, value).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        let at = self.open(0xdd);
        let mut count = 0;
        while elements.next_element_seed(Transcode(self.0))?.is_some() {
            count += 1;
        }
        self.close(at, count)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut pairs: A) -> Result<(), A::Error> {
        let at = self.open(0xdf);
        let mut count = 0;
        while pairs.next_key_seed(Transcode(self.0))?.is_some() {
            pairs.next_value_seed(Transcode(self.0))?;
            count += 1;
        }
        self.close(at, count)
    }
}
