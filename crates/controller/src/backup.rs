//! The whole state as one text, and a state from that text: the same for a file and for etcd.
//!
//! Lines of JSON: what it is, then each entry with its value in base64, then the SHA-256 of all lines before. Tokens are
//! in it as hashes, secrets not at all.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::state::{Change, Entry, State, StateError, VALUE_BYTES_MAX};

/// The version of the text.
const VERSION: u32 = 1;

/// Entries that are read at once; each may have [`VALUE_BYTES_MAX`].
const READ_AT_ONCE: usize = 16;

/// Entries that are written at once: etcd takes 128 in a transaction.
const WRITE_AT_ONCE: usize = 50;

/// Why a state cannot be had back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The text is no backup, or not a whole one.
    #[error("this is no whole backup: {0}")]
    Text(String),
    /// There is something in the state already.
    #[error("the state holds {0}, which is not in the backup; restore into an empty one")]
    NotEmpty(String),
    /// The state said no. What was written until then is the backup's: try again.
    #[error(transparent)]
    State(#[from] StateError),
}

#[derive(Serialize, Deserialize)]
struct Head {
    weir_backup: u32,
    at: Timestamp,
    entries: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Foot {
    sha256: String,
}

/// The text of everything in `state`. Nobody may change it meanwhile.
///
/// # Errors
/// [`StateError::Unavailable`], [`StateError::Disk`].
pub(crate) async fn take(state: &dyn State, at: Timestamp) -> Result<String, StateError> {
    let entries = all(state).await?;
    let mut text = line(&Head { weir_backup: VERSION, at, entries: entries.len() });
    for (key, value) in entries {
        text.push_str(&line(&Line { key, value: STANDARD.encode(value) }));
    }
    let foot = line(&Foot { sha256: hash(&text) });
    Ok(text + &foot)
}

/// Puts a backup into a state that holds nothing, or a part of the same backup. Says how many entries there are.
///
/// # Errors
/// [`RestoreError`].
pub async fn restore(state: &dyn State, text: &str) -> Result<usize, RestoreError> {
    let entries = read(text)?;
    let mut lacking: BTreeMap<&String, &Vec<u8>> = entries.iter().collect();
    for (key, value) in all(state).await? {
        match lacking.remove(&key) {
            Some(wanted) if *wanted == value => {}
            _ => return Err(RestoreError::NotEmpty(key)),
        }
    }
    let (mut change, mut count, mut bytes) = (Change::new(), 0, 0);
    for (key, value) in lacking {
        if count == WRITE_AT_ONCE || bytes + value.len() > VALUE_BYTES_MAX {
            state.commit(std::mem::take(&mut change)).await?;
            (count, bytes) = (0, 0);
        }
        change = change.absent(key).put(key, value.clone());
        (count, bytes) = (count + 1, bytes + value.len());
    }
    state.commit(change).await?;
    Ok(entries.len())
}

/// Every entry, by key.
async fn all(state: &dyn State) -> Result<BTreeMap<String, Vec<u8>>, StateError> {
    let mut entries = BTreeMap::new();
    loop {
        let before = entries.first_key_value().map(|(key, _): (&String, _)| key.clone());
        let found: Vec<Entry> = state.newest("", before.as_deref(), READ_AT_ONCE).await?;
        if found.is_empty() {
            return Ok(entries);
        }
        entries.extend(found);
    }
}

fn read(text: &str) -> Result<BTreeMap<String, Vec<u8>>, RestoreError> {
    let wrong = |what: &str| RestoreError::Text(what.to_owned());
    let body_end = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
    let (body, foot) = text.split_at(body_end);
    let foot: Foot = serde_json::from_str(foot).map_err(|_| wrong("its last line is missing"))?;
    if foot.sha256 != hash(body) {
        return Err(wrong("its text does not have its hash"));
    }
    let mut lines = body.lines();
    let head: Option<Head> = lines.next().and_then(|line| serde_json::from_str(line).ok());
    let head = head.ok_or_else(|| wrong("it does not begin as one"))?;
    if head.weir_backup != VERSION {
        return Err(RestoreError::Text(format!(
            "it has version {}, and this program reads version {VERSION}",
            head.weir_backup
        )));
    }
    let entry = |line: &str| {
        let Line { key, value } = serde_json::from_str(line).ok()?;
        Some((key, STANDARD.decode(value).ok()?))
    };
    let entries: BTreeMap<String, Vec<u8>> =
        lines.map(entry).collect::<Option<_>>().ok_or_else(|| wrong("an entry cannot be read"))?;
    if entries.len() != head.entries {
        return Err(wrong("entries are missing"));
    }
    Ok(entries)
}

fn line<T: Serialize>(of: &T) -> String {
    // These types always encode.
    serde_json::to_string(of).unwrap_or_default() + "\n"
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
