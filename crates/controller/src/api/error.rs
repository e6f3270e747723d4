//! How the API says no.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::check::{Problem, worded};
use crate::desk::DeskError;
use crate::rollout::RequestError;
use crate::state::StateError;

/// The body of every refusal.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// What is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// A word for programs; it does not change.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Where a topology is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// A refusal with its status.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    body: ErrorBody,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let error = ErrorDetail { code, message: message.into(), hint: None, problems: Vec::new() };
        Self { status, body: ErrorBody { error } }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.body.error.hint = Some(hint.into());
        self
    }

    pub(crate) fn problems(problems: Vec<Problem>) -> Self {
        let count = problems.iter().filter(|problem| problem.severity == "error").count();
        let message = format!("the topology has {count} {}", if count == 1 { "error" } else { "errors" });
        let mut refusal = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unsound", message)
            .hint("nothing was kept; mend the file and start again");
        refusal.body.error.problems = problems;
        refusal
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<DeskError> for Refusal {
    fn from(error: DeskError) -> Self {
        let message = worded(&error);
        match error {
            DeskError::Missing(_) => Self::new(StatusCode::NOT_FOUND, "missing", message),
            DeskError::Unsound(problems) => Self::problems(problems),
            DeskError::Request(RequestError::Phase { .. }) => {
                Self::new(StatusCode::CONFLICT, "not_now", message)
                    .hint("`weir rollout status` says where it stands")
            }
            DeskError::Request(RequestError::NoWayBack { .. }) => {
                Self::new(StatusCode::CONFLICT, "no_way_back", message)
                    .hint("roll a better revision out: it takes this one's place")
            }
            DeskError::Busy(_) => Self::new(StatusCode::CONFLICT, "busy", message)
                .hint("wait for its end, or `weir rollout halt`, or `weir rollout rollback`"),
            DeskError::Already(_) => Self::new(StatusCode::CONFLICT, "already", message),
            DeskError::Waves(_) | DeskError::Policy(_) | DeskError::Value(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "value", message)
            }
            DeskError::TokensFull => {
                Self::new(StatusCode::CONFLICT, "tokens_full", message).hint("revoke some")
            }
            DeskError::LastAdmin => {
                Self::new(StatusCode::CONFLICT, "last_admin", message).hint("make another admin token first")
            }
            DeskError::State(error) => Self::from(error),
        }
    }
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        let message = worded(&error);
        match error {
            StateError::Conflict { .. } => {
                Self::new(StatusCode::CONFLICT, "conflict", message).hint("look again, then try again")
            }
            StateError::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
                .hint("even packed, the topology is too long for the state"),
            StateError::NotLeading => nobody_leads(),
            StateError::Unavailable(_) => {
                tracing::warn!(error = %message, "a request failed");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
                    .hint("nodes run on without it; try again, and see whether it was done")
            }
            StateError::Open { .. } | StateError::Disk(_) => {
                tracing::error!(error = %message, "a request failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "state", message)
                    .hint("look at the controller's disk and its log; nodes run on without it")
            }
        }
    }
}

pub(crate) fn nobody_leads() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", "no controller leads at the moment")
        .hint("try again in some seconds; if it stays so, look at etcd")
}
