//! One attempt at a part: its batches into a temporary file for each partition, then the final names.
//!
//! All files are complete and on the disk before the first gets its final name. Left out on purpose: what is damaged in
//! a batch; it is counted and passed over, for another try or another sink would meet the same bytes.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use weir_shape::{CodecWriter, ShapeError, each_event};
use weir_store::{Committed, Part, PartBatch, Partition};

use crate::FileSettings;
use crate::direct::DirectFile;
use crate::disk;
use crate::steps::{Step, Steps};

/// Most files that an attempt has open. A part of more partitions, which only a batch of very many minutes makes, takes
/// one pass over its batches for each so many.
pub(crate) const FILES_MAX: usize = 256;

/// Buffered for all open files of an attempt together, and for each.
const BUFFERS_BYTES: usize = 16 << 20;
const BUFFER_BYTES: std::ops::RangeInclusive<usize> = 64 << 10..=1 << 20;

const NS_PER_SECOND: i64 = 1_000_000_000;

/// Where an attempt writes, and where its files go.
pub(crate) struct Attempt<'a> {
    pub(crate) settings: &'a FileSettings,
    pub(crate) staging: &'a Path,
    /// Counted within the life, so that no two attempts share a file: one may go on when nobody waits for it.
    pub(crate) number: u64,
    pub(crate) steps: &'a Steps,
}

/// The files of one pass, in the making.
struct Files<'a> {
    attempt: &'a Attempt<'a>,
    part: &'a Part,
    open: Vec<Open>,
    by_partition: HashMap<Partition, usize>,
}

struct Open {
    temporary: PathBuf,
    target: PathBuf,
    writer: CodecWriter<DirectFile>,
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
        for batch in &part.batches {
            self.check(part, batch)?;
        }
        let (mut ready, mut committed) = (Vec::with_capacity(part.partitions.len()), Committed::default());
        // A file for each partition, without events too: whoever settles the part looks for all of them.
        for partitions in part.partitions.chunks(FILES_MAX) {
            let buffer_bytes =
                (BUFFERS_BYTES / partitions.len()).clamp(*BUFFER_BYTES.start(), *BUFFER_BYTES.end());
            let mut files = Files { attempt: self, part, open: Vec::new(), by_partition: HashMap::new() };
            for partition in partitions {
                files.open(partition, ready.len(), buffer_bytes)?;
            }
            for batch in &part.batches {
                files.add(batch, &mut committed)?;
            }
            files.finish(&mut ready, &mut committed)?;
        }
        Ok((ready, committed))
    }

    /// That the part names every partition of the batch that is not done: no token would name the others.
    fn check(&self, part: &Part, batch: &PartBatch) -> io::Result<()> {
        let all = self.settings.partition.partitions(&batch.header);
        let done = done(batch);
        let unnamed = |partition: &&Partition| {
            !done.contains(partition) && part.partitions.binary_search(partition).is_err()
        };
        match all.iter().find(unnamed) {
            Some(partition) => {
                let what =
                    format!("batch {} falls into {partition:?}, which the part does not name", batch.id);
                Err(io::Error::other(what))
            }
            None => Ok(()),
        }
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
                tracing::debug!(path = %entry.path().display(), %error, "a temporary file is left for the end of the life");
            }
        }
    }
}

impl Files<'_> {
    /// Makes the file of `partition`, where `before` others were made in earlier passes.
    fn open(&mut self, partition: &Partition, before: usize, buffer_bytes: usize) -> io::Result<()> {
        let Attempt { settings, staging, number, steps } = self.attempt;
        steps.before(Step::Create)?;
        let index = self.open.len();
        let temporary = staging.join(format!("{number}-{}", before + index));
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        let writer = settings.codec.writer(DirectFile::new(file, buffer_bytes));
        let target = target(&settings.root, partition, &format!("{}{}", self.part.id, suffix(settings)));
        self.open.push(Open { temporary, target, writer });
        self.by_partition.insert(partition.clone(), index);
        Ok(())
    }

    /// Writes those events of `batch` that belong into these files.
    fn add(&mut self, batch: &PartBatch, committed: &mut Committed) -> io::Result<()> {
        let settings = self.attempt.settings;
        let counted = settings.partition.partitions(&batch.header);
        let mut of_tag = settings.partition.of_tag(&batch.header.tag);
        let done = done(batch);
        // The file for what is in a partition; none where it is stored already, or in another pass.
        let due = |partition: &Partition| {
            if done.contains(partition) { None } else { self.by_partition.get(partition).copied() }
        };
        let mut written = 0;
        // Most events lie in the second of the one before: its file, or none.
        let mut last: Option<(i64, Option<usize>)> = None;
        let visited = each_event(batch, settings.format, |event| {
            let secs = event.time_ns.div_euclid(NS_PER_SECOND);
            let index = match last {
                Some((same, index)) if same == secs => index,
                _ => {
                    let partition = of_tag.at(secs);
                    // An event of a minute that the header does not count has no partition in any token. It must not be
                    // lost for that, and always goes to the same place.
                    let counts = counted.binary_search(partition).is_ok();
                    let partition = counted.first().filter(|_| !counts).unwrap_or(partition);
                    let index = due(partition);
                    last = Some((secs, index));
                    index
                }
            };
            if let Some(index) = index {
                let writer = &mut self.open[index].writer;
                writer.write_all(event.json)?;
                writer.write_all(b"\n")?;
                written += 1;
            }
            Ok::<(), io::Error>(())
        });
        committed.events += written;
        match visited {
            Ok(_) => {}
            Err(error @ (ShapeError::Unpack(_) | ShapeError::Entry { .. })) => {
                let minutes = batch.header.minutes.iter();
                let ours = minutes.filter(|tally| due(of_tag.at(tally.minute.saturating_mul(60))).is_some());
                let lost = ours.map(|tally| tally.events).sum::<u64>().saturating_sub(written);
                let error = &error as &dyn std::error::Error;
                tracing::error!(batch = %batch.id, tag = %batch.header.tag, lost, error, "a damaged batch is passed over");
                committed.dead_letters += lost;
            }
            Err(error @ (ShapeError::Load(_) | ShapeError::Visitor(_))) => {
                return Err(io::Error::other(BatchError { batch: batch.id.to_string(), source: error }));
            }
        }
        Ok(())
    }

    fn finish(self, ready: &mut Vec<Ready>, committed: &mut Committed) -> io::Result<()> {
        for Open { temporary, target, writer } in self.open {
            let file = writer.finish()?;
            self.attempt.steps.before(Step::Sync)?;
            committed.bytes += file.finish()?;
            ready.push(Ready { temporary, target });
        }
        Ok(())
    }
}

/// Which batch of a part could not be written.
#[derive(Debug, thiserror::Error)]
#[error("batch {batch} cannot be written")]
struct BatchError {
    batch: String,
    source: ShapeError<io::Error>,
}

/// The partitions of a batch that are stored already. There may be thousands.
fn done(batch: &PartBatch) -> HashSet<&Partition> {
    batch.done.iter().collect()
}

/// How the files' names end.
pub(crate) fn suffix(settings: &FileSettings) -> String {
    format!(".jsonl{}", settings.codec.suffix())
}

/// Where the events of a partition are in the end.
pub(crate) fn target(root: &Path, partition: &str, name: &str) -> PathBuf {
    if partition.is_empty() { root.join(name) } else { root.join(partition).join(name) }
}
