//! The set of listeners of an edge, and how it follows the topology.
//!
//! A change is prepared first, with all that can fail, and then made: sockets that stay keep their queues and connections,
//! settings change under them, new ones open, and what is gone stops between two messages of each connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use weir_model::NodeId;
use weir_topology::{Forward, ListenAt};

use super::heartbeat::Heartbeats;
use super::quarantine::Quarantine;
use super::settings::{Settings, SettingsError};
use super::{Budget, Door, Peer, greet};
use crate::inherited::Inherited;
use crate::intake::Intake;

/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`. A storm of senders after a
/// network outage comes at once.
const BACKLOG: u32 = 16 << 10;
/// How often the memory of the process is measured: while messages are held, and else.
const MEASURE_EVERY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// How often certificate files are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(5);
/// How often a port for heartbeats that somebody else has is tried again.
const HEARTBEATS_EVERY: Duration = Duration::from_secs(10);
/// Wait after an accept that failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why listeners cannot be as the topology wants them. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address.
    #[error(
        "cannot listen on {place} for senders; is another process there, or is the address not this host's?"
    )]
    Bind {
        /// As configured.
        place: String,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// Settings.
    #[error("listener {listener:?} cannot work on this node")]
    Settings {
        /// Its name.
        listener: String,
        /// Why.
        #[source]
        source: SettingsError,
    },
}

/// The open listeners of one edge.
pub(crate) struct Listeners {
    node: NodeId,
    /// `listen.forward` of the node file.
    node_file: String,
    inherited: Inherited,
    intake: Arc<Intake>,
    budget: Arc<Budget>,
    quarantine: Arc<Quarantine>,
    open: Vec<Open>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A change that can be made: everything that can fail is done.
pub(crate) struct Prepared {
    memory: usize,
    wanted: Vec<Wanted>,
}

struct Wanted {
    name: String,
    place: Place,
    settings: Arc<Settings>,
    /// Which of the open ones it is.
    stays: Option<usize>,
    /// The new socket where it is none of them.
    socket: Option<Socket>,
}

/// Where a listener is: what stays, stays by this.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Tcp(String),
    Unix(PathBuf, u32),
}

enum Socket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener),
}

struct Open {
    name: String,
    place: Place,
    address: Option<SocketAddr>,
    door: Arc<Door>,
    /// A second handle of the socket, by which its options are changed.
    socket: Option<socket2::Socket>,
    heartbeats: Option<CancellationToken>,
}

impl Listeners {
    /// No listener yet. `node_file` is the edge's own `listen.forward`.
    pub(crate) fn new(
        node: NodeId,
        node_file: String,
        data_dir: &Path,
        inherited: Inherited,
        intake: Arc<Intake>,
        forward: &Forward,
    ) -> Self {
        let listeners = Self {
            node,
            node_file,
            inherited,
            intake,
            budget: Budget::new(usize::try_from(forward.memory.0).unwrap_or(usize::MAX)),
            quarantine: Quarantine::new(data_dir.join("quarantine")),
            open: Vec::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        listeners.tasks.spawn(watch_memory(listeners.budget.clone(), listeners.stop.clone()));
        listeners
    }

    /// Does all that can fail of a change, and changes nothing: opens new sockets, reads certificates and secrets.
    ///
    /// # Errors
    /// [`ListenError`]; everything is as before.
    pub(crate) async fn prepare(&self, forward: &Forward) -> Result<Prepared, ListenError> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for listener in forward.of(&self.node) {
            let place = match &listener.at {
                ListenAt::NodeFile => Place::Tcp(self.node_file.clone()),
                ListenAt::Tcp(address) => Place::Tcp(address.clone()),
                ListenAt::Unix { path, mode } => Place::Unix(path.clone(), *mode),
            };
            // By its name first: port 0 is another socket each time it is asked for.
            let free = |index: &usize| {
                self.open[*index].place == place && wanted.iter().all(|other| other.stays != Some(*index))
            };
            let named = |index: &usize| free(index) && self.open[*index].name == listener.name;
            let mut all = 0..self.open.len();
            let stays = all.clone().find(named).or_else(|| all.find(free));
            let before = stays.map(|index| Arc::clone(&self.open[index].door.settings()));
            let settings =
                Settings::new(&listener.name, &listener.settings, &self.node, before.as_deref())
                    .map_err(|source| ListenError::Settings { listener: listener.name.clone(), source })?;
            let socket = match stays {
                Some(_) => None,
                None => Some(bind(&place, &self.inherited).await?),
            };
            let name = listener.name.clone();
            wanted.push(Wanted { name, place, settings: Arc::new(settings), stays, socket });
        }
        Ok(Prepared { memory: usize::try_from(forward.memory.0).unwrap_or(usize::MAX), wanted })
    }

    /// Makes a prepared change. It cannot fail, and no connection notices but those of listeners that are gone.
    pub(crate) fn commit(&mut self, prepared: Prepared) {
        self.budget.resize(prepared.memory);
        let mut before: Vec<Option<Open>> = std::mem::take(&mut self.open).into_iter().map(Some).collect();
        for wanted in prepared.wanted {
            let stays = wanted.stays.and_then(|index| before.get_mut(index)?.take());
            let mut open = match (stays, wanted.socket) {
                (Some(open), _) => open,
                (None, Some(socket)) => self.start(&wanted.name, wanted.place, socket, &wanted.settings),
                (None, None) => continue,
            };
            open.door.refusals.rename(&wanted.name);
            open.name = wanted.name;
            open.door.set(wanted.settings);
            open.adjust(&self.tasks);
            self.open.push(open);
        }
        for gone in before.into_iter().flatten() {
            info!(listener = gone.name, "listener closed: the topology has it no more");
            gone.close();
        }
    }

    /// Names and places of all, in the order of the topology; tells the port where 0 was asked for.
    pub(crate) fn addresses(&self) -> Vec<(String, String)> {
        let place = |open: &Open| match (&open.place, open.address) {
            (Place::Unix(path, _), _) => format!("unix:{}", path.display()),
            (Place::Tcp(text), address) => {
                address.map_or_else(|| text.clone(), |address| address.to_string())
            }
        };
        self.open.iter().map(|open| (open.name.clone(), place(open))).collect()
    }

    /// Handles of the TCP sockets, by which they stay open beyond the listeners' end.
    pub(crate) fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let sockets = self.open.iter().filter_map(|open| open.socket.as_ref());
        sockets.map(|socket| socket.try_clone().map(OwnedFd::from)).collect()
    }

    /// Closes all, politely, and waits until what their connections had sent is stored and acknowledged.
    pub(crate) async fn stop(self) {
        for open in self.open {
            open.close();
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(&self, name: &str, place: Place, socket: Socket, settings: &Arc<Settings>) -> Open {
        let stop = self.stop.child_token();
        let door = Door::new(
            name,
            settings.clone(),
            self.intake.clone(),
            self.budget.clone(),
            self.quarantine.clone(),
            stop,
        );
        let mut open =
            Open { name: name.to_owned(), place, address: None, door, socket: None, heartbeats: None };
        let (door, tasks) = (open.door.clone(), self.tasks.clone());
        match socket {
            Socket::Tcp(socket, address) => {
                open.address = Some(address);
                // Without it keepalive stays as it is; nothing else hangs on it.
                open.socket = SockRef::from(&socket).try_clone().ok();
                self.tasks.spawn(accept_tcp(door.clone(), socket, tasks));
            }
            Socket::Unix(socket) => drop(self.tasks.spawn(accept_unix(door.clone(), socket, tasks))),
        }
        self.tasks.spawn(renew_certificates(door));
        open
    }
}

impl Open {
    /// What belongs to the socket itself, and to the port beside it.
    fn adjust(&mut self, tasks: &TaskTracker) {
        let settings = Arc::clone(&self.door.settings());
        let config = &settings.config;
        if let Some(socket) = &self.socket {
            // What is set here, accepted sockets inherit, at no cost for each.
            let set = socket.set_tcp_nodelay(true).and_then(|()| match config.tcp_keepalive {
                Duration::ZERO => socket.set_keepalive(false),
                idle => socket.set_tcp_keepalive(
                    &TcpKeepalive::new()
                        .with_time(idle)
                        .with_interval(Duration::from_secs(10))
                        .with_retries(6),
                ),
            });
            if let Err(error) = set {
                warn!(listener = self.name, %error, "cannot set options of the socket");
            }
        }
        match (config.heartbeat, self.address, &self.heartbeats) {
            (true, Some(address), None) => {
                let stop = self.door.stop.child_token();
                self.heartbeats = Some(stop.clone());
                tasks.spawn(keep_answering(self.door.clone(), address, stop));
            }
            (false, _, Some(stop)) => {
                stop.cancel();
                self.heartbeats = None;
            }
            _ => {}
        }
    }

    fn close(self) {
        self.door.stop.cancel();
        if let Place::Unix(path, _) = &self.place {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn bind(place: &Place, inherited: &Inherited) -> Result<Socket, ListenError> {
    let bound = match place {
        Place::Tcp(address) => bind_tcp(address, inherited).await,
        Place::Unix(path, mode) => bind_unix(path, *mode).await.map(Socket::Unix),
    };
    bound.map_err(|source| ListenError::Bind {
        place: match place {
            Place::Tcp(address) => address.clone(),
            Place::Unix(path, _) => path.display().to_string(),
        },
        source,
    })
}

async fn bind_tcp(address: &str, inherited: &Inherited) -> io::Result<Socket> {
    let address = tokio::net::lookup_host(address)
        .await?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
    if let Some(listener) = inherited.take(address)? {
        let address = listener.local_addr()?;
        return Ok(Socket::Tcp(listener, address));
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok(Socket::Tcp(listener, address))
}

async fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    // A socket that nobody listens on was left by a process that was killed.
    if let Err(error) = UnixStream::connect(path).await
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        std::fs::remove_file(path)?;
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

async fn accept_tcp(door: Arc<Door>, listener: TcpListener, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, address)) => {
                let peer = Peer::Net(address);
                match door.admit(&peer) {
                    Ok(counted) => drop(tasks.spawn(greet::tcp(door.clone(), socket, peer, counted))),
                    Err(how) => drop(tasks.spawn(door.clone().turn_away(socket, how))),
                }
            }
            Err(error) => not_accepted(&door, &error).await,
        }
    }
}

async fn accept_unix(door: Arc<Door>, listener: UnixListener, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, _)) => {
                if let Ok(counted) = door.admit(&Peer::Unix) {
                    tasks.spawn(greet::unix(door.clone(), socket, counted));
                }
            }
            Err(error) => not_accepted(&door, &error).await,
        }
    }
}

async fn not_accepted(door: &Door, error: &io::Error) {
    // Out of file descriptors, mostly: those that are open go on, and new ones wait a moment.
    door.refusals.note(
        "not_accepted",
        &"unknown",
        format_args!("it cannot be accepted: {error}; raise the limit of open files if this goes on"),
    );
    tokio::time::sleep(ACCEPT_AGAIN).await;
}

/// Answers heartbeats at the listener's port, as soon as nobody else has it.
async fn keep_answering(door: Arc<Door>, address: SocketAddr, stop: CancellationToken) {
    let answering = async {
        let mut told = false;
        loop {
            match Heartbeats::bind(address) {
                Ok(heartbeats) => return heartbeats.answer(door).await,
                Err(error) if !told => {
                    told = true;
                    warn!(%address, %error, "UDP heartbeats of senders are not answered; trying again every 10 s");
                }
                Err(_) => {}
            }
            tokio::time::sleep(HEARTBEATS_EVERY).await;
        }
    };
    tokio::select! {
        () = answering => {}
        () = stop.cancelled() => {}
    }
}

/// Puts new certificates in use soon after their files changed. What is wrong with them changes nothing but the log.
async fn renew_certificates(door: Arc<Door>) {
    let mut told = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(CERTIFICATES_EVERY) => {}
            () = door.stop.cancelled() => return,
        }
        let settings = Arc::clone(&door.settings());
        if settings.tls.is_none() {
            continue;
        }
        match settings.with_new_certificates() {
            None => told = false,
            Some(Ok(renewed)) => {
                told = false;
                door.renew(&settings, Arc::new(renewed));
                info!("new certificates are in use for senders' new connections");
            }
            Some(Err(error)) if !told => {
                told = true;
                error!(
                    error = &error as &dyn std::error::Error,
                    "changed certificates cannot be used; the old ones stay"
                );
            }
            Some(Err(_)) => {}
        }
    }
}

/// Measures what the process takes, and shows how much of it are messages that are on no disk yet.
async fn watch_memory(budget: Arc<Budget>, stop: CancellationToken) {
    let held = weir_telemetry::names::FORWARD_HELD_BYTES.with([]);
    loop {
        // Where the system does not tell, only messages count.
        let resident = weir_telemetry::resident_memory().unwrap_or(0);
        budget.measure(usize::try_from(resident).unwrap_or(usize::MAX));
        held.set(budget.used() as f64);
        tokio::select! {
            () = tokio::time::sleep(MEASURE_EVERY[usize::from(budget.used() == 0)]) => {}
            () = stop.cancelled() => return,
        }
    }
}
