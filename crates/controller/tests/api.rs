//! The API as its users meet it: the description, tokens and roles, revisions and roll-outs, over real HTTP.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use weir_controller::api;
use weir_controller::desk::Desk;
use weir_controller::state::{Memory, Standing};
use weir_controller::tokens::Role;

const TOPOLOGY: &str = r#"version = 1
[cluster]
name = "test"
[[edge]]
name = "edge-1"
rack = "r1"
[[group]]
id = "app"
sink = [{ name = "app-1", rack = "r1", address = "127.0.0.1:24401" }]
[group.store]
kind = "file"
path = "/srv/logs"
[[route]]
match = "**"
groups = ["app"]
"#;

struct Scene {
    desk: Arc<Desk>,
    state: Arc<Memory>,
    admin: String,
}

impl Scene {
    async fn new() -> Self {
        let state = Arc::new(Memory::default());
        let desk = Arc::new(Desk::new(state.clone(), Box::new(|_| Ok(()))));
        let (_, admin) = desk.create_token("ada", Role::Admin, "test").await.unwrap();
        Self { desk, state, admin }
    }

    async fn send(&self, token: &str, method: Method, path: &str, body: impl Into<Body>) -> Response {
        let request = Request::builder().method(method).uri(path);
        let request = if token.is_empty() {
            request
        } else {
            request.header("authorization", format!("Bearer {token}"))
        };
        api::router(self.desk.clone()).oneshot(request.body(body.into()).unwrap()).await.unwrap()
    }

    /// As admin; the status and the JSON.
    async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.send(&self.admin, method, &format!("/api/v1{path}"), body).await;
        (response.status(), json(response).await)
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask(Method::GET, path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{path}: {value}");
        value
    }

    async fn upload(&self, text: &str) -> (StatusCode, Value) {
        self.ask(Method::POST, "/revisions", json!({"text": text, "message": "why"})).await
    }
}

async fn json(response: Response) -> Value {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 22).await.unwrap();
    serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()))
}

#[tokio::test]
async fn the_description_and_the_routes_are_the_same() {
    let scene = Scene::new().await;
    let document = json(scene.send("", Method::GET, "/api/v1/openapi.json", Body::empty()).await).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let mut seen = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with("/api/v1/"), "{path}");
        for (method, operation) in operations.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let real = path.replace("{number}", "1").replace("{name}", "x").replace("{id}", "x");
            // Without a token every real route says 401; what is no route says 404 or 405.
            let response = scene.send("", method.clone(), &real, Body::empty()).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            let words = operation["summary"].as_str().or(operation["description"].as_str());
            assert!(words.is_some_and(|words| words.len() > 10), "{method} {path} is not described");
            assert!(operation["responses"].as_object().is_some_and(|all| !all.is_empty()), "{method} {path}");
            seen += 1;
        }
    }
    assert_eq!(seen, 22, "a route came or went: is README still right?");
    // Every reference in the document leads somewhere.
    let text = document.to_string();
    for piece in text.split("#/components/schemas/").skip(1) {
        let name = piece.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name} is not described");
    }
}

