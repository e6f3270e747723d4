//! Who may come in: leadership, token and role, before any handler runs.

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::Instant;

use weir_telemetry::names;

use super::Shared;
use super::error::{Refusal, nobody_leads};
use crate::state::Standing;
use crate::tokens::Role;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The token's name.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

impl Caller {
    pub(super) fn may(&self, role: Role) -> Result<(), Refusal> {
        if self.role >= role {
            return Ok(());
        }
        let word = |role: Role| format!("{role:?}").to_lowercase();
        let message = format!(
            "this takes the role {}, and the token of {} has {}",
            word(role),
            self.name,
            word(self.role)
        );
        Err(Refusal::new(StatusCode::FORBIDDEN, "role", message))
    }
}

pub(super) async fn gate(State(desk): State<Shared>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let response = match admitted(&desk, request).await {
        Ok(request) => next.run(request).await,
        Err(response) => *response,
    };
    let class = match response.status().as_u16() {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    names::CONTROLLER_REQUESTS_TOTAL.with([class]).increment(1);
    names::CONTROLLER_REQUEST_SECONDS.with([]).record(began.elapsed().as_secs_f64());
    response
}

async fn admitted(desk: &Shared, mut request: Request) -> Result<Request, Box<Response>> {
    let standing = desk.standing().borrow().clone();
    match standing {
        Standing::Leading => {}
        Standing::Following(Some(api)) => {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let to = format!("{}{path}", api.trim_end_matches('/'));
            let refusal = Refusal::new(
                StatusCode::TEMPORARY_REDIRECT,
                "not_leading",
                format!("the leader is at {api}"),
            );
            return Err(Box::new(([(header::LOCATION, to)], refusal).into_response()));
        }
        Standing::Following(None) => return Err(Box::new(nobody_leads().into_response())),
    }
    // The first request after an election may come before the tokens were read.
    desk.opened().await.map_err(|error| Box::new(Refusal::from(error).into_response()))?;
    let said = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        said.and_then(|said| said.strip_prefix("Bearer ")).and_then(|text| desk.recognise(text.trim()));
    let Some(token) = token else {
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "token", "no token, or one that is not known here")
            .hint("send `Authorization: Bearer <token>`; the first admin token is in the controller's data directory");
        return Err(Box::new(([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response()));
    };
    let caller = Caller { name: token.name, role: token.role };
    // Whoever only looks is a viewer; handlers that ask for more do so themselves.
    let least = if request.method() == Method::GET { Role::Viewer } else { Role::Operator };
    caller.may(least).map_err(|refusal| Box::new(refusal.into_response()))?;
    request.extensions_mut().insert(caller);
    Ok(request)
}
