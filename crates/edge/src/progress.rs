//! What the journal beside a group log says of its batches, for those who look from outside.

use std::path::Path;

use weir_model::SeqRanges;
use weir_spool::{OpenError, inspect};
use weir_transit::{JournalRecord, RecordError, Recovered};

/// Which batches of a group log still have a way to go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// These need nothing more: the store has them, or a policy dropped them.
    pub done: SeqRanges,
    /// These are promised to a part of which the journal does not know whether the store has it.
    pub in_doubt: SeqRanges,
    /// Of these the store has some partitions.
    pub half_done: SeqRanges,
}

/// Why the journal says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// It cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A record of it is of a newer version, or damaged.
    #[error("the journal of promises has a record that this program cannot read")]
    Record(#[from] RecordError),
}

impl Progress {
    /// Reads the journal in the directory of a group log; the edge may run meanwhile.
    ///
    /// # Errors
    /// [`ProgressError`].
    pub fn read(log: &Path) -> Result<Self, ProgressError> {
        let mut recovered = Recovered::default();
        for record in inspect::journal(log, "promises")? {
            recovered.replay(JournalRecord::decode(&record)?);
        }
        let mut in_doubt = SeqRanges::new();
        recovered.promises.values().for_each(|(ranges, _)| in_doubt.insert_all(ranges));
        let half_done = recovered.half_done.keys().copied().collect();
        Ok(Self { done: recovered.done, in_doubt, half_done })
    }
}
