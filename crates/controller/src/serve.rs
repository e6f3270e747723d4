//! Serves the API: HTTP/1.1, over TLS unless it is for this machine alone.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::tls::ServerTls;

/// Connections at once. The API is for people and their programs, not for nodes.
const CONNECTIONS_MAX: usize = 512;

/// How long a handshake, or the head of a request, may take.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// How long a stop waits for requests under way.
const GRACE: Duration = Duration::from_secs(5);

/// Serves `router` on `listener` until `stop`, then lets requests under way end.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<ServerTls>,
    stop: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly too many open files: the next call would fail at once, too.
                tracing::warn!(%error, "the API cannot take a connection");
                sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let (router, watcher, stop) = (router.clone(), graceful.watcher(), stop.clone());
        let config = tls.as_ref().map(ServerTls::config);
        tokio::spawn(async move {
            let _permit = permit;
            let ended = async {
                match config {
                    None => talk(stream, router, watcher).await,
                    Some(config) => {
                        let shaken = timeout(HEAD_MAX, TlsAcceptor::from(config).accept(stream)).await??;
                        talk(shaken, router, watcher).await
                    }
                }
            };
            tokio::select! {
                ended = ended => if let Err(error) = ended {
                    tracing::debug!(remote = %SocketAddr::new(remote.ip(), 0).ip(), %error, "a connection to the API ended");
                },
                // Streams of events never end by themselves.
                () = async { stop.cancelled().await; sleep(GRACE).await } => {}
            }
        });
    }
    drop(listener);
    let _ = timeout(GRACE, graceful.shutdown()).await;
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) -> io::Result<()> {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    watcher.watch(connection).await.map_err(io::Error::other)
}
