//! Roll-outs.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::error::{ErrorBody, Refusal};
use super::extract::{Body, Page, Query};
use super::{Caller, Shared};
use crate::desk::{DeskError, Progress, StartRequest};

/// Why, for those who read the audit log.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Reason {
    /// In the caller's words.
    reason: String,
}

impl Reason {
    fn words(&self) -> &str {
        if self.reason.is_empty() { "by hand" } else { &self.reason }
    }
}

/// Starts a roll-out. One at a time; a halted one makes room.
#[utoipa::path(post, path = "/rollouts", tag = "rollouts", request_body = StartRequest, responses(
    (status = 201, body = Progress), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody),
))]
pub(super) async fn start(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<StartRequest>,
) -> Result<(StatusCode, Json<Progress>), Refusal> {
    Ok((StatusCode::CREATED, Json(desk.start(request, &caller.name).await?)))
}

/// Lists roll-outs, the newest first.
#[utoipa::path(get, path = "/rollouts", tag = "rollouts", params(Page), responses((status = 200, body = [Progress])))]
pub(super) async fn list(
    State(desk): State<Shared>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Progress>>, Refusal> {
    Ok(Json(desk.rollouts(page.before, page.limit()).await?))
}

/// Shows the roll-out that counts: the last one.
#[utoipa::path(get, path = "/rollout", tag = "rollouts", responses((status = 200, body = Progress), (status = 404, body = ErrorBody)))]
pub(super) async fn current(State(desk): State<Shared>) -> Result<Json<Progress>, Refusal> {
    let none = || DeskError::Missing("roll-out yet".to_owned());
    Ok(Json(desk.current().await?.ok_or_else(none)?))
}

/// Stops it where it is: nodes that have the revision keep it, no other gets it.
#[utoipa::path(post, path = "/rollout/halt", tag = "rollouts", request_body = Reason, responses((status = 200, body = Progress), (status = 409, body = ErrorBody)))]
pub(super) async fn halt(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(reason): Body<Reason>,
) -> Result<Json<Progress>, Refusal> {
    Ok(Json(desk.halt(&caller.name, reason.words()).await?))
}

/// Tries the halted wave again.
#[utoipa::path(post, path = "/rollout/resume", tag = "rollouts", responses((status = 200, body = Progress), (status = 409, body = ErrorBody)))]
pub(super) async fn resume(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Progress>, Refusal> {
    Ok(Json(desk.resume(&caller.name).await?))
}

/// Lets the next wave begin, where the policy demands that.
#[utoipa::path(post, path = "/rollout/approve", tag = "rollouts", responses((status = 200, body = Progress), (status = 409, body = ErrorBody)))]
pub(super) async fn approve(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Progress>, Refusal> {
    Ok(Json(desk.approve(&caller.name).await?))
}

/// Takes every node back to the revision from before.
#[utoipa::path(post, path = "/rollout/rollback", tag = "rollouts", request_body = Reason, responses((status = 200, body = Progress), (status = 409, body = ErrorBody)))]
pub(super) async fn roll_back(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(reason): Body<Reason>,
) -> Result<Json<Progress>, Refusal> {
    Ok(Json(desk.roll_back(&caller.name, reason.words()).await?))
}
