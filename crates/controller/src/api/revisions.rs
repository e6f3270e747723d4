//! Revisions.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use weir_agent::talk::TEXT_BYTES_MAX;

use super::error::{ErrorBody, Refusal};
use super::extract::{Body, Page, Path, Query};
use super::{Caller, Shared};
use crate::check::Problem;
use crate::desk::DeskError;
use crate::diff::Diff;
use crate::records::Revision;

/// Longest body of an upload, in bytes: JSON may double a text.
pub(super) const BODY_BYTES_MAX: usize = 2 * TEXT_BYTES_MAX + (64 << 10);

/// A topology that asks to be a revision.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRevision {
    /// The topology, TOML.
    text: String,
    /// Why, for those who read it later.
    #[serde(default)]
    message: String,
}

/// What became of an upload.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Uploaded {
    /// The revision.
    revision: Revision,
    /// What looks wrong in it.
    warnings: Vec<Problem>,
}

/// Makes a revision of a topology. The text of the newest revision makes none, and is answered with it (200).
#[utoipa::path(post, path = "/revisions", tag = "revisions", request_body = NewRevision, responses(
    (status = 201, body = Uploaded), (status = 200, body = Uploaded),
    (status = 422, description = "The topology is refused, with every problem's line and column.", body = ErrorBody),
))]
pub(super) async fn upload(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewRevision>,
) -> Result<(StatusCode, Json<Uploaded>), Refusal> {
    let done = desk.upload(&new.text, &new.message, &caller.name).await?;
    let status = if done.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(Uploaded { revision: done.revision, warnings: done.warnings })))
}

/// A topology to look at.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckRequest {
    /// The topology, TOML.
    text: String,
}

/// What looks wrong in a topology that would be taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Checked {
    /// Warnings only.
    warnings: Vec<Problem>,
}

/// Says whether a topology would be taken, and keeps nothing.
#[utoipa::path(post, path = "/check", tag = "revisions", request_body = CheckRequest, responses(
    (status = 200, body = Checked), (status = 422, body = ErrorBody),
))]
pub(super) async fn check(
    State(desk): State<Shared>,
    Body(request): Body<CheckRequest>,
) -> Result<Json<Checked>, Refusal> {
    Ok(Json(Checked { warnings: desk.check(&request.text).map_err(Refusal::problems)? }))
}

/// Lists revisions, the newest first.
#[utoipa::path(get, path = "/revisions", tag = "revisions", params(Page), responses((status = 200, body = [Revision])))]
pub(super) async fn list(
    State(desk): State<Shared>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Revision>>, Refusal> {
    Ok(Json(desk.revisions(page.before, page.limit()).await?))
}

/// Shows a revision, but for its text.
#[utoipa::path(get, path = "/revisions/{number}", tag = "revisions", params(("number" = u64, Path)), responses(
    (status = 200, body = Revision), (status = 404, body = ErrorBody),
))]
pub(super) async fn one(
    State(desk): State<Shared>,
    Path(number): Path<u64>,
) -> Result<Json<Revision>, Refusal> {
    let revision = desk.revision(number).await?;
    Ok(Json(revision.ok_or_else(|| DeskError::Missing(format!("revision {number}")))?))
}

/// Gives a revision's text, as it was uploaded.
#[utoipa::path(get, path = "/revisions/{number}/text", tag = "revisions", params(("number" = u64, Path)), responses(
    (status = 200, body = String, content_type = "application/toml"), (status = 404, body = ErrorBody),
))]
pub(super) async fn text(
    State(desk): State<Shared>,
    Path(number): Path<u64>,
) -> Result<impl IntoResponse, Refusal> {
    Ok(([(header::CONTENT_TYPE, "application/toml")], desk.text(number).await?))
}

/// Against what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Against {
    /// Another revision; its parent, if left out.
    against: Option<u64>,
}

/// Says what a revision changes, in its text and in what it means.
#[utoipa::path(get, path = "/revisions/{number}/diff", tag = "revisions", params(("number" = u64, Path), Against), responses(
    (status = 200, body = Diff), (status = 404, body = ErrorBody),
))]
pub(super) async fn diff(
    State(desk): State<Shared>,
    Path(number): Path<u64>,
    Query(query): Query<Against>,
) -> Result<Json<Diff>, Refusal> {
    let revision = desk.revision(number).await?;
    let revision = revision.ok_or_else(|| DeskError::Missing(format!("revision {number}")))?;
    let from = query.against.or(revision.parent).unwrap_or_default();
    Ok(Json(desk.diff(from, number).await?))
}
