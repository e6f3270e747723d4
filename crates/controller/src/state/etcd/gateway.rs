//! etcd's JSON gateway: one POST for each call, to whichever member answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Client, Response};
use serde_json::Value;

use super::EtcdTls;
use crate::state::StateError;
use crate::tls;

/// How long one member may take for a call: the largest value on a busy disk takes seconds. A member that is frozen
/// costs this once; the next call begins with the one that answered.
const CALL_MAX: Duration = Duration::from_secs(10);

/// The same for calls about leases, of which several must fit into one lease.
const LEASE_CALL_MAX: Duration = Duration::from_millis(1500);

/// Longest answer, in bytes: a page of the largest values would be longer, so pages of those are kept short.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub(super) struct Gateway {
    client: Client,
    endpoints: Vec<String>,
    good: AtomicUsize,
}

impl Gateway {
    pub(super) fn new(endpoints: Vec<String>, tls: Option<&EtcdTls>) -> Result<Self, StateError> {
        let open = |path: std::path::PathBuf, detail: String| StateError::Open { path, detail };
        let ca = tls.map(|tls| tls.ca.as_path());
        let identity =
            tls.and_then(|tls| tls.identity.as_ref()).map(|(cert, key)| (cert.as_path(), key.as_path()));
        let config = tls::client(ca, identity)
            .map_err(|error| open(ca.map(Into::into).unwrap_or_default(), error.to_string()))?;
        let client = Client::builder()
            .tls_backend_preconfigured(config)
            .connect_timeout(Duration::from_secs(1))
            .no_proxy()
            .build()
            .map_err(|error| open("etcd".into(), error.to_string()))?;
        let endpoints =
            endpoints.into_iter().map(|endpoint| endpoint.trim_end_matches('/').to_owned()).collect();
        Ok(Self { client, endpoints, good: AtomicUsize::new(0) })
    }

    /// A call that may be made twice: every member is asked until one answers.
    pub(super) async fn call(&self, path: &str, request: &Value) -> Result<Value, StateError> {
        self.ask(path, request, |_| true).await
    }

    /// A call that must not be made twice: another member is asked only if the first never got it.
    pub(super) async fn call_once(&self, path: &str, request: &Value) -> Result<Value, StateError> {
        self.ask(path, request, reqwest::Error::is_connect).await
    }

    async fn ask(
        &self,
        path: &str,
        request: &Value,
        again: impl Fn(&reqwest::Error) -> bool,
    ) -> Result<Value, StateError> {
        let mut failure = "etcd has no endpoint".to_owned();
        let first = self.good.load(Ordering::Relaxed);
        for turn in 0..self.endpoints.len() {
            let index = (first + turn) % self.endpoints.len();
            let endpoint = &self.endpoints[index];
            match self.post(endpoint, path, request).await {
                Ok(response) => {
                    let status = response.status();
                    let answer = match bounded(response).await {
                        Ok(answer) => answer,
                        Err(error) => return Err(StateError::Unavailable(format!("{endpoint}: {error}"))),
                    };
                    if status.is_success() {
                        self.good.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    // A member without a leader refuses before it does anything: ask the next.
                    let said = answer["message"].as_str().or(answer["error"].as_str()).unwrap_or_default();
                    failure = format!("{endpoint}: {status} {said}");
                }
                Err(error) => {
                    failure = format!("{endpoint}: {}", root(&error));
                    if !again(&error) {
                        break;
                    }
                }
            }
        }
        self.good.store((first + 1) % self.endpoints.len().max(1), Ordering::Relaxed);
        Err(StateError::Unavailable(failure))
    }

    async fn post(&self, endpoint: &str, path: &str, request: &Value) -> reqwest::Result<Response> {
        let longest = if path.starts_with("lease/") { LEASE_CALL_MAX } else { CALL_MAX };
        self.client.post(format!("{endpoint}/v3/{path}")).timeout(longest).json(request).send().await
    }

    /// A call that answers again and again, one line each: the first line is waited for.
    pub(super) async fn stream(
        &self,
        path: &str,
        request: &Value,
        longest: Duration,
    ) -> Result<Response, StateError> {
        let endpoint = &self.endpoints[self.good.load(Ordering::Relaxed) % self.endpoints.len()];
        let sent =
            self.client.post(format!("{endpoint}/v3/{path}")).timeout(longest).json(request).send().await;
        let checked = sent.and_then(Response::error_for_status);
        checked.map_err(|error| StateError::Unavailable(format!("{endpoint}: {}", root(&error))))
    }
}

async fn bounded(mut response: Response) -> Result<Value, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err("the answer is too long".to_owned());
        }
        bytes.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("the answer is no JSON: {error}"))
}

/// The last cause says what happened; reqwest's own words only repeat the address.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

pub(super) fn encoded(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

pub(super) fn decoded(text: &str) -> Result<Vec<u8>, StateError> {
    BASE64.decode(text).map_err(|error| StateError::Unavailable(format!("etcd's answer is damaged: {error}")))
}
