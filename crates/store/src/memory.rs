//! A store in memory: the plainest thing that keeps every promise of the traits, for tests and for trying out.
//!
//! Left out on purpose: formatting. It keeps the parts as it got them; whoever wants lines shapes them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use weir_model::{BatchHeader, Incarnation, NodeId, PartId};

use crate::{Backend, Committed, Outcome, Part, Partition, Store, StoreError, Token, Traits};

/// A store in memory with one partition for each tag. Clones share what is stored.
#[derive(Debug, Clone)]
pub struct MemoryBackend {
    shared: bool,
    state: Arc<Mutex<State>>,
}

/// How a commit is made to fail, see [`MemoryBackend::fail_next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing takes effect.
    Refused,
    /// All takes effect, and the answer is lost.
    AnswerLost,
}

#[derive(Debug, Default)]
struct State {
    committed: Vec<Part>,
    known: HashSet<PartId>,
    /// The life of each sink that may commit; those not named here may not.
    lives: HashMap<NodeId, Incarnation>,
    faults: VecDeque<Fault>,
}

impl MemoryBackend {
    /// An empty store. `shared` is whether any sink can settle another's parts.
    #[must_use]
    pub fn new(shared: bool) -> Self {
        Self { shared, state: Arc::default() }
    }

    /// All parts that were committed, in the order of their commits, without the batches that were done before.
    #[must_use]
    pub fn committed(&self) -> Vec<Part> {
        self.state().committed.clone()
    }

    /// Lets one commit more fail in this way. Each call is good for one commit, in the order of the calls.
    pub fn fail_next(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    async fn begin(&self, sink: &NodeId, incarnation: Incarnation) -> Result<Arc<dyn Store>, StoreError> {
        self.state().lives.insert(sink.clone(), incarnation);
        Ok(Arc::new(MemoryStore { backend: self.clone(), sink: sink.clone(), incarnation }))
    }

    fn traits(&self) -> Traits {
        Traits { parallel_parts: 4, partitions_max: 256, shared: self.shared }
    }

    fn partitions(&self, header: &BatchHeader) -> Vec<Partition> {
        vec![Arc::clone(&header.tag)]
    }
}

struct MemoryStore {
    backend: MemoryBackend,
    sink: NodeId,
    incarnation: Incarnation,
}

#[async_trait]
impl Store for MemoryStore {
    fn token(&self, id: &PartId, _partitions: &[Partition]) -> Token {
        Token(id.to_string().into())
    }

    async fn commit(&self, part: &Part) -> Result<Committed, StoreError> {
        let mut state = self.backend.state();
        let fault = state.faults.pop_front();
        if fault == Some(Fault::Refused) {
            return Err(StoreError::transient(format!("committing part {}", part.id), "refused as asked"));
        }
        if state.lives.get(&self.sink) != Some(&self.incarnation) {
            return Err(StoreError::Fenced);
        }
        let mut part = part.clone();
        part.batches.retain(|batch| !batch.done.contains(&batch.header.tag));
        let mut committed = Committed::default();
        for batch in &part.batches {
            committed.events += batch.header.events();
            committed.bytes += batch.header.unpacked_bytes;
        }
        let id = part.id.clone();
        if state.known.insert(id.clone()) {
            state.committed.push(part);
        }
        match fault {
            None => Ok(committed),
            Some(_) => Err(StoreError::transient(format!("committing part {id}"), "answer lost as asked")),
        }
    }

    async fn resolve(&self, id: &PartId, token: &Token) -> Result<Outcome, StoreError> {
        if token.0 != id.to_string() {
            return Err(StoreError::Token { part: id.clone() });
        }
        if !self.backend.shared && id.sink != self.sink {
            return Err(StoreError::NotHere { part: id.clone() });
        }
        let mut state = self.backend.state();
        if state.known.contains(id) {
            return Ok(Outcome::Committed);
        }
        if state.lives.get(&id.sink) == Some(&id.incarnation) {
            state.lives.remove(&id.sink);
        }
        Ok(Outcome::Void)
    }

    async fn end(&self) {
        let mut state = self.backend.state();
        if state.lives.get(&self.sink) == Some(&self.incarnation) {
            state.lives.remove(&self.sink);
        }
    }
}