#[tokio::test]
async fn refusals_have_one_form() {
    let scene = Scene::new().await;
    let cases: &[(&str, Method, &str, &str, StatusCode, &str)] = &[
        ("", Method::GET, "/api/v1/status", "", StatusCode::UNAUTHORIZED, "token"),
        ("weir_000000000000_x", Method::GET, "/api/v1/status", "", StatusCode::UNAUTHORIZED, "token"),
        ("admin", Method::GET, "/api/v1/nothing", "", StatusCode::NOT_FOUND, "no_route"),
        ("admin", Method::PATCH, "/api/v1/status", "", StatusCode::METHOD_NOT_ALLOWED, "no_method"),
        ("admin", Method::GET, "/api/v1/revisions/x", "", StatusCode::BAD_REQUEST, "path"),
        ("admin", Method::GET, "/api/v1/revisions?limit=x", "", StatusCode::BAD_REQUEST, "query"),
        ("admin", Method::GET, "/api/v1/revisions/7", "", StatusCode::NOT_FOUND, "missing"),
        ("admin", Method::GET, "/api/v1/revisions/7/text", "", StatusCode::NOT_FOUND, "missing"),
        ("admin", Method::GET, "/api/v1/rollout", "", StatusCode::NOT_FOUND, "missing"),
        ("admin", Method::GET, "/api/v1/agents/nobody", "", StatusCode::NOT_FOUND, "missing"),
        ("admin", Method::POST, "/api/v1/revisions", "{", StatusCode::BAD_REQUEST, "body"),
        (
            "admin",
            Method::POST,
            "/api/v1/revisions",
            "{\"text\":\"\",\"txt\":1}",
            StatusCode::BAD_REQUEST,
            "body",
        ),
        ("admin", Method::POST, "/api/v1/rollouts", "{\"revision\":1}", StatusCode::NOT_FOUND, "missing"),
        ("admin", Method::POST, "/api/v1/rollout/halt", "", StatusCode::NOT_FOUND, "missing"),
        (
            "admin",
            Method::POST,
            "/api/v1/tokens",
            "{\"name\":\" \",\"role\":\"viewer\"}",
            StatusCode::UNPROCESSABLE_ENTITY,
            "value",
        ),
        ("admin", Method::DELETE, "/api/v1/tokens/x", "", StatusCode::NOT_FOUND, "missing"),
    ];
    for (token, method, path, body, status, code) in cases {
        let token = if *token == "admin" { &scene.admin } else { *token };
        let response = scene.send(token, method.clone(), path, *body).await;
        assert_eq!(response.status(), *status, "{method} {path}");
        let body = json(response).await;
        assert_eq!(body["error"]["code"], *code, "{method} {path}: {body}");
        assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    }
    let large = Body::from(vec![b'x'; 65 << 10]);
    let response = scene.send(&scene.admin, Method::POST, "/api/v1/rollouts", large).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(json(response).await["error"]["code"], "body");
}

#[tokio::test]
async fn roles_are_kept_apart() {
    let scene = Scene::new().await;
    let mut tokens = Vec::new();
    for role in ["viewer", "operator", "admin"] {
        let (status, made) = scene.ask(Method::POST, "/tokens", json!({"name": role, "role": role})).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        tokens.push((made["token"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned()));
    }
    let upload = json!({"text": TOPOLOGY}).to_string();
    let token = json!({"name": "x", "role": "viewer"}).to_string();
    // What the viewer, the operator and the admin are answered.
    let cases: &[(Method, &str, &str, [u16; 3])] = &[
        (Method::GET, "/status", "", [200, 200, 200]),
        (Method::GET, "/audit", "", [200, 200, 200]),
        (Method::POST, "/check", &upload, [403, 200, 200]),
        (Method::POST, "/revisions", &upload, [403, 201, 200]),
        (Method::POST, "/rollout/halt", "", [403, 404, 404]),
        (Method::GET, "/tokens", "", [403, 403, 200]),
        (Method::GET, "/backup", "", [403, 403, 200]),
        (Method::POST, "/tokens", &token, [403, 403, 201]),
        (Method::DELETE, "/tokens/x", "", [403, 403, 404]),
    ];
    for (method, path, body, statuses) in cases {
        for ((token, _), status) in tokens.iter().zip(statuses) {
            let path = format!("/api/v1{path}");
            let response = scene.send(token, method.clone(), &path, (*body).to_owned()).await;
            assert_eq!(response.status().as_u16(), *status, "{method} {path}");
        }
    }
    // A revoked token is one no more; the last admin token stays.
    let (viewer, id) = &tokens[0];
    assert_eq!(
        scene.ask(Method::DELETE, &format!("/tokens/{id}"), Value::Null).await.0,
        StatusCode::NO_CONTENT
    );
    let response = scene.send(viewer, Method::GET, "/api/v1/status", Body::empty()).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let listed = scene.get("/tokens").await;
    let admins: Vec<_> = listed.as_array().unwrap().iter().filter(|token| token["role"] == "admin").collect();
    let (status, _) = scene
        .ask(Method::DELETE, &format!("/tokens/{}", admins[1]["id"].as_str().unwrap()), Value::Null)
        .await;
    // It may have been the caller's own: ask with the desk.
    assert_eq!(status, StatusCode::NO_CONTENT);
    let left = scene.desk.tokens().into_iter().find(|token| token.role == Role::Admin).unwrap();
    assert!(scene.desk.revoke_token(&left.id, "test").await.unwrap_err().to_string().contains("last admin"));
    // Who did what is written down, and no secret with it.
    let audit = scene.desk.audit(None, 100).await.unwrap();
    assert!(audit.iter().any(|entry| entry.action == "token.revoke" && entry.actor == "ada"));
    let numbers: Vec<u64> = audit.iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, (1..=audit.len() as u64).rev().collect::<Vec<_>>());
    assert!(!serde_json::to_string(&audit).unwrap().contains("weir_"));
}

