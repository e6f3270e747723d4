//! Which chunks a group log has taken lately, so that a sender's retry is not stored again.
//!
//! One for each group log: a chunk that is copied to two groups is known to each by itself, so that a copy which
//! a crash left half-made is completed where it lacks, and nowhere else. The identities stand in the log's own
//! headers until it is trimmed; [`Recent::unsaved`] gives them out to be kept beside it, and only what is
//! [saved](Recent::trimmable) may be trimmed. Left out on purpose: waiting, files and clocks.

use std::collections::hash_map::{Entry, HashMap};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

use weir_model::{Fingerprint, Incarnation, Seq, SeqRanges};

use crate::record::{self, RecordError};
use crate::window::Window;

/// Bytes of one chunk in a record: fingerprint 16, seq 8, seconds since 1970 4, little-endian.
const CHUNK_BYTES: usize = 28;

/// How long, and how many, chunks are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecentBounds {
    /// Seconds after which a chunk is forgotten.
    pub seconds: u32,
    /// Chunks remembered at the most; above it the oldest are forgotten. About 45 bytes of memory each.
    pub chunks: usize,
}

impl Default for RecentBounds {
    fn default() -> Self {
        Self { seconds: 600, chunks: 500_000 }
    }
}

/// What a chunk that has just arrived is to its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// New: whoever claimed it stores it, and reports with [`Recent::stored`] or [`Recent::release`].
    Mine,
    /// Durable already, in this batch.
    Stored(Seq),
    /// Somebody else is storing it: wait for what becomes of that.
    Pending,
    /// It stands twice in the batch that claims.
    Twice,
}

/// A record of the file that outlives the log's trimming. Replayed in order they give the window again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecentRecord {
    /// What follows is of this life of the log.
    Of(Incarnation),
    /// All chunks of these batches follow, packed.
    Stored {
        /// The batches, those without chunks too.
        seqs: SeqRanges,
        /// Fingerprint, seq and time of each chunk.
        chunks: Bytes,
    },
    /// These batches were dropped by policy: their chunks are not stored any more.
    Dropped(SeqRanges),
}

impl RecentRecord {
    /// The record as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        record::encode(self)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`RecordError`] when the version is unknown or the bytes are no record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        record::decode(bytes)
    }
}

/// Where and when a chunk was taken.
#[derive(Debug, Clone, Copy)]
struct Known {
    seq: u64,
    seconds: u32,
}

/// The chunks that one group log has taken lately.
#[derive(Debug)]
pub struct Recent {
    bounds: RecentBounds,
    incarnation: Incarnation,
    window: Window<Known>,
    // By which claim.
    claimed: HashMap<Fingerprint, u64, RandomState>,
    claims: u64,
    noted: SeqRanges,
    // Noted and not given out yet: batches, and how many chunks had come before theirs.
    fresh_seqs: SeqRanges,
    fresh: u64,
    dropped: SeqRanges,
    // Given out, not reported as saved yet; what is given out next waits for that.
    saving: Option<SeqRanges>,
}

impl Recent {
    /// The window of the log of that `incarnation`, as the records of its file say, oldest first. Records of
    /// another life of the log are passed over.
    ///
    /// What of the log the records lack is [`missing`](Self::missing), and is to be noted before anything is claimed.
    #[must_use]
    pub fn new(
        bounds: RecentBounds,
        incarnation: Incarnation,
        records: impl IntoIterator<Item = RecentRecord>,
    ) -> Self {
        let mut recent = Self {
            bounds,
            incarnation,
            window: Window::default(),
            claimed: HashMap::default(),
            claims: 0,
            noted: SeqRanges::new(),
            fresh_seqs: SeqRanges::new(),
            fresh: 0,
            dropped: SeqRanges::new(),
            saving: None,
        };
        let mut ours = false;
        for record in records {
            match record {
                RecentRecord::Of(life) => ours = life == incarnation,
                RecentRecord::Stored { seqs, chunks } if ours => {
                    recent.noted.insert_all(&seqs);
                    unpack(chunks).for_each(|(chunk, known)| recent.remember(chunk, known));
                }
                RecentRecord::Dropped(seqs) if ours => recent.drop_known(&seqs),
                _ => {}
            }
        }
        recent.fresh = recent.window.came();
        recent
    }

    /// The part of `range` of the log whose chunks nobody has noted.
    #[must_use]
    pub fn missing(&self, range: std::ops::Range<u64>) -> SeqRanges {
        let mut missing = SeqRanges::new();
        missing.insert_range(range);
        missing.remove_all(&self.noted);
        missing
    }

