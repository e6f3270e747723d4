//! Who leads: whoever wrote the leader's key, for as long as its lease is kept alive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::gateway::{Gateway, decoded, encoded};
use crate::state::{Standing, StateError};

/// How long a dead leader's lease lives on, in seconds: the longest time without a leader, but for the vote itself.
const LEASE_SECONDS: u64 = 5;

/// How often a leader renews its lease. Several must fit in.
const RENEW: Duration = Duration::from_millis(1500);

/// How long a follower watches before it looks again by itself: a watch on a dead member says nothing.
const WATCH_MAX: Duration = Duration::from_secs(3);

pub(super) struct Election {
    gateway: Arc<Gateway>,
    key: String,
    api: String,
    standing: watch::Sender<Standing>,
    /// What this controller wrote into the leader's key, while it leads.
    term: Mutex<Option<String>>,
}

/// What a vote came to.
enum Vote {
    Won {
        lease: String,
    },
    /// `revision` is etcd's own: what happens after it is watched.
    Lost {
        api: Option<String>,
        revision: u64,
    },
}

impl Election {
    pub(super) fn new(gateway: Arc<Gateway>, key: String, api: String) -> Self {
        let standing = watch::Sender::new(Standing::Following(None));
        Self { gateway, key, api, standing, term: Mutex::new(None) }
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The leader's key and what it must hold for a change of ours; none while another leads.
    pub(super) fn term(&self) -> Option<(String, String)> {
        Some((self.key.clone(), self.term.lock().clone()?))
    }

    pub(super) async fn run(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.vote().await {
                Ok(Vote::Won { lease }) => {
                    tracing::info!("this controller leads");
                    self.stand(Standing::Leading);
                    self.hold(&lease, &stop).await;
                    *self.term.lock() = None;
                    self.stand(Standing::Following(None));
                    tracing::warn!("this controller leads no more");
                    if stop.is_cancelled() {
                        // Without it the next leader would wait for the lease to run out.
                        let _ = self.gateway.call("lease/revoke", &json!({"ID": lease})).await;
                    }
                }
                Ok(Vote::Lost { api, revision }) => {
                    self.stand(Standing::Following(api));
                    tokio::select! {
                        () = self.watch(revision) => {}
                        () = stop.cancelled() => {}
                    }
                }
                Err(error) => {
                    self.stand(Standing::Following(None));
                    tracing::warn!(%error, "no vote on who leads");
                    let pause = Duration::from_millis(rand::random_range(300..1000));
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        }
    }

    fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|old| {
            let changed = *old != standing;
            *old = standing;
            changed
        });
    }

    async fn vote(&self) -> Result<Vote, StateError> {
        // Look first: a lease for each look would be a write.
        let key = encoded(self.key.as_bytes());
        let seen = self.gateway.call("kv/range", &json!({"key": key})).await?;
        if let Some(leader) = seen["kvs"].as_array().and_then(|found| found.first()) {
            return Ok(Vote::Lost { api: api(leader), revision: revision(&seen) });
        }
        let granted = self.gateway.call("lease/grant", &json!({"TTL": LEASE_SECONDS})).await?;
        let lease = granted["ID"].as_str().unwrap_or_default().to_owned();
        // Random, so that no two terms are the same.
        let term = json!({"id": format!("{:032x}", rand::random::<u128>()), "api": self.api}).to_string();
        let request = json!({
            "compare": [{"target": "CREATE", "result": "EQUAL", "key": key, "create_revision": "0"}],
            "success": [{"request_put": {"key": key, "value": encoded(term.as_bytes()), "lease": lease}}],
            "failure": [{"request_range": {"key": key}}],
        });
        let answer = self.gateway.call_once("kv/txn", &request).await?;
        if answer["succeeded"].as_bool() == Some(true) {
            *self.term.lock() = Some(term);
            return Ok(Vote::Won { lease });
        }
        let _ = self.gateway.call("lease/revoke", &json!({"ID": lease})).await;
        let leader = &answer["responses"][0]["response_range"]["kvs"][0];
        Ok(Vote::Lost { api: api(leader), revision: revision(&answer) })
    }

    /// Keeps the lease alive; returns when it may have run out, or at a stop.
    async fn hold(&self, lease: &str, stop: &CancellationToken) {
        let life = Duration::from_secs(LEASE_SECONDS);
        let mut ends = Instant::now() + life;
        loop {
            tokio::select! {
                () = sleep(RENEW) => {}
                () = stop.cancelled() => return,
            }
            let asked = Instant::now();
            let left = ends.saturating_duration_since(asked);
            let renewed =
                tokio::time::timeout(left, self.gateway.call("lease/keepalive", &json!({"ID": lease}))).await;
            match renewed {
                Ok(Ok(answer)) => {
                    // A lease that ran out is answered without a time to live.
                    if answer["result"]["TTL"].as_str().is_none_or(|ttl| ttl == "0") {
                        return;
                    }
                    ends = asked + life;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease was not renewed"),
                Err(_) => return,
            }
            if Instant::now() >= ends {
                return;
            }
        }
    }

    /// Returns when the leader's key may have changed.
    async fn watch(&self, revision: u64) {
        let create =
            json!({"key": encoded(self.key.as_bytes()), "start_revision": (revision + 1).to_string()});
        let request = json!({"create_request": create});
        let watching = async {
            let mut lines = self.gateway.stream("watch", &request, WATCH_MAX).await?;
            let mut heard = Vec::new();
            while let Ok(Some(chunk)) = lines.chunk().await {
                heard.extend_from_slice(&chunk);
                if heard.windows(8).any(|window| window == b"\"events\"") || heard.len() > 1 << 16 {
                    break;
                }
            }
            Ok::<_, StateError>(())
        };
        if watching.await.is_err() {
            sleep(Duration::from_millis(rand::random_range(300..1000))).await;
        }
    }
}

fn api(leader: &Value) -> Option<String> {
    let value = decoded(leader["value"].as_str()?).ok()?;
    let term: Value = serde_json::from_slice(&value).ok()?;
    term["api"].as_str().map(str::to_owned)
}

fn revision(answer: &Value) -> u64 {
    answer["header"]["revision"].as_str().and_then(|number| number.parse().ok()).unwrap_or_default()
}
