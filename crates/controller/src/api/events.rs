//! What happens, as it happens.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Sse;
use axum::response::sse::{Event as Sent, KeepAlive};
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::sync::broadcast::error::RecvError;

use super::Shared;
use super::error::Refusal;
use crate::events::Event;
use crate::state::Standing;

/// Most watchers at once.
const WATCHERS_MAX: usize = 100;

/// How often a quiet stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Streams events (SSE): those that are kept, after `Last-Event-ID` if given, then all as they happen. An event `lagged`
/// says that the reader was too slow and how many it missed.
#[utoipa::path(get, path = "/events", tag = "agents", params(
    ("last-event-id" = Option<u64>, Header, description = "The id of the last event that was read; clients send it by themselves when they connect again."),
), responses(
    (status = 200, body = Event, content_type = "text/event-stream"),
))]
pub(super) async fn stream(
    State(desk): State<Shared>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Refusal> {
    let after = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(0);
    let (kept, receiver) = desk.events.subscribe(after);
    if desk.events.watchers() > WATCHERS_MAX {
        let refusal =
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "watchers", "too many watch the events already");
        return Err(refusal.hint("close some, or ask /api/v1/status instead"));
    }
    let standing = desk.standing();
    let later = stream::unfold((receiver, standing), |(mut receiver, mut standing)| async move {
        let next = tokio::select! {
            received = receiver.recv() => match received {
                Ok(event) => sent(&event),
                Err(RecvError::Lagged(missed)) => Sent::default().event("lagged").data(missed.to_string()),
                Err(RecvError::Closed) => return None,
            },
            // Its events are another controller's now: the reader connects anew.
            _ = standing.wait_for(|standing| *standing != Standing::Leading) => return None,
        };
        Some((next, (receiver, standing)))
    });
    let all = stream::iter(kept.iter().map(sent).collect::<Vec<_>>()).chain(later).map(Ok);
    Ok(Sse::new(all).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn sent(event: &Event) -> Sent {
    let data = serde_json::to_string(event).unwrap_or_default();
    Sent::default().id(event.id.to_string()).event(&event.kind).data(data)
}
