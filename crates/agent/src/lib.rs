//! The node's side of the controller: takes the revision that is assigned to this node, has it applied, keeps the
//! last good one on disk, and reports.
//!
//! An [`Agent`] connects out and never listens. It works for whatever implements [`Adopt`], and it is never in the
//! way: a node with a kept revision starts and runs without any controller. What both sides say is in [`talk`];
//! when to come back is in [`comeback`], a value without a clock.
//!
//! Left out on purpose: what a topology means, and how a node applies it.

mod agent;
pub mod comeback;
mod keep;
pub mod talk;

use async_trait::async_trait;

pub use agent::{Agent, AgentSettings, Controller, Standing};
pub use keep::{KeepError, Kept, hash, load};

/// What a node shows of itself. Totals count since the process began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vitals {
    /// Why it cannot do its work, if it cannot.
    pub ailment: Option<String>,
    /// How much its logs hold.
    pub logs: Vec<talk::LogDepth>,
    /// Events that it took in or stored.
    pub events_total: f64,
    /// Bytes of them.
    pub bytes_total: f64,
    /// Everything that an operator would call an error.
    pub errors_total: f64,
}

/// A node that can apply a topology while it runs.
#[async_trait]
pub trait Adopt: Send + Sync + 'static {
    /// Applies the topology whole, or leaves what runs as it is.
    ///
    /// # Errors
    /// Why it was refused, for people.
    async fn adopt(&self, text: &str) -> Result<(), String>;

    /// How the node does.
    async fn vitals(&self) -> Vitals;
}
