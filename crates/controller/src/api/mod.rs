//! The REST API under `/api/v1`, with its own description at `/api/v1/openapi.json`.
//!
//! Every route is declared together with its description, so the two cannot differ. Answers are JSON; a refusal is
//! `{"error": {"code", "message", "hint"}}` with a code from [`error`]. A controller that does not lead sends callers to
//! the one that does (307), or says that nobody does (503).

mod admin;
mod agents;
mod error;
mod events;
mod extract;
mod gate;
mod revisions;
mod rollouts;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::Json;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::desk::Desk;
use error::Refusal;

pub use error::ErrorBody;
pub use gate::Caller;

/// Longest body of a request but for an upload, in bytes.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What handlers work with.
pub(crate) type Shared = Arc<Desk>;

#[derive(OpenApi)]
#[openapi(
    info(title = "Weir controller", description = "Revisions of a topology, and how they reach the nodes."),
    modifiers(&Bearer),
    security(("token" = [])),
    tags(
        (name = "revisions", description = "Topologies that were accepted once, and never change."),
        (name = "rollouts", description = "How a revision reaches the nodes."),
        (name = "agents", description = "The nodes, as they report."),
        (name = "admin", description = "Tokens, who changed what, and backups."),
    )
)]
struct Api;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        let scheme =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("weir_<id>_<secret>").build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// All routes, and their description.
fn described() -> (Router<Shared>, Document) {
    let routes = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(revisions::list))
        .routes(routes!(revisions::one))
        .routes(routes!(revisions::text))
        .routes(routes!(revisions::diff))
        .routes(routes!(rollouts::list, rollouts::start))
        .routes(routes!(rollouts::current))
        .routes(routes!(rollouts::halt))
        .routes(routes!(rollouts::resume))
        .routes(routes!(rollouts::approve))
        .routes(routes!(rollouts::roll_back))
        .routes(routes!(agents::status))
        .routes(routes!(agents::list))
        .routes(routes!(agents::one))
        .routes(routes!(events::stream))
        .routes(routes!(admin::audit))
        .routes(routes!(admin::backup))
        .routes(routes!(admin::tokens, admin::create_token))
        .routes(routes!(admin::revoke_token))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let uploads = OpenApiRouter::new()
        .routes(routes!(revisions::upload))
        .routes(routes!(revisions::check))
        .layer(DefaultBodyLimit::max(revisions::BODY_BYTES_MAX));
    OpenApiRouter::with_openapi(Document::default()).nest("/api/v1", routes.merge(uploads)).split_for_parts()
}

/// The description of the API.
#[must_use]
pub fn document() -> Document {
    described().1
}

/// The API over `desk`.
pub fn router(desk: Arc<Desk>) -> Router {
    let (routes, document) = described();
    let document = Arc::new(document);
    let guarded = routes.layer(from_fn_with_state(Arc::clone(&desk), gate::gate)).with_state(desk);
    Router::new()
        .merge(guarded)
        .route("/api/v1/openapi.json", get(move || async move { Json(document.as_ref().clone()) }))
        .fallback(|uri: Uri| async move {
            Refusal::new(StatusCode::NOT_FOUND, "no_route", format!("nothing is at {}", uri.path()))
                .hint("see /api/v1/openapi.json")
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let message = format!("{} does not take {method}", uri.path());
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "no_method", message)
                .hint("see /api/v1/openapi.json")
        })
}
