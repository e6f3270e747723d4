//! Where a controller keeps what it must not forget: an ordered table of keys and values.
//!
//! A [`Change`] is all or nothing, and can demand what it was decided upon: [`StateError::Conflict`] says that
//! somebody was faster. With several controllers on one state, only the leader's changes are taken; whoever reads
//! [`Standing`] knows who that is. The members are [`Embedded`] (one file, one controller), [`Etcd`] (several
//! controllers) and [`Memory`] (tests); [`conformance`] says the same of all of them.
//!
//! Left out on purpose: what the keys mean. That is in [`crate::records`].

pub mod conformance;
mod embedded;
mod etcd;
mod memory;

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::sync::watch;

pub use embedded::Embedded;
pub use etcd::{Etcd, EtcdSettings, EtcdTls};
pub use memory::Memory;

/// Longest value, in bytes. etcd takes requests of up to 1.5 MiB; this leaves room for what stands around a value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Why the state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// What the change was decided upon is no longer so: read again, decide again.
    #[error("somebody else changed {key} meanwhile")]
    Conflict {
        /// The first key that differs.
        key: String,
    },
    /// Another controller leads.
    #[error("another controller leads")]
    NotLeading,
    /// The state cannot be reached now; trying again later may help.
    #[error("the state cannot be reached: {0}")]
    Unavailable(String),
    /// A value is too large.
    #[error("{key} has {bytes} bytes, more than the {VALUE_BYTES_MAX} that the state takes")]
    TooLarge {
        /// Its key.
        key: String,
        /// Its size.
        bytes: usize,
    },
    /// The file of the state cannot be opened.
    #[error("cannot open the state {}: {detail}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the mend where there is one.
        detail: String,
    },
    /// The disk, or what is on it, failed.
    #[error("the state's disk failed")]
    Disk(#[source] io::Error),
}

/// What must be so, and what becomes so, together.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub(crate) demands: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) writes: Vec<(String, Option<Vec<u8>>)>,
}

impl Change {
    /// A change that demands and does nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands that `key` is not there.
    #[must_use]
    pub fn absent(mut self, key: impl Into<String>) -> Self {
        self.demands.push((key.into(), None));
        self
    }

    /// Demands that `key` has this value.
    #[must_use]
    pub fn unchanged(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.demands.push((key.into(), Some(value.into())));
        self
    }

    /// Sets `key`.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push((key.into(), Some(value.into())));
        self
    }

    /// Removes `key`.
    #[must_use]
    pub fn remove(mut self, key: impl Into<String>) -> Self {
        self.writes.push((key.into(), None));
        self
    }

    /// The same for every member.
    fn check(&self) -> Result<(), StateError> {
        for (key, value) in &self.writes {
            let bytes = value.as_ref().map_or(0, Vec::len);
            if bytes > VALUE_BYTES_MAX {
                return Err(StateError::TooLarge { key: key.clone(), bytes });
            }
        }
        Ok(())
    }
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// This controller.
    Leading,
    /// Another, and where its API is; none if nobody does at the moment, or nobody knows.
    Following(Option<String>),
}

/// What a key holds, with its key.
pub type Entry = (String, Vec<u8>);

/// An ordered table, kept safe.
#[async_trait]
pub trait State: Send + Sync + 'static {
    /// What `key` holds.
    ///
    /// # Errors
    /// [`StateError::Unavailable`], [`StateError::Disk`].
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError>;

    /// Up to `limit` entries whose keys begin with `prefix`, the last first; only those before the key `before`, if
    /// given.
    ///
    /// # Errors
    /// [`StateError::Unavailable`], [`StateError::Disk`].
    async fn newest(
        &self,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StateError>;

    /// Makes the whole change, safe on disk when it returns, or nothing of it.
    ///
    /// # Errors
    /// All of [`StateError`] but `Open`. After [`StateError::Unavailable`] it may have been made or not.
    async fn commit(&self, change: Change) -> Result<(), StateError>;

    /// Who leads, now and later.
    fn standing(&self) -> watch::Receiver<Standing>;

    /// Gives up leading, so that another need not wait.
    async fn resign(&self) {}
}
