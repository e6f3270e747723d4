//! How many connections are open at a listener, in all and from each source.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::memory::OfSource;
use super::peer::Source;

/// Counts of one listener. What it remembers is bounded by the connections that are open.
#[derive(Debug, Default)]
pub(crate) struct Census {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_source: HashMap<Source, FromThere>,
}

#[derive(Debug, Default)]
struct FromThere {
    open: usize,
    held: OfSource,
}

/// One counted connection; it counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    census: Arc<Census>,
    source: Source,
    held: OfSource,
}

/// Which bound is reached.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    All,
    Source,
}

impl Census {
    /// Counts a connection unless there are too many.
    pub(crate) fn enter(
        self: &Arc<Self>,
        source: Source,
        all_max: usize,
        source_max: Option<usize>,
    ) -> Result<Counted, Full> {
        let mut counts = self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if counts.all >= all_max {
            return Err(Full::All);
        }
        let from_there = counts.by_source.entry(source).or_default();
        if source_max.is_some_and(|max| from_there.open >= max) {
            return Err(Full::Source);
        }
        from_there.open += 1;
        let held = from_there.held.clone();
        counts.all += 1;
        Ok(Counted { census: self.clone(), source, held })
    }
}

impl Counted {
    /// What all connections of its source hold.
    pub(crate) fn held(&self) -> OfSource {
        self.held.clone()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.census.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(1);
        if let Some(from_there) = counts.by_source.get_mut(&self.source) {
            from_there.open -= 1;
            if from_there.open == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::peer::Peer;

    #[test]
    fn what_leaves_makes_room() {
        let census = Arc::new(Census::default());
        let source = |address: &str| Peer::Net(address.parse().unwrap()).source(32, 64);
        let (a, b) = (source("10.0.0.1:1"), source("10.0.0.2:1"));
        let first = census.enter(a, 3, Some(2)).unwrap();
        let _second = census.enter(a, 3, Some(2)).unwrap();
        assert_eq!(census.enter(a, 3, Some(2)).unwrap_err(), Full::Source);
        let third = census.enter(b, 3, Some(2)).unwrap();
        assert_eq!(census.enter(b, 3, Some(2)).unwrap_err(), Full::All);
        drop(first);
        let _fourth = census.enter(a, 3, Some(2)).unwrap();
        drop(third);
        assert_eq!(census.counts.lock().unwrap().by_source.len(), 1, "nothing is kept of who left");
    }
}
