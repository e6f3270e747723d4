//! Little builders of MessagePack and of compressed streams.

use std::io::Write;

/// Joins parts to one `Vec<u8>`.
macro_rules! cat {
    ($($part:expr),* $(,)?) => {{
        let mut all: Vec<u8> = Vec::new();
        $(all.extend_from_slice(AsRef::<[u8]>::as_ref(&$part));)*
        all
    }};
}
pub(crate) use cat;

/// `[1, {"a": 1}]`
pub(crate) const ENTRY: &[u8] = b"\x92\x01\x81\xa1a\x01";
/// `{"chunk": "x\n"}`
pub(crate) const CHUNK: &[u8] = b"\x81\xa5chunk\xa2x\n";

/// A str8 or bin16 of these bytes, whichever fits.
pub(crate) fn blob(bytes: &[u8]) -> Vec<u8> {
    match u8::try_from(bytes.len()) {
        Ok(len) => cat![[0xd9, len], bytes],
        Err(_) => cat![[0xc5], u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes],
    }
}

/// `["t", <packed>, {"chunk": "x\n", "compressed": <how>}]`
pub(crate) fn compressed(how: &str, packed: &[u8]) -> Vec<u8> {
    let how = cat![[0xa0 | how.len() as u8], how];
    cat![b"\x93\xa1t", blob(packed), b"\x82\xa5chunk\xa2x\n\xaacompressed", how]
}

pub(crate) fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// A member with every optional header field.
pub(crate) fn gzip_with_fields(plain: &[u8]) -> Vec<u8> {
    let builder = flate2::GzBuilder::new().filename("f").comment("c").extra(&b"ab"[..]).mtime(1);
    let mut encoder = builder.write(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 1).unwrap()
}

/// `depth` arrays within each other, the innermost empty.
pub(crate) fn nested(depth: usize) -> Vec<u8> {
    let mut value = vec![0x91; depth - 1];
    value.push(0x90);
    value
}
