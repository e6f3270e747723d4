//! A false disk in memory that keeps apart what was written and what was synced, so that a test can cut the
//! power at any moment, tear what was on its way, fill the disk and fail its operations; and a counting one.
//!
//! Left out on purpose: permissions, and directories as things of their own (a path is a name).

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rand::{Rng, RngCore};

use crate::disk::{Disk, DiskFile};

mod counting;

pub use counting::{Counting, CountingFile, Counts};

/// What the disk writes whole or not at all: less than the 512 of real ones, so that small records tear too.
const SECTOR_BYTES: usize = 64;

/// Which of the unsynced operations a power cut leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// None.
    Nothing,
    /// All: the process died and the machine lived.
    Everything,
    /// The first `operations` of them in the order in which they were made, and of the next one, if it is a
    /// write, its first `bytes`.
    Prefix {
        /// Operations kept whole.
        operations: usize,
        /// Bytes kept of the next one.
        bytes: usize,
    },
}

/// The false disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
    gate: Arc<Condvar>,
}

#[derive(Debug, Clone, Default)]
struct State {
    files: BTreeMap<u64, FileState>,
    /// What programs see.
    names: BTreeMap<PathBuf, u64>,
    /// What a power cut leaves for sure.
    durable_names: BTreeMap<PathBuf, u64>,
    /// What it leaves or not, oldest first.
    pending: Vec<Pending>,
    next_file: u64,
    /// Handles of an earlier life are dead.
    life: u64,
    faults: Faults,
    syncs_held: bool,
    /// Every state that the disk went through, if it is recording.
    history: Option<Vec<State>>,
}

#[derive(Debug, Clone, Default)]
struct FileState {
    seen: Vec<u8>,
    durable: Vec<u8>,
    allocated: u64,
    unreadable: Vec<Range<u64>>,
}

#[derive(Debug, Clone)]
enum Pending {
    Write { file: u64, at: usize, data: Vec<u8> },
    Truncate { file: u64, bytes: usize },
    Link { path: PathBuf, file: u64 },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, file: u64 },
}

#[derive(Debug, Clone, Default)]
struct Faults {
    capacity: Option<u64>,
    /// Good calls before the bad one.
    write_in: Option<u32>,
    sync_in: Option<u32>,
    read_in: Option<u32>,
    lying: bool,
}

fn eio() -> io::Error {
    rustix::io::Errno::IO.into()
}

impl Pending {
    fn is_of(&self, wanted: u64) -> bool {
        matches!(self, Self::Write { file, .. } | Self::Truncate { file, .. } if *file == wanted)
    }

    fn is_of_any(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Truncate { .. })
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Link { path, .. } | Self::Unlink { path } | Self::Rename { to: path, .. } => {
                path.parent() == Some(dir)
            }
            Self::Write { .. } | Self::Truncate { .. } => false,
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl State {
    fn make_durable(&mut self, operation: Pending) {
        match operation {
            Pending::Write { file, at, data } => {
                if let Some(file) = self.files.get_mut(&file) {
                    put(&mut file.durable, at, &data);
                }
            }
            Pending::Truncate { file, bytes } => {
                if let Some(file) = self.files.get_mut(&file) {
                    file.durable.resize(bytes, 0);
                }
            }
            Pending::Link { path, file } => {
                self.durable_names.insert(path, file);
            }
            Pending::Unlink { path } => {
                self.durable_names.remove(&path);
            }
            Pending::Rename { from, to, file } => {
                self.durable_names.remove(&from);
                self.durable_names.insert(to, file);
            }
        }
    }

    /// Takes the pending operations that `which` names, in order.
    fn take(&mut self, which: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        let (taken, left) = std::mem::take(&mut self.pending).into_iter().partition(which);
        self.pending = left;
        taken
    }

    fn power_returns(&mut self) {
        self.pending.clear();
        self.names = self.durable_names.clone();
        self.life += 1;
        self.syncs_held = false;
        let used: Vec<u64> = self.names.values().copied().collect();
        self.files.retain(|id, _| used.contains(id));
        for file in self.files.values_mut() {
            file.seen = file.durable.clone();
            file.allocated = 0;
        }
    }

    fn used_bytes(&self) -> u64 {
        let linked: std::collections::BTreeSet<_> = self.names.values().collect();
        let bytes = |file: &FileState| file.allocated.max(file.seen.len() as u64);
        self.files.iter().filter(|(id, _)| linked.contains(id)).map(|(_, file)| bytes(file)).sum()
    }

    /// Bytes by which files may still grow.
    fn room(&self) -> u64 {
        self.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used_bytes()))
    }

    fn record(&mut self) {
        if let Some(mut history) = self.history.take() {
            history.push(self.clone());
            self.history = Some(history);
        }
    }
}

/// Counts a fault down; whether it strikes now.
fn strikes(countdown: &mut Option<u32>) -> bool {
    match countdown {
        None => false,
        Some(0) => {
            *countdown = None;
            true
        }
        Some(n) => {
            *n -= 1;
            false
        }
    }
}

