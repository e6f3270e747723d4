//! A running edge with a log and no sink, and senders that speak to it byte by byte.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use weir_edge::{Edge, EdgeSettings, StartError};
use weir_link::ca::{Authority, Issued};
use weir_link::{Identity, Settings};
use weir_model::{BatchHeader, NodeId, Seq};
use weir_spool::inspect::{self, Item};
use weir_telemetry::{Direction, Health, TagTable};
use weir_topology::{Topology, parse_topology};

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) edge: Edge,
    pub(crate) authority: Authority,
}

/// Anything that carries bytes both ways.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A sender.
pub(crate) struct Sender(pub(crate) Box<dyn Wire>);

impl Scene {
    /// An edge whose topology has this text besides a group and a route. `{dir}` in it is the scene's directory.
    pub(crate) async fn start(forward: &str) -> Self {
        Self::with_group("", forward).await
    }

    /// The same with further keys of the group.
    pub(crate) async fn with_group(group: &str, forward: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        std::fs::create_dir(&tls).unwrap();
        let authority = Authority::create(&tls).unwrap();
        let name = NodeId::new("edge-1").unwrap();
        let issued = authority.issue(&name, &["localhost".to_owned()], 30).unwrap();
        let settings = EdgeSettings {
            name: name.clone(),
            rack: String::new(),
            data_dir: dir.path().join("data"),
            forward: "127.0.0.1:0".to_owned(),
            identity: Identity::load(&issued.ca, &issued.cert, &issued.key).unwrap(),
            link: Settings::default(),
            inherited: weir_edge::Inherited::default(),
        };
        let tags = TagTable::new(Direction::In, 10);
        let health = Health::new("edge", name, "test");
        let topology = topology(&dir.path().display().to_string(), group, forward);
        let edge = Edge::start(settings, &topology, tags, &health).await.unwrap();
        Self { dir, edge, authority }
    }

    /// Goes on with other settings of listeners.
    pub(crate) async fn listen(&self, forward: &str) -> Result<(), StartError> {
        let topology = topology(&self.dir.path().display().to_string(), "", forward);
        self.edge.apply(&topology).await.map(drop)
    }

    pub(crate) fn issue(&self, name: &str) -> Issued {
        self.authority.issue(&NodeId::new(name).unwrap(), &["localhost".to_owned()], 30).unwrap()
    }

    pub(crate) async fn address(&self) -> String {
        self.edge.forward().await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn tcp(&self) -> Sender {
        Sender(Box::new(TcpStream::connect(self.address().await).await.unwrap()))
    }

    pub(crate) async fn unix(&self, name: &str) -> Sender {
        Sender(Box::new(UnixStream::connect(self.path(name)).await.unwrap()))
    }

    /// Over TLS 1.2, as Fluentd, with the certificate of `name` if there is one; and the certificate that the edge showed,
    /// as PEM.
    pub(crate) async fn tls(&self, name: Option<&str>) -> io::Result<(Sender, String)> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("tls/ca.crt")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots);
        let config = match name {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let issued = self.issue(name);
                let chain =
                    CertificateDer::pem_file_iter(&issued.cert).unwrap().map(Result::unwrap).collect();
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&issued.key).unwrap())
                    .unwrap()
            }
        };
        let socket = TcpStream::connect(self.address().await).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        // The file that it was issued in is the one with the same bytes.
        let files = std::fs::read_dir(self.path("tls")).unwrap().map(|file| file.unwrap().path());
        let same = |path: &PathBuf| {
            path.extension().is_some_and(|kind| kind == "crt")
                && CertificateDer::from_pem_file(path).is_ok_and(|found| found == shown)
        };
        let file = files.into_iter().find(same).expect("a certificate of ours");
        Ok((Sender(Box::new(stream)), std::fs::read_to_string(file)?))
    }
}

impl Sender {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(LONG, async {
            self.0.write_all(bytes).await.unwrap();
            self.0.flush().await.unwrap();
        })
        .await
        .expect("the bytes are taken");
    }

    /// Sends one event with a chunk, and waits for its acknowledgement.
    pub(crate) async fn acked(&mut self, chunk: u8) {
        self.send(&message("t", chunk)).await;
        self.expect(&ack(chunk)).await;
    }

    pub(crate) async fn expect(&mut self, expected: &[u8]) {
        let mut seen = vec![0; expected.len()];
        let read = timeout(LONG, self.0.read_exact(&mut seen)).await.expect("an answer");
        read.unwrap_or_else(|error| panic!("{error} instead of {expected:?}"));
        assert_eq!(seen, expected);
    }

    /// So many bytes, or what comes until the edge closes.
    pub(crate) async fn some(&mut self, bytes: usize) -> Vec<u8> {
        let mut some = Vec::new();
        let _ =
            timeout(LONG, (&mut self.0).take(bytes as u64).read_to_end(&mut some)).await.expect("an answer");
        some
    }

    /// What comes until the edge closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = timeout(LONG, self.0.read_to_end(&mut rest)).await.expect("the connection is closed");
        if let Err(error) = read {
            assert!(rest.is_empty(), "{error} behind {rest:?}");
        }
        rest
    }
}

/// `[tag, 1, {"a": 1}, {"chunk": <one byte>}]`
pub(crate) fn message(tag: &str, chunk: u8) -> Vec<u8> {
    let tag = [&[0xa0 | tag.len() as u8], tag.as_bytes()].concat();
    [b"\x94", &tag[..], b"\x01\x81\xa1a\x01\x81\xa5chunk\xa1", &[chunk]].concat()
}

pub(crate) fn ack(chunk: u8) -> Vec<u8> {
    [b"\x81\xa3ack\xa1", &[chunk][..]].concat()
}

/// Tags and payloads in the log of group `g`, be it open or not.
pub(crate) fn logged(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let visit = |_: &inspect::SegmentInfo, item: Item| {
        if let Item::Record { record, .. } = item {
            let header = BatchHeader::decode(&record.header).unwrap();
            found.push((header.tag.to_string(), record.payload.to_vec()));
        }
        ControlFlow::Continue(())
    };
    inspect::visit(&dir.join("data/logs/g"), Seq(0), visit).unwrap();
    found
}

fn topology(dir: &str, group: &str, forward: &str) -> Topology {
    let text = r#"
        version = 1
        cluster.name = "test"
        edge = [{ name = "edge-1", rack = "r" }]
        [[group]]
        id = "g"
        {group}
        sink = [{ name = "s", rack = "r", address = "127.0.0.1:9" }]
        store = { kind = "file", path = "out" }
        [[route]]
        match = "**"
        groups = ["g"]
    "#;
    let text = format!("{}\n{}", text.replace("{group}", group), forward.replace("{dir}", dir));
    parse_topology(&text, "test").unwrap_or_else(|problems| panic!("{problems:?}")).0
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    timeout(LONG, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{what}: not within {LONG:?}"));
}
