//! What requests carry, with refusals in the API's own form.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::error::Refusal;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            Refusal::new(rejection.status(), "body", rejection.body_text())
                .hint("the bounds are in the description")
        })?;
        // An empty body is an empty object: every field that may be left out is.
        let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let message = format!("the body is not what it should be: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, "body", message).hint("see /api/v1/openapi.json")
        })
    }
}

/// Pieces of the path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0))
            .map_err(|rejection| Refusal::new(StatusCode::BAD_REQUEST, "path", rejection.body_text()))
    }
}

/// What stands behind the question mark.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|query| Self(query.0))
            .map_err(|rejection| Refusal::new(StatusCode::BAD_REQUEST, "query", rejection.body_text()))
    }
}

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Only what is before this number.
    pub(super) before: Option<u64>,
    /// How many, 1 to 500.
    #[serde(default = "limit")]
    #[param(default = 50, minimum = 1, maximum = 500)]
    pub(super) limit: usize,
}

fn limit() -> usize {
    50
}

impl Page {
    pub(super) fn limit(&self) -> usize {
        self.limit.clamp(1, 500)
    }
}
