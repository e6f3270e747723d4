//! Against receivers in this process, which speak the protocol by the codec of `weir-forward`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails, there and then")]

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use weir_forward::handshake;
use weir_forward::{Batch, Event, Limits, Session};
use weir_link::ca::{Authority, Issued};
use weir_model::{BatchId, Encoding, Incarnation, LogId, PartId, Seq};
use weir_shape::{Format, each_event};
use weir_store::conformance::{self, Harness, batch, incarnation, now_ns, part, samples, sink};
use weir_store::{Backend, Outcome, Part, PartBatch, Store, StoreError};
use weir_store_forward::{ForwardBackend, ForwardSettings, Security, Server, Tls};

/// Somebody who takes events.
struct Receiver {
    address: SocketAddr,
    state: Arc<Received>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Received {
    batches: Mutex<Vec<Batch>>,
    connections: AtomicUsize,
    /// It takes events and says nothing.
    silent: AtomicBool,
    /// It stores a chunk once, however often it comes.
    recognises: AtomicBool,
    security: Option<Arc<handshake::Security>>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl Receiver {
    async fn start(state: Received) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), Arc::new(state)).await
    }

    async fn at(address: SocketAddr, state: Arc<Received>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let (shared, peer) = (shared.clone(), socket.peer_addr().unwrap().ip());
                connections.spawn(async move {
                    match shared.tls.clone() {
                        None => serve(socket, peer, shared).await,
                        Some(tls) => {
                            if let Ok(socket) = tokio_rustls::TlsAcceptor::from(tls).accept(socket).await {
                                serve(socket, peer, shared).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, accepting }
    }

    /// It is gone, with all its connections.
    async fn stop(self) -> (SocketAddr, Arc<Received>) {
        self.accepting.abort();
        let _ = self.accepting.await;
        (self.address, self.state)
    }

    fn server(&self) -> Server {
        Server { address: self.address.to_string(), weight: 1, standby: false }
    }

    fn events(&self) -> u64 {
        self.state.batches.lock().iter().map(|batch| batch.header.events()).sum()
    }

    fn chunks(&self) -> Vec<Vec<u8>> {
        let batches = self.state.batches.lock();
        batches.iter().flat_map(|batch| &batch.header.chunks).map(|chunk| chunk.id.to_vec()).collect()
    }
}

async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin, peer: IpAddr, state: Arc<Received>) {
    let mut session = match &state.security {
        None => Session::new(Limits::default()),
        Some(security) => {
            let mut server = handshake::Server::new(security.clone(), peer, [1; 16], [2; 16]);
            socket.write_all(&server.hello()).await.unwrap();
            let verdict = loop {
                if let Some(verdict) = server.verdict() {
                    break verdict;
                }
                if !matches!(socket.read_buf(server.buffer()).await, Ok(1..)) {
                    return;
                }
            };
            let _ = socket.write_all(&verdict.pong).await;
            if verdict.outcome.is_err() {
                return;
            }
            server.into_session(Limits::default())
        }
    };
    loop {
        while let Ok(Some(event)) = session.next(now_ns()) {
            let Event::Batch(batch) = event else { continue };
            let acks = batch.acks.clone();
            {
                let mut batches = state.batches.lock();
                let known = |other: &Batch| other.header.chunks == batch.header.chunks;
                if !state.recognises.load(Ordering::SeqCst) || !batches.iter().any(known) {
                    batches.push(batch);
                }
            }
            if !state.silent.load(Ordering::SeqCst) && socket.write_all(&acks).await.is_err() {
                return;
            }
        }
        if !matches!(socket.read_buf(session.buffer()).await, Ok(1..)) {
            return;
        }
    }
}

fn settings(servers: Vec<Server>) -> ForwardSettings {
    ForwardSettings {
        servers,
        tls: None,
        security: None,
        connect_timeout: Duration::from_secs(5),
        ack_timeout: Duration::from_secs(5),
        zstd: false,
        recover_every: Duration::from_millis(50),
    }
}

async fn life(backend: &ForwardBackend) -> (Arc<dyn Store>, PartId) {
    let id = PartId { sink: sink("one"), incarnation: incarnation(), number: 0 };
    (backend.begin(&id.sink, id.incarnation).await.unwrap(), id)
}

fn some(backend: &ForwardBackend, id: PartId, batches: u64) -> Part {
    let batches =
        (0..batches).map(|seq| batch("edge-1", seq, &samples("a.b", "m", now_ns(), 5), Encoding::Plain));
    part(backend, id, batches.collect())
}

struct Suite {
    receiver: Receiver,
    backend: Arc<ForwardBackend>,
}

#[async_trait]
impl Harness for Suite {
    fn backend(&self) -> Arc<dyn Backend> {
        self.backend.clone()
    }

    async fn stored(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let log = Arc::new(LogId {
            edge: "e".parse().unwrap(),
            group: "g".parse().unwrap(),
            incarnation: Incarnation(1),
        });
        for batch in self.receiver.state.batches.lock().iter() {
            let id = BatchId { log: log.clone(), seq: Seq(0) };
            let header = Arc::new(batch.header.clone());
            let batch = PartBatch { id, header, done: Vec::new(), payload: Arc::new(batch.payload.clone()) };
            each_event(&batch, Format::Envelope, |event| {
                lines.push(String::from_utf8(event.json.to_vec()).unwrap());
                Ok::<_, std::convert::Infallible>(())
            })
            .unwrap();
        }
        lines
    }
}

/// One process that knows what it sent keeps all promises towards a receiver that recognises chunks.
#[tokio::test(flavor = "multi_thread")]
async fn receivers_conform_as_far_as_chunks_are_recognised() {
    let receiver = Receiver::start(Received::default()).await;
    receiver.state.recognises.store(true, Ordering::SeqCst);
    let backend = Arc::new(ForwardBackend::new(settings(vec![receiver.server()])).unwrap());
    conformance::run(&Suite { receiver, backend }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_acknowledgement_is_asked_for_again_under_the_same_chunk() {
    let receiver = Receiver::start(Received::default()).await;
    receiver.state.silent.store(true, Ordering::SeqCst);
    let mut settings = settings(vec![receiver.server()]);
    settings.ack_timeout = Duration::from_millis(300);
    let backend = ForwardBackend::new(settings).unwrap();
    let (store, id) = life(&backend).await;
    let part = some(&backend, id, 3);
    assert!(matches!(store.commit(&part).await, Err(StoreError::Transient { .. })));
    receiver.state.silent.store(false, Ordering::SeqCst);
    assert_eq!(store.commit(&part).await.unwrap().events, 15);
    let chunks = receiver.chunks();
    let different: HashSet<_> = chunks.iter().collect();
    assert_eq!((chunks.len(), different.len()), (6, 3), "{chunks:?}");
    // Told once, it is not asked again.
    assert_eq!(store.commit(&part).await.unwrap().events, 15);
    assert_eq!(receiver.chunks().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_and_standby_and_one_that_comes_back() {
    let (first, second, spare) = (
        Receiver::start(Received::default()).await,
        Receiver::start(Received::default()).await,
        Receiver::start(Received::default()).await,
    );
    let servers = vec![
        Server { weight: 3, ..first.server() },
        second.server(),
        Server { standby: true, ..spare.server() },
    ];
    let backend = ForwardBackend::new(settings(servers)).unwrap();
    let (store, id) = life(&backend).await;
    let mut number = 0;
    let mut commit = async |count: u64| {
        for _ in 0..count {
            number += 1;
            let part = some(&backend, PartId { number, ..id.clone() }, 1);
            store.commit(&part).await.unwrap();
        }
    };
    commit(8).await;
    assert_eq!((first.events(), second.events(), spare.events()), (30, 10, 0));
    // Connections are used again.
    assert_eq!(first.state.connections.load(Ordering::SeqCst), 1);
    let (first_address, first_state) = first.stop().await;
    let second = second.stop().await;
    commit(4).await;
    assert_eq!(spare.events(), 20, "the standby one takes all of it");
    let first = Receiver::at(first_address, first_state).await;
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while first.events() == 30 {
        assert!(std::time::Instant::now() < until, "the first is tried again");
        tokio::time::sleep(Duration::from_millis(20)).await;
        commit(1).await;
    }
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_users() {
    let security = handshake::Security {
        server_hostname: "receiver".into(),
        shared_key: "open sesame".into(),
        keepalive: true,
        allow_anonymous_source: true,
        clients: Vec::new(),
        users: Some(vec![handshake::User { name: "ada".into(), password: "hush".into() }]),
    };
    let receiver =
        Receiver::start(Received { security: Some(Arc::new(security)), ..Received::default() }).await;
    let try_with = async |key: &str, password: &str, name: &str| {
        let mut settings = settings(vec![receiver.server()]);
        settings.security = Some(Security {
            self_hostname: name.into(),
            shared_key: key.into(),
            user: Some(("ada".into(), password.into())),
        });
        let backend = ForwardBackend::new(settings).unwrap();
        let (store, id) = life(&backend).await;
        let part = some(&backend, id, 1);
        match store.commit(&part).await {
            Ok(_) => "taken".to_owned(),
            Err(error) => std::error::Error::source(&error).unwrap().to_string(),
        }
    };
    assert_eq!(try_with("open sesame", "hush", "weir").await, "taken");
    assert!(try_with("wrong", "hush", "weir").await.contains("shared_key mismatch"));
    assert!(try_with("open sesame", "wrong", "weir").await.contains("username/password mismatch"));
    assert!(try_with("open sesame", "hush", "receiver").await.contains("our own name"));
    assert_eq!(receiver.events(), 5);
}

fn certificate(issued: &Issued) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&issued.cert).unwrap().map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_file(&issued.key).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_certificates_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    let issue = |name: &str| authority.issue(&name.parse().unwrap(), &[], 1).unwrap();
    let (theirs, ours) = (issue("receiver"), issue("weir"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&theirs.ca).unwrap()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let (chain, key) = certificate(&theirs);
    // As Fluentd does by default: TLS 1.2 alone.
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    let receiver = Receiver::start(Received { tls: Some(Arc::new(tls)), ..Received::default() }).await;
    let others = tempfile::tempdir().unwrap();
    let stranger = Authority::create(others.path()).unwrap().issue(&"x".parse().unwrap(), &[], 1).unwrap();
    let try_with = async |ca: &Issued, identity: Option<&Issued>, name: Option<&str>| {
        let mut settings = settings(vec![receiver.server()]);
        settings.tls = Some(Tls {
            ca: ca.ca.clone(),
            identity: identity.map(|issued| (issued.cert.clone(), issued.key.clone())),
            name: name.map(str::to_owned),
        });
        let backend = ForwardBackend::new(settings).unwrap();
        let (store, id) = life(&backend).await;
        store.commit(&some(&backend, id, 1)).await.map(|_| ())
    };
    try_with(&theirs, Some(&ours), Some("receiver")).await.unwrap();
    for (ca, identity, name, what) in [
        (&stranger, Some(&ours), Some("receiver"), "an authority that we do not know"),
        (&theirs, None, Some("receiver"), "none of our own"),
        (&theirs, Some(&stranger), Some("receiver"), "one of ours that they do not know"),
        (&theirs, Some(&ours), Some("somebody"), "another name"),
        (&theirs, Some(&ours), None, "a name that is not that of the address"),
    ] {
        let tried = try_with(ca, identity, name).await;
        assert!(matches!(tried, Err(StoreError::Transient { .. })), "{what}: {tried:?}");
    }
    assert_eq!(receiver.events(), 5);
}

/// Who accepts connections and says nothing, as a process that hangs does, is waited for once and then left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_only_accepts_is_tried_once() {
    let security = || handshake::Security {
        server_hostname: "receiver".into(),
        shared_key: "open sesame".into(),
        keepalive: true,
        allow_anonymous_source: true,
        clients: Vec::new(),
        users: None,
    };
    let works = Received { security: Some(Arc::new(security())), ..Received::default() };
    let works = Receiver::start(works).await;
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hung = Server { address: hangs.local_addr().unwrap().to_string(), weight: 100, standby: false };
    let mut settings = settings(vec![hung, works.server()]);
    settings.connect_timeout = Duration::from_millis(200);
    settings.recover_every = Duration::from_secs(3600);
    settings.security =
        Some(Security { self_hostname: "weir".into(), shared_key: "open sesame".into(), user: None });
    let backend = ForwardBackend::new(settings).unwrap();
    let (store, id) = life(&backend).await;
    for number in 0..20 {
        store.commit(&some(&backend, PartId { number, ..id.clone() }, 1)).await.unwrap();
    }
    assert_eq!(works.events(), 100);
    let mut connections = 0;
    while timeout(Duration::from_millis(100), hangs.accept()).await.is_ok() {
        connections += 1;
    }
    assert_eq!(connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_left_in_doubt_is_counted() {
    let receiver = Receiver::start(Received::default()).await;
    receiver.state.recognises.store(true, Ordering::SeqCst);
    let dead = ForwardBackend::new(settings(vec![receiver.server()])).unwrap();
    let (store, id) = life(&dead).await;
    let part = some(&dead, id.clone(), 2);
    let token = store.token(&part.id, &part.partitions);
    store.commit(&part).await.unwrap();
    // Another process, under another part: the batches are the same, and so are their chunks.
    let alive = ForwardBackend::new(settings(vec![receiver.server()])).unwrap();
    let (store, other) = life(&alive).await;
    assert_eq!(store.resolve(&id, &token).await.unwrap(), Outcome::Void);
    assert_eq!(alive.possible_duplicates(), 1);
    store.commit(&Part { id: PartId { number: 9, ..other }, ..part }).await.unwrap();
    assert_eq!(receiver.events(), 10, "a receiver that recognises chunks stores them once");
}
