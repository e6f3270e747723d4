//! Interim, until `weir-shape` is there.

use std::collections::BTreeSet;

use weir_model::BatchHeader;
use weir_store::Partition;

/// What a line of a file looks like.
#[derive(Debug, Clone, Copy)]
pub enum Format {
    /// `{"time","tag","record"}`.
    Envelope,
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy)]
pub enum Codec {
    /// Not at all.
    None,
}

/// By tag and hour.
#[derive(Debug, Clone, Copy, Default)]
pub struct Partitioner;

impl Partitioner {
    /// The partitions of a batch's events.
    #[must_use]
    pub fn partitions(&self, header: &BatchHeader) -> Vec<Partition> {
        let of = |minute: i64| format!("{}/{}", header.tag, minute.div_euclid(60)).into();
        header.minutes.iter().map(|tally| of(tally.minute)).collect::<BTreeSet<_>>().into_iter().collect()
    }
}
