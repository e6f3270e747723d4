//! The node's pages: `/metrics`, `/health`, `/ready`, and what else a program adds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::metric::recorder_handle;
use crate::tags::{self, TagTable, write_head, write_sample};
use crate::{Health, names};

/// How often histograms are folded up. They keep every value until then, whether anybody scrapes or not.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long a stop waits for requests under way.
const GRACE: Duration = Duration::from_secs(5);

/// What Prometheus calls the text format that we write.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The server could not begin.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} for metrics and health")]
pub struct ServerError {
    /// The address asked for.
    pub addr: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// What a server shows.
#[derive(Debug, Clone)]
pub struct Page {
    health: Health,
    tags: Vec<TagTable>,
    extra: Router,
}

impl Page {
    /// Metrics of the process, and `health`.
    #[must_use]
    pub fn new(health: Health) -> Self {
        Self { health, tags: Vec::new(), extra: Router::new() }
    }

    /// Shows the per-tag figures of `table` too. At most one table per direction.
    #[must_use]
    pub fn tags(mut self, table: TagTable) -> Self {
        self.tags.push(table);
        self
    }

    /// Serves the routes of `extra` too.
    ///
    /// # Panics
    /// When a path is taken already: an error of the program, not of its input.
    #[must_use]
    pub fn merge(mut self, extra: Router) -> Self {
        self.extra = self.extra.merge(extra);
        self
    }

    fn router(self) -> Router {
        let shown = Shown { health: self.health, tags: self.tags.into() };
        Router::new()
            .route("/metrics", get(metrics))
            .route("/health", get(health))
            .route("/ready", get(ready))
            .with_state(shown)
            .merge(self.extra)
    }
}

/// A running server. Dropping it closes the port; [`stop`](Self::stop) also waits for requests under way.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    stopping: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Begins to serve `page` on `addr` (port 0 for any). Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`ServerError`] when the address is not free or not ours.
    pub async fn start(addr: SocketAddr, page: Page) -> Result<Self, ServerError> {
        let wrap = |source| ServerError { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(wrap)?;
        let addr = listener.local_addr().map_err(wrap)?;
        let (stopping, stop) = watch::channel(false);
        let task = tokio::spawn(serve(listener, page.router(), stop));
        Ok(Self { addr, stopping, task })
    }

    /// The address that is bound, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no more requests, lets those under way end (5 s at most), and returns when the port is free.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        if timeout(GRACE, &mut self.task).await.is_err() {
            self.task.abort();
            // The abort takes effect at the task's next wait; the port is free only then.
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let upkeep = async {
        let mut ticks = interval(UPKEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let recorder = recorder_handle();
        loop {
            ticks.tick().await;
            recorder.run_upkeep();
        }
    };
    let stopped = async move {
        // An error means that the server was dropped: the same.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::select! {
        () = upkeep => {}
        ended = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).with_graceful_shutdown(stopped) => {
            if let Err(error) = ended {
                tracing::error!(%error, "the server of metrics and health ended");
            }
        }
    }
}

#[derive(Clone)]
struct Shown {
    health: Health,
    tags: Arc<[TagTable]>,
}

async fn metrics(State(shown): State<Shown>) -> Response {
    // Sorting and printing some thousand series takes milliseconds: not on a thread that moves data.
    match tokio::task::spawn_blocking(move || render(&shown)).await {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn render(shown: &Shown) -> String {
    let mut out = recorder_handle().render();
    tags::render(&shown.tags, &mut out);
    // These belong to this node, while the recorder may be shared with others in one process.
    write_head(names::BUILD_INFO.entry(), &mut out);
    write_sample(names::BUILD_INFO.entry(), &[shown.health.version()], 1, &mut out);
    if let Some(revision) = shown.health.revision() {
        write_head(names::CONFIG_INFO.entry(), &mut out);
        write_sample(names::CONFIG_INFO.entry(), &[&revision], 1, &mut out);
    }
    write_head(names::READY.entry(), &mut out);
    write_sample(names::READY.entry(), &[], shown.health.is_ready().into(), &mut out);
    if let Some(bytes) = resident_memory() {
        write_head(names::RESIDENT_MEMORY_BYTES.entry(), &mut out);
        write_sample(names::RESIDENT_MEMORY_BYTES.entry(), &[], bytes, &mut out);
    }
    out
}

/// Memory of this process in RAM, in bytes, where the system tells (proc(5), VmRSS).
#[must_use]
pub fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

async fn health(State(shown): State<Shown>) -> Response {
    Json(shown.health.alive()).into_response()
}

async fn ready(State(shown): State<Shown>) -> Response {
    let readiness = shown.health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}
