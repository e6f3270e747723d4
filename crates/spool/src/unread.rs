//! The durable records that a log's reader has not read yet, still in memory: a reader that keeps up never goes to the disk.
//!
//! Records are kept only while the reader keeps up. When too much gathers, all is forgotten, and the reader goes on
//! from the disk until it has caught up. Left out on purpose: what is durable (whoever adds knows that).

use std::collections::VecDeque;

use bytes::Bytes;

use crate::reader::Stored;

/// Most bytes kept for one log. Above, everything is forgotten: the reader reads the files.
const BYTES_MAX: usize = 16 << 20;
/// Payloads below are copied: a slice would keep the whole buffer that it came in.
const COPY_BELOW: usize = 16 << 10;

/// Records by ascending number, without a gap.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// Whether what is added is kept: the reader has been at the end.
    keeping: bool,
    records: VecDeque<Stored>,
    bytes: usize,
}

impl Unread {
    /// Whether it is worth adding anything now.
    pub(crate) fn is_keeping(&self) -> bool {
        self.keeping
    }

    /// Keeps a record that has just become durable, behind those added before.
    pub(crate) fn add(&mut self, mut record: Stored) {
        if !self.keeping {
            return;
        }
        if record.payload.len() < COPY_BELOW {
            record.payload = Bytes::copy_from_slice(&record.payload);
        }
        self.bytes += record.header.len() + record.payload.len();
        self.records.push_back(record);
        if self.bytes > BYTES_MAX {
            self.forget();
        }
    }

    /// Forgets all, and keeps nothing until the reader is at the end again.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Hands over the records from number `next` on, up to about `bytes_max` bytes, if the first of them is here.
    pub(crate) fn take(&mut self, next: u64, bytes_max: usize, out: &mut Vec<Stored>) {
        while self.records.front().is_some_and(|record| record.seq.0 < next) {
            self.pop();
        }
        if self.records.front().is_none_or(|record| record.seq.0 != next) {
            return;
        }
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(record) = self.pop()
        {
            bytes += record.header.len() + record.payload.len();
            out.push(record);
        }
    }

    /// Says that the reader is at the end: what comes now is kept for it.
    pub(crate) fn caught_up(&mut self) {
        self.keeping = true;
    }

    fn pop(&mut self) -> Option<Stored> {
        let record = self.records.pop_front()?;
        self.bytes -= record.header.len() + record.payload.len();
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use weir_model::Seq;

    use super::*;

    fn record(seq: u64, bytes: usize) -> Stored {
        Stored { seq: Seq(seq), time_ns: 0, header: Bytes::new(), payload: vec![0; bytes].into() }
    }

    fn taken(unread: &mut Unread, next: u64, bytes_max: usize) -> Vec<u64> {
        let mut out = Vec::new();
        unread.take(next, bytes_max, &mut out);
        out.into_iter().map(|record| record.seq.0).collect()
    }

    #[test]
    fn a_reader_that_keeps_up_gets_all_in_order() {
        let mut unread = Unread::default();
        unread.add(record(0, 9));
        assert_eq!(taken(&mut unread, 0, 100), [], "nobody has been at the end");
        unread.caught_up();
        (1..6).for_each(|seq| unread.add(record(seq, 9)));
        assert_eq!(taken(&mut unread, 0, 100), [], "the one before is not here");
        assert_eq!(taken(&mut unread, 2, 10), [2, 3]);
        assert_eq!(taken(&mut unread, 4, 100), [4, 5]);
        assert_eq!((unread.bytes, unread.records.len()), (0, 0));
    }

    #[test]
    fn too_much_is_forgotten_until_the_end_is_reached_again() {
        let mut unread = Unread::default();
        unread.caught_up();
        unread.add(record(1, BYTES_MAX));
        assert!(unread.is_keeping());
        unread.add(record(2, 1));
        assert!(!unread.is_keeping() && unread.records.is_empty());
        unread.add(record(3, 1));
        unread.caught_up();
        unread.add(record(4, 1));
        assert_eq!(taken(&mut unread, 3, 100), []);
        assert_eq!(taken(&mut unread, 4, 100), [4]);
    }
}
