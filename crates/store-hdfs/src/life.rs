//! One sink's life on HDFS: temporary files in a directory of the life's own, renamed into place.
//!
//! A rename moves a finished file out of the life's staging directory to a name that follows from the part. So
//! whoever removes that directory has fenced the life: what it may still try to make there has no parent, what it
//! may still try to rename is gone, and what is renamed already is in sight. The directory is never made again:
//! its name holds the attempt at making it, lest a delayed `mkdirs` of an earlier attempt bring it back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use hdfs_native::{Client, HdfsError, WriteOptions};
use parking_lot::Mutex;
use weir_model::PartId;
use weir_store::{Committed, Outcome, Part, Partition, Store, StoreError, Token};

use crate::cluster::{CallError, Cluster, within};
use crate::content::{self, File};
use crate::settings::HdfsSettings;
use crate::token::{self, HdfsToken};

/// Files of one part that are written at the same time. The library copies up to 13 MB of each on the way, and
/// waits half a second where the NameNode has not yet heard of a file's last block: too few would add that up.
const FILES_OPEN_MAX: usize = 16;

/// What is handed to the library at a time, each under a deadline of its own.
const WRITE_BYTES: usize = 1 << 20;

/// The permission of the store's files and of its directories.
const FILE_MODE: u32 = 0o644;
pub(crate) const DIRECTORY_MODE: u32 = 0o755;

pub(crate) struct HdfsStore {
    cluster: Arc<Cluster>,
    settings: Arc<HdfsSettings>,
    staging: String,
    over: AtomicBool,
    /// Parts that were tried and have not succeeded yet, with how often.
    attempts: Mutex<HashMap<u64, u32>>,
}

impl HdfsStore {
    pub(crate) fn new(cluster: Arc<Cluster>, settings: Arc<HdfsSettings>, staging: String) -> Self {
        Self { cluster, settings, staging, over: AtomicBool::new(false), attempts: Mutex::default() }
    }

    fn fence_token(&self, partitions: &[Partition]) -> HdfsToken {
        HdfsToken {
            staging: self.staging.clone(),
            root: self.settings.root.clone(),
            suffix: content::suffix(&self.settings),
            partitions: partitions.to_vec(),
        }
    }

    /// Writes the files that are not in place yet, then puts them there.
    async fn store(&self, part: &Part, attempt: u32) -> Result<Committed, StoreError> {
        let token = self.fence_token(&part.partitions);
        let contents = {
            let (part, settings) = (part.clone(), Arc::clone(&self.settings));
            let shaping = tokio::task::spawn_blocking(move || content::of(&part, &settings));
            shaping.await.map_err(|error| StoreError::transient("shaping a part", error))??
        };
        let mut pending = Vec::new();
        for (number, file) in contents.files.into_iter().enumerate() {
            let target = token.path(&part.id, &file.partition);
            // Only after an attempt that failed without saying how far it came.
            if attempt > 0 && self.is_there(&target).await? {
                continue;
            }
            let temporary = |attempt| format!("{}/{}-{attempt}-{number}", self.staging, part.id.number);
            if attempt > 0 {
                self.remove(&temporary(attempt - 1)).await;
            }
            pending.push((file, temporary(attempt), target));
        }

        // All are written before the first is renamed: a death while writing leaves nothing behind.
        let renames: Vec<(String, String)> = stream::iter(pending)
            .map(|(file, temporary, target)| self.stage(file, temporary, target))
            .buffer_unordered(FILES_OPEN_MAX)
            .try_collect()
            .await?;
        stream::iter(renames)
            .map(|(temporary, target)| self.publish(temporary, target))
            .buffer_unordered(FILES_OPEN_MAX)
            .try_collect::<()>()
            .await?;
        Ok(contents.committed)
    }

    /// Writes one temporary file to the DataNodes' disks and makes the directory that it will go to.
    async fn stage(
        &self,
        file: File,
        temporary: String,
        target: String,
    ) -> Result<(String, String), StoreError> {
        let directory = token::directory(&self.settings.root, &file.partition);
        let made = self
            .cluster
            .call(move |client| async move { client.mkdirs(&directory, DIRECTORY_MODE, true).await });
        if let Err(error) = made.await {
            return Err(self.explain(format!("making the directory of {target}"), error).await);
        }
        let options = WriteOptions {
            block_size: Some(self.settings.block_for(file.bytes.len())),
            replication: self.settings.replication,
            permission: FILE_MODE,
            overwrite: false,
            // A fence removes the directory: it must stay removed.
            create_parent: false,
        };
        let path = temporary.clone();
        let written = self.cluster.run(move |client, deadline| async move {
            write(&client, deadline, &path, options, file.bytes).await
        });
        match written.await {
            Ok(()) => Ok((temporary, target)),
            Err(error) => Err(self.explain(format!("writing {temporary}"), error).await),
        }
    }

