//! The disk logs of an edge, one per sink group: records that outlive the process. And the small journal beside
//! each.
//!
//! Start reading at [`GroupLog`], the handle for async callers, whose committer thread drives a [`Log`]; the
//! byte layout is in `frame.rs`, the crash cases in `tail.rs` (one file) and `open.rs` (a directory).
//!
//! What holds here:
//! - A record is answered for only after the fdatasync that covers it. A failed one poisons the log: nothing is
//!   answered for any more, until it is opened again.
//! - After a crash every record that was answered for is there, whatever part of the later writes is there too.
//! - A number is never used twice in one incarnation.
//! - A damaged record costs itself alone, and is reported by its number.
//!
//! Left out on purpose: the spool does not know what a record holds or who wants it, it has no policy for a full
//! disk, and it never retries a failed write.

mod catalog;
mod disk;
mod frame;
mod group;
pub mod inspect;
mod journal;
mod kept;
mod log;
mod open;
mod reader;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod sweep;
mod tail;
#[cfg(test)]
mod tests;
mod unread;
mod walk;

pub use catalog::Depth;
pub use disk::{Disk, DiskFile, OsDisk, OsFile};
pub use frame::{RECORD_BYTES_MAX, Record};
pub use group::GroupLog;
pub use journal::{Journal, JournalError, JournalFile, Replay};
pub use log::{AppendError, Log, Options, SyncError};
pub use open::{OpenError, Recovery};
pub use reader::{Fetched, ReadError, Reader, Stored};
