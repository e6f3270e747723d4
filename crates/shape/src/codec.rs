//! Packing of what a store writes.
//!
//! Left out on purpose: unpacking, which only readers of a store do.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// How a file's bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// As they are.
    #[default]
    None,
    /// One gzip member (RFC 1952).
    Gzip,
    /// One Zstandard frame (RFC 8878) with a checksum.
    Zstd,
}

/// A sink that packs what is written to it; [`Codec::writer`] makes it.
///
/// The file is whole only after [`finish`](Self::finish): dropping the writer leaves it cut.
pub struct CodecWriter<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl Codec {
    /// What a file's name ends in: nothing, `.gz` or `.zst`.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    /// Packs into `out`. Levels favour speed, for the sink must keep up with its edges: gzip 3, zstd 1.
    pub fn writer<W: Write>(self, out: W) -> CodecWriter<W> {
        CodecWriter(match self {
            Self::None => Inner::Plain(out),
            Self::Gzip => Inner::Gzip(GzEncoder::new(out, Compression::new(3))),
            Self::Zstd => {
                let mut encoder =
                    zstd::stream::write::Encoder::new(out, 1).expect("level 1 is one of zstd's levels");
                encoder.include_checksum(true).expect("a fresh frame takes any parameter");
                Inner::Zstd(encoder)
            }
        })
    }
}

impl<W: Write> CodecWriter<W> {
    /// Writes the end of the packed stream and gives the underlying writer back, which is not flushed.
    ///
    /// # Errors
    /// The underlying writer's.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::Plain(out) => Ok(out),
            Inner::Gzip(encoder) => encoder.finish(),
            Inner::Zstd(encoder) => encoder.finish(),
        }
    }

    /// The underlying writer. Part of what was written may not have reached it yet.
    pub fn get_ref(&self) -> &W {
        match &self.0 {
            Inner::Plain(out) => out,
            Inner::Gzip(encoder) => encoder.get_ref(),
            Inner::Zstd(encoder) => encoder.get_ref(),
        }
    }
}

impl<W: Write> Write for CodecWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(out) => out.write(bytes),
            Inner::Gzip(encoder) => encoder.write(bytes),
            Inner::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(out) => out.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_forward::unpack::unpack;
    use weir_model::Encoding;

    use super::*;

    #[test]
    fn what_is_packed_unpacks() {
        let text = b"{\"a\":1}\n".repeat(10_000);
        for (codec, encoding, suffix) in [
            (Codec::None, Encoding::Plain, ""),
            (Codec::Gzip, Encoding::Gzip, ".gz"),
            (Codec::Zstd, Encoding::Zstd, ".zst"),
        ] {
            let mut writer = codec.writer(Vec::new());
            for piece in text.chunks(777) {
                writer.write_all(piece).unwrap();
            }
            let packed = writer.finish().unwrap();
            assert_eq!(unpack(encoding, &packed, text.len()).unwrap(), &text[..], "{codec:?}");
            assert_eq!(packed.len() < text.len(), codec != Codec::None, "{codec:?}: {} bytes", packed.len());
            assert_eq!(codec.suffix(), suffix);
        }
    }
}
