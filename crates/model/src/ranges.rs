//! A set of sequence numbers, kept as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::Seq;

/// A set of [`Seq`], stored as disjoint, non-adjacent half-open ranges in ascending order.
///
/// Its size is that of its gaps, not of its members: what a group has committed is mostly one range.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct SeqRanges {
    // start → end, exclusive
    ranges: BTreeMap<u64, u64>,
}

impl SeqRanges {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one number; says whether it was new.
    pub fn insert(&mut self, seq: Seq) -> bool {
        if self.contains(seq) {
            return false;
        }
        self.insert_range(seq.0..seq.0 + 1);
        true
    }

    /// Adds all numbers of `range`.
    pub fn insert_range(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Every stored range that overlaps or touches the new one is swallowed by it.
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.ranges.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
    }

    /// Adds all members of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        for range in other.iter() {
            self.insert_range(range);
        }
    }

    /// Takes all numbers of `range` out.
    pub fn remove_range(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&s, &e)) = self.ranges.range(..range.end).next_back() {
            if e <= range.start {
                break;
            }
            self.ranges.remove(&s);
            if s < range.start {
                self.ranges.insert(s, range.start);
            }
            if e > range.end {
                self.ranges.insert(range.end, e);
            }
        }
    }

    /// Takes all members of `other` out.
    pub fn remove_all(&mut self, other: &Self) {
        for range in other.iter() {
            self.remove_range(range);
        }
    }

    /// Whether `seq` is a member.
    #[must_use]
    pub fn contains(&self, seq: Seq) -> bool {
        self.ranges.range(..=seq.0).next_back().is_some_and(|(_, &end)| seq.0 < end)
    }

    /// Whether every number of `range` is a member.
    #[must_use]
    pub fn covers(&self, range: Range<u64>) -> bool {
        range.is_empty()
            || self.ranges.range(..=range.start).next_back().is_some_and(|(_, &end)| range.end <= end)
    }

    /// The smallest number at or above `from` that is not a member.
    #[must_use]
    pub fn first_gap(&self, from: Seq) -> Seq {
        match self.ranges.range(..=from.0).next_back() {
            Some((_, &end)) if from.0 < end => Seq(end),
            _ => from,
        }
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// The members, ascending.
    pub fn seqs(&self) -> impl Iterator<Item = Seq> + '_ {
        self.iter().flatten().map(Seq)
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<Seq> for SeqRanges {
    fn from_iter<I: IntoIterator<Item = Seq>>(seqs: I) -> Self {
        let mut set = Self::new();
        for seq in seqs {
            set.insert(seq);
        }
        set
    }
}

// What comes off a disk or a wire may be in any order or overlap: it is normalised, never trusted.
impl From<Vec<(u64, u64)>> for SeqRanges {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut set = Self::new();
        for (start, end) in pairs {
            set.insert_range(start..end);
        }
        set
    }
}

impl From<SeqRanges> for Vec<(u64, u64)> {
    fn from(set: SeqRanges) -> Self {
        set.ranges.into_iter().collect()
    }
}

impl std::fmt::Debug for SeqRanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_melt_together() {
        let mut set = SeqRanges::new();
        set.insert_range(0..2);
        set.insert_range(4..6);
        set.insert_range(2..4);
        assert_eq!(set.iter().collect::<Vec<_>>(), vec![0..6]);
        assert!(!set.insert(Seq(5)));
        assert_eq!(set.first_gap(Seq(0)), Seq(6));
        assert_eq!(set.first_gap(Seq(9)), Seq(9));
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(ops in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 0..60)) {
            let mut set = SeqRanges::new();
            let mut model = BTreeSet::new();
            for (add, start, len) in ops {
                let range = start..start + len;
                if add {
                    set.insert_range(range.clone());
                    model.extend(range);
                } else {
                    set.remove_range(range.clone());
                    model.retain(|n| !range.contains(n));
                }
                prop_assert_eq!(set.seqs().map(|s| s.0).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(set.len(), model.len() as u64);
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start), "not normalised: {:?}", ranges);
                for n in 0..60 {
                    prop_assert_eq!(set.contains(Seq(n)), model.contains(&n));
                }
                let back: SeqRanges = rmp_serde::from_slice(&rmp_serde::to_vec(&set).unwrap()).unwrap();
                prop_assert_eq!(&back, &set);
            }
        }
    }
}
