//! Which sealed segments stay in the page cache because the log's reader will soon want them.
//!
//! A reader that falls behind for some seconds would otherwise read from the disk what was in memory a moment ago, and new
//! records wait for the disk the while. What lies farther ahead than the bound, or ahead of a reader that stands still, is
//! given back at once: later segments are written into those pages, which costs less than pages that nobody has touched.
//! Left out on purpose: giving back itself, which takes long.

use std::collections::BTreeMap;

/// Most bytes of sealed segments that stay for one log. It is the kernel's memory: it takes it back when it is short of it.
const BYTES_MAX: u64 = if cfg!(test) { 5_000 } else { 512 << 20 };

/// The kept segments of one log.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Where the reader goes on.
    position: u64,
    /// It has gone on since the last segment was sealed.
    moved: bool,
    /// By their first number: where they end, and their bytes.
    segments: BTreeMap<u64, (u64, u64)>,
    bytes: u64,
}

impl Kept {
    /// Notes that the reader has read all below `position`.
    pub(crate) fn read(&mut self, position: u64) {
        self.moved |= self.position != position;
        self.position = position;
    }

    /// Whether the segment with the records `first..end`, just sealed, stays.
    pub(crate) fn seal(&mut self, first: u64, end: u64, bytes: u64) -> bool {
        let moved = std::mem::take(&mut self.moved);
        let stays = moved && self.position < end && self.bytes + bytes <= BYTES_MAX;
        if stays {
            self.segments.insert(first, (end, bytes));
            self.bytes += bytes;
        }
        stays
    }

    /// Whether the segment that begins with `first` has stayed.
    pub(crate) fn has(&self, first: u64) -> bool {
        self.segments.contains_key(&first)
    }

    /// Takes out the segments that the reader has passed, by their first numbers.
    pub(crate) fn take_passed(&mut self) -> Vec<u64> {
        let passed = |(&first, &(end, _)): (&u64, &(u64, u64))| (end <= self.position).then_some(first);
        let passed: Vec<u64> = self.segments.iter().filter_map(passed).collect();
        for first in &passed {
            self.bytes -= self.segments.remove(first).map_or(0, |(_, bytes)| bytes);
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_reader_will_soon_want_stays() {
        let mut kept = Kept::default();
        // Nobody reads.
        assert!(!kept.seal(0, 10, 2_000));
        kept.read(5);
        assert!(kept.seal(10, 20, 2_000) && kept.has(10) && !kept.has(0));
        // It stands still.
        kept.read(5);
        assert!(!kept.seal(20, 30, 2_000));
        kept.read(6);
        assert!(kept.seal(30, 40, 2_000));
        // There is too much.
        kept.read(7);
        assert!(!kept.seal(40, 50, 1_001));
        kept.read(8);
        assert!(kept.seal(50, 60, 1_000));
        assert_eq!(kept.take_passed(), []);
        kept.read(40);
        assert_eq!(kept.take_passed(), [10, 30]);
        assert!(!kept.has(10) && !kept.has(30) && kept.has(50));
        // It is ahead already.
        kept.read(70);
        assert!(!kept.seal(60, 70, 1));
        assert_eq!(kept.take_passed(), [50]);
        kept.read(71);
        assert!(kept.seal(70, 80, BYTES_MAX));
    }
}
