//! A sender of bytes that a test chooses: it sends a chunk again whenever it likes, as no well-kept client would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// One connection to an edge.
#[derive(Debug)]
pub struct RawSender {
    stream: TcpStream,
    /// What was read and not yet taken.
    read: Vec<u8>,
}

impl RawSender {
    /// Connects to an edge's Forward port.
    ///
    /// # Errors
    /// If it is not there.
    pub fn connect(edge: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(edge).with_context(|| format!("no edge at {edge}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// Sends the records `seqs` of `stream` as one chunk, in the mode PackedForward. The same arguments make the same
    /// bytes.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, tag: &str, chunk: &str, stream: &str, seqs: Range<u64>) -> Result<()> {
        let entries: Vec<u8> = seqs.flat_map(|seq| entry(stream, seq, 0)).collect();
        self.packed(tag, chunk, &entries)
    }

    /// As [`RawSender::send`], with so many bytes in each record beside.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send_large(
        &mut self,
        tag: &str,
        chunk: &str,
        stream: &str,
        seqs: Range<u64>,
        bytes: usize,
    ) -> Result<()> {
        let entries: Vec<u8> = seqs.flat_map(|seq| entry(stream, seq, bytes)).collect();
        self.packed(tag, chunk, &entries)
    }

    /// As [`RawSender::send_large`], without a chunk id: no acknowledgement is wanted.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send_unanswered(&mut self, tag: &str, stream: &str, seqs: Range<u64>, bytes: usize) -> Result<()> {
        let entries: Vec<u8> = seqs.flat_map(|seq| entry(stream, seq, bytes)).collect();
        let mut out = vec![0x92];
        text(&mut out, tag);
        body(&mut out, &entries)?;
        Ok(self.stream.write_all(&out)?)
    }

    /// Sends each record in a message and a chunk of its own, `CHUNK-SEQ`, all in one write: the edge packs them.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send_singles(&mut self, tag: &str, chunk: &str, stream: &str, seqs: Range<u64>) -> Result<()> {
        let mut out = Vec::new();
        for seq in seqs {
            out.push(0x94);
            text(&mut out, tag);
            out.extend_from_slice(&entry(stream, seq, 0)[1..]);
            option(&mut out, &format!("{chunk}-{seq}"));
        }
        Ok(self.stream.write_all(&out)?)
    }

    /// Waits for one acknowledgement and gives the chunk that it names.
    ///
    /// # Errors
    /// If none comes in time, or the edge closes.
    pub fn ack(&mut self, timeout: Duration) -> Result<String> {
        self.stream.set_read_timeout(Some(timeout))?;
        loop {
            // {"ack": fixstr or str 8}
            if let Some(rest) = self.read.strip_prefix(b"\x81\xa3ack") {
                let (start, len) = match *rest {
                    [byte @ 0xa0..=0xbf, ..] => (1, usize::from(byte & 0x1f)),
                    [0xd9, len, ..] => (2, usize::from(len)),
                    _ => (0, usize::MAX),
                };
                if let Some(chunk) = rest.get(start..).and_then(|rest| rest.get(..len)) {
                    let chunk = String::from_utf8(chunk.to_vec())?;
                    self.read.drain(..5 + start + len);
                    return Ok(chunk);
                }
            }
            let mut buffer = [0; 4096];
            let got = self.stream.read(&mut buffer).context("no acknowledgement")?;
            ensure!(got > 0, "the edge closed the connection");
            self.read.extend_from_slice(&buffer[..got]);
        }
    }

    fn packed(&mut self, tag: &str, chunk: &str, entries: &[u8]) -> Result<()> {
        let mut out = vec![0x93];
        text(&mut out, tag);
        body(&mut out, entries)?;
        option(&mut out, chunk);
        Ok(self.stream.write_all(&out)?)
    }
}

fn body(out: &mut Vec<u8>, entries: &[u8]) -> Result<()> {
    out.push(0xc6);
    out.extend_from_slice(&u32::try_from(entries.len())?.to_be_bytes());
    out.extend_from_slice(entries);
    Ok(())
}

/// `[time, {"stream": …, "seq": …, "message": …}]`
fn entry(stream: &str, seq: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0x92, 0xce];
    out.extend_from_slice(&(1_700_000_000_u32 + (seq % 50) as u32).to_be_bytes());
    out.push(0x83);
    text(&mut out, "stream");
    text(&mut out, stream);
    text(&mut out, "seq");
    out.push(0xcf);
    out.extend_from_slice(&seq.to_be_bytes());
    text(&mut out, "message");
    text(&mut out, &"x".repeat(bytes));
    out
}

fn option(out: &mut Vec<u8>, chunk: &str) {
    out.push(0x81);
    text(out, "chunk");
    text(out, chunk);
}

fn text(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        len @ 0..32 => out.push(0xa0 | len as u8),
        len @ 32..256 => out.extend_from_slice(&[0xd9, len as u8]),
        len => {
            out.push(0xdb);
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}
