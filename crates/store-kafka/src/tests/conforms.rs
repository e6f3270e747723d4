//! The suite of every store, on one topic of a real cluster.

use std::sync::Arc;

use async_trait::async_trait;
use weir_store::Backend;
use weir_store::conformance::{self, Harness};

use super::{read, settings};
use crate::{KafkaBackend, KafkaSettings};

/// One topic of a real cluster.
struct Cluster {
    settings: Arc<KafkaSettings>,
    backend: Arc<KafkaBackend>,
}

#[async_trait]
impl Harness for Cluster {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend) as _
    }

    async fn stored(&self) -> Vec<String> {
        let settings = Arc::clone(&self.settings);
        let reading = tokio::task::spawn_blocking(move || read(&settings, &settings.topic_of("")));
        reading.await.unwrap().into_iter().map(|(value, _)| value).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_conforms() {
    let mut settings = settings(&kafka!());
    Arc::make_mut(&mut settings).topic = format!("{}-all", settings.group);
    let backend = Arc::new(KafkaBackend::new((*settings).clone()).unwrap());
    conformance::run(&Cluster { settings, backend }).await;
}
