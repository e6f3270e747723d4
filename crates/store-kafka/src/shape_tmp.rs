//! Interim, until `weir-shape` is there: plain entries of text members only, as envelopes.

use std::collections::BTreeMap;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use weir_store::PartBatch;

use crate::producer::Failure;

/// What an event's value looks like.
#[derive(Debug, Clone, Copy)]
pub enum Format {
    /// `{"time","tag","record"}`.
    Envelope,
}

/// Calls `take` with each event's time (nanoseconds since 1970) and value.
pub(crate) fn each(
    batch: &PartBatch,
    mut take: impl FnMut(i64, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let unreadable = || Failure::Kafka {
        what: format!("decoding batch {}", batch.id),
        error: KafkaError::MessageProduction(RDKafkaErrorCode::InvalidRecord),
    };
    let payload = batch.payload.load().map_err(|_| unreadable())?;
    let mut rest = &payload[..];
    while !rest.is_empty() {
        let (time, record): (u32, BTreeMap<String, String>) =
            rmp_serde::from_read(&mut rest).map_err(|_| unreadable())?;
        let value = serde_json::json!({"time": time, "tag": &*batch.header.tag, "record": record});
        take(i64::from(time) * 1_000_000_000, value.to_string().as_bytes())?;
    }
    Ok(())
}
