//! The suite against the store in memory, and the suite against a store that is wrong.

use std::sync::Arc;

use async_trait::async_trait;
use weir_shape::{Format, each_event};
use weir_store::Backend;
use weir_store::conformance::{self, Harness};
use weir_store::memory::MemoryBackend;

struct Memory(MemoryBackend);

#[async_trait]
impl Harness for Memory {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.0.clone())
    }

    async fn stored(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for batch in self.0.committed().iter().flat_map(|part| &part.batches) {
            each_event(batch, Format::Envelope, |event| {
                lines.push(String::from_utf8(event.json.to_vec()).expect("JSON is UTF-8"));
                Ok::<_, std::convert::Infallible>(())
            })
            .expect("a batch of the suite has events");
        }
        lines
    }
}

#[tokio::test]
async fn memory_that_all_sinks_share() {
    conformance::run(&Memory(MemoryBackend::new(true))).await;
}

#[tokio::test]
async fn memory_of_one_node() {
    conformance::run(&Memory(MemoryBackend::new(false))).await;
}

/// A store whose readers see everything twice.
struct Doubled(Memory);

#[async_trait]
impl Harness for Doubled {
    fn backend(&self) -> Arc<dyn Backend> {
        self.0.backend()
    }

    async fn stored(&self) -> Vec<String> {
        let lines = self.0.stored().await;
        [lines.clone(), lines].concat()
    }
}

#[tokio::test]
#[should_panic(expected = "whole")]
async fn the_suite_notices_duplicates() {
    conformance::run(&Doubled(Memory(MemoryBackend::new(true)))).await;
}
