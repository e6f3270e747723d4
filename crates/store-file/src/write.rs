//! One attempt at a part: one pass over its batches into a temporary file for each partition, then the final names.
//!
//! All files are complete and on the disk before the first gets its final name.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use weir_shape::{CodecWriter, each_event};
use weir_store::{Committed, Part, PartBatch, Partition};

use crate::FileSettings;
use crate::disk;
use crate::steps::{Step, Steps};

/// Buffered for each open file; a part may have hundreds.
const BUFFER_BYTES: usize = 16 << 10;

const NS_PER_SECOND: i64 = 1_000_000_000;

/// Where an attempt writes, and where its files go.
pub(crate) struct Attempt<'a> {
    pub(crate) settings: &'a FileSettings,
    pub(crate) staging: &'a Path,
    /// Counted within the life, so that no two attempts share a file: one may go on when nobody waits for it.
    pub(crate) number: u64,
    pub(crate) steps: &'a Steps,
}

/// The files of an attempt, in the making.
struct Files<'a> {
    attempt: &'a Attempt<'a>,
    part: &'a Part,
    open: Vec<Open>,
    by_partition: HashMap<Partition, usize>,
    committed: Committed,
}

struct Open {
    temporary: PathBuf,
    target: PathBuf,
    writer: CodecWriter<BufWriter<File>>,
}

/// A complete file and the name that it is to have.
struct Ready {
    temporary: PathBuf,
    target: PathBuf,
}

impl Attempt<'_> {
    /// Stores the part. Files that are in place already, from an earlier attempt, stay as they are.
    pub(crate) fn store(&self, part: &Part) -> io::Result<Committed> {
        let (ready, committed) = self.write(part)?;
        self.publish(&ready)?;
        Ok(committed)
    }

    fn write(&self, part: &Part) -> io::Result<(Vec<Ready>, Committed)> {
        let mut files = Files {
            attempt: self,
            part,
            open: Vec::new(),
            by_partition: HashMap::new(),
            committed: Committed::default(),
        };
        // A file for each partition, without events too: whoever settles the part looks for all of them.
        for partition in &part.partitions {
            files.open(partition)?;
        }
        for batch in &part.batches {
            files.add(batch)?;
        }
        files.finish()
    }

    fn publish(&self, files: &[Ready]) -> io::Result<()> {
        for file in files {
            if let Some(directory) = file.target.parent() {
                self.steps.before(Step::MakeDirectory)?;
                fs::create_dir_all(directory)?;
            }
            self.steps.before(Step::Link)?;
            match fs::hard_link(&file.temporary, &file.target) {
                // The name belongs to this slice of this part alone: what bears it is this very content.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                linked => linked?,
            }
            self.steps.before(Step::Unlink)?;
            fs::remove_file(&file.temporary)?;
        }
        self.steps.before(Step::SyncNames)?;
        disk::sync_up_to(&self.settings.root, files.iter().filter_map(|file| file.target.parent()))
    }

    /// Removes what an attempt that failed has left; the life's end or fence removes what stays.
    pub(crate) fn clear(&self) {
        let Ok(entries) = fs::read_dir(self.staging) else { return };
        let ours = format!("{}-", self.number);
        for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&ours))
        {
            if self.steps.before(Step::Unlink).is_ok()
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::debug!(path = %entry.path().display(), %error, "a temporary file stays for now");
            }
        }
    }
}

impl Files<'_> {
    fn open(&mut self, partition: &Partition) -> io::Result<usize> {
        let Attempt { settings, staging, number, steps } = self.attempt;
        steps.before(Step::Create)?;
        let index = self.open.len();
        let temporary = staging.join(format!("{number}-{index}"));
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        let writer = settings.codec.writer(BufWriter::with_capacity(BUFFER_BYTES, file));
        let target = target(&settings.root, partition, &format!("{}{}", self.part.id, suffix(settings)));
        self.open.push(Open { temporary, target, writer });
        self.by_partition.insert(partition.clone(), index);
        Ok(index)
    }

    fn add(&mut self, batch: &PartBatch) -> io::Result<()> {
        let settings = self.attempt.settings;
        // Most events lie in the second of the one before: its file, or none where the partition is done.
        let mut last: Option<(i64, Option<usize>)> = None;
        each_event(batch, settings.format, |event| {
            let secs = event.time_ns.div_euclid(NS_PER_SECOND);
            let index = match last {
                Some((same, index)) if same == secs => index,
                _ => {
                    let partition = settings.partition.partition_of(event.tag, secs);
                    let known = self.by_partition.get(&partition).copied();
                    let index = match known {
                        _ if batch.done.contains(&partition) => None,
                        Some(index) => Some(index),
                        None => Some(self.open(&partition)?),
                    };
                    last = Some((secs, index));
                    index
                }
            };
            if let Some(index) = index {
                let writer = &mut self.open[index].writer;
                writer.write_all(event.json)?;
                writer.write_all(b"\n")?;
                self.committed.events += 1;
            }
            Ok::<(), io::Error>(())
        })
        .map(drop)
        .map_err(|error| io::Error::other(BatchError { batch: batch.id.to_string(), source: error }))
    }

    fn finish(mut self) -> io::Result<(Vec<Ready>, Committed)> {
        let mut ready = Vec::with_capacity(self.open.len());
        for Open { temporary, target, writer } in self.open {
            let file = writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            self.attempt.steps.before(Step::Sync)?;
            file.sync_all()?;
            self.committed.bytes += file.metadata()?.len();
            ready.push(Ready { temporary, target });
        }
        Ok((ready, self.committed))
    }
}

/// Which batch of a part could not be written.
#[derive(Debug, thiserror::Error)]
#[error("batch {batch} cannot be written")]
struct BatchError {
    batch: String,
    source: weir_shape::ShapeError<io::Error>,
}

/// How the files' names end.
pub(crate) fn suffix(settings: &FileSettings) -> String {
    format!(".jsonl{}", settings.codec.suffix())
}

/// Where the events of a partition are in the end.
pub(crate) fn target(root: &Path, partition: &str, name: &str) -> PathBuf {
    if partition.is_empty() { root.join(name) } else { root.join(partition).join(name) }
}
