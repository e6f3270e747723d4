//! One sink's life on a directory.
//!
//! Whoever removes the life's staging directory has ended it: what it may still try to make there has no parent, and
//! what it may still try to link is gone. What is linked already is in sight.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::RwLock;
use weir_model::{Incarnation, NodeId, PartId};
use weir_store::{Committed, Outcome, Part, Partition, Store, StoreError, Token};

use crate::steps::Steps;
use crate::token::FileToken;
use crate::write::{self, Attempt};
use crate::{FileSettings, disk};

pub(crate) struct FileStore {
    settings: Arc<FileSettings>,
    sink: NodeId,
    incarnation: Incarnation,
    staging: PathBuf,
    attempts: AtomicU64,
    /// Parts of this life that were settled while they were not stored whole: they never may be. Commits hold it for
    /// reading until their last step is done, also those that nobody waits for any more.
    settled: Arc<RwLock<HashSet<PartId>>>,
    steps: Steps,
}

impl FileStore {
    pub(crate) fn new(
        settings: Arc<FileSettings>,
        sink: NodeId,
        incarnation: Incarnation,
        steps: Steps,
    ) -> Self {
        let staging = disk::lives(&settings.root, sink.as_str()).join(incarnation.to_string());
        let (attempts, settled) = (AtomicU64::new(0), Arc::default());
        Self { settings, sink, incarnation, staging, attempts, settled, steps }
    }
}

#[async_trait]
impl Store for FileStore {
    fn token(&self, id: &PartId, partitions: &[Partition]) -> Token {
        FileToken { suffix: write::suffix(&self.settings), partitions: partitions.to_vec() }.encode(id)
    }

    async fn commit(&self, part: &Part) -> Result<Committed, StoreError> {
        let settled = Arc::clone(&self.settled).read_owned().await;
        if settled.contains(&part.id) {
            return Err(StoreError::Fenced);
        }
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        let (settings, staging) = (Arc::clone(&self.settings), self.staging.clone());
        let (part, steps) = (part.clone(), self.steps.clone());
        let what = format!("committing part {} to {}", part.id, settings.root.display());
        let done = blocking(what, move || {
            let _settled = settled;
            let attempt = Attempt { settings: &settings, staging: &staging, number, steps: &steps };
            match attempt.store(&part) {
                Ok(committed) => Ok(Some(committed)),
                Err(_) if matches!(disk::is_there(&staging), Ok(false)) => Ok(None),
                Err(error) => {
                    attempt.clear();
                    Err(error)
                }
            }
        })
        .await?;
        done.ok_or(StoreError::Fenced)
    }

    async fn resolve(&self, id: &PartId, token: &Token) -> Result<Outcome, StoreError> {
        let token = FileToken::decode(id, token)?;
        if !self.settings.shared && id.sink != self.sink {
            return Err(StoreError::NotHere { part: id.clone() });
        }
        let root = self.settings.root.clone();
        let what = format!("settling part {id} in {}", root.display());
        let part = id.clone();
        if id.sink == self.sink && id.incarnation == self.incarnation {
            // Waits for the commits under way instead of ending this life.
            let mut settled = Arc::clone(&self.settled).write_owned().await;
            return blocking(what, move || {
                let outcome = look(&root, &part, &token)?;
                if outcome != Outcome::Committed {
                    settled.insert(part);
                }
                Ok(outcome)
            })
            .await;
        }
        blocking(what, move || {
            disk::fence(&disk::lives(&root, part.sink.as_str()), &part.incarnation.to_string())?;
            look(&root, &part, &token)
        })
        .await
    }

    async fn end(&self) {
        let settled = Arc::clone(&self.settled).write_owned().await;
        let (lives, name) =
            (disk::lives(&self.settings.root, self.sink.as_str()), self.incarnation.to_string());
        let ended = blocking(format!("removing {}", self.staging.display()), move || {
            let _settled = settled;
            disk::fence(&lives, &name)
        });
        if let Err(error) = ended.await {
            tracing::warn!(%error, "this sink's next life will remove the staging directory");
        }
    }
}

/// What is there of a part that cannot change any more.
fn look(root: &Path, id: &PartId, token: &FileToken) -> io::Result<Outcome> {
    let name = format!("{id}{}", token.suffix);
    let mut there = Vec::new();
    let mut directories = Vec::new();
    for partition in &token.partitions {
        let target = write::target(root, partition, &name);
        if disk::is_there(&target)? {
            there.push(partition.clone());
            directories.extend(target.parent().map(Path::to_path_buf));
        }
    }
    // The attempt may have died before it did this, and what we say is taken for good.
    disk::sync_up_to(root, directories.iter().map(PathBuf::as_path))?;
    Ok(match there.len() {
        all if all == token.partitions.len() => Outcome::Committed,
        0 => Outcome::Void,
        _ => Outcome::Partial(there),
    })
}

/// Runs `work` where it may block. Its errors may pass.
pub(crate) async fn blocking<T: Send + 'static>(
    what: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| StoreError::transient(what, error)),
        Err(died) => Err(StoreError::transient(what, died)),
    }
}
