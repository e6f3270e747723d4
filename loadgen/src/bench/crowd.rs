//! Many senders at once: what an idle connection costs, and a storm of connects.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpSocket,
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use super::{
    Bench,
    cases::Case,
    load::{self, Load},
    report::{CaseReport, Figures},
    states::{mib, paced_figures, until},
    traffic::{Shape, Traffic, Unit},
    weir::{Cluster, Store, metric},
};

/// Connections at scale 1; two ends of each are open files of this machine.
const CROWD: f64 = 10_000.0;
/// After so long nothing is kept for a connection that has nothing to say.
const REST: Duration = Duration::from_secs(4);
/// What a steady sender sends beside a storm, in events a second.
const STEADY: f64 = 20_000.0;
/// How long it does so before, and during.
const STEADY_SECONDS: f64 = 10.0;
/// Nobody waits longer to be let in, or to be answered.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// How a sender of a crowd behaves.
#[derive(Clone, Copy)]
struct Manner {
    /// It speaks TLS.
    tls: bool,
    /// It sends one event and waits for the acknowledgement.
    speaks: bool,
    /// How many connect at one time.
    abreast: usize,
}

/// What became of a crowd.
struct Crowd {
    /// Those that are in, and were answered if they asked.
    open: Vec<Box<dyn Wire>>,
    /// Closed in place of an answer.
    refused: u64,
    /// Until the last of them knew.
    took: Duration,
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Bench<'_> {
    fn crowd(&self) -> usize {
        ((CROWD * self.scale.min(1.0)) as usize).max(10)
    }

    /// Resident bytes of an edge for each connection that says nothing (any more).
    pub(super) fn idle_connections(&self, case: &Case, report: &mut CaseReport) -> anyhow::Result<()> {
        let traffic = single(case)?;
        for _ in 0..self.args.repetitions {
            for (name, tls, speaks) in [
                ("silent", false, false),
                ("after an event", false, true),
                ("silent, TLS", true, false),
                ("after an event, TLS", true, true),
            ] {
                let dir = self.scratch()?;
                let door = if tls {
                    "tls = { cert = \"tls/bench-edge.crt\", key = \"tls/bench-edge.key\" }\n"
                } else {
                    ""
                };
                let cluster = Cluster::with_door(&self.weir, dir.path(), &Store::File, door)?;
                let (edge, forward, page) = cluster.edge()?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                // What the first one costs, everything does once.
                let gather = |count| {
                    let manner = Manner { tls, speaks, abreast: 64 };
                    runtime.block_on(gather(forward, dir.path(), &traffic, count, manner))
                };
                let first = gather(10)?;
                std::thread::sleep(REST);
                let before = edge.usage();
                let crowd = gather(self.crowd())?;
                let all = (crowd.open.len() + first.open.len()) as f64;
                until("all are connected", || Ok(metric(page, "weir_forward_connections", "")? >= all))?;
                std::thread::sleep(REST);
                let grown = edge.usage().resident.saturating_sub(before.resident);
                let figures = Figures::from([
                    ("connections", crowd.open.len() as f64),
                    ("bytes_per_connection", grown as f64 / crowd.open.len() as f64),
                ]);
                report.add(name, figures);
            }
        }
        Ok(())
    }

