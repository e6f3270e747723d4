//! A set of sequence numbers, as large as its gaps are many.

use std::collections::BTreeMap;

/// Numbers seen, as ranges that neither touch nor overlap: first number to last.
#[derive(Debug, Default)]
pub(crate) struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// Adds `number`; false when it was there already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let before = self.0.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= number) {
            return false;
        }
        let last = number.checked_add(1).and_then(|next| self.0.remove(&next)).unwrap_or(number);
        // `before` ends below `number`, so adding 1 cannot overflow.
        let first = before.filter(|(_, last)| last + 1 == number).map_or(number, |(first, _)| first);
        self.0.insert(first, last);
        true
    }

    /// The highest number.
    pub(crate) fn max(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, last)| *last)
    }

    /// The ranges within `first..=last` that are not in the set.
    pub(crate) fn missing(&self, first: u64, last: u64) -> Vec<[u64; 2]> {
        let mut missing = Vec::new();
        let mut wanted = first;
        let start = self.0.range(..=first).next_back().map_or(first, |(from, _)| *from);
        for (&from, &to) in self.0.range(start..=last) {
            if from > wanted {
                missing.push([wanted, from - 1]);
            }
            match to.checked_add(1) {
                Some(next) => wanted = wanted.max(next),
                None => return missing,
            }
        }
        if wanted <= last {
            missing.push([wanted, last]);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn it_agrees_with_a_plain_set() {
        let mut random = SmallRng::seed_from_u64(7);
        for _ in 0..200 {
            let (mut set, mut plain) = (RangeSet::default(), BTreeSet::new());
            for _ in 0..random.random_range(0..60) {
                let number = random.random_range(0..40);
                assert_eq!(set.insert(number), plain.insert(number));
            }
            assert_eq!(set.max(), plain.last().copied());
            let (first, last) = (random.random_range(0..20), random.random_range(20..45));
            let missing: Vec<u64> = set.missing(first, last).into_iter().flat_map(|[a, b]| a..=b).collect();
            let expected: Vec<u64> = (first..=last).filter(|number| !plain.contains(number)).collect();
            assert_eq!(missing, expected);
        }
    }

    #[test]
    fn the_largest_number_is_one_like_others() {
        let mut set = RangeSet::default();
        assert!(set.insert(u64::MAX) && set.insert(u64::MAX - 1) && !set.insert(u64::MAX));
        assert_eq!(set.missing(u64::MAX - 2, u64::MAX), [[u64::MAX - 2, u64::MAX - 2]]);
    }
}