    /// Asks for the chunks of one batch, in their order. What is [`Claim::Mine`] is claimed until it is reported.
    pub fn claim(&mut self, chunks: &[Fingerprint]) -> Vec<Claim> {
        self.claims += 1;
        let mut claim = |chunk: &Fingerprint| match self.window.get(chunk) {
            Some(known) => Claim::Stored(Seq(known.seq)),
            None => match self.claimed.entry(*chunk) {
                Entry::Vacant(free) => {
                    free.insert(self.claims);
                    Claim::Mine
                }
                Entry::Occupied(by) if *by.get() == self.claims => Claim::Twice,
                Entry::Occupied(_) => Claim::Pending,
            },
        };
        chunks.iter().map(&mut claim).collect()
    }

    /// The batch `seq` is durable, with these chunks, received at that time.
    pub fn stored(&mut self, seq: Seq, chunks: &[Fingerprint], seconds: u32) {
        for chunk in chunks {
            self.claimed.remove(chunk);
        }
        self.note(seq, chunks, seconds);
    }

    /// These chunks were claimed and are not stored: refused, dropped, failed.
    pub fn release(&mut self, chunks: &[Fingerprint]) {
        for chunk in chunks {
            self.claimed.remove(chunk);
        }
    }

    /// The log holds the batch `seq` with these chunks. May be said again.
    pub fn note(&mut self, seq: Seq, chunks: &[Fingerprint], seconds: u32) {
        if !self.noted.insert(seq) {
            return;
        }
        self.fresh_seqs.insert(seq);
        for &chunk in chunks {
            self.remember(chunk, Known { seq: seq.0, seconds });
        }
    }

    /// These batches were dropped from the log before any store had them: a retry of theirs is welcome.
    pub fn drop_batches(&mut self, seqs: &SeqRanges) {
        self.drop_known(seqs);
        self.dropped.insert_all(seqs);
    }

    /// Forgets what is older than the window. `now` is in seconds since 1970.
    pub fn tick(&mut self, now: u32) {
        while let Some(oldest) = self.window.oldest()
            && (oldest.seconds.saturating_add(self.bounds.seconds) < now
                || self.window.len() > self.bounds.chunks)
        {
            self.window.pop();
        }
    }

    /// Goes on with other bounds, at the next [`tick`](Self::tick); says whether they are others.
    pub fn set_bounds(&mut self, bounds: RecentBounds) -> bool {
        std::mem::replace(&mut self.bounds, bounds) != bounds
    }

    /// The batch that holds this chunk.
    #[must_use]
    pub fn seq_of(&self, chunk: &Fingerprint) -> Option<Seq> {
        self.window.get(chunk).map(|known| Seq(known.seq))
    }

    /// What has been noted since the last call, but for chunks that are forgotten already, to be appended to the file;
    /// report with [`saved`](Self::saved). Nothing while an earlier answer is not reported, or where nothing is new.
    pub fn unsaved(&mut self) -> Vec<RecentRecord> {
        if self.saving.is_some() || self.fresh_seqs.is_empty() && self.dropped.is_empty() {
            return Vec::new();
        }
        let seqs = std::mem::take(&mut self.fresh_seqs);
        let dropped = std::mem::take(&mut self.dropped);
        let fresh = self.window.since(std::mem::replace(&mut self.fresh, self.window.came()));
        let chunks = pack(fresh.filter(|(_, known)| !dropped.contains(Seq(known.seq))));
        self.saving = Some(seqs.clone());
        let mut records = vec![RecentRecord::Of(self.incarnation), RecentRecord::Stored { seqs, chunks }];
        if !dropped.is_empty() {
            records.push(RecentRecord::Dropped(dropped));
        }
        records
    }

    /// What was given out last is durable.
    pub fn saved(&mut self) {
        self.saving = None;
    }

    /// The part of `done` that the log may trim without a chunk being forgotten by it.
    #[must_use]
    pub fn trimmable(&self, done: &SeqRanges) -> SeqRanges {
        let mut trimmable = done.clone();
        trimmable.remove_all(&self.fresh_seqs);
        if let Some(saving) = &self.saving {
            trimmable.remove_all(saving);
        }
        trimmable
    }

