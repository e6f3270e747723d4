//! Nodes, as they report.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use weir_model::NodeId;

use super::Shared;
use super::error::{ErrorBody, Refusal};
use super::extract::Path;
use crate::desk::{DeskError, Progress};
use crate::fleet::Agent;
use crate::rollout::RevisionRef;

/// The fleet in some numbers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// The revision that every node runs when nothing is rolled out.
    stable: Option<RevisionRef>,
    /// The last roll-out.
    rollout: Option<Progress>,
    /// Agents that are connected.
    connected: usize,
    /// Agents that were, since this controller leads.
    away: usize,
    /// Agents that say they cannot do their work.
    unwell: usize,
    /// Agents that refused what they were told.
    refused: usize,
    /// The version of this controller.
    version: &'static str,
}

/// Shows the fleet in some numbers.
#[utoipa::path(get, path = "/status", tag = "agents", responses((status = 200, body = Status)))]
pub(super) async fn status(State(desk): State<Shared>) -> Result<Json<Status>, Refusal> {
    let agents = desk.fleet.all();
    let count = |test: fn(&Agent) -> bool| agents.iter().filter(|agent| test(agent)).count();
    Ok(Json(Status {
        stable: desk.stable().await?,
        rollout: desk.current().await?,
        connected: count(|agent| agent.connected),
        away: count(|agent| !agent.connected),
        unwell: count(|agent| agent.connected && agent.ailment.is_some()),
        refused: count(|agent| agent.connected && agent.refused.is_some()),
        version: env!("CARGO_PKG_VERSION"),
    }))
}

/// Lists all agents that were connected since this controller leads, by name.
#[utoipa::path(get, path = "/agents", tag = "agents", responses((status = 200, body = [Agent])))]
pub(super) async fn list(State(desk): State<Shared>) -> Json<Vec<Agent>> {
    Json(desk.fleet.all())
}

/// Shows one agent.
#[utoipa::path(get, path = "/agents/{name}", tag = "agents", params(("name" = String, Path)), responses(
    (status = 200, body = Agent), (status = 404, body = ErrorBody),
))]
pub(super) async fn one(
    State(desk): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Agent>, Refusal> {
    let found = NodeId::new(&name).ok().and_then(|name| desk.fleet.get(&name));
    Ok(Json(found.ok_or_else(|| DeskError::Missing(format!("agent {name}")))?))
}
