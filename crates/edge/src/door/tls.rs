//! TLS of a listener, and mutual TLS where senders must have a certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use weir_topology::ForwardTls;

/// Why a listener's certificate files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file holds no PEM of the kind that belongs there.
    #[error("{} holds no usable {expected}; it must be PEM", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
        /// What is wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The authorities do not make a verifier.
    #[error("the certificates in {} cannot verify senders", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Certificate and key do not fit.
    #[error("{} and {} cannot be used together", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
}

/// Reads the files. Versions 1.2 and 1.3 are spoken: Fluentd asks for exactly 1.2 unless it is told otherwise.
pub(crate) fn server_config(tls: &ForwardTls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| TlsError::File {
        path: tls.key.clone(),
        expected: "private key",
        source,
    })?;
    let pair = |source| TlsError::Pair { cert: tls.cert.clone(), key: tls.key.clone(), source };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let wrong = |source| TlsError::Authority { path: path.clone(), source };
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| wrong(error.into()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong(error.into()))?)
        }
    };
    builder.with_single_cert(chain, key).map(Arc::new).map_err(pair)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::File { path: path.to_owned(), expected: "certificate", source };
    let all = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(wrong)?;
    if all.is_empty() { Err(wrong(rustls::pki_types::pem::Error::NoItemsFound)) } else { Ok(all) }
}

/// What tells that a file was replaced, also where a link to it was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<Option<(SystemTime, u64)>>);

/// The stamp of all files of a listener's TLS.
pub(crate) fn stamp(tls: &ForwardTls) -> Stamp {
    let of = |path: &PathBuf| -> io::Result<(SystemTime, u64)> {
        let meta = std::fs::metadata(path)?;
        Ok((meta.modified()?, meta.len()))
    };
    Stamp([&tls.cert, &tls.key].into_iter().chain(&tls.client_ca).map(|path| of(path).ok()).collect())
}
