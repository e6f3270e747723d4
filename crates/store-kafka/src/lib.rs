//! Kafka as a store: a part is one transaction, and its record in the commit topic goes with it.
//!
//! Start reading at [`KafkaBackend`]. What makes a part stored once, whatever dies, is told and argued at the head
//! of `commits.rs`; consumers must read with `isolation.level=read_committed`. A sink holds one producer, so its
//! connections are one per broker, one to the transaction coordinator and one for bootstrapping, whatever the
//! number of topics.
//!
//! Left out on purpose: making the events' topics (the brokers do, or their operator), schema registries, and
//! deciding when a part is cut.

mod commits;
mod life;
mod producer;
mod settings;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use async_trait::async_trait;
use weir_model::{BatchHeader, Incarnation, NodeId, PartId};
use weir_store::{Backend, Committed, Outcome, Part, Partition, Store, StoreError, Token, Traits};

pub use settings::{Compression, KafkaSettings, Key, SettingsError, Timeouts};

use life::Life;
use token::KafkaToken;

/// One Kafka cluster.
pub struct KafkaBackend {
    settings: Arc<KafkaSettings>,
}

impl KafkaBackend {
    /// Checks the settings; nothing is connected yet.
    ///
    /// # Errors
    /// [`SettingsError`] when an option is unknown, refused or reserved, or a topic's name is illegal.
    pub fn new(settings: KafkaSettings) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self { settings: Arc::new(settings) })
    }
}

#[async_trait]
impl Backend for KafkaBackend {
    async fn begin(&self, sink: &NodeId, incarnation: Incarnation) -> Result<Arc<dyn Store>, StoreError> {
        let (settings, sink) = (Arc::clone(&self.settings), sink.clone());
        let life = blocking(move || {
            tokio::runtime::Handle::current().block_on(commits::ensure_topics(&settings))?;
            Life::begin(settings, sink, incarnation)
        })
        .await?;
        Ok(Arc::new(KafkaStore { settings: Arc::clone(&self.settings), life: Arc::new(life) }))
    }

    fn traits(&self) -> Traits {
        // One transaction at a time is all that a producer has, and it spans all topics.
        Traits { parallel_parts: 1, partitions_max: 1, shared: true }
    }

    fn partitions(&self, _header: &BatchHeader) -> Vec<Partition> {
        vec!["".into()]
    }
}

/// One sink's life on a Kafka cluster.
struct KafkaStore {
    settings: Arc<KafkaSettings>,
    life: Arc<Life>,
}

#[async_trait]
impl Store for KafkaStore {
    fn token(&self, id: &PartId, _partitions: &[Partition]) -> Token {
        self.life.token(id).encode()
    }

    // A caller that gives up waiting does not stop the commit: it goes on to its end, and the next call of any
    // kind waits for that.
    async fn commit(&self, part: &Part) -> Result<Committed, StoreError> {
        let (life, part) = (Arc::clone(&self.life), part.clone());
        blocking(move || life.commit(&part)).await
    }

    async fn resolve(&self, id: &PartId, token: &Token) -> Result<Outcome, StoreError> {
        let (settings, id, token) = (Arc::clone(&self.settings), id.clone(), KafkaToken::decode(id, token)?);
        blocking(move || life::resolve(&settings, &id, &token)).await
    }

    async fn end(&self) {
        let life = Arc::clone(&self.life);
        let ended = blocking(move || {
            life.end();
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::warn!(%error, "ending a life on Kafka");
        }
    }
}

/// Runs `work` where it may block: librdkafka's transactional calls do.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::transient("the Kafka client's thread", error)))
}
