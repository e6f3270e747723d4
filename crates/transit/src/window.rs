//! Chunks in the order in which they came, each found by its fingerprint. There are many, so each lies in memory once.
//!
//! Left out on purpose: when one is forgotten.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use weir_model::Fingerprint;

/// Chunks, the oldest first, each with a `T`. One that comes again is found where it came last.
#[derive(Debug)]
pub(crate) struct Window<T> {
    // One to which `table` does not point came again later, or is not known any more.
    order: VecDeque<(Fingerprint, T)>,
    // How many were before the first of `order`.
    gone: u64,
    // Of each chunk that is known, the lower half of its number: how many had come before it.
    table: HashTable<u32>,
    hasher: RandomState,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), gone: 0, table: HashTable::new(), hasher: RandomState::default() }
    }
}

impl<T> Window<T> {
    /// How many chunks are known.
    pub(crate) fn known(&self) -> usize {
        self.table.len()
    }

    /// How many places are taken, by those that are known and others.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// How many have come so far.
    pub(crate) fn came(&self) -> u64 {
        self.gone + self.order.len() as u64
    }

    /// Those that are still here and came after so many, the oldest first.
    pub(crate) fn since(&self, came: u64) -> impl Iterator<Item = &(Fingerprint, T)> {
        self.order.range(came.saturating_sub(self.gone) as usize..)
    }

    pub(crate) fn oldest(&self) -> Option<&T> {
        self.order.front().map(|(_, what)| what)
    }

    pub(crate) fn get(&self, chunk: &Fingerprint) -> Option<&T> {
        let at = |&number: &u32| &self.order[index(self.gone, number)];
        let number = self.table.find(self.hasher.hash_one(chunk), |number| at(number).0 == *chunk)?;
        Some(&at(number).1)
    }

    pub(crate) fn push(&mut self, chunk: Fingerprint, what: T) {
        let number = self.came() as u32;
        self.order.push_back((chunk, what));
        let (order, gone, hasher) = (&self.order, self.gone, &self.hasher);
        let at = |number: &u32| order[index(gone, *number)].0;
        let hash = |number: &u32| hasher.hash_one(at(number));
        match self.table.entry(hasher.hash_one(chunk), |number| at(number) == chunk, hash) {
            Entry::Occupied(mut earlier) => *earlier.get_mut() = number,
            Entry::Vacant(free) => _ = free.insert(number),
        }
    }

    /// Forgets the oldest.
    pub(crate) fn pop(&mut self) {
        let Some((chunk, _)) = self.order.pop_front() else { return };
        let number = self.gone as u32;
        self.gone += 1;
        if let Ok(found) = self.table.find_entry(self.hasher.hash_one(chunk), |known| *known == number) {
            found.remove();
        }
    }

    /// Goes on without knowing those for which `keep` says no; they keep their places.
    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let (order, gone) = (&self.order, self.gone);
        self.table.retain(|number| keep(&order[index(gone, *number)].1));
    }

    #[cfg(test)]
    pub(crate) fn allocated_bytes(&self) -> usize {
        self.order.capacity() * size_of::<(Fingerprint, T)>() + self.table.allocation_size()
    }
}

/// Where the chunk with this number lies when so many are gone. Far fewer than 2^32 are here.
fn index(gone: u64, number: u32) -> usize {
    number.wrapping_sub(gone as u32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(n: u64) -> Fingerprint {
        Fingerprint(n, !n)
    }

    // Against a plain map and list, over the place where the numbers begin anew.
    #[test]
    fn it_knows_what_a_map_and_a_list_know() {
        let mut window = Window { gone: u64::from(u32::MAX) - 500, ..Window::default() };
        let mut order: VecDeque<(u64, u64)> = VecDeque::new();
        let mut known = std::collections::HashMap::new();
        for step in 0..4000_u64 {
            let n = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57;
            window.push(chunk(n), step);
            order.push_back((n, step));
            known.insert(n, step);
            while order.len() > 60 + (step % 7) as usize {
                let (n, step) = order.pop_front().unwrap();
                if known.get(&n) == Some(&step) {
                    known.remove(&n);
                }
                window.pop();
            }
            if step % 97 == 0 {
                window.retain(|at| at % 3 != 0);
                known.retain(|_, at| *at % 3 != 0);
            }
            assert_eq!((window.known(), window.len()), (known.len(), order.len()));
            assert!((0..128).all(|n| window.get(&chunk(n)) == known.get(&n)), "at {step}");
        }
        assert!(window.since(window.came() - 9).map(|(_, at)| *at).eq(3991..4000));
    }
}