impl FaultyDisk {
    /// An empty, faultless disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power and gives it back: of what was not synced any subset stays, down to single sectors of a
    /// write. Open handles are dead from here on.
    pub fn crash(&self, rng: &mut dyn RngCore) {
        let mut state = self.state.lock();
        let share = [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4)];
        for operation in std::mem::take(&mut state.pending) {
            match operation {
                Pending::Write { file, at, data } => {
                    for (i, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        if rng.random_bool(share) {
                            let at = at + i * SECTOR_BYTES;
                            state.make_durable(Pending::Write { file, at, data: sector.to_vec() });
                        }
                    }
                }
                other if rng.random_bool(share) => state.make_durable(other),
                _ => {}
            }
        }
        state.power_returns();
        self.gate.notify_all();
    }

    /// The disk as a power cut would leave it that keeps what `keep` says. This one goes on.
    #[must_use]
    pub fn after_crash(&self, keep: Keep) -> Self {
        let mut state = self.state.lock().clone();
        state.history = None;
        let pending = std::mem::take(&mut state.pending);
        let (whole, torn) = match keep {
            Keep::Nothing => (0, 0),
            Keep::Everything => (pending.len(), 0),
            Keep::Prefix { operations, bytes } => (operations, bytes),
        };
        for (i, operation) in pending.into_iter().enumerate() {
            match operation {
                other if i < whole => state.make_durable(other),
                Pending::Write { file, at, mut data } if i == whole && torn > 0 => {
                    data.truncate(torn);
                    state.make_durable(Pending::Write { file, at, data });
                }
                _ => {}
            }
        }
        state.power_returns();
        Self { state: Arc::new(Mutex::new(state)), gate: Arc::default() }
    }

    /// A disk of the same contents that goes its own way.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut state = self.state.lock().clone();
        state.history = None;
        Self { state: Arc::new(Mutex::new(state)), gate: Arc::default() }
    }

    /// The unsynced operations, oldest first: of each the bytes, if it is a write, or 0.
    #[must_use]
    pub fn pending(&self) -> Vec<usize> {
        let bytes = |operation: &Pending| match operation {
            Pending::Write { data, .. } => data.len(),
            _ => 0,
        };
        self.state.lock().pending.iter().map(bytes).collect()
    }

    /// Begins to remember every state that the disk goes through.
    pub fn record_history(&self) {
        self.state.lock().history = Some(Vec::new());
    }

    /// The states since [`Self::record_history`], each a disk of its own.
    #[must_use]
    pub fn history(&self) -> Vec<Self> {
        let history = self.state.lock().history.clone().unwrap_or_default();
        history.into_iter().map(|s| Self { state: Arc::new(Mutex::new(s)), gate: Arc::default() }).collect()
    }

    /// How many states have been remembered.
    #[must_use]
    pub fn moments(&self) -> usize {
        self.state.lock().history.as_ref().map_or(0, Vec::len)
    }

    /// Bounds the bytes of all files, room taken ahead included; `None`: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().faults.capacity = bytes;
    }

    /// Bytes of all files, room taken ahead included.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// Fails one write with EIO, after `good` more that work. Half of its bytes are written.
    pub fn fail_write_in(&self, good: u32) {
        self.state.lock().faults.write_in = Some(good);
    }

    /// Fails one sync (of a file or directory) with EIO, after `good` more that work. As on Linux, bytes that it
    /// covered stay readable, count as clean, and are gone after a power cut; names are still to be synced.
    pub fn fail_sync_in(&self, good: u32) {
        self.state.lock().faults.sync_in = Some(good);
    }

    /// Fails one read for want of memory, after `good` more that work: nothing is wrong with the bytes.
    pub fn fail_read_in(&self, good: u32) {
        self.state.lock().faults.read_in = Some(good);
    }

    /// Takes the faults back, capacity excepted.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.faults = Faults { capacity: state.faults.capacity, ..Faults::default() };
    }

    /// Makes every sync say `Ok` and do nothing: the control that a crash test must fail.
    pub fn lie_about_syncs(&self) {
        self.state.lock().faults.lying = true;
    }

    /// Holds every sync back until [`Self::release_syncs`] or a power cut.
    pub fn hold_syncs(&self) {
        self.state.lock().syncs_held = true;
    }

    /// Lets the held syncs go on.
    pub fn release_syncs(&self) {
        self.state.lock().syncs_held = false;
        self.gate.notify_all();
    }

    /// Flips one bit of a file, on the medium and in the cache.
    pub fn flip_bit(&self, path: &Path, bit: u64) {
        let mut state = self.state.lock();
        let Some(id) = state.names.get(path).copied() else { return };
        let (at, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        let flip = |bytes: &mut Vec<u8>, at: Option<usize>| {
            if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
                *byte ^= mask;
            }
        };
        if let Some(file) = state.files.get_mut(&id) {
            flip(&mut file.seen, Some(at));
            flip(&mut file.durable, Some(at));
        }
        for operation in &mut state.pending {
            match operation {
                Pending::Write { file, at: start, data } if *file == id => flip(data, at.checked_sub(*start)),
                _ => {}
            }
        }
    }

    /// Makes reads that touch these bytes fail with EIO.
    pub fn make_unreadable(&self, path: &Path, bytes: Range<u64>) {
        let mut state = self.state.lock();
        let Some(id) = state.names.get(path).copied() else { return };
        if let Some(file) = state.files.get_mut(&id) {
            file.unreadable.push(bytes);
        }
    }

    /// All files as programs see them: path and bytes.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state.lock();
        state.names.iter().map(|(path, id)| (path.clone(), state.files[id].seen.clone())).collect()
    }

    fn handle(&self, file: u64, life: u64) -> FaultyFile {
        FaultyFile { disk: self.clone(), file, life }
    }

    fn find(&self, path: &Path) -> io::Result<FaultyFile> {
        let state = self.state.lock();
        let id = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(id, state.life))
    }

    /// Waits while syncs are held; then fails, lies, or takes the operations that become durable.
    fn sync(&self, which: impl Fn(&Pending) -> bool, life: Option<u64>) -> io::Result<()> {
        let mut state = self.state.lock();
        while state.syncs_held {
            self.gate.wait(&mut state);
        }
        if life.is_some_and(|life| life != state.life) {
            return Err(eio());
        }
        if state.faults.lying {
            return Ok(());
        }
        let failed = strikes(&mut state.faults.sync_in);
        let covered = state.take(which);
        if failed {
            // Pages are dropped one by one; names are in the file system's journal, and stay there.
            let names = covered.into_iter().filter(|operation| !operation.is_of_any());
            state.pending.extend(names);
            state.record();
            return Err(eio());
        }
        covered.into_iter().for_each(|operation| state.make_durable(operation));
        state.record();
        Ok(())
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile;

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<FaultyFile> {
        if let Ok(file) = self.find(path) {
            file.truncate(0)?;
            return Ok(file);
        }
        let mut state = self.state.lock();
        state.next_file += 1;
        let id = state.next_file;
        state.files.insert(id, FileState::default());
        state.names.insert(path.to_owned(), id);
        state.pending.push(Pending::Link { path: path.to_owned(), file: id });
        state.record();
        Ok(self.handle(id, state.life))
    }

    fn open(&self, path: &Path) -> io::Result<FaultyFile> {
        self.find(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<FaultyFile> {
        self.find(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.pending.push(Pending::Rename { from: from.to_owned(), to: to.to_owned(), file });
        state.record();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.pending.push(Pending::Unlink { path: path.to_owned() });
        state.record();
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.sync(|operation| operation.is_in(dir), None)
    }
}

/// An open file of a [`FaultyDisk`].
#[derive(Debug)]
pub struct FaultyFile {
    disk: FaultyDisk,
    file: u64,
    life: u64,
}

impl FaultyFile {
    /// Works on the file, unless the power was cut since it was opened.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let state = &mut *self.disk.state.lock();
        if state.life != self.life || !state.files.contains_key(&self.file) {
            return Err(io::Error::other("the power was cut"));
        }
        work(state)
    }
}

impl DiskFile for FaultyFile {
    fn bytes(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.files[&self.file].seen.len() as u64))
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.with(|state| {
            if strikes(&mut state.faults.read_in) {
                return Err(rustix::io::Errno::NOMEM.into());
            }
            let file = &state.files[&self.file];
            let asked = at..at + into.len() as u64;
            if file.unreadable.iter().any(|bad| bad.start < asked.end && asked.start < bad.end) {
                return Err(eio());
            }
            let rest = file.seen.get(at as usize..).unwrap_or_default();
            let len = rest.len().min(into.len());
            into[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        })
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut data: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.with(|state| {
            let room = state.room();
            let broken = strikes(&mut state.faults.write_in);
            let file = state.files.get_mut(&self.file).ok_or_else(eio)?;
            let has = file.allocated.max(file.seen.len() as u64);
            let wanted = data.len();
            if broken {
                data.truncate(wanted / 2);
            }
            let fits = has.saturating_add(room).saturating_sub(at);
            data.truncate(usize::try_from(fits).unwrap_or(usize::MAX));
            let written = data.len();
            if written > 0 {
                put(&mut file.seen, at as usize, &data);
                state.pending.push(Pending::Write { file: self.file, at: at as usize, data });
                state.record();
            }
            match written < wanted {
                true if broken => Err(eio()),
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        })
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.with(|state| {
            let file = state.files.get_mut(&self.file).ok_or_else(eio)?;
            file.allocated = file.allocated.min(bytes);
            if file.seen.len() as u64 != bytes {
                file.seen.resize(bytes as usize, 0);
                state.pending.push(Pending::Truncate { file: self.file, bytes: bytes as usize });
                state.record();
            }
            Ok(())
        })
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.with(|state| {
            let room = state.room();
            let file = state.files.get_mut(&self.file).ok_or_else(eio)?;
            let has = file.allocated.max(file.seen.len() as u64);
            if bytes.saturating_sub(has) > room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.allocated = file.allocated.max(bytes);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync(|operation| operation.is_of(self.file), Some(self.life))
    }

    fn forget(&self, _at: u64, _bytes: u64) {}
}
