//! The state of several controllers: an etcd cluster, through its JSON gateway.
//!
//! The gateway needs no generated code and speaks through whatever HTTP client there is. Every change demands that the
//! leader's key still holds what this controller wrote there: a controller that lost its lease without noticing can
//! change nothing ([`StateError::NotLeading`]).

mod election;
mod gateway;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Change, Entry, Standing, State, StateError};
use election::Election;
use gateway::{Gateway, decoded, encoded};

/// Where an etcd cluster is, and who this controller is to the others.
#[derive(Debug, Clone)]
pub struct EtcdSettings {
    /// `http://host:port` or `https://host:port`, of all its members.
    pub endpoints: Vec<String>,
    /// What all keys of this fleet begin with.
    pub prefix: String,
    /// PEM files for `https`: the authority, and a certificate with its key if etcd demands one.
    pub tls: Option<EtcdTls>,
    /// Where the others find this controller's API while it leads: `https://host:port`.
    pub api: String,
}

/// PEM files for an etcd behind TLS.
#[derive(Debug, Clone)]
pub struct EtcdTls {
    /// Its authority.
    pub ca: PathBuf,
    /// This client's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A state in etcd.
pub struct Etcd {
    gateway: Arc<Gateway>,
    prefix: String,
    election: Arc<Election>,
    stop: CancellationToken,
    task: parking_lot::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Etcd {
    /// Begins to stand for election. etcd need not be there yet. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`StateError::Open`] when the certificates cannot be used.
    pub fn start(settings: EtcdSettings) -> Result<Self, StateError> {
        let gateway = Arc::new(Gateway::new(settings.endpoints, settings.tls.as_ref())?);
        let prefix = format!("{}/", settings.prefix.trim_end_matches('/'));
        let election = Arc::new(Election::new(Arc::clone(&gateway), format!("{prefix}leader"), settings.api));
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (election, stop) = (Arc::clone(&election), stop.clone());
            async move { election.run(stop).await }
        });
        Ok(Self { gateway, prefix, election, stop, task: parking_lot::Mutex::new(Some(task)) })
    }

    fn key(&self, key: &str) -> String {
        encoded(format!("{}state/{key}", self.prefix).as_bytes())
    }

    fn demand(key: &str, value: Option<&[u8]>) -> Value {
        match value {
            Some(value) => json!({"target": "VALUE", "result": "EQUAL", "key": key, "value": encoded(value)}),
            None => json!({"target": "CREATE", "result": "EQUAL", "key": key, "create_revision": "0"}),
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl State for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        let answer = self.gateway.call("kv/range", &json!({"key": self.key(key)})).await?;
        Ok(entries(&answer)?.pop().map(|(_, value)| value))
    }

    async fn newest(
        &self,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StateError> {
        // Keys are ASCII: nothing that begins with the prefix comes after this.
        let end = before.map_or_else(|| self.key(&format!("{prefix}\u{7f}")), |before| self.key(before));
        if before.is_some_and(|before| before <= prefix) {
            return Ok(Vec::new());
        }
        let request = json!({
            "key": self.key(prefix), "range_end": end, "limit": limit,
            "sort_target": "KEY", "sort_order": "DESCEND",
        });
        let stem = format!("{}state/", self.prefix);
        let found = entries(&self.gateway.call("kv/range", &request).await?)?;
        Ok(found
            .into_iter()
            .map(|(key, value)| (key.trim_start_matches(stem.as_str()).to_owned(), value))
            .collect())
    }

    async fn commit(&self, change: Change) -> Result<(), StateError> {
        change.check()?;
        let (leader, term) = self.election.term().ok_or(StateError::NotLeading)?;
        let mut compare = vec![Self::demand(&encoded(leader.as_bytes()), Some(term.as_bytes()))];
        let mut look = vec![json!({"request_range": {"key": encoded(leader.as_bytes())}})];
        for (key, value) in &change.demands {
            compare.push(Self::demand(&self.key(key), value.as_deref()));
            look.push(json!({"request_range": {"key": self.key(key)}}));
        }
        let writes: Vec<Value> = change
            .writes
            .iter()
            .map(|(key, value)| match value {
                Some(value) => json!({"request_put": {"key": self.key(key), "value": encoded(value)}}),
                None => json!({"request_delete_range": {"key": self.key(key)}}),
            })
            .collect();
        let request = json!({"compare": compare, "success": writes, "failure": look});
        let answer = self.gateway.call_once("kv/txn", &request).await?;
        if answer["succeeded"].as_bool() == Some(true) {
            return Ok(());
        }
        // What was found instead, in the order of `look`.
        let found = |index: usize| -> Result<Option<Vec<u8>>, StateError> {
            Ok(entries(&answer["responses"][index]["response_range"])?.pop().map(|(_, value)| value))
        };
        if found(0)?.as_deref() != Some(term.as_bytes()) {
            return Err(StateError::NotLeading);
        }
        for (index, (key, demanded)) in change.demands.iter().enumerate() {
            if found(index + 1)? != *demanded {
                return Err(StateError::Conflict { key: key.clone() });
            }
        }
        Err(StateError::Unavailable("etcd refused a change without a reason".to_owned()))
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.election.standing()
    }

    async fn resign(&self) {
        self.stop.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

/// The entries of a range's answer. An empty value is left out by the gateway.
fn entries(answer: &Value) -> Result<Vec<Entry>, StateError> {
    let empty = Vec::new();
    let found = answer["kvs"].as_array().unwrap_or(&empty);
    found
        .iter()
        .map(|entry| {
            let key = decoded(entry["key"].as_str().unwrap_or_default())?;
            let value = decoded(entry["value"].as_str().unwrap_or_default())?;
            Ok((String::from_utf8_lossy(&key).into_owned(), value))
        })
        .collect()
}
