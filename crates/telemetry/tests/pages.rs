//! The pages as a scraper sees them: over TCP.
#![expect(clippy::unwrap_used, reason = "a test may")]

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_model::NodeId;
use weir_telemetry::{Direction, Health, Page, Server, TagTable, names};

fn edge() -> Health {
    Health::new("edge", NodeId::new("edge-1").unwrap(), "1.2.3")
}

async fn start(page: Page) -> Server {
    Server::start("127.0.0.1:0".parse().unwrap(), page).await.unwrap()
}

/// One request: the status, the head and the body of the answer.
async fn ask(server: &Server, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

async fn ask_json(server: &Server, path: &str) -> (u16, serde_json::Value) {
    let (status, _, body) = ask(server, path).await;
    (status, serde_json::from_str(&body).unwrap())
}

/// A sample: the name, its labels, its value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads a sample by the grammar of the text format, and panics where the line breaks it.
fn sample(line: &str) -> Sample {
    let name_end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(name_end);
    assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            rest = rest.strip_prefix(',').unwrap_or(rest);
            let (label, value) = rest.split_once("=\"").unwrap();
            let (mut text, mut escaped, mut end) = (String::new(), false, None);
            for (at, character) in value.char_indices() {
                match (escaped, character) {
                    (false, '\\') => escaped = true,
                    (false, '"') => {
                        end = Some(at + 1);
                        break;
                    }
                    (true, 'n') => (text.push('\n'), escaped = false).1,
                    (true, '\\' | '"') | (false, _) => (text.push(character), escaped = false).1,
                    (true, other) => panic!("escape \\{other} in {line}"),
                }
            }
            assert!(labels.insert(label.to_owned(), text).is_none(), "label twice in {line}");
            rest = &value[end.unwrap()..];
        }
        rest = &rest[1..];
    }
    (name.to_owned(), labels, rest.strip_prefix(' ').unwrap().parse().unwrap())
}

/// Reads a whole scrape as Prometheus would, with what promtool checks: each family in one piece, with a help
/// and a type before its samples, and no sample twice.
fn scrape(text: &str) -> Vec<Sample> {
    let (mut helped, mut types, mut seen) = (HashSet::new(), HashMap::new(), HashSet::new());
    let (mut samples, mut current) = (Vec::new(), String::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(helped.insert(name.to_owned()) && !help.is_empty(), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} in two pieces");
            name.clone_into(&mut current);
        } else {
            let (name, labels, value) = sample(line);
            let kind = &types[&current];
            let suffix =
                name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line} within {current}"));
            match kind.as_str() {
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                _ => assert_eq!(suffix, "", "{line} within {current}"),
            }
            assert!(helped.contains(&current), "{current} has no help");
            assert!(seen.insert(format!("{name} {labels:?}")), "{line} twice");
            samples.push((name, labels, value));
        }
    }
    samples
}

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let found = samples.iter().find(|(n, l, _)| n == name && *l == wanted);
    found.unwrap_or_else(|| panic!("{name} {labels:?} not shown")).2
}