    /// Renames a temporary file to its final name.
    async fn publish(&self, temporary: String, target: String) -> Result<(), StoreError> {
        let (from, to) = (temporary.clone(), target.clone());
        let renamed = self.cluster.call(move |client| async move { client.rename(&from, &to, false).await });
        let error = match renamed.await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // The name belongs to this slice of this part alone: whatever bears it is this very content, put there by
        // this call after all or by an earlier one.
        if self.is_there(&target).await? {
            self.remove(&temporary).await;
            return Ok(());
        }
        Err(self.explain(format!("renaming {temporary} to {target}"), error).await)
    }

    /// What a failure means: a missing staging directory is a fence, anything else may pass.
    async fn explain(&self, what: String, error: CallError) -> StoreError {
        match self.is_there(&self.staging).await {
            Ok(false) => {
                self.over.store(true, Ordering::Release);
                StoreError::Fenced
            }
            _ => StoreError::transient(what, error),
        }
    }

    async fn is_there(&self, path: &str) -> Result<bool, StoreError> {
        is_there(&self.cluster, path).await
    }

    async fn remove(&self, path: &str) {
        if let Err(error) = remove(&self.cluster, path).await {
            // It goes with the life's directory at the latest.
            tracing::debug!(path, %error, "a temporary file is left for the end of the life");
        }
    }
}

#[async_trait]
impl Store for HdfsStore {
    fn token(&self, _id: &PartId, partitions: &[Partition]) -> Token {
        self.fence_token(partitions).encode()
    }

    async fn commit(&self, part: &Part) -> Result<Committed, StoreError> {
        if self.over.load(Ordering::Acquire) {
            return Err(StoreError::Fenced);
        }
        // Counted before the attempt: a caller that gives up waiting leaves one behind that did something.
        let attempt = {
            let mut attempts = self.attempts.lock();
            let next = attempts.entry(part.id.number).or_insert(0);
            *next += 1;
            *next - 1
        };
        let committed = self.store(part, attempt).await?;
        self.attempts.lock().remove(&part.id.number);
        Ok(committed)
    }

    async fn resolve(&self, id: &PartId, token: &Token) -> Result<Outcome, StoreError> {
        let token = HdfsToken::decode(id, token)?;
        // Files once in place stay there: no need to end a life whose part is complete.
        let mut there = self.in_place(id, &token).await?;
        if there.len() < token.partitions.len() {
            remove(&self.cluster, &token.staging)
                .await
                .map_err(|error| StoreError::transient(format!("removing {}", token.staging), error))?;
            there = self.in_place(id, &token).await?;
        }
        Ok(match there.len() {
            all if all == token.partitions.len() => Outcome::Committed,
            0 => Outcome::Void,
            _ => Outcome::Partial(there),
        })
    }

    async fn end(&self) {
        self.over.store(true, Ordering::Release);
        if let Err(error) = remove(&self.cluster, &self.staging).await {
            tracing::warn!(path = self.staging, %error, "this sink's next life will remove its staging directory");
        }
    }
}

impl HdfsStore {
    /// Those of the part's partitions whose file has its final name.
    async fn in_place(&self, id: &PartId, token: &HdfsToken) -> Result<Vec<Partition>, StoreError> {
        let looks =
            token.partitions.iter().map(|partition| (Arc::clone(partition), token.path(id, partition)));
        stream::iter(looks.collect::<Vec<_>>())
            .map(|(partition, path)| async move { Ok(self.is_there(&path).await?.then_some(partition)) })
            .buffered(FILES_OPEN_MAX)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }
}

/// Removes a file or a whole directory; one that is not there is fine.
pub(crate) async fn remove(cluster: &Cluster, path: &str) -> Result<(), CallError> {
    let path = path.to_owned();
    match cluster.call(move |client| async move { client.delete(&path, true).await }).await {
        Ok(_) => Ok(()),
        Err(error) if error.not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

async fn is_there(cluster: &Cluster, path: &str) -> Result<bool, StoreError> {
    let asked = path.to_owned();
    match cluster.call(move |client| async move { client.get_file_info(&asked).await }).await {
        Ok(_) => Ok(true),
        Err(error) if error.not_found() => Ok(false),
        Err(error) => Err(StoreError::transient(format!("looking for {path}"), error)),
    }
}

/// Writes `content` as a new file: one block, on the DataNodes' disks before it is closed.
async fn write(
    client: &Client,
    deadline: Duration,
    path: &str,
    options: WriteOptions,
    mut content: Bytes,
) -> Result<(), CallError> {
    let mut file = within(deadline, client.create(path, options)).await?;
    while !content.is_empty() {
        let piece = content.split_to(WRITE_BYTES.min(content.len()));
        within(deadline, file.write_bytes(piece)).await?;
    }
    // `close` alone leaves the bytes in the DataNodes' memory.
    match within(deadline, file.hsync()).await {
        // Erasure-coded files cannot be synced, and the library names no other way to tell.
        Err(CallError::Hdfs(HdfsError::OperationFailed(why))) if why.contains("erasure") => {}
        answer => answer?,
    }
    within(deadline, file.close()).await
}
