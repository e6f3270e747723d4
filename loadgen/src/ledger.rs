//! The ledger: which records of which stream were acknowledged, and which may have arrived.
//!
//! It is a JSON file, written whole at the end of a run: `{"streams":{"s-0":{"acked":[[0,999]],"maybe":[]}}}`,
//! ranges inclusive. What the stores hold of it is `verify`'s question, not this module's.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// Ranges of sequence numbers, first and last included; in order, apart and not touching once [`Self::settle`]d.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ranges(pub(crate) Vec<[u64; 2]>);

impl Ranges {
    /// Adds `count` numbers from `first` on.
    pub(crate) fn add(&mut self, first: u64, count: u64) {
        let Some(last) = (first + count).checked_sub(1).filter(|_| count > 0) else { return };
        match self.0.last_mut() {
            Some(range) if range[1] + 1 == first => range[1] = last,
            _ => self.0.push([first, last]),
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `number` is in one of the ranges, which are [`Self::settle`]d.
    pub(crate) fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|range| range[0] <= number);
        after > 0 && number <= self.0[after - 1][1]
    }

    /// Sorts the ranges and joins those that touch.
    pub(crate) fn settle(&mut self) {
        self.0.sort_unstable();
        self.0.dedup_by(|next, kept| {
            let joins = next[0] <= kept[1].saturating_add(1);
            if joins {
                kept[1] = kept[1].max(next[1]);
            }
            joins
        });
    }
}

/// What was sent of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamLedger {
    /// Acknowledged: the stores must hold these.
    pub(crate) acked: Ranges,
    /// Sent, never acknowledged: the stores may hold these.
    pub(crate) maybe: Ranges,
    /// Offered to a socket more than once, because a connection was lost before the acknowledgement came.
    #[serde(default, skip_serializing_if = "Ranges::is_empty")]
    pub(crate) resent: Ranges,
    /// Written whole to a socket by a run that asked for no acknowledgements; all of it is in `maybe` too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sent: Option<Ranges>,
}

/// All streams of a run, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// The streams.
    pub(crate) streams: BTreeMap<String, StreamLedger>,
}

impl Ledger {
    /// Writes the ledger to `path`: a temporary file beside it first, so that a reader sees a whole one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".tmp");
        let mut file = BufWriter::new(File::create(&unfinished)?);
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&unfinished, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_whatever_the_order() {
        let mut ranges = Ranges::default();
        for (first, count) in [(0, 10), (10, 10), (40, 5), (30, 10), (60, 0), (70, 1)] {
            ranges.add(first, count);
        }
        ranges.settle();
        assert_eq!(ranges.0, [[0, 19], [30, 44], [70, 70]]);
        let within: Vec<_> = [0, 19, 20, 29, 30, 44, 45, 70, 71].map(|n| ranges.contains(n)).into();
        assert_eq!(within, [true, true, false, false, true, true, false, true, false]);
    }

    #[test]
    fn the_file_has_the_documented_form() {
        let mut stream = StreamLedger::default();
        stream.acked.add(0, 1000);
        let ledger = Ledger { streams: BTreeMap::from([("s-0".to_owned(), stream)]) };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        ledger.write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"streams\":{\"s-0\":{\"acked\":[[0,999]],\"maybe\":[]}}}\n");
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    }
}
