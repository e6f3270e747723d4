//! What a part's files hold. Interim, until `weir-shape` is there: plain entries of numeric members only.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use weir_store::{Committed, Part, Partition, StoreError};

use crate::settings::HdfsSettings;

/// One file of a part.
pub(crate) struct File {
    pub(crate) partition: Partition,
    pub(crate) bytes: Bytes,
}

/// All of a part.
pub(crate) struct Contents {
    pub(crate) files: Vec<File>,
    pub(crate) committed: Committed,
}

/// How the files' names end.
pub(crate) fn suffix(_settings: &HdfsSettings) -> String {
    ".jsonl".into()
}

/// Shapes a part.
pub(crate) async fn of(part: &Part, _settings: &HdfsSettings) -> Result<Contents, StoreError> {
    let unreadable = |error| StoreError::transient(format!("decoding a batch of part {}", part.id), error);
    // A file for each partition, without events too: a resolver looks for all of them.
    let mut files: BTreeMap<Partition, Vec<u8>> =
        part.partitions.iter().map(|partition| (partition.clone(), Vec::new())).collect();
    let mut committed = Committed::default();
    for batch in &part.batches {
        let payload = batch.payload.load().map_err(unreadable)?;
        let mut rest = &payload[..];
        while !rest.is_empty() {
            let (time, record): (u32, BTreeMap<String, u64>) =
                rmp_serde::from_read(&mut rest).map_err(|error| unreadable(io::Error::other(error)))?;
            let partition: Partition = format!("{}/{}", batch.header.tag, time / 3600).into();
            if batch.done.contains(&partition) {
                continue;
            }
            let members: Vec<String> =
                record.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let line = format!("{{\"time\":{time},\"record\":{{{}}}}}\n", members.join(","));
            files.entry(partition).or_default().extend_from_slice(line.as_bytes());
            committed.events += 1;
            committed.bytes += line.len() as u64;
        }
    }
    let files = files.into_iter().map(|(partition, bytes)| File { partition, bytes: bytes.into() }).collect();
    Ok(Contents { files, committed })
}