    /// As many connects as can be, at an edge with a steady sender.
    pub(super) fn storm(&self, case: &Case, report: &mut CaseReport) -> anyhow::Result<()> {
        let (traffic, event) = (Arc::new(Traffic::new(case.shape)?), Arc::new(single(case)?));
        let seconds = STEADY_SECONDS * self.scale.min(1.0);
        let events = (STEADY * seconds) as u64;
        let steady = Load { rate: Some(STEADY), window: 256, events: events.max(1), ..case.load };
        for _ in 0..self.args.repetitions {
            let dir = self.scratch()?;
            let cluster = Cluster::new(&self.weir, dir.path(), &Store::File)?;
            let (edge, forward, page) = cluster.edge()?;
            report.add("steady sender before", paced_figures(&load::run(forward, &traffic, steady)?));
            let before = edge.usage();
            let refused = metric(page, "weir_forward_refused_total", "")?;
            let storm = {
                let (dir, event, count) = (dir.path().to_owned(), event.clone(), self.crowd());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    // They stay until the steady sender is done.
                    let manner = Manner { tls: false, speaks: true, abreast: count };
                    runtime.block_on(gather(forward, &dir, &event, count, manner))
                })
            };
            let beside = Load { first: steady.connections, ..steady };
            report.add("steady sender beside", paced_figures(&load::run(forward, &traffic, beside)?));
            let crowd = storm.join().expect("a storm does not panic")?;
            let counted = metric(page, "weir_forward_refused_total", "")? - refused;
            ensure!(
                crowd.refused as f64 <= counted,
                "{} were refused, and {counted} of these counted",
                crowd.refused
            );
            let now = edge.usage();
            report.add(
                "storm",
                Figures::from([
                    ("accepted", crowd.open.len() as f64),
                    ("refused", crowd.refused as f64),
                    ("seconds", crowd.took.as_secs_f64()),
                    ("edge_mib_before", mib(before.resident)),
                    ("edge_peak_mib", mib(now.resident_peak)),
                ]),
            );
        }
        Ok(())
    }
}

/// What a sender of a crowd says: a chunk of one event.
fn single(case: &Case) -> anyhow::Result<Traffic> {
    Traffic::new(Shape { chunk_events: 1, ..case.shape })
}

/// Connects so many senders; those that are let in stay.
async fn gather(
    to: SocketAddr,
    dir: &Path,
    traffic: &Traffic,
    count: usize,
    manner: Manner,
) -> anyhow::Result<Crowd> {
    let begun = Instant::now();
    let tls = manner.tls.then(|| connector(dir)).transpose()?;
    let turns = Arc::new(Semaphore::new(manner.abreast));
    let mut dials = JoinSet::new();
    for number in 0..count {
        let (tls, turns) = (tls.clone(), turns.clone());
        // A chunk of its own for each, or it would be taken for a retry.
        let message = manner.speaks.then(|| {
            let mut unit = Unit::default();
            traffic.unit(
                &mut unit,
                u32::try_from(number).unwrap_or(u32::MAX),
                begun.elapsed().as_nanos() as u64,
            );
            [&unit.head[..], unit.body.as_deref().unwrap_or_default(), &unit.tail[..]].concat()
        });
        dials.spawn(async move {
            let _turn = turns.acquire().await?;
            tokio::time::timeout(ANSWER_MAX, dial(to, tls, message))
                .await
                .with_context(|| format!("not answered within {ANSWER_MAX:?}"))?
        });
    }
    let mut crowd = Crowd { open: Vec::with_capacity(count), refused: 0, took: Duration::ZERO };
    while let Some(dialled) = dials.join_next().await {
        match dialled?? {
            Some(wire) => crowd.open.push(wire),
            None => crowd.refused += 1,
        }
    }
    crowd.took = begun.elapsed();
    Ok(crowd)
}

/// One sender; none if it was closed in place of an answer.
async fn dial(
    to: SocketAddr,
    tls: Option<TlsConnector>,
    message: Option<Vec<u8>>,
) -> anyhow::Result<Option<Box<dyn Wire>>> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let socket = socket.connect(to).await.with_context(|| format!("connecting to {to}"))?;
    let mut wire: Box<dyn Wire> = match tls {
        None => Box::new(socket),
        Some(tls) => Box::new(tls.connect(ServerName::try_from("bench-edge")?, socket).await?),
    };
    if let Some(message) = message {
        let asked = async {
            wire.write_all(&message).await?;
            wire.flush().await?;
            wire.read(&mut [0; 512]).await
        };
        if !matches!(asked.await, Ok(1..)) {
            return Ok(None);
        }
    }
    Ok(Some(wire))
}

fn connector(dir: &Path) -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("tls/ca.crt"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
