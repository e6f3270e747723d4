//! A directory as a store: a part is one file for each of its partitions, written aside and linked into place.
//!
//! Start reading at [`FileBackend`]. Under the root lie the events, `<partition>/<part id>.jsonl` and so on, and
//! `_weir/staging/<sink>/<incarnation>/`, where a life writes its files before they get their final names. The
//! file system must have hard links. Where sinks of several nodes share the directory, all must see it alike at any
//! moment: a network mount without a cache of names (NFS: `lookupcache=none`).
//!
//! Left out on purpose: appending to files, joining small ones, and deleting old ones.

mod direct;
mod disk;
mod life;
mod steps;

#[cfg(test)]
mod tests;
mod token;
mod write;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use weir_model::{BatchHeader, Incarnation, NodeId};
use weir_shape::{Codec, Format, Partitioner};
use weir_store::{Backend, Partition, Store, StoreError, Traits};

use life::{FileStore, blocking};
use steps::Steps;

/// What an operator chooses for one directory.
#[derive(Debug, Clone)]
pub struct FileSettings {
    /// The directory under which everything is kept; made if it is not there.
    pub root: PathBuf,
    /// Which directory under `root` an event belongs to.
    pub partition: Partitioner,
    /// What a line of a file looks like.
    pub format: Format,
    /// How files are packed; their names end accordingly.
    pub codec: Codec,
    /// Whether all sinks of the group see this directory, so that any of them can settle a part of a dead one.
    pub shared: bool,
}

/// One directory.
pub struct FileBackend {
    settings: Arc<FileSettings>,
    steps: Steps,
    /// Held while a life is begun, also by attempts that nobody waits for any more: a late one must not make the
    /// directory of a fenced life again.
    beginning: Arc<Mutex<()>>,
}

impl FileBackend {
    /// A store in the directory that the settings name; nothing is touched yet.
    #[must_use]
    pub fn new(settings: FileSettings) -> Self {
        Self::with_steps(settings, Steps::default())
    }

    pub(crate) fn with_steps(settings: FileSettings, steps: Steps) -> Self {
        Self { settings: Arc::new(settings), steps, beginning: Arc::default() }
    }
}

#[async_trait]
impl Backend for FileBackend {
    async fn begin(&self, sink: &NodeId, incarnation: Incarnation) -> Result<Arc<dyn Store>, StoreError> {
        let guard = Arc::clone(&self.beginning).lock_owned().await;
        let (root, name) = (self.settings.root.clone(), sink.to_string());
        let what = format!("beginning a life of sink {sink} in {}", root.display());
        blocking(what, move || {
            let _guard = guard;
            stage(&root, &name, incarnation)
        })
        .await?;
        let settings = Arc::clone(&self.settings);
        Ok(Arc::new(FileStore::new(settings, sink.clone(), incarnation, self.steps.clone())))
    }

    fn traits(&self) -> Traits {
        Traits { parallel_parts: 2, partitions_max: write::FILES_MAX, shared: self.settings.shared }
    }

    fn partitions(&self, header: &BatchHeader) -> Vec<Partition> {
        self.settings.partition.partitions(header)
    }
}

/// Makes a life's staging directory and ends the sink's other lives.
fn stage(root: &std::path::Path, sink: &str, incarnation: Incarnation) -> io::Result<()> {
    let lives = disk::lives(root, sink);
    let own = lives.join(incarnation.to_string());
    fs::create_dir_all(&own)?;
    disk::sync_above(root)?;
    for entry in fs::read_dir(&lives)? {
        let name = entry?.file_name();
        // Anything else was not made by us.
        let Some(name) = name.to_str() else { continue };
        match name.strip_prefix(disk::FENCED) {
            Some(life) if life.parse::<Incarnation>().is_ok() => disk::fence(&lives, life)?,
            None if name.parse() != Ok(incarnation) && name.parse::<Incarnation>().is_ok() => {
                disk::fence(&lives, name)?;
            }
            _ => {}
        }
    }
    Ok(())
}
