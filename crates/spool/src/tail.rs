//! One file that grows at its end: a log's last segment, or a journal. Made, appended to, sealed, and
//! recovered after a crash.
//!
//! Left out on purpose: which file that is, quotas, and everything about files that grow no more.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use weir_model::SeqRanges;

use crate::disk::DiskFile;
use crate::frame::{FILE_HEADER_BYTES, FileHeader, FileKind, Head, Kind, Record, Salt, Seal, SparseIndex};
use crate::walk::{Step, Walker};

/// Bytes read at once while recovering.
const RECOVERY_BLOCK_BYTES: usize = 1 << 20;

/// A growing file. Whoever holds it is its only writer.
#[derive(Debug)]
pub(crate) struct Tail<F> {
    pub(crate) file: F,
    salt: Salt,
    /// The number of the first record that the file may hold.
    pub(crate) first: u64,
    /// The next record's number.
    pub(crate) next: u64,
    /// Where the next frame goes: behind the last good byte.
    pub(crate) end: u64,
    /// When the first record was appended.
    pub(crate) oldest_ns: Option<u64>,
    pub(crate) index: Arc<Mutex<SparseIndex>>,
}

/// What recovering a file found besides its sound records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Records that had been durable and are not readable.
    pub(crate) damaged: SeqRanges,
    /// Bytes cut off behind the last sound record; none of them was known to be durable.
    pub(crate) torn_bytes: u64,
}

/// Why a write did not become part of a file.
#[derive(Debug)]
pub(crate) enum WriteFailure {
    /// It failed, and nothing of it is there, not even after a crash.
    Undone(io::Error),
    /// What of it is there, or will be after a crash, is not known.
    Unknown(io::Error),
}

impl WriteFailure {
    pub(crate) fn into_inner(self) -> io::Error {
        match self {
            Self::Undone(error) | Self::Unknown(error) => error,
        }
    }
}

/// What a file turned out to be.
#[derive(Debug)]
pub(crate) enum Recovered<F> {
    Tail(Tail<F>, Loss),
    /// It has no header yet: it was cut short before its first sync, and nothing in it was answered for.
    HalfMade,
    /// Neither its header nor one frame is sound.
    Rotten,
}

impl<F: DiskFile> Tail<F> {
    /// Writes the header into an empty file, without a sync.
    pub(crate) fn begin(file: F, kind: FileKind, header: FileHeader) -> io::Result<Self> {
        file.write_at(&mut [IoSlice::new(&header.encode(kind))], 0)?;
        Ok(Self::at(file, header))
    }

    fn at(file: F, header: FileHeader) -> Self {
        Self {
            file,
            salt: header.salt(),
            first: header.first,
            next: header.first,
            end: FILE_HEADER_BYTES as u64,
            oldest_ns: None,
            index: Arc::default(),
        }
    }

    /// Goes through a file that was not sealed, cuts off what was torn and makes the rest durable.
    ///
    /// `header` is what the file's header should say; the file's own counts only as `header_sound`.
    pub(crate) fn recover(
        file: F,
        kind: FileKind,
        header: FileHeader,
        header_sound: bool,
    ) -> io::Result<Recovered<F>> {
        let bytes = file.bytes()?;
        let mut walker =
            Walker::new(file, header.salt(), FILE_HEADER_BYTES as u64..bytes, RECOVERY_BLOCK_BYTES);
        let mut scan = Scan::new(header.first);
        loop {
            match walker.step()? {
                Step::Record(found) => scan.record(found.at, &found.head),
                Step::Damage { bytes, head } => scan.damage(bytes.start, head.as_ref()),
                Step::Seal { at, head } => {
                    scan.seal(at, &head);
                    break;
                }
                Step::End => {
                    scan.end(bytes.max(FILE_HEADER_BYTES as u64));
                    break;
                }
            }
        }
        if !header_sound && scan.records == 0 {
            let half_made = bytes <= FILE_HEADER_BYTES as u64 || is_blank(&walker.file);
            return Ok(if half_made { Recovered::HalfMade } else { Recovered::Rotten });
        }
        let mut tail = Self::at(walker.file, header);
        tail.next = scan.next();
        tail.end = scan.end_of_good();
        tail.oldest_ns = scan.oldest_ns;
        scan.index.cut(tail.end);
        tail.index = Arc::new(Mutex::new(scan.index));
        let loss = Loss { damaged: scan.damaged, torn_bytes: bytes.saturating_sub(tail.end) };
        tail.make_durable_again(kind, &header)?;
        Ok(Recovered::Tail(tail, loss))
    }

    /// Writes what is there once more, and syncs.
    ///
    /// After a failed sync the kernel may show bytes that the disk does not have and hold them for clean, so
    /// that a further sync would lie. Written again they are dirty again.
    fn make_durable_again(&mut self, kind: FileKind, header: &FileHeader) -> io::Result<()> {
        self.file.truncate(self.end)?;
        self.file.write_at(&mut [IoSlice::new(&header.encode(kind))], 0)?;
        let mut block = BytesMut::zeroed(RECOVERY_BLOCK_BYTES);
        let mut at = FILE_HEADER_BYTES as u64;
        while at < self.end {
            let len = (self.end - at).min(block.len() as u64) as usize;
            let got = crate::walk::read_around(&self.file, &mut block[..len], at)?;
            if got == 0 {
                break;
            }
            self.file.write_at(&mut [IoSlice::new(&block[..got])], at)?;
            at += got as u64;
        }
        self.file.sync()
    }

