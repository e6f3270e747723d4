//! A disk of a test's own, whose power can be cut and which can be full.
//!
//! Mount it inside [`crate::in_own_world`], so that no other namespace holds the file system when it is unmounted.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::ioctl::{Setter, ioctl, opcode};

use crate::paths::output;
use crate::scratch::Scratch;
use crate::wait::until;

const BALLAST: &str = "ballast";

/// A mounted file system.
#[derive(Debug)]
pub struct Disk {
    /// What it is mounted from; none for memory.
    image: Option<PathBuf>,
    path: PathBuf,
}

impl Disk {
    /// An ext4 file system of so many MiB in a file.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn ext4(scratch: &Scratch, name: &str, mib: u64) -> Result<Disk> {
        let image = scratch.path().join(format!("{name}.img"));
        File::create(&image)?.set_len(mib << 20)?;
        output(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        let disk = Disk { path: scratch.dir(name)?, image: Some(image) };
        disk.mount()?;
        Ok(disk)
    }

    /// A file system of so many MiB in memory.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn memory(scratch: &Scratch, name: &str, mib: u64) -> Result<Disk> {
        let disk = Disk { path: scratch.dir(name)?, image: None };
        let size = format!("size={mib}m");
        output(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk.path))?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts its power: what was not synced is lost from this moment on, and every further write and sync fails.
    ///
    /// # Errors
    /// If the kernel refuses: it is no ext4.
    #[expect(unsafe_code, reason = "an ioctl is unsafe by nature; this one takes an u32, as ext4.h says")]
    pub fn cut_power(&self) -> Result<()> {
        /// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`.
        const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
        /// Without writing out the journal that is in memory.
        const NO_LOG_FLUSH: u32 = 2;
        let root = File::open(&self.path)?;
        // SAFETY: the number and the type of its argument belong together.
        unsafe { ioctl(root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }.context("EXT4_IOC_SHUTDOWN")
    }

    /// Gives the power back: mounts what the disk kept, with the recovery of its journal. Nothing may use it.
    ///
    /// # Errors
    /// If the system refuses, as it does while a process has a file open there.
    pub fn remount(&self) -> Result<()> {
        let image = self.image.as_ref().context("memory keeps nothing without power")?;
        output(Command::new("umount").arg(&self.path))?;
        // A superblock that still lives would be mounted again as it is, without recovery.
        until("the loop device to go", Duration::from_secs(20), || {
            let left = output(Command::new("losetup").arg("-j").arg(image))?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
        self.mount()
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// If it cannot be written for another reason than being full.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.path.join(BALLAST))?;
        let mut piece = vec![0; 1 << 20];
        while !piece.is_empty() {
            match ballast.write(&piece) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                    piece.truncate(piece.len() / 2);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The end of a [`Disk::fill`].
    ///
    /// # Errors
    /// If the system refuses.
    pub fn free(&self) -> Result<()> {
        match fs::remove_file(self.path.join(BALLAST)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn mount(&self) -> Result<()> {
        let image = self.image.as_ref().context("memory is mounted once")?;
        output(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&self.path)).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what still runs there ends soon, and the mount must not keep the scratch directory.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
