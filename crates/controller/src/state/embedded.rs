//! The state of a single controller: one transactional file, by redb.

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::watch;

use super::{Change, Entry, Standing, State, StateError};

/// Format 1. Another layout takes another name, and a step that reads this one.
const TABLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("weir-controller-1");

/// A state in one file, which this process alone has open.
pub struct Embedded {
    database: Arc<Database>,
    standing: watch::Sender<Standing>,
}

impl Embedded {
    /// Opens the file, or makes it. After a crash it is repaired first.
    ///
    /// # Errors
    /// [`StateError::Open`]: another process has it open, or it is no such file.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let open = |detail: String| StateError::Open { path: path.into(), detail };
        let database = Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => {
                open("another process has it open; one controller per state, or use etcd".to_owned())
            }
            other => {
                open(format!("{other}; move it away, and have the state back with `weir controller restore`"))
            }
        })?;
        let prepared = || {
            let transaction = database.begin_write()?;
            transaction.open_table(TABLE)?;
            transaction.commit()?;
            Ok::<_, redb::Error>(())
        };
        prepared().map_err(|error| open(error.to_string()))?;
        Ok(Self { database: Arc::new(database), standing: watch::Sender::new(Standing::Leading) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let database = Arc::clone(&self.database);
        let done = tokio::task::spawn_blocking(move || work(&database)).await;
        done.unwrap_or_else(|error| Err(StateError::Unavailable(error.to_string())))
    }
}

#[async_trait]
impl State for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        let key = key.to_owned();
        self.blocking(move |database| {
            let table = database.begin_read().map_err(disk)?.open_table(TABLE).map_err(disk)?;
            Ok(table.get(key.as_str()).map_err(disk)?.map(|value| value.value().to_vec()))
        })
        .await
    }

    async fn newest(
        &self,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StateError> {
        let (prefix, before) = (prefix.to_owned(), before.map(str::to_owned));
        self.blocking(move |database| {
            let table = database.begin_read().map_err(disk)?.open_table(TABLE).map_err(disk)?;
            // Keys are ASCII: nothing that begins with the prefix comes after this.
            let end = before.unwrap_or_else(|| format!("{prefix}\u{7f}"));
            if end <= prefix {
                return Ok(Vec::new());
            }
            let mut found = Vec::new();
            for entry in table.range(prefix.as_str()..end.as_str()).map_err(disk)?.rev().take(limit) {
                let (key, value) = entry.map_err(disk)?;
                found.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        })
        .await
    }

    async fn commit(&self, change: Change) -> Result<(), StateError> {
        change.check()?;
        self.blocking(move |database| {
            let transaction = database.begin_write().map_err(disk)?;
            {
                let mut table = transaction.open_table(TABLE).map_err(disk)?;
                for (key, demanded) in &change.demands {
                    let found = table.get(key.as_str()).map_err(disk)?;
                    if found.as_ref().map(redb::AccessGuard::value) != demanded.as_deref() {
                        return Err(StateError::Conflict { key: key.clone() });
                    }
                }
                for (key, value) in &change.writes {
                    match value {
                        Some(value) => table.insert(key.as_str(), value.as_slice()),
                        None => table.remove(key.as_str()),
                    }
                    .map_err(disk)?;
                }
            }
            transaction.commit().map_err(disk)
        })
        .await
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}

fn disk(error: impl Into<redb::Error>) -> StateError {
    match error.into() {
        redb::Error::Io(error) => StateError::Disk(error),
        other => StateError::Disk(io::Error::other(other)),
    }
}