    /// Appends all records or none; nothing is durable before [`Self::sync`].
    pub(crate) fn append(
        &mut self,
        records: &[Record],
        synced: u64,
        now_ns: u64,
    ) -> Result<(), WriteFailure> {
        let mut heads = BytesMut::with_capacity(records.len() * crate::frame::HEAD_BYTES);
        for (record, seq) in records.iter().zip(self.next..) {
            let head = Head {
                kind: Kind::Record,
                header_bytes: length(&record.header)?,
                payload_bytes: length(&record.payload)?,
                body_crc: record.crc,
                seq,
                time_ns: now_ns,
                synced,
            };
            head.encode(self.salt, &mut heads);
        }
        let mut parts: Vec<_> = heads
            .chunks(crate::frame::HEAD_BYTES)
            .zip(records)
            .flat_map(|(head, record)| [head, &record.header[..], &record.payload[..]])
            .filter(|part| !part.is_empty())
            .map(IoSlice::new)
            .collect();
        self.write(&mut parts)?;
        let mut index = self.index.lock();
        for record in records {
            index.note(self.next, self.end);
            self.next += 1;
            self.end += record.frame_bytes();
        }
        drop(index);
        if !records.is_empty() {
            self.oldest_ns.get_or_insert(now_ns);
        }
        Ok(())
    }

    /// Makes what was appended durable. After an error nothing is known about it, and it must not be asked
    /// again.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// Writes the seal, without a sync. Returns the bytes of the file with it.
    pub(crate) fn seal(&mut self, now_ns: u64) -> Result<u64, WriteFailure> {
        let seal = Seal {
            end: self.next,
            oldest_ns: self.oldest_ns.unwrap_or(now_ns),
            index: std::mem::take(&mut *self.index.lock()),
        };
        let bytes = seal.encode(self.salt, now_ns);
        let written = self.write(&mut [IoSlice::new(&bytes)]);
        if written.is_err() {
            *self.index.lock() = seal.index;
        }
        written.map(|()| self.end + bytes.len() as u64)
    }

    fn write(&self, parts: &mut [IoSlice<'_>]) -> Result<(), WriteFailure> {
        self.file.write_at(parts, self.end).map_err(|error| {
            // What was written must not come back after a crash as a record that was refused, so its end is
            // made durable before anybody is told.
            match self.file.truncate(self.end).and_then(|()| self.file.sync()) {
                Ok(()) => WriteFailure::Undone(error),
                Err(_) => WriteFailure::Unknown(error),
            }
        })
    }
}

/// Whether a header was never written. What the disk cannot read is not taken for that.
fn is_blank<F: DiskFile>(file: &F) -> bool {
    let mut header = [0; FILE_HEADER_BYTES];
    file.read_at(&mut header, 0).is_ok() && header == [0; FILE_HEADER_BYTES]
}

fn length(piece: &[u8]) -> Result<u32, WriteFailure> {
    u32::try_from(piece.len()).map_err(|error| WriteFailure::Undone(io::Error::other(error)))
}

/// Decides, frame by frame, what of an unsealed file counts.
///
/// A hole before a frame whose `synced` lies above it held durable records: they are damaged, and what
/// follows stays. A hole that no frame proves was being written when the power went: the file ends there.
struct Scan {
    first: u64,
    /// The number that should come next.
    expected: u64,
    /// All below was durable, as some sound head says.
    proven: u64,
    records: u64,
    oldest_ns: Option<u64>,
    index: SparseIndex,
    /// Where the current hole began, if the last step was damage.
    hole_at: Option<u64>,
    /// Holes with no proof so far: place, first missing number, the number found behind it.
    unproven: Vec<(u64, u64, u64)>,
    damaged: SeqRanges,
    end: u64,
}

impl Scan {
    fn new(first: u64) -> Self {
        Self {
            first,
            expected: first,
            proven: first,
            records: 0,
            oldest_ns: None,
            index: SparseIndex::default(),
            hole_at: None,
            unproven: Vec::new(),
            damaged: SeqRanges::new(),
            end: FILE_HEADER_BYTES as u64,
        }
    }

    fn record(&mut self, at: u64, head: &Head) {
        if head.seq < self.expected {
            // A number that was there already: bytes of an older try that was given up.
            self.damage(at, None);
            return;
        }
        self.proven = self.proven.max(head.synced);
        let hole = self.hole_at.take();
        if head.seq > self.expected || hole.is_some() {
            self.unproven.push((hole.unwrap_or(at), self.expected, head.seq));
        }
        self.expected = head.seq + 1;
        self.records += 1;
        self.oldest_ns.get_or_insert(head.time_ns);
        self.index.note(head.seq, at);
    }

    fn damage(&mut self, at: u64, head: Option<&Head>) {
        self.hole_at.get_or_insert(at);
        if let Some(head) = head {
            self.proven = self.proven.max(head.synced);
        }
    }

    fn seal(&mut self, at: u64, head: &Head) {
        self.proven = self.proven.max(head.synced);
        self.end(at);
    }

    fn end(&mut self, at: u64) {
        self.end = at;
        if let Some(hole) = self.hole_at.take() {
            self.unproven.push((hole, self.expected, u64::MAX));
        } else if self.expected < self.proven {
            self.unproven.push((at, self.expected, u64::MAX));
        }
        for (at, missing, found) in std::mem::take(&mut self.unproven) {
            if found <= self.proven {
                self.damaged.insert_range(missing..found);
            } else {
                self.end = at;
                self.expected = missing.max(self.proven);
                self.damaged.insert_range(missing..self.expected);
                return;
            }
        }
    }

    fn next(&self) -> u64 {
        self.expected.max(self.first)
    }

    fn end_of_good(&self) -> u64 {
        self.end
    }
}
