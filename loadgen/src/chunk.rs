//! A chunk: what is written, acknowledged and resent as one; here it becomes Forward messages.
//!
//! A chunk in waiting is a few words, not its bytes: it is made again when it must be resent, so thousands
//! of connections with full windows cost little memory. When to send is left to [`crate::send`].

use std::{io::Write, time::Instant};

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};

use crate::{
    encode,
    records::{Moment, Records},
};

/// How fast is fast enough: speed matters here, not size.
const ZSTD_LEVEL: i32 = 1;

/// The forms of the Forward protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// One message for each event.
    Message,
    /// An array of entries.
    Forward,
    /// Entries in a binary.
    Packed,
    /// The same, compressed with gzip.
    Gzip,
    /// The same, compressed with zstd.
    Zstd,
}

/// What a chunk holds; the same chunk always makes the same bytes.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// The id to acknowledge; nothing is asked for without.
    pub(crate) id: Option<String>,
    /// The number of its first record.
    pub(crate) first: u64,
    /// How many records.
    pub(crate) count: u32,
    /// Its tag, by place in the run's list.
    pub(crate) tag: usize,
    /// The time of its records.
    pub(crate) time: Moment,
    /// When its first byte was first offered to a socket.
    pub(crate) started: Instant,
}

impl Chunk {
    /// Appends the chunk's messages to `out`.
    ///
    /// # Errors
    /// The compressor failed.
    pub(crate) fn append(
        &self,
        out: &mut Vec<u8>,
        mode: Mode,
        records: &Records,
        stream: &str,
        tag: &str,
    ) -> anyhow::Result<()> {
        let opening = records.opening(stream, self.time);
        let numbers = self.first..self.first + u64::from(self.count);
        let entries = |out: &mut Vec<u8>| {
            for seq in numbers.clone() {
                encode::array(out, 2);
                records.append(out, &opening, seq);
            }
        };
        if mode == Mode::Message {
            for seq in numbers.clone() {
                encode::array(out, if self.id.is_some() { 4 } else { 3 });
                encode::str(out, tag);
                records.append(out, &opening, seq);
                if self.id.is_some() {
                    self.option(out, None, None);
                }
            }
            return Ok(());
        }
        encode::array(out, 3);
        encode::str(out, tag);
        let compressed = match mode {
            Mode::Message | Mode::Forward => {
                encode::array(out, self.count);
                entries(out);
                None
            }
            Mode::Packed => {
                encode::bin(out, entries);
                None
            }
            Mode::Gzip | Mode::Zstd => {
                let mut plain = Vec::new();
                entries(&mut plain);
                let (name, packed) = compress(mode, &plain)?;
                encode::bin(out, |out| out.extend_from_slice(&packed));
                Some(name)
            }
        };
        self.option(out, Some(self.count), compressed);
        Ok(())
    }

    /// The option map that ends a message.
    fn option(&self, out: &mut Vec<u8>, size: Option<u32>, compressed: Option<&str>) {
        let pairs = [size.is_some(), compressed.is_some(), self.id.is_some()];
        encode::map(out, pairs.into_iter().map(u32::from).sum());
        if let Some(size) = size {
            encode::str(out, "size");
            encode::uint(out, u64::from(size));
        }
        if let Some(name) = compressed {
            encode::str(out, "compressed");
            encode::str(out, name);
        }
        if let Some(id) = &self.id {
            encode::str(out, "chunk");
            encode::str(out, id);
        }
    }
}

/// Compresses `plain`; gives the name that Forward has for the format as well.
fn compress(mode: Mode, plain: &[u8]) -> anyhow::Result<(&'static str, Vec<u8>)> {
    if mode == Mode::Zstd {
        return Ok(("zstd", zstd::bulk::compress(plain, ZSTD_LEVEL).context("zstd")?));
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(plain).context("gzip")?;
    Ok(("gzip", gzip.finish().context("gzip")?))
}
