//! Who a node is: its certificate and key, and whom it trusts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, version};
use weir_model::NodeId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Connection;

/// The protocol both sides must speak (TLS ALPN). A change to framing or greeting takes a new number.
const ALPN: &[u8] = b"weir/1";

/// Why a node's certificate files cannot be used. The text names the file and the mend.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else than what it should.
    #[error("{} holds no usable {expected} ({detail}); expected PEM as `weir ca issue` writes it", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Certificate and key are not a pair.
    #[error("{} does not belong to {}; put both files of one `weir ca issue` in place", key.display(), cert.display())]
    NotAPair {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The certificate's first DNS name is missing or no node name.
    #[error("{} does not name a node ({detail}); the first DNS name in it must be the node's name", cert.display())]
    Name {
        /// The certificate file.
        cert: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Peers would refuse this certificate: another authority, expired, or not meant for both directions.
    #[error("{} does not pass against {}: {source}; issue it anew with `weir ca issue`", cert.display(), ca.display())]
    Untrusted {
        /// The certificate file.
        cert: PathBuf,
        /// The authority's certificate file.
        ca: PathBuf,
        /// What the verifier said.
        source: rustls::Error,
    },
}

/// A node's certificate, key and trusted authority, checked and ready for handshakes. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    name: NodeId,
    expires: SystemTime,
    pub(crate) client: Arc<QuicClientConfig>,
    pub(crate) server: Arc<QuicServerConfig>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the authority's certificate(s), this node's certificate (with its chain, if any) and its key, and
    /// checks what a peer would check: so a mistake shows here, at one node, and not as a refused handshake.
    ///
    /// Several certificates in `ca` are all trusted, which is how an authority is replaced without a gap. Revocation
    /// lists in it hold for what their authority signed.
    ///
    /// # Errors
    /// [`IdentityError`]: a file is missing or not PEM, key and certificate are not a pair, the certificate names
    /// no node, is expired, or comes from another authority.
    pub fn load(ca: &Path, cert: &Path, key: &Path) -> Result<Self, IdentityError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(ca)? {
            roots.add(root).map_err(|error| content(ca, "CA certificate", &error))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(cert)?;
        let private = private_key(key)?;
        let (name, expires) =
            describe(&chain[0]).map_err(|detail| IdentityError::Name { cert: cert.into(), detail })?;
        let server_name =
            server_name(&name).map_err(|detail| IdentityError::Name { cert: cert.into(), detail })?;

        let provider = provider();
        let untrusted = |source| IdentityError::Untrusted { cert: cert.into(), ca: ca.into(), source };
        let verifier_error =
            |error: rustls::server::VerifierBuilderError| content(ca, "CA certificate", &error);
        let revoked = revocations(ca)?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(revoked.clone())
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(verifier_error)?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .with_crls(revoked)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(verifier_error)?;
        let now = UnixTime::now();
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            servers.as_ref(),
            &chain[0],
            &chain[1..],
            &server_name,
            &[],
            now,
        )
        .map_err(untrusted)?;
        clients.verify_client_cert(&chain[0], &chain[1..], now).map_err(untrusted)?;

        let pair = |error| match error {
            rustls::Error::InconsistentKeys(_) => {
                IdentityError::NotAPair { cert: cert.into(), key: key.into() }
            }
            other => content(key, "private key", &other),
        };
        let mut client = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(untrusted)?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain.clone(), private.clone_key())
            .map_err(pair)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the look at the certificate, and so outlive a replaced authority.
        client.resumption = Resumption::disabled();

        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(untrusted)?
            .with_client_cert_verifier(clients.clone())
            .with_single_cert(chain, private)
            .map_err(pair)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;

        // The provider below has the one cipher suite that QUIC's first packet needs.
        let no_suite =
            |_| untrusted(rustls::Error::General("no cipher suite for QUIC's first packet".to_owned()));
        let client = QuicClientConfig::try_from(client).map_err(no_suite)?;
        let server = QuicServerConfig::try_from(server).map_err(no_suite)?;
        Ok(Self { name, expires, client: Arc::new(client), server: Arc::new(server), clients })
    }

    /// Whether the peer of a connection that exists would be let in now: its certificate is of a trusted authority, has
    /// not expired and is not revoked.
    #[must_use]
    pub fn accepts(&self, connection: &Connection) -> bool {
        let chain = connection.chain().unwrap_or_default();
        let verify = |(first, rest): (&CertificateDer<'_>, &[CertificateDer<'_>])| {
            self.clients.verify_client_cert(first, rest, UnixTime::now()).is_ok()
        };
        chain.split_first().is_some_and(verify)
    }

    /// The node's name: the first DNS name in its certificate.
    #[must_use]
    pub fn name(&self) -> &NodeId {
        &self.name
    }

    /// When the certificate stops being valid.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }
}

/// aws-lc-rs, with the cheapest cipher first: AES-128-GCM has hardware everywhere and a secure margin to spare.
/// Always named outright, as rustls panics over a default where a build holds two providers.
fn provider() -> Arc<CryptoProvider> {
    let suites = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| *suite != suites && suite.tls13().is_some());
    provider.cipher_suites.insert(0, suites);
    Arc::new(provider)
}

/// `name` as TLS wants it. A node name with a number as its last label is none: it would read as an address.
pub(crate) fn server_name(name: &NodeId) -> Result<ServerName<'static>, String> {
    match ServerName::try_from(name.as_str().to_owned()) {
        Ok(dns @ ServerName::DnsName(_)) => Ok(dns),
        _ => Err(format!("{name} cannot be a DNS name: a label is empty or the last one is a number")),
    }
}

/// The node that a certificate names, and when it expires.
pub(crate) fn describe(cert: &CertificateDer<'_>) -> Result<(NodeId, SystemTime), String> {
    let (_, cert) = X509Certificate::from_der(cert).map_err(|error| error.to_string())?;
    let names = cert.subject_alternative_name().map_err(|error| error.to_string())?;
    let first = names.iter().flat_map(|names| &names.value.general_names).find_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let name = first.ok_or("there is no DNS name in it")?;
    let expires = Duration::from_secs(cert.validity().not_after.timestamp().try_into().unwrap_or(0));
    Ok((NodeId::new(name).map_err(|error| error.to_string())?, SystemTime::UNIX_EPOCH + expires))
}

fn content(path: &Path, expected: &'static str, detail: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::Content { path: path.into(), expected, detail: detail.to_string() }
}

fn pem_error(path: &Path, expected: &'static str, error: pem::Error) -> IdentityError {
    match error {
        pem::Error::Io(source) => IdentityError::Read { path: path.into(), source },
        other => content(path, expected, &other),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem_error(path, "certificate", error))?;
    if found.is_empty() {
        return Err(content(path, "certificate", &"there is none in it"));
    }
    Ok(found)
}

fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, IdentityError> {
    CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem_error(path, "revocation list", error))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| pem_error(path, "private key", error))
}
