//! Section 8 of the protocol: HELO, PING and PONG, spoken where a shared key is configured.
//!
//! Left out on purpose: randomness (nonce and salt are given), name resolution (clients are networks), TLS, and the
//! deadline, which is the driver's.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;
use weir_model::Network;

use crate::frame::{Frame, Framer};
use crate::scan::text;
use crate::session::{Limits, Session};

/// Most bytes of a PING (R55); a longer one is invalid.
const PING_BYTES_MAX: usize = 8 << 10;
/// Longest host name (RFC 1035, section 2.3.4). It keeps a PONG below the 512 bytes that senders read (R55).
const HOSTNAME_BYTES_MAX: usize = 255;

/// Who may connect. It holds secrets and therefore cannot be printed.
pub struct Security {
    /// The name under which this server presents itself. It must differ from every client's own name (R56).
    pub server_hostname: String,
    /// What clients must know, unless their [`Client`] has a key of its own.
    pub shared_key: String,
    /// What is announced as `keepalive`; no known client acts on it.
    pub keepalive: bool,
    /// Whether addresses that match none of the clients may connect.
    pub allow_anonymous_source: bool,
    /// Known clients; the first whose network has the peer's address counts.
    pub clients: Vec<Client>,
    /// Who may log in; `None` where users are not asked for.
    pub users: Option<Vec<User>>,
}

/// A network of clients.
pub struct Client {
    /// Their addresses.
    pub network: Network,
    /// Their own shared key.
    pub shared_key: Option<String>,
    /// The names of the users that may log in from there; `None` for all.
    pub users: Option<Vec<String>>,
}

/// Somebody who may log in.
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
}

/// Why a [`Security`] would not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// The server's name is empty, too long, or the default name of Fluent Bit's clients, which refuse a server
    /// that is called like themselves.
    #[error(
        "{0:?} cannot be the server's host name: up to {HOSTNAME_BYTES_MAX} bytes, and not \"localhost\""
    )]
    ServerHostname(String),
}

impl Security {
    /// Finds what is bound to fail before a client does.
    ///
    /// # Errors
    /// [`SecurityError`] when no client could accept this server.
    pub fn check(&self) -> Result<(), SecurityError> {
        match self.server_hostname.as_str() {
            "" | "localhost" => Err(SecurityError::ServerHostname(self.server_hostname.clone())),
            name if name.len() > HOSTNAME_BYTES_MAX => Err(SecurityError::ServerHostname(name.to_owned())),
            _ => Ok(()),
        }
    }
}

/// The outcome of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// To be written in one piece; after a denial followed by a graceful close, so that it arrives (R57).
    pub pong: Bytes,
    /// Who the client is, or why it may not come in.
    pub outcome: Result<Identity, Denial>,
}

/// What a client said of itself and proved as far as it can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its host name: a claim, covered by the shared key's digest.
    pub hostname: String,
    /// The user that logged in, where users are asked for.
    pub user: Option<String>,
}

/// Why a client may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// Something else than a PING, or one that is not of the form.
    InvalidPing,
    /// From an address that matches no client, where that is not allowed.
    AnonymousSource,
    /// It does not know the shared key.
    SharedKey,
    /// Unknown user, wrong password, or a user that may not log in from there.
    User,
}

impl Denial {
    /// The name under which it is counted; it never changes.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::InvalidPing => "invalid_ping",
            Self::AnonymousSource => "anonymous_source",
            Self::SharedKey => "shared_key_mismatch",
            Self::User => "user_mismatch",
        }
    }

    /// What the client is told, in Fluentd's words.
    fn reason(self, peer: IpAddr) -> String {
        match self {
            Self::InvalidPing => "invalid ping message".to_owned(),
            Self::AnonymousSource => format!("anonymous source host '{peer}' denied"),
            Self::SharedKey => "shared_key mismatch".to_owned(),
            Self::User => "username/password mismatch".to_owned(),
        }
    }
}

/// The server's side of one handshake: send [`hello`](Self::hello), read into [`buffer`](Self::buffer), ask for the
/// [`verdict`](Self::verdict).
pub struct Server {
    security: Arc<Security>,
    peer: IpAddr,
    nonce: [u8; 16],
    auth: [u8; 16],
    buffer: BytesMut,
    framer: Framer,
}

impl Server {
    /// A handshake with a peer at this address. `nonce` and `auth` (the salt for passwords) are random and used once.
    #[must_use]
    pub fn new(security: Arc<Security>, peer: IpAddr, nonce: [u8; 16], auth: [u8; 16]) -> Self {
        Self {
            security,
            peer: peer.to_canonical(),
            nonce,
            auth,
            buffer: BytesMut::new(),
            framer: Framer::new(),
        }
    }

    /// The HELO, to be written in one piece before anything is read. Nonce and salt go as bin, the only form
    /// that every client takes (R53).
    #[must_use]
    pub fn hello(&self) -> Bytes {
        let keepalive: u8 = if self.security.keepalive { 0xc3 } else { 0xc2 };
        [
            b"\x92\xa4HELO\x83\xa5nonce\xc4\x10",
            &self.nonce[..],
            b"\xa4auth\xc4\x10",
            &self.auth[..],
            b"\xa9keepalive",
            &[keepalive],
        ]
        .concat()
        .into()
    }

