//! The state of a test: gone with the process.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Change, Entry, Standing, State, StateError};

/// A state in memory.
#[derive(Debug)]
pub struct Memory {
    table: Mutex<BTreeMap<String, Vec<u8>>>,
    standing: watch::Sender<Standing>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { table: Mutex::default(), standing: watch::Sender::new(Standing::Leading) }
    }
}

impl Memory {
    /// Says who leads from now on.
    pub fn set_standing(&self, standing: Standing) {
        self.standing.send_replace(standing);
    }
}

#[async_trait]
impl State for Memory {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.table.lock().get(key).cloned())
    }

    async fn newest(
        &self,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StateError> {
        let table = self.table.lock();
        let from_prefix = table.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let mut found: Vec<Entry> = from_prefix
            .filter(|(key, _)| before.is_none_or(|before| key.as_str() < before))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        found.reverse();
        found.truncate(limit);
        Ok(found)
    }

    async fn commit(&self, change: Change) -> Result<(), StateError> {
        change.check()?;
        if *self.standing.borrow() != Standing::Leading {
            return Err(StateError::NotLeading);
        }
        let mut table = self.table.lock();
        for (key, demanded) in &change.demands {
            if table.get(key) != demanded.as_ref() {
                return Err(StateError::Conflict { key: key.clone() });
            }
        }
        for (key, value) in change.writes {
            match value {
                Some(value) => table.insert(key, value),
                None => table.remove(&key),
            };
        }
        Ok(())
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}
