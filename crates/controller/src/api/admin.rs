//! Tokens, the audit log, backups.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ErrorBody, Refusal};
use super::extract::{Body, Page, Path, Query};
use super::{Caller, Shared};
use crate::records::AuditEntry;
use crate::tokens::{Role, Token};

/// A token, without what makes it one.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenInfo {
    /// To revoke it by.
    id: String,
    /// Whose it is.
    name: String,
    /// What it may do.
    role: Role,
    /// When it was made.
    created: Timestamp,
}

impl From<Token> for TokenInfo {
    fn from(token: Token) -> Self {
        Self { id: token.id, name: token.name, role: token.role, created: token.created }
    }
}

/// A token that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// Whose it will be.
    name: String,
    /// What it may do.
    role: Role,
}

/// A new token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedToken {
    /// What is kept of it.
    #[serde(flatten)]
    info: TokenInfo,
    /// The token itself. It is shown this once.
    token: String,
}

/// Lists who changed what, the last first.
#[utoipa::path(get, path = "/audit", tag = "admin", params(Page), responses((status = 200, body = [AuditEntry])))]
pub(super) async fn audit(
    State(desk): State<Shared>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<AuditEntry>>, Refusal> {
    Ok(Json(desk.audit(page.before, page.limit()).await?))
}

/// Gives all that the controller keeps, for `weir controller restore`: lines of JSON.
#[utoipa::path(get, path = "/backup", tag = "admin", responses(
    (status = 200, body = String, content_type = "application/x-ndjson"), (status = 403, body = ErrorBody),
))]
pub(super) async fn backup(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<impl IntoResponse, Refusal> {
    caller.may(Role::Admin)?;
    let text = desk.backup(&caller.name).await?;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], text))
}

/// Lists tokens; none can be had back from here.
#[utoipa::path(get, path = "/tokens", tag = "admin", responses((status = 200, body = [TokenInfo]), (status = 403, body = ErrorBody)))]
pub(super) async fn tokens(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<TokenInfo>>, Refusal> {
    caller.may(Role::Admin)?;
    Ok(Json(desk.tokens().into_iter().map(Into::into).collect()))
}

/// Makes a token.
#[utoipa::path(post, path = "/tokens", tag = "admin", request_body = NewToken, responses(
    (status = 201, body = CreatedToken), (status = 403, body = ErrorBody),
))]
pub(super) async fn create_token(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<CreatedToken>), Refusal> {
    caller.may(Role::Admin)?;
    let (token, text) = desk.create_token(&new.name, new.role, &caller.name).await?;
    Ok((StatusCode::CREATED, Json(CreatedToken { info: token.into(), token: text })))
}

/// Revokes a token, from now on.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "admin", params(("id" = String, Path)), responses(
    (status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
))]
pub(super) async fn revoke_token(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    caller.may(Role::Admin)?;
    desk.revoke_token(&id, &caller.name).await?;
    Ok(StatusCode::NO_CONTENT)
}