#[tokio::test]
async fn a_scrape_is_sound_and_shows_what_was_counted() {
    let hostile = "a\"} 1\nforged{b=\"\\";
    let (taken, stored) = (TagTable::new(Direction::In, 10), TagTable::new(Direction::Stored, 10));
    taken.counter("app.web").add(7, 700);
    stored.counter("app.web").add(6, 600);
    taken.counter(hostile).add(1, 10);
    let server = start(Page::new(edge()).tags(taken).tags(stored)).await;
    names::FORWARD_VIOLATIONS_TOTAL.with(["too_long"]).increment(3);
    names::LOG_BYTES.with([hostile]).set(4096.0);
    names::LOG_FULL_TOTAL.with(["kafka-main", "block"]).increment(1);
    let commits = names::STORE_COMMIT_SECONDS.with([]);
    [0.002, 0.3, 200.0].into_iter().for_each(|seconds| commits.record(seconds));

    let (status, head, body) = ask(&server, "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let samples = scrape(&body);
    for (name, labels, expected) in [
        ("weir_forward_violations_total", &[("reason", "too_long")][..], 3.0),
        ("weir_log_bytes", &[("group", hostile)], 4096.0),
        ("weir_log_full_total", &[("group", "kafka-main"), ("policy", "block")], 1.0),
        ("weir_tag_events_total", &[("tag", "app.web"), ("direction", "in")], 7.0),
        ("weir_tag_bytes_total", &[("tag", "app.web"), ("direction", "stored")], 600.0),
        ("weir_tag_events_total", &[("tag", hostile), ("direction", "in")], 1.0),
        ("weir_tag_events_total", &[("tag", "__other__"), ("direction", "in")], 0.0),
        ("weir_store_commit_seconds_bucket", &[("le", "0.0025")], 1.0),
        ("weir_store_commit_seconds_bucket", &[("le", "60")], 2.0),
        ("weir_store_commit_seconds_bucket", &[("le", "+Inf")], 3.0),
        ("weir_store_commit_seconds_count", &[], 3.0),
        ("weir_build_info", &[("version", "1.2.3")], 1.0),
        ("weir_ready", &[], 0.0),
    ] {
        assert!((value(&samples, name, labels) - expected).abs() < 1e-9, "{name} {labels:?}");
    }
    assert!(value(&samples, "process_resident_memory_bytes", &[]) > 1e6);

    // A kept handle goes on counting into what is shown.
    commits.record(0.3);
    let (_, _, body) = ask(&server, "/metrics").await;
    assert!((value(&scrape(&body), "weir_store_commit_seconds_count", &[]) - 4.0).abs() < 1e-9);
    server.stop().await;
}

#[tokio::test]
async fn health_says_who_is_there() {
    let server = start(Page::new(edge())).await;
    let (status, body) = ask_json(&server, "/health").await;
    assert_eq!(status, 200);
    for (key, expected) in [("status", "alive"), ("role", "edge"), ("name", "edge-1"), ("version", "1.2.3")] {
        assert_eq!(body[key], expected, "{key}");
    }
    assert!(body["uptime_seconds"].is_u64());
    assert_eq!(ask(&server, "/nothing").await.0, 404);
}

#[tokio::test]
async fn ready_flips_and_says_why_not() {
    let health = edge();
    let server = start(Page::new(health.clone())).await;
    let ready = async || {
        let (_, _, body) = ask(&server, "/metrics").await;
        (ask_json(&server, "/ready").await, value(&scrape(&body), "weir_ready", &[]) > 0.5)
    };
    let ((status, body), shown) = ready().await;
    assert_eq!((status, shown), (503, false), "a node that has said nothing yet is not ready");
    assert_eq!(body, serde_json::json!({"ready": false, "conditions": [], "notes": {}}));

    health.set_condition("log kafka-main", Ok(()));
    health.set_condition("listener", Err("port in use".to_owned()));
    let ((status, body), shown) = ready().await;
    assert_eq!((status, shown), (503, false));
    let conditions = serde_json::json!([
        {"name": "listener", "ok": false, "reason": "port in use"},
        {"name": "log kafka-main", "ok": true},
    ]);
    assert_eq!(body, serde_json::json!({"ready": false, "conditions": conditions, "notes": {}}));

    health.set_condition("listener", Ok(()));
    assert!(health.is_ready());
    let ((status, _), shown) = ready().await;
    assert_eq!((status, shown), (200, true));

    health.set_condition("log kafka-main", Err("disk full".to_owned()));
    assert_eq!(ready().await.0.0, 503);
    health.remove_condition("log kafka-main");
    assert_eq!(ready().await.0.0, 200);
}

#[tokio::test]
async fn a_program_adds_pages_of_its_own() {
    let extra = axum::Router::new().route("/api/ledger", axum::routing::get(async || "lost 0"));
    let server = start(Page::new(edge()).merge(extra)).await;
    assert_eq!(ask(&server, "/api/ledger").await.2, "lost 0");
}

#[tokio::test]
async fn a_stop_lets_a_request_end_and_frees_the_port() {
    let (entered, mut inside) = tokio::sync::mpsc::channel(1);
    let (release, gate) = tokio::sync::watch::channel(false);
    let slow = axum::Router::new().route(
        "/slow",
        axum::routing::get(async move || {
            entered.send(()).await.unwrap();
            gate.clone().wait_for(|open| *open).await.unwrap();
            "done"
        }),
    );
    let server = start(Page::new(edge()).merge(slow)).await;
    let addr = server.local_addr();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    inside.recv().await.unwrap();

    let stop = tokio::spawn(server.stop());
    // The stop is under way once nobody else gets in.
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!stop.is_finished(), "a stop waits for the request");
    release.send_replace(true);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("done"), "{answer}");
    stop.await.unwrap();
    let again = Server::start(addr, Page::new(edge())).await.unwrap();
    assert_eq!(ask(&again, "/health").await.0, 200);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let server = start(Page::new(edge())).await;
    let error = Server::start(server.local_addr(), Page::new(edge())).await.unwrap_err();
    assert!(error.to_string().contains(&server.local_addr().to_string()), "{error}");
}
