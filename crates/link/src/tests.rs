//! Peers that do what our own ends never would, so they need the QUIC below.

use std::sync::Arc;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use weir_model::NodeId;

use crate::ca::Authority;
use crate::{Connection, Dialer, Identity, Listener, RecvError, Settings};

struct World {
    dir: TempDir,
    listener: Listener,
    addr: String,
}

fn identity(dir: &TempDir, name: &str) -> Identity {
    let authority = Authority::open(dir.path()).unwrap();
    let issued = authority.issue(&NodeId::new(name).unwrap(), &[], 1).unwrap();
    Identity::load(&issued.ca, &issued.cert, &issued.key).unwrap()
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    Authority::create(dir.path()).unwrap();
    let addr = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(addr, &identity(&dir, "sink-1"), Settings::default()).unwrap();
    let addr = listener.local_addr().to_string();
    World { dir, listener, addr }
}

async fn connect(world: &World) -> (Connection, Connection, Dialer) {
    let dialer = Dialer::new(&identity(&world.dir, "edge-1"), Settings::default()).unwrap();
    let sink = NodeId::new("sink-1").unwrap();
    let (edge, sink) = tokio::join!(dialer.dial(&world.addr, &sink), world.listener.accept());
    (edge.unwrap(), sink.unwrap().unwrap(), dialer)
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused() {
    let world = world();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.dir.path().join(crate::ca::CA_CERT)).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut bare = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    bare.alpn_protocols = vec![b"weir/1".to_vec()];
    let bare = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(bare).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(bare, world.addr.parse().unwrap(), "sink-1").unwrap();

    let caller = async {
        match connecting.await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        }
    };
    let (told, accepted) = tokio::join!(caller, world.listener.accept());
    let error = accepted.unwrap().unwrap_err().to_string();
    assert!(error.contains("peer sent no certificates"), "{error}");
    assert!(told.to_string().contains("peer sent no certificates"), "{told}");
}

#[tokio::test]
async fn a_stream_that_ends_within_a_message_is_truncated() {
    let world = world();
    let (edge, sink, _dialer) = connect(&world).await;
    // Lane number, lengths 2 and 5, head, and 4 bytes of payload.
    let cut: &[u8] = &[9, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 1, 1, 2, 2, 2, 2];
    for length in [5, 12, 13, cut.len()] {
        let mut stream = edge.quic().open_uni().await.unwrap();
        stream.write_all(&cut[..length]).await.unwrap();
        stream.finish().unwrap();
        let mut lane = sink.accept_lane().await.unwrap();
        let error = lane.recv(100).await.unwrap_err();
        assert!(matches!(error, RecvError::Truncated), "{length} bytes: {error}");
    }
}

#[tokio::test]
async fn a_stream_that_does_not_begin_as_it_should_is_refused() {
    let world = world();
    let (edge, sink, _dialer) = connect(&world).await;
    let mut lane = edge.quic().open_uni().await.unwrap();
    lane.write_all(&[1, 2]).await.unwrap();
    lane.finish().unwrap();
    assert!(matches!(sink.accept_lane().await, Err(RecvError::Opening)));

    let (mut control, _answers) = edge.quic().open_bi().await.unwrap();
    control.write_all(b"x").await.unwrap();
    assert!(matches!(sink.accept_control().await, Err(RecvError::Opening)));

    // The connection is none the worse.
    let (mut control, _answers) = edge.open_control().await.unwrap();
    control.send(Bytes::from_static(b"hello")).await.unwrap();
    let (_, mut received) = sink.accept_control().await.unwrap();
    assert_eq!(received.recv().await.unwrap().unwrap(), "hello");
}