    /// The shortest file that says what this window knows. Only to be written in the place of one that has all
    /// that was given out so far.
    #[must_use]
    pub fn snapshot(&self) -> Vec<RecentRecord> {
        let mut seqs = self.noted.clone();
        seqs.remove_all(&self.fresh_seqs);
        let saved = |(chunk, known): &&(Fingerprint, Known)| {
            let seq = Seq(known.seq);
            seqs.contains(seq) && self.seq_of(chunk) == Some(seq)
        };
        let chunks = pack(self.window.since(0).filter(saved));
        vec![RecentRecord::Of(self.incarnation), RecentRecord::Stored { seqs, chunks }]
    }

    /// How many chunks are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.window.known()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes a [`snapshot`](Self::snapshot) takes.
    #[must_use]
    pub fn snapshot_bytes(&self) -> u64 {
        (self.len() * CHUNK_BYTES) as u64
    }

    fn remember(&mut self, chunk: Fingerprint, known: Known) {
        self.window.push(chunk, known);
        if self.window.len() > self.bounds.chunks {
            self.tick(0);
        }
    }

    fn drop_known(&mut self, seqs: &SeqRanges) {
        self.window.retain(|known| !seqs.contains(Seq(known.seq)));
    }
}

fn pack<'a>(chunks: impl Iterator<Item = &'a (Fingerprint, Known)>) -> Bytes {
    let mut out = BytesMut::with_capacity(chunks.size_hint().1.unwrap_or(0) * CHUNK_BYTES);
    for (Fingerprint(high, low), known) in chunks {
        out.put_u64_le(*high);
        out.put_u64_le(*low);
        out.put_u64_le(known.seq);
        out.put_u32_le(known.seconds);
    }
    out.freeze()
}

