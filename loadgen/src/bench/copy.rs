//! The physical yardstick: what comes from sockets goes to one file, as it is.
//!
//! One thread reads whatever socket is ready, writes the bytes to the file and finds message borders. It calls
//! fdatasync once 16 MB are unsynced or no socket is ready, and only then acknowledges. No receiver that keeps
//! the same promise on the same disk can do much less.

use std::{
    collections::HashMap,
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use anyhow::Context;
use rustix::event::{Timespec, epoll};

use super::borders::Borders;

/// Bytes read from one socket at once.
const READ_BYTES: usize = 1 << 20;
/// Unsynced bytes at which the file is synced though more could be read.
const SYNC_BYTES: usize = 16 << 20;
/// The listener's name among the ready ones.
const LISTENER: u64 = u64::MAX;

/// Options of the yardstick; it is started by `bench` alone.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct CopyArgs {
    /// Where the bytes go.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

struct Sender {
    socket: TcpStream,
    borders: Borders,
    /// Acknowledgements of messages that are not synced.
    due: Vec<u8>,
    /// It has sent all; it is closed after the next sync.
    ended: bool,
}

struct Copy {
    epoll: std::os::fd::OwnedFd,
    listener: TcpListener,
    senders: HashMap<u64, Sender>,
    accepted: u64,
    file: File,
    unsynced: usize,
    buffer: Vec<u8>,
}

/// Copies until it is killed.
pub(crate) fn command(args: &CopyArgs) -> anyhow::Result<()> {
    let mut copy = Copy::new(&args.file)?;
    eprintln!("copy ready forward={}", copy.listener.local_addr()?);
    loop {
        copy.turn()?;
    }
}

impl Copy {
    fn new(file: &Path) -> anyhow::Result<Self> {
        let file = File::create(file).with_context(|| format!("making {}", file.display()))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        let senders = HashMap::new();
        Ok(Self { epoll, listener, senders, accepted: 0, file, unsynced: 0, buffer: vec![0; READ_BYTES] })
    }

    /// Handles what is ready; syncs when nothing is.
    fn turn(&mut self) -> anyhow::Result<()> {
        let owing = self.unsynced > 0 || self.senders.values().any(|sender| sender.ended);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut ready = Vec::with_capacity(256);
        let spare = rustix::buffer::spare_capacity(&mut ready);
        match epoll::wait(&self.epoll, spare, owing.then_some(&at_once)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        if ready.is_empty() {
            return self.sync();
        }
        for event in ready {
            match event.data.u64() {
                LISTENER => self.accept()?,
                sender => self.read(sender)?,
            }
            if self.unsynced >= SYNC_BYTES {
                self.sync()?;
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accepting"),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let data = epoll::EventData::new_u64(self.accepted);
            epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
            let sender = Sender { socket, borders: Borders::default(), due: Vec::new(), ended: false };
            self.senders.insert(self.accepted, sender);
            self.accepted += 1;
        }
    }

    fn read(&mut self, name: u64) -> anyhow::Result<()> {
        let Some(sender) = self.senders.get_mut(&name) else { return Ok(()) };
        let bytes = match sender.socket.read(&mut self.buffer) {
            Ok(0) => {
                epoll::delete(&self.epoll, &sender.socket)?;
                sender.ended = true;
                return Ok(());
            }
            Ok(bytes) => &self.buffer[..bytes],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("reading from a sender"),
        };
        self.file.write_all(bytes).context("writing the copy")?;
        self.unsynced += bytes.len();
        let due = &mut sender.due;
        let fed = sender.borders.feed(bytes, |ack| due.extend(ack.into_iter().flatten()));
        fed.map_err(|_| anyhow::anyhow!("a sender does not speak Forward"))
    }

    fn sync(&mut self) -> anyhow::Result<()> {
        if self.unsynced > 0 {
            self.file.sync_data().context("syncing the copy")?;
        }
        self.unsynced = 0;
        for sender in self.senders.values_mut().filter(|sender| !sender.due.is_empty()) {
            // The senders' windows keep this far below what a socket takes at once.
            sender.socket.write_all(&sender.due).context("acknowledging")?;
            sender.due.clear();
        }
        self.senders.retain(|_, sender| !sender.ended);
        Ok(())
    }
}
