//! Lets go of what a log does not need any more: files whose records are all committed. And makes the next file ready.
//!
//! To unlink a file, to give its pages back, or to make one whose name is durable takes milliseconds, in which nobody would
//! be answered: a [`crate::GroupLog`] leaves all that to a thread of its own. Left out on purpose: which records are committed, and the
//! file that still grows.

use std::io;
use std::sync::Arc;

use weir_model::SeqRanges;

use crate::catalog::{Catalog, NEXT};
use crate::disk::{Disk, DiskFile};
use crate::log::is_full;

/// The file whose room is given up when a full disk will not even let a segment be removed (copy-on-write file
/// systems need room for that).
const RESERVE: &str = "log.reserve";

/// What of a removed file is given back at once. A file system may tell the disk (discard), and a sync of another file
/// waits behind that: 64 MiB took 14 ms.
const GIVE_BACK_BYTES: u64 = if cfg!(test) { 200 } else { 4 << 20 };

/// Removes the segments of one log, and makes files ready for new ones.
#[derive(Debug)]
pub(crate) struct Sweeper<D: Disk> {
    catalog: Arc<Catalog<D>>,
    reserve_bytes: u64,
    reserve: Option<D::File>,
}

impl<D: Disk> Sweeper<D> {
    pub(crate) fn new(catalog: Arc<Catalog<D>>, reserve_bytes: u64) -> Self {
        let mut sweeper = Self { catalog, reserve_bytes, reserve: None };
        sweeper.hold_reserve();
        sweeper
    }

    /// Removes the finished segments whose records are all in `committed`.
    ///
    /// # Errors
    /// What the disk said to the first segment that it would not remove; a later call tries again.
    pub(crate) fn trim(&mut self, committed: &SeqRanges) -> io::Result<()> {
        for view in self.catalog.finished() {
            if committed.covers(view.first..view.segment.end) {
                self.remove(view.first)?;
            }
        }
        self.hold_reserve();
        Ok(())
    }

    /// Makes the file ready into which the next segment goes, unless there is one.
    ///
    /// # Errors
    /// What the disk said; the next segment then makes its file itself.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        let Catalog { disk, dir, prepared, .. } = &*self.catalog;
        if prepared.lock().is_some() {
            return Ok(());
        }
        // The segment begun last may have its new name in memory alone, and this one still on the disk.
        disk.sync_dir(dir)?;
        let file = disk.create(&dir.join(NEXT))?;
        disk.sync_dir(dir)?;
        *prepared.lock() = Some(file);
        Ok(())
    }

    /// Gives back the pages of segments that had stayed for the reader, and that it has passed.
    pub(crate) fn forget_passed(&self) {
        let passed = self.catalog.kept.lock().take_passed();
        for file in
            passed.into_iter().filter_map(|first| self.catalog.disk.open_read(&self.catalog.path(first)).ok())
        {
            if let Ok(bytes) = file.bytes() {
                file.forget(0, bytes);
            }
        }
    }

    fn remove(&mut self, first: u64) -> io::Result<()> {
        let Some(segment) = self.catalog.take(first) else { return Ok(()) };
        let path = self.catalog.path(first);
        let file = self.catalog.disk.open(&path);
        let removed = match self.catalog.disk.remove(&path) {
            Err(error) if is_full(&error) && self.reserve.take().is_some() => {
                let reserve = self.catalog.disk.create(&self.catalog.dir.join(RESERVE));
                reserve.and_then(|_| self.catalog.disk.remove(&path))
            }
            other => other,
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.catalog.put(first, segment);
                Err(error)
            }
            Ok(()) | Err(_) => file.map_or(Ok(()), |file| self.give_back(&file)),
        }
    }

    /// Shortens a file that has no name any more, step by step; what is left goes when it is closed. Whoever still reads
    /// in it finds it gone from the catalog.
    fn give_back(&self, file: &D::File) -> io::Result<()> {
        // After a power cut the name must not be there again with less behind it.
        self.catalog.disk.sync_dir(&self.catalog.dir)?;
        let steps = file.bytes()?.div_ceil(GIVE_BACK_BYTES);
        (1..steps).rev().try_for_each(|step| file.truncate(step * GIVE_BACK_BYTES))
    }

    /// Leaves no empty file behind.
    pub(crate) fn end(self) {
        if self.catalog.prepared.lock().take().is_some() {
            let _ = self.catalog.disk.remove(&self.catalog.dir.join(NEXT));
        }
    }

    /// Takes the reserve, if there is room for it; without it only a full disk is harder.
    fn hold_reserve(&mut self) {
        if self.reserve.is_none() && self.reserve_bytes > 0 {
            let file = self.catalog.disk.create(&self.catalog.dir.join(RESERVE));
            self.reserve = file.and_then(|f| f.allocate(self.reserve_bytes).map(|()| f)).ok();
        }
    }
}