fn unpack(mut chunks: Bytes) -> impl Iterator<Item = (Fingerprint, Known)> {
    std::iter::from_fn(move || {
        (chunks.remaining() >= CHUNK_BYTES).then(|| {
            let chunk = Fingerprint(chunks.get_u64_le(), chunks.get_u64_le());
            (chunk, Known { seq: chunks.get_u64_le(), seconds: chunks.get_u32_le() })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(n: u64) -> Fingerprint {
        Fingerprint(n, !n)
    }

    fn recent(chunks: usize) -> Recent {
        Recent::new(RecentBounds { seconds: 10, chunks }, Incarnation(1), [])
    }

    fn reopened(records: &[RecentRecord]) -> Recent {
        let records = records.iter().map(|record| RecentRecord::decode(&record.encode()).unwrap());
        Recent::new(RecentBounds { seconds: 10, chunks: 100 }, Incarnation(1), records)
    }

    #[test]
    fn a_repeat_waits_while_pending_and_is_known_when_stored() {
        let mut recent = recent(100);
        let both = [chunk(1), chunk(2), chunk(1)];
        assert_eq!(recent.claim(&both), [Claim::Mine, Claim::Mine, Claim::Twice]);
        assert_eq!(recent.claim(&[chunk(2)]), [Claim::Pending]);
        recent.stored(Seq(4), &both[..1], 0);
        recent.release(&both[1..2]);
        assert_eq!(recent.claim(&both), [Claim::Stored(Seq(4)), Claim::Mine, Claim::Stored(Seq(4))]);
    }

    #[test]
    fn the_window_is_bounded_in_number_and_time() {
        let mut recent = recent(3);
        for n in 0..5 {
            recent.note(Seq(n), &[chunk(n)], n as u32);
        }
        assert_eq!(
            (0..5).map(|n| recent.seq_of(&chunk(n)).is_some()).collect::<Vec<_>>(),
            [false, false, true, true, true]
        );
        recent.tick(14);
        assert_eq!((recent.len(), recent.seq_of(&chunk(4))), (1, Some(Seq(4))));
    }

    #[test]
    fn what_is_written_is_what_is_new_and_not_forgotten_yet() {
        let mut recent = recent(3);
        for n in 0..5 {
            recent.note(Seq(n), &[chunk(n)], 0);
        }
        let written = |records: &[RecentRecord]| match &records[1] {
            RecentRecord::Stored { seqs, chunks } => (seqs.len(), chunks.len() / CHUNK_BYTES),
            other => panic!("{other:?}"),
        };
        let records = recent.unsaved();
        assert_eq!(written(&records), (5, 3));
        recent.saved();
        recent.note(Seq(5), &[chunk(5)], 0);
        assert_eq!(written(&recent.unsaved()), (1, 1));
        let again = reopened(&records);
        assert_eq!([1, 2, 4].map(|n| again.seq_of(&chunk(n))), [None, Some(Seq(2)), Some(Seq(4))]);
    }

    #[test]
    fn a_chunk_that_came_again_is_known_by_its_last_place() {
        let mut recent = recent(3);
        for (seq, n) in [(0, 7), (1, 8), (2, 7), (3, 9)] {
            recent.note(Seq(seq), &[chunk(n)], seq as u32);
        }
        assert_eq!([7, 8, 9].map(|n| recent.seq_of(&chunk(n))), [Some(Seq(2)), Some(Seq(1)), Some(Seq(3))]);
        recent.tick(12);
        assert_eq!([7, 8, 9].map(|n| recent.seq_of(&chunk(n))), [Some(Seq(2)), None, Some(Seq(3))]);
        recent.tick(13);
        assert_eq!([7, 8, 9].map(|n| recent.seq_of(&chunk(n))), [None, None, Some(Seq(3))]);
    }

    // Nor what is not written yet: a busy edge takes more in a second than the window holds.
    #[test]
    fn no_chunk_takes_more_memory_than_is_said() {
        let bounds = RecentBounds::default();
        let mut recent = Recent::new(bounds, Incarnation(1), []);
        for seq in 0..3 * bounds.chunks as u64 / 1000 {
            let chunks: Vec<_> = (seq * 1000..(seq + 1) * 1000).map(chunk).collect();
            recent.note(Seq(seq), &chunks, 0);
        }
        let bytes = recent.window.allocated_bytes();
        assert_eq!(recent.len(), bounds.chunks);
        assert!(bytes <= 45 * bounds.chunks, "{bytes} bytes");
    }

    #[test]
    fn nothing_is_trimmed_before_its_chunks_are_saved() {
        let mut recent = recent(100);
        let done: SeqRanges = (0..4).map(Seq).collect();
        let trimmable = |recent: &Recent| recent.trimmable(&done).iter().collect::<Vec<_>>();
        recent.note(Seq(1), &[chunk(1)], 0);
        assert_eq!(trimmable(&recent), vec![0..1, 2..4]);
        let records = recent.unsaved();
        recent.note(Seq(2), &[], 0);
        assert_eq!(trimmable(&recent), vec![0..1, 3..4]);
        assert_eq!(recent.unsaved(), [], "one answer at a time");
        recent.saved();
        assert_eq!(trimmable(&recent), vec![0..2, 3..4]);

        let again = reopened(&records);
        assert_eq!(again.seq_of(&chunk(1)), Some(Seq(1)));
        assert_eq!(again.missing(0..4).iter().collect::<Vec<_>>(), vec![0..1, 2..4]);
    }

    #[test]
    fn what_was_dropped_is_not_known_any_more() {
        let mut recent = recent(100);
        recent.note(Seq(1), &[chunk(1)], 0);
        let mut records = recent.unsaved();
        recent.saved();
        recent.note(Seq(2), &[chunk(2)], 0);
        recent.note(Seq(3), &[chunk(3)], 0);
        recent.drop_batches(&(1..3).map(Seq).collect());
        records.extend(recent.unsaved());
        recent.saved();
        for recent in [&recent, &reopened(&records), &reopened(&recent.snapshot())] {
            assert_eq!([1, 2, 3].map(|n| recent.seq_of(&chunk(n))), [None, None, Some(Seq(3))]);
        }
    }

    #[test]
    fn another_life_of_the_log_knows_nothing() {
        let mut old = Recent::new(RecentBounds::default(), Incarnation(9), []);
        old.note(Seq(1), &[chunk(1)], 0);
        let again = reopened(&old.unsaved());
        assert!(again.is_empty() && again.missing(0..2).len() == 2);
    }

    // These bytes lie on disks: a change of them is a new version, not an edit of this test.
    #[test]
    fn version_1_is_these_bytes() {
        let mut recent = recent(9);
        recent.note(Seq(3), &[Fingerprint(1, 2)], 4);
        let bytes: Vec<u8> = recent.unsaved().iter().flat_map(|record| record.encode().to_vec()).collect();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "0181a24f669200010181a653746f7265649291920304c41c\
             01000000000000000200000000000000030000000000000004000000"
        );
        assert!(matches!(RecentRecord::decode(b"\x02"), Err(RecordError::Version(Some(2)))));
        assert!(matches!(RecentRecord::decode(b"\x01\xc1"), Err(RecordError::Malformed(_))));
    }
}
