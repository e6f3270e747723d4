//! The link between an edge and a sink: QUIC endpoints, the certificates both sides show, and streams that
//! carry whole messages.
//!
//! Start reading at [`Dialer`] and [`Listener`]; both hand out a [`Connection`], which opens one control
//! stream each way and as many lanes as [`Settings::lanes`] allows. What a message looks like on the wire is
//! in [`framing`], without any QUIC. The cluster's own certificate authority is in [`ca`].
//!
//! Every connection is mutually authenticated: TLS 1.3, both certificates signed by the cluster's authority,
//! and the first DNS name in a certificate is its node's name. A dialler says whom it expects and is refused
//! anybody else; a listener learns who called.
//!
//! Left out on purpose: what a frame or a batch means, credit, retries and reconnecting. Those belong to
//! `transit` and to the programs. This is the only home of `quinn` and `rustls`.

pub mod ca;
mod connection;
mod dialer;
pub mod framing;
mod identity;
mod listener;
mod settings;
mod socket;
mod streams;
#[cfg(test)]
mod tests;

pub use connection::{CloseReason, Connection, Stats};
pub use dialer::{DialError, Dialer};
pub use identity::{Identity, IdentityError};
pub use listener::{AcceptError, Listener};
pub use settings::{MTU_MAX, Settings};
pub use socket::BindError;
pub use streams::{
    CONTROL_BYTES_MAX, ControlReceiver, ControlSender, HEAD_BYTES_MAX, LaneReceiver, LaneSender, RecvError,
    SendError,
};
