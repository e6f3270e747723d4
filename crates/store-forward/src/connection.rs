//! One connection to a receiver: TLS, handshake, messages out, acknowledgements in.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::hello::{self, HELLO_BYTES_MAX, Read};
use crate::message::{Answer, Message, answer};
use crate::{ForwardSettings, Security, Server, Tls};

/// Why certificate files do not make a client.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is no PEM of the kind that belongs there.
    #[error("{} holds no usable PEM", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The parts do not fit.
    #[error("the certificates cannot be used")]
    Unfit(#[source] rustls::Error),
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection that has shaken hands.
pub(crate) struct Connection {
    wire: Box<dyn Wire>,
    buffer: BytesMut,
}

pub(crate) fn client(tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let file = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| TlsError::File { path, source }
    };
    let chain = |path: &std::path::Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(|all| all.collect::<Result<Vec<_>, _>>())
            .map_err(file(path))
    };
    let mut roots = RootCertStore::empty();
    for root in chain(&tls.ca)? {
        roots.add(root).map_err(TlsError::Unfit)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unfit)?
        .with_root_certificates(roots);
    Ok(Arc::new(match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(file(key))?;
            builder.with_client_auth_cert(chain(cert)?, private).map_err(TlsError::Unfit)?
        }
    }))
}

impl Connection {
    /// Resolves, connects and shakes hands, within the time that the settings give.
    pub(crate) async fn open(
        settings: &ForwardSettings,
        tls: Option<&Arc<ClientConfig>>,
        server: &Server,
    ) -> io::Result<Self> {
        let opening = async {
            let socket = TcpStream::connect(&server.address).await?;
            socket.set_nodelay(true)?;
            let wire: Box<dyn Wire> = match tls {
                None => Box::new(socket),
                Some(config) => {
                    let host = server.address.rsplit_once(':').map_or(&*server.address, |(host, _)| host);
                    let host = host.trim_matches(['[', ']']);
                    let name = settings.tls.as_ref().and_then(|tls| tls.name.as_deref()).unwrap_or(host);
                    let name = ServerName::try_from(name.to_owned())
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                    Box::new(TlsConnector::from(config.clone()).connect(name, socket).await?)
                }
            };
            let mut connection = Self { wire, buffer: BytesMut::new() };
            if let Some(security) = &settings.security {
                connection.shake_hands(security).await?;
            }
            Ok(connection)
        };
        timeout(settings.connect_timeout, opening)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn shake_hands(&mut self, security: &Security) -> io::Result<()> {
        let salt = format!("{:032x}", rand::random::<u128>());
        let (ping, expected) = self.read(|bytes| hello::ping(bytes, security, salt.clone())).await?;
        self.write(&ping).await?;
        self.read(|bytes| hello::pong(bytes, security, &expected)).await
    }

    async fn read<T>(&mut self, read: impl Fn(&[u8]) -> Read<T>) -> io::Result<T> {
        loop {
            match read(&self.buffer) {
                Read::Done(value, len) => {
                    let _ = self.buffer.split_to(len);
                    return Ok(value);
                }
                Read::Wrong(why) => return Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
                Read::Incomplete if self.buffer.len() > HELLO_BYTES_MAX => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Read::Incomplete => self.fill().await?,
            }
        }
    }

    /// Sends bytes whole.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes).await?;
        self.wire.flush().await
    }

    /// Waits for so many bytes.
    pub(crate) async fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        while self.buffer.len() < bytes.len() {
            self.fill().await?;
        }
        bytes.copy_from_slice(&self.buffer.split_to(bytes.len()));
        Ok(())
    }

    /// Sends a message whole.
    pub(crate) async fn send(&mut self, message: &Message) -> io::Result<()> {
        self.wire.write_all(&message.head).await?;
        self.wire.write_all(&message.payload).await?;
        self.wire.write_all(&message.options).await?;
        self.wire.flush().await
    }

    /// Waits for one acknowledgement of `open`, in whatever order they come; takes it out.
    pub(crate) async fn acknowledged(&mut self, open: &mut HashSet<String>) -> io::Result<()> {
        loop {
            match answer(&self.buffer) {
                Answer::Ack(chunk, len) => {
                    let _ = self.buffer.split_to(len);
                    if open.remove(&chunk) {
                        return Ok(());
                    }
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "it acknowledged a chunk that was not sent",
                    ));
                }
                Answer::Strange => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "its answer is no acknowledgement",
                    ));
                }
                Answer::Incomplete => self.fill().await?,
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.wire.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
