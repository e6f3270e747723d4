//! What a node answers beside its metrics: `/api/v1/status`, and `/api/v1/tap` for onlookers on the same host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::mpsc;

use weir_routing::Pattern;

use crate::live::Node;
use crate::tap;

/// Lines that wait for a slow onlooker.
const LINES_MAX: usize = 64;

/// The answers of a node. It may be asked before the node is there.
#[derive(Clone, Default)]
pub(crate) struct Api(Arc<OnceLock<Arc<Node>>>);

impl Api {
    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route("/api/v1/status", get(status))
            .route("/api/v1/tap", get(look))
            .with_state(self.clone())
    }

    /// The node is there.
    pub(crate) fn serve(&self, node: Arc<Node>) {
        // There is one node in a process.
        let _ = self.0.set(node);
    }
}

async fn status(State(api): State<Api>) -> Response {
    match api.0.get() {
        Some(node) => Json(node.status().await).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the node is starting").into_response(),
    }
}

#[derive(Deserialize)]
struct Look {
    tag: Option<String>,
    rate: Option<u32>,
    redact: Option<String>,
}

async fn look(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(look): Query<Look>,
) -> Response {
    // Metrics may be for everybody. What is in events is not.
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "events are shown on this host only").into_response();
    }
    let pattern = match look.tag.as_deref().map(Pattern::parse).transpose() {
        Ok(pattern) => pattern,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let rate = look.rate.unwrap_or(10).max(1);
    let every = Duration::from_secs(1) / rate;
    let node = api.0.get();
    let batches = match node {
        Some(node) => node.tap(pattern, every).await,
        None => None,
    };
    let Some(batches) = batches else {
        let reason = "this node takes no events, is stopping, or has onlookers enough";
        return (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    };
    let redact: BTreeSet<String> = look
        .redact
        .iter()
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let (out, lines) = mpsc::channel::<Vec<u8>>(LINES_MAX);
    tokio::spawn(tap::lines(batches, rate, redact, out));
    let body = futures_util::stream::unfold(lines, |mut lines| async {
        let line = lines.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), lines))
    });
    Body::from_stream(body).into_response()
}

/// Condition → why it does not hold.
pub(crate) fn conditions(health: &weir_telemetry::Health) -> BTreeMap<String, Option<String>> {
    health.conditions().into_iter().map(|(name, state)| (name, state.err())).collect()
}
