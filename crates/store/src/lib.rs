//! What a store promises: the [`Backend`] and [`Store`] traits, and the suite that holds every store to them.
//!
//! A sink hands a [`Part`], one exact set of whole batches, to its store; the store writes it under a name
//! that follows from the part's id and commits it as a whole. The store is the arbiter: whatever a dead sink
//! left in doubt is settled by [`Store::resolve`], which first makes sure that the old attempt can no longer
//! succeed and only then looks.
//!
//! Left out on purpose: edges, QUIC, promises between nodes (those are `transit`'s), and any particular store.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod memory;

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use weir_model::{BatchHeader, BatchId, Incarnation, NodeId, PartId};

/// A place within a store that the events of one file, object or topic share: a relative path without the
/// file's name for path-like stores, the empty text for stores that do not partition.
pub type Partition = Arc<str>;

/// One configured store: a Kafka cluster, an HDFS name service, a directory.
///
/// It outlives the lives ([`Store`]) that are begun on it.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Begins a life: from here on, parts of `incarnation` may be committed, and any older attempt of `sink`
    /// that the store can fence is fenced.
    ///
    /// # Errors
    /// [`StoreError::Transient`] when the store cannot be reached; the caller tries again with backoff.
    async fn begin(&self, sink: &NodeId, incarnation: Incarnation) -> Result<Arc<dyn Store>, StoreError>;

    /// What the sink's planner must know before a life is begun.
    fn traits(&self) -> Traits;

    /// The partitions into which the events of a batch with this header fall, sorted and without repetition.
    ///
    /// A pure function of the header: never empty, the same in every life and on every node of the group.
    fn partitions(&self, header: &BatchHeader) -> Vec<Partition>;
}

/// One sink's life on a store.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What another node needs to settle this part after our death: written into the edges' journals with
    /// their promise, before anything of the part is visible in the store. Pure.
    fn token(&self, id: &PartId, partitions: &[Partition]) -> Token;

    /// Writes the part and commits it as a whole. On return all of it is durable and visible, or it is an error.
    ///
    /// Called again with the same part after [`StoreError::Transient`], also when the first attempt in fact
    /// took effect (its answer was lost): the part must still be in the store once.
    /// Where a part falls into several partitions that cannot be committed in one step, they are committed
    /// one after the other, and a death between them shows as [`Outcome::Partial`].
    ///
    /// # Errors
    /// [`StoreError::Transient`]: try again later. [`StoreError::Fenced`]: this life is over.
    async fn commit(&self, part: &Part) -> Result<Committed, StoreError>;

    /// Settles a part that some other life (or an unreachable one) may have left in doubt: fences it, so that a
    /// commit of it that comes later must fail, then looks. May be repeated, by several nodes at once; the answer
    /// is the same for ever.
    ///
    /// # Errors
    /// [`StoreError::Transient`] when the store cannot say yet. [`StoreError::NotHere`] when only the
    /// part's own sink can say (a node-local store). [`StoreError::Token`] when the token is not one of this store's.
    async fn resolve(&self, id: &PartId, token: &Token) -> Result<Outcome, StoreError>;

    /// Ends the life in good order: nothing of it is left staged. Parts in doubt are left to [`Store::resolve`].
    async fn end(&self);
}

/// What a store is like, for the planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// Parts that may be committed at the same time.
    pub parallel_parts: usize,
    /// Most partitions in one part (each may mean an open file).
    pub partitions_max: usize,
    /// Whether any member of the group can resolve a part, or only the sink that wrote it.
    pub shared: bool,
}

/// Opaque bytes by which a store finds and fences a part; versioned by the store that made them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(pub Bytes);

/// One exact set of whole batches, to be committed together.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name: no other set of batches ever bears it.
    pub id: PartId,
    /// The union of its batches' partitions, sorted.
    pub partitions: Vec<Partition>,
    /// Its batches. Those of one log come in ascending order.
    pub batches: Vec<PartBatch>,
}

/// A batch as the store gets it.
#[derive(Debug, Clone)]
pub struct PartBatch {
    /// Its identity in the cluster.
    pub id: BatchId,
    /// What the edge knew of it.
    pub header: Arc<BatchHeader>,
    /// Partitions whose events of this batch are in the store already (see [`Outcome::Partial`]): left out.
    pub done: Vec<Partition>,
    /// The packed entries, in memory or spilled.
    pub payload: Arc<dyn Payload>,
}

/// A batch's bytes, wherever the sink keeps them.
pub trait Payload: fmt::Debug + Send + Sync {
    /// Brings the bytes into memory. May block on a local disk.
    ///
    /// # Errors
    /// The spill file cannot be read.
    fn load(&self) -> io::Result<Bytes>;
}

impl Payload for Bytes {
    fn load(&self) -> io::Result<Bytes> {
        Ok(self.clone())
    }
}

/// What a commit put into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// Events stored.
    pub events: u64,
    /// Bytes written, after formatting and compression.
    pub bytes: u64,
    /// Events that the store would never take and that went to its dead letters instead.
    pub dead_letters: u64,
}

/// What became of a part in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is in the store.
    Committed,
    /// Nothing of it is in the store, and nothing ever will be.
    Void,
    /// Only these partitions are in the store, and no other ever will be under this part's id.
    Partial(Vec<Partition>),
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Unreachable, slow, full, refusing: the same call may succeed later.
    #[error("{what} failed")]
    Transient {
        /// What was being done, with the path or topic.
        what: String,
        /// The library's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another member has fenced this life: nothing of it may be committed any more.
    #[error("this sink's life was fenced by another member of its group")]
    Fenced,
    /// Only the part's own sink can settle it.
    #[error("part {part} lies on the disk of sink {sink} alone: only that sink can settle it", sink = .part.sink)]
    NotHere {
        /// The part in doubt.
        part: PartId,
    },
    /// The token does not decode, or belongs to a store of another kind.
    #[error("the token of part {part} is not one of this store's")]
    Token {
        /// The part in doubt.
        part: PartId,
    },
}

impl StoreError {
    /// A [`StoreError::Transient`] of `what`, caused by `source`.
    pub fn transient(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Transient { what: what.into(), source: source.into() }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}