#[tokio::test]
async fn revisions_are_checked_and_never_change() {
    let scene = Scene::new().await;
    let (status, body) = scene.upload(&TOPOLOGY.replace("groups = [\"app\"]", "groups = [\"apq\"]")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let problem = &body["error"]["problems"][0];
    assert_eq!((problem["line"].as_u64(), problem["column"].as_u64()), (Some(15), Some(11)), "{body}");
    assert!(problem["hint"].as_str().unwrap().contains("app"), "{body}");

    let relative =
        TOPOLOGY.replace("[[route]]", "[forward]\ntls = { cert = \"a.crt\", key = \"/a.key\" }\n[[route]]");
    let (status, body) = scene.upload(&relative).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.to_string().contains("must be absolute"), "{body}");

    let secret = TOPOLOGY.replace(
        "kind = \"file\"\npath = \"/srv/logs\"",
        "kind = \"kafka\"\nbrokers = [\"k:1\"]\n[group.store.options]\n\"sasl.password\" = \"hunter2\"",
    );
    let (status, body) = scene.upload(&secret).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.to_string().contains("holds a secret") && !body.to_string().contains("hunter2"), "{body}");
    assert_eq!(scene.get("/revisions").await, json!([]), "nothing was kept");

    let (status, first) = scene.upload(TOPOLOGY).await;
    assert_eq!((status, first["revision"]["number"].as_u64()), (StatusCode::CREATED, Some(1)));
    let (status, again) = scene.upload(TOPOLOGY).await;
    assert_eq!((status, &again["revision"]), (StatusCode::OK, &first["revision"]));
    let second = TOPOLOGY.replace("rack = \"r1\"\n[[group]]", "rack = \"r2\"\n[[group]]");
    let (_, second) = scene.upload(&second).await;
    assert_eq!(second["revision"]["parent"], 1);
    let revision = scene.get("/revisions/2").await;
    assert_eq!((revision["author"].as_str(), revision["message"].as_str()), (Some("ada"), Some("why")));
    assert_eq!(scene.get("/revisions/1/text").await, TOPOLOGY);
    let diff = scene.get("/revisions/2/diff").await;
    assert_eq!(diff["meaning"], json!(["edge edge-1: rack r2 instead of r1"]));
    assert!(diff["text"].as_str().unwrap().contains("-rack = \"r1\"\n+rack = \"r2\""), "{diff}");
    let listed = scene.get("/revisions?limit=1").await;
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(scene.get("/revisions?before=2").await[0]["number"], 1);
}

#[tokio::test]
async fn a_follower_sends_callers_to_the_leader() {
    let scene = Scene::new().await;
    scene.state.set_standing(Standing::Following(Some("https://leader:1/".to_owned())));
    let response = scene.send(&scene.admin, Method::GET, "/api/v1/agents?x=1", Body::empty()).await;
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(response.headers()["location"], "https://leader:1/api/v1/agents?x=1");
    scene.state.set_standing(Standing::Following(None));
    let (status, body) = scene.ask(Method::GET, "/status", Value::Null).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("no_leader"))
    );
}
