//! HDFS as a store: a part is one file for each of its partitions, written aside and renamed into place.
//!
//! Start reading at [`HdfsBackend`]. Under the root lie the events, `<partition>/<part id>.jsonl` and so on, and
//! `_weir/staging/<sink>/`, which readers of a directory tree skip by its underscore. A file that somebody moves
//! out of its partition before the edges know of its commit (seconds, as a rule) counts as not stored.
//!
//! Left out on purpose: appending, which no fence could stop; and deciding when a part is cut.

mod cluster;
mod content;
mod life;
mod settings;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use weir_model::{BatchHeader, Incarnation, NodeId};
use weir_store::{Backend, Partition, Store, StoreError, Traits};

pub use settings::{HdfsSettings, Kerberos, SettingsError};

use cluster::{CallError, Cluster};
use life::{DIRECTORY_MODE, HdfsStore};

/// One directory of one HDFS cluster.
pub struct HdfsBackend {
    cluster: Arc<Cluster>,
    settings: Arc<HdfsSettings>,
    begun: AtomicU64,
}

impl HdfsBackend {
    /// Checks the settings; nothing is connected yet.
    ///
    /// # Errors
    /// [`SettingsError`] when no client can be made of them, or the root is not a plain absolute path.
    pub fn new(settings: HdfsSettings) -> Result<Self, SettingsError> {
        settings.check()?;
        let settings = Arc::new(settings);
        let cluster = Arc::new(Cluster::new(Arc::clone(&settings)));
        Ok(Self { cluster, settings, begun: AtomicU64::new(0) })
    }

    /// The names in `directory`; none where there is no such directory.
    async fn names(&self, directory: &str) -> Result<Vec<String>, CallError> {
        let path = directory.to_owned();
        match self.cluster.call(move |client| async move { client.list_status(&path, false).await }).await {
            Ok(entries) => Ok(entries.into_iter().map(|entry| entry.path).collect()),
            Err(error) if error.not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Backend for HdfsBackend {
    async fn begin(&self, sink: &NodeId, incarnation: Incarnation) -> Result<Arc<dyn Store>, StoreError> {
        let lives = token::directory(&self.settings.root, &format!("_weir/staging/{sink}"));
        let attempt = self.begun.fetch_add(1, Ordering::Relaxed);
        let staging = format!("{lives}/{incarnation}.{attempt}");

        let path = staging.clone();
        self.cluster
            .call(move |client| async move { client.mkdirs(&path, DIRECTORY_MODE, true).await })
            .await
            .map_err(|error| StoreError::transient(format!("making {staging}"), error))?;
        // Older lives of this sink are over, and what attempts to begin left behind goes with them.
        let others = self
            .names(&lives)
            .await
            .map_err(|error| StoreError::transient(format!("listing {lives}"), error))?;
        for other in others.into_iter().filter(|other| *other != staging) {
            life::remove(&self.cluster, &other)
                .await
                .map_err(|error| StoreError::transient(format!("removing {other}"), error))?;
        }
        Ok(Arc::new(HdfsStore::new(Arc::clone(&self.cluster), Arc::clone(&self.settings), staging)))
    }

    fn traits(&self) -> Traits {
        Traits { parallel_parts: 3, partitions_max: 256, shared: true }
    }

    fn partitions(&self, header: &BatchHeader) -> Vec<Partition> {
        self.settings.partitioner.partitions(header)
    }
}
