//! What a part's files hold: one pass over its batches, each event into the file of its partition.
//!
//! A part is held in memory, packed, so that a retry writes the very same bytes. Left out on purpose: HDFS.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use bytes::Bytes;
use weir_shape::{CodecWriter, ShapeError, each_event};
use weir_store::{Committed, Part, PartBatch, Partition, StoreError};

use crate::settings::HdfsSettings;

const NS_PER_SECOND: i64 = 1_000_000_000;

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
pub(crate) fn suffix(settings: &HdfsSettings) -> String {
    format!(".jsonl{}", settings.codec.suffix())
}

/// Shapes a part. Takes CPU and reads spilled batches: it belongs on a blocking thread.
pub(crate) fn of(part: &Part, settings: &HdfsSettings) -> Result<Contents, StoreError> {
    let mut writers = Writers { settings, open: BTreeMap::new() };
    let mut committed = Committed::default();
    // A file for each partition, without events too: a resolver looks for all of them.
    for partition in &part.partitions {
        writers.of(partition);
    }
    for batch in &part.batches {
        writers.add(batch, &mut committed)?;
    }
    let finish = |(partition, writer): (Partition, CodecWriter<Vec<u8>>)| {
        Ok(File { partition, bytes: writer.finish()?.into() })
    };
    let files: Vec<File> = writers
        .open
        .into_iter()
        .map(finish)
        .collect::<io::Result<_>>()
        .map_err(|error| StoreError::transient(format!("packing part {}", part.id), error))?;
    committed.bytes = files.iter().map(|file| file.bytes.len() as u64).sum();
    Ok(Contents { files, committed })
}

/// The files in the making.
struct Writers<'s> {
    settings: &'s HdfsSettings,
    open: BTreeMap<Partition, CodecWriter<Vec<u8>>>,
}

impl Writers<'_> {
    fn of(&mut self, partition: &Partition) -> &mut CodecWriter<Vec<u8>> {
        let codec = self.settings.codec;
        self.open.entry(partition.clone()).or_insert_with(|| codec.writer(Vec::new()))
    }

    /// Writes a batch's events, but those of partitions that are done.
    fn add(&mut self, batch: &PartBatch, committed: &mut Committed) -> Result<(), StoreError> {
        let settings = self.settings;
        let mut partitions = settings.partitioner.of_tag(&batch.header.tag);
        let mut written = 0;
        let visited = each_event(batch, settings.format, |event| {
            let partition = partitions.at(event.time_ns.div_euclid(NS_PER_SECOND));
            if !batch.done.contains(partition) {
                let writer = self.of(partition);
                writer.write_all(event.json)?;
                writer.write_all(b"\n")?;
                written += 1;
            }
            Ok::<(), io::Error>(())
        });
        committed.events += written;
        match visited {
            Ok(_) => Ok(()),
            // Another try, or another sink, would meet the same bytes: the group must get past them.
            Err(error @ (ShapeError::Unpack(_) | ShapeError::Entry { .. })) => {
                let due = batch.header.minutes.iter().filter(|tally| {
                    let partition = partitions.at(tally.minute.saturating_mul(60));
                    !batch.done.contains(partition)
                });
                let lost = due.map(|tally| tally.events).sum::<u64>().saturating_sub(written);
                let error = &error as &dyn std::error::Error;
                tracing::error!(batch = %batch.id, tag = %batch.header.tag, lost, error, "a damaged batch is passed over");
                committed.dead_letters += lost;
                Ok(())
            }
            Err(error @ (ShapeError::Load(_) | ShapeError::Visitor(_))) => {
                Err(StoreError::transient(format!("shaping batch {}", batch.id), error))
            }
        }
    }
}
