//! One connection for who has messages of their own making, and waits for the answer to each.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use crate::connection::{Connection, TlsError, client};
use crate::{ForwardSettings, Server};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The certificate files.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The receiver, or the way to it.
    #[error("{address} cannot be talked to")]
    Receiver {
        /// Whom we asked.
        address: String,
        /// TLS, handshake or network; `TimedOut` where it never said what was expected.
        #[source]
        source: io::Error,
    },
}

/// A connection to one receiver, with TLS and handshake behind it.
pub struct Client {
    connection: Connection,
    answer_max: Duration,
}

impl Client {
    /// Connects to this receiver by these settings; their servers do not matter.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(settings: &ForwardSettings, server: &Server) -> Result<Self, ConnectError> {
        let tls = settings.tls.as_ref().map(client).transpose()?;
        let refused = |source| ConnectError::Receiver { address: server.address.clone(), source };
        let connection = Connection::open(settings, tls.as_ref(), server).await.map_err(refused)?;
        Ok(Self { connection, answer_max: settings.ack_timeout })
    }

    /// Sends bytes, and fills `answer` with what comes back.
    ///
    /// # Errors
    /// The connection ended, or so much did not come within the settings' `ack_timeout`.
    pub async fn ask(&mut self, message: &[u8], answer: &mut [u8]) -> io::Result<()> {
        let asked = async {
            self.connection.write(message).await?;
            self.connection.read_exact(answer).await
        };
        timeout(self.answer_max, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
