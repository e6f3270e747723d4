//! What the state holds, by key.
//!
//! | key | value |
//! |---|---|
//! | `revision/<number>` | [`Revision`], JSON |
//! | `text/<number>` | the revision's text, one zstd frame |
//! | `rollout/<id>` | [`Rollout`], JSON; the last one is the one that counts |
//! | `audit/<number>` | [`AuditEntry`], JSON; only ever added |
//! | `token/<id>` | [`Token`](crate::tokens::Token), JSON |
//!
//! Numbers are written with twelve digits, so that keys sort as numbers do.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::rollout::{RevisionRef, Rollout};
use crate::state::{State, StateError};

pub(crate) const REVISIONS: &str = "revision/";
pub(crate) const ROLLOUTS: &str = "rollout/";
pub(crate) const AUDIT: &str = "audit/";
pub(crate) const TOKENS: &str = "token/";

/// A topology that was accepted once, and never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Counted from 1.
    pub number: u64,
    /// SHA-256 of the text, in hex.
    pub hash: String,
    /// The revision that was the fleet's, or else the newest, when this one was made.
    pub parent: Option<u64>,
    /// Whose token brought it.
    pub author: String,
    /// When.
    pub at: Timestamp,
    /// Why, in its author's words.
    pub message: String,
    /// Length of the text.
    pub bytes: usize,
}

impl Revision {
    /// Number and content.
    #[must_use]
    pub fn reference(&self) -> RevisionRef {
        RevisionRef { number: self.number, hash: self.hash.clone() }
    }
}

/// Who changed what, when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Counted from 1, without gaps.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// The name of the token, or `controller` for what it does by itself.
    pub actor: String,
    /// What was done, such as `rollout.start`.
    pub action: String,
    /// To what, such as `rollout 3`.
    pub subject: String,
    /// More, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

pub(crate) fn revision_key(number: u64) -> String {
    format!("{REVISIONS}{number:012}")
}

pub(crate) fn text_key(number: u64) -> String {
    format!("text/{number:012}")
}

pub(crate) fn rollout_key(id: u64) -> String {
    format!("{ROLLOUTS}{id:012}")
}

pub(crate) fn audit_key(number: u64) -> String {
    format!("{AUDIT}{number:012}")
}

pub(crate) fn token_key(id: &str) -> String {
    format!("{TOKENS}{id}")
}

/// A record in bytes.
pub(crate) fn written<T: Serialize>(record: &T) -> Result<Vec<u8>, StateError> {
    serde_json::to_vec(record).map_err(|error| damaged("a new record", &error))
}

fn read<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(bytes).map_err(|error| damaged(key, &error))
}

fn damaged(key: &str, error: &dyn std::fmt::Display) -> StateError {
    StateError::Disk(std::io::Error::other(format!("{key} cannot be read: {error}")))
}

pub(crate) async fn one<T: DeserializeOwned>(state: &dyn State, key: &str) -> Result<Option<T>, StateError> {
    state.get(key).await?.map(|bytes| read(key, &bytes)).transpose()
}

/// Up to `limit` records, the last first; only those before `before`, if given.
pub(crate) async fn newest<T: DeserializeOwned>(
    state: &dyn State,
    prefix: &str,
    before: Option<&str>,
    limit: usize,
) -> Result<Vec<T>, StateError> {
    let found = state.newest(prefix, before, limit).await?;
    found.iter().map(|(key, bytes)| read(key, bytes)).collect()
}

pub(crate) async fn last_rollout(state: &dyn State) -> Result<Option<(Rollout, Vec<u8>)>, StateError> {
    let found = state.newest(ROLLOUTS, None, 1).await?.pop();
    found.map(|(key, bytes)| Ok((read(&key, &bytes)?, bytes))).transpose()
}
