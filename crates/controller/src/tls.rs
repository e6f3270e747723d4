//! TLS of the API and of its clients: rustls, with aws-lc-rs named outright.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or holds something else.
    #[error("{}: no usable {expected} ({detail}); expected PEM as `weir ca issue` writes it", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// Certificate and key do not belong together, or are not for this use.
    #[error("{}: {source}", path.display())]
    Unfit {
        /// The certificate.
        path: PathBuf,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
}

/// What a client trusts (nobody, if `ca` is none) and, if the server wants to know, who it is.
///
/// # Errors
/// [`TlsError`].
pub fn client(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for root in certificates(ca)? {
            roots.add(root).map_err(|source| TlsError::Unfit { path: ca.into(), source })?;
        }
    }
    let unfit = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Unfit { path, source }
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unfit(Path::new("TLS")))?
        .with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => {
            builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(unfit(cert))
        }
    }
}

/// The certificate of the API, which can be replaced while it serves.
#[derive(Debug, Clone)]
pub struct ServerTls {
    cert: PathBuf,
    key: PathBuf,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl ServerTls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let config = Arc::new(RwLock::new(server(cert, key)?));
        Ok(Self { cert: cert.into(), key: key.into(), config })
    }

    /// Reads both again, for connections from now on.
    ///
    /// # Errors
    /// [`TlsError`]; the old ones stay then.
    pub fn reload(&self) -> Result<(), TlsError> {
        *self.config.write() = server(&self.cert, &self.key)?;
        Ok(())
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.read().clone()
    }
}

fn server(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let unfit = |source| TlsError::Unfit { path: cert.into(), source };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(certificates(cert)?, private_key(key)?)
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |detail| TlsError::File { path: path.into(), expected: "certificate", detail };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| file(error.to_string()))?;
    if found.is_empty() { Err(file("there is none in it".to_owned())) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| TlsError::File {
        path: path.into(),
        expected: "private key",
        detail: error.to_string(),
    })
}