    /// Where the driver puts what it reads, at the end.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The verdict, once the PING is complete or cannot become one.
    pub fn verdict(&mut self) -> Option<Verdict> {
        let outcome = match self.framer.next(&self.buffer, PING_BYTES_MAX) {
            Ok(None) => return None,
            Ok(Some(frame)) => {
                let ping = self.buffer.split_to(frame.len());
                Ping::read(&ping, &frame).ok_or(Denial::InvalidPing).and_then(|ping| self.judge(&ping))
            }
            Err(_) => Err(Denial::InvalidPing),
        };
        let (pong, outcome) = match outcome {
            Ok((identity, digest)) => (pong(true, "", &self.security.server_hostname, &digest), Ok(identity)),
            Err(denial) => (pong(false, &denial.reason(self.peer), "", ""), Err(denial)),
        };
        Some(Verdict { pong, outcome })
    }

    /// The session behind a granted handshake, with what the client has sent behind its PING. There is no JSON.
    #[must_use]
    pub fn into_session(self, limits: Limits) -> Session {
        Session::with_messagepack(limits, self.buffer)
    }

    /// Address, key, user, in this order. Returns the server's own digest for the PONG.
    fn judge(&self, ping: &Ping<'_>) -> Result<(Identity, String), Denial> {
        let security = &*self.security;
        let client = security.clients.iter().find(|client| client.network.contains(self.peer));
        if client.is_none() && !security.allow_anonymous_source {
            return Err(Denial::AnonymousSource);
        }
        let key = client.and_then(|client| client.shared_key.as_ref()).unwrap_or(&security.shared_key);
        let digest = |hostname: &[u8]| digest(&[ping.salt, hostname, &self.nonce, key.as_bytes()]);
        if !same(&digest(ping.hostname), ping.key_digest) {
            return Err(Denial::SharedKey);
        }
        let user = match &security.users {
            None => None,
            Some(users) => {
                let allowed = client.and_then(|client| client.users.as_deref());
                Some(self.log_in(users, allowed, ping).ok_or(Denial::User)?)
            }
        };
        let identity = Identity { hostname: String::from_utf8_lossy(ping.hostname).into_owned(), user };
        Ok((identity, digest(security.server_hostname.as_bytes())))
    }

    fn log_in(&self, users: &[User], allowed: Option<&[String]>, ping: &Ping<'_>) -> Option<String> {
        users
            .iter()
            .filter(|user| user.name.as_bytes() == ping.username)
            .filter(|user| allowed.is_none_or(|allowed| allowed.contains(&user.name)))
            .find(|user| {
                let expected = digest(&[&self.auth, ping.username, user.password.as_bytes()]);
                same(&expected, ping.password_digest)
            })
            .map(|user| user.name.clone())
    }
}

struct Ping<'a> {
    hostname: &'a [u8],
    salt: &'a [u8],
    key_digest: &'a [u8],
    username: &'a [u8],
    password_digest: &'a [u8],
}

impl<'a> Ping<'a> {
    /// Six elements, str or bin each; no user may be nil too (R54).
    fn read(bytes: &'a [u8], frame: &Frame) -> Option<Self> {
        let element = |index| frame.element(index).filter(|_| frame.array).and_then(|at| text(&bytes[at]));
        let or_nil = |index| match frame.element(index).map(|at| &bytes[at]) {
            Some([0xc0]) => Some(&b""[..]),
            _ => element(index),
        };
        (element(0)? == b"PING" && frame.element(6).is_none()).then_some(())?;
        Some(Self {
            hostname: element(1)?,
            salt: element(2)?,
            key_digest: element(3)?,
            username: or_nil(4)?,
            password_digest: or_nil(5)?,
        })
    }
}

/// Lowercase hexadecimal SHA-512 of the parts, with nothing between them.
fn digest(parts: &[&[u8]]) -> String {
    let sha = parts.iter().fold(Sha512::new(), |sha, part| sha.chain_update(part));
    format!("{:x}", sha.finalize())
}

/// Compares without telling by its duration how much is right.
fn same(expected: &str, given: &[u8]) -> bool {
    expected.as_bytes().ct_eq(given).into()
}

fn pong(granted: bool, reason: &str, hostname: &str, digest: &str) -> Bytes {
    let mut pong = b"\x95\xa4PONG".to_vec();
    pong.push(if granted { 0xc3 } else { 0xc2 });
    for part in [reason, hostname, digest] {
        // All are below 256 bytes: a reason of ours, a checked host name, a digest.
        let part = &part.as_bytes()[..part.len().min(HOSTNAME_BYTES_MAX)];
        match part.len() as u8 {
            len @ 0..32 => pong.push(0xa0 | len),
            len => pong.extend([0xd9, len]),
        }
        pong.extend(part);
    }
    pong.into()
}
