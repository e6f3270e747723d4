//! A sender that behaves, alone and beside peers that do not, at an edge with limits.
//!
//! The peers come from addresses of their own, as they would, and their threads have the lowest priority: what is
//! measured is what the edge loses to them, not what they themselves take of a machine that they share with it here only.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    Bench,
    cases::Case,
    load::{self, Load},
    report::{CaseReport, Figures},
    states::mib,
    traffic::Traffic,
    weir::{Cluster, Store, metric},
};
use crate::encode;

/// What an operator would set against strangers: little of everything from 127.0.1.0/24, where they come from.
const DOOR: &str = r#"
memory = "256MiB"
chunk_size_limit = "32MiB"
decompression_size_limit = "32MiB"
message_timeout = "5s"
max_connections_per_source = 1000
[[forward.limit]]
name = "connects"
per = "source"
networks = ["127.0.1.0/24"]
connections = 20
connections_burst = 200
action = "close"
[[forward.limit]]
name = "bytes"
per = "source"
networks = ["127.0.1.0/24"]
bytes = 4000000
action = "slow"
[[forward.limit]]
name = "events"
per = "source"
networks = ["127.0.1.0/24"]
events = 2000
action = "slow"
"#;
/// What an edge counts of them.
const REFUSED: &str = "weir_forward_refused_total";
const LIMITED: &str = "weir_forward_limited_total";
/// Time for a crowd of foes to be under way.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// Pause of a foe that was turned away: a millisecond, or it would only measure how fast a kernel connects.
const AGAIN: Duration = Duration::from_millis(1);

/// A kind of peer that does not behave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Foe {
    /// One byte of a message that never ends, now and then, on a thousand connections.
    Slow,
    /// Lengths of 4 GiB.
    Lengths,
    /// Lists in lists.
    Nesting,
    /// A gigabyte of zeros, compressed.
    Bombs,
    /// 50 000 events a second, each under a tag that nobody has seen.
    Tags,
    /// Random bytes, as fast as they are taken, on a hundred connections.
    Garbage,
    /// All of them at once.
    All,
}

impl Foe {
    pub(super) const ALL: [Self; 7] =
        [Self::Slow, Self::Lengths, Self::Nesting, Self::Bombs, Self::Tags, Self::Garbage, Self::All];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slow => "hostile/slow",
            Self::Lengths => "hostile/lengths",
            Self::Nesting => "hostile/nesting",
            Self::Bombs => "hostile/bombs",
            Self::Tags => "hostile/tags",
            Self::Garbage => "hostile/garbage",
            Self::All => "hostile/all",
        }
    }

    fn connections(self) -> usize {
        match self {
            Self::Slow => 1000,
            Self::Tags => 10,
            _ => 100,
        }
    }

    fn members(self) -> Vec<Self> {
        match self {
            Self::All => Self::ALL.into_iter().filter(|&foe| foe != Self::All).collect(),
            one => vec![one],
        }
    }
}

impl Bench<'_> {
    pub(super) fn hostile(&self, case: &Case, foe: Foe, report: &mut CaseReport) -> anyhow::Result<()> {
        let traffic = Arc::new(Traffic::new(case.shape)?);
        for round in 0..self.rounds() {
            let dir = self.scratch()?;
            let cluster = Cluster::with_door(&self.weir, dir.path(), &Store::File, DOOR)?;
            let (edge, forward, page) = cluster.edge()?;
            // The first run of a process is slower than those after it.
            let mut first = 0;
            let mut run = || {
                let load = Load { first, ..case.load };
                first += load.connections;
                load::run(forward, &traffic, load)
            };
            run()?;
            let alone = run()?;
            let before = edge.usage();
            let count = |name| metric(page, name, "");
            let (refused, limited) = (count(REFUSED)?, count(LIMITED)?);
            let crowd = Crowd::start(forward, foe);
            std::thread::sleep(UNDER_WAY);
            let beside = run()?;
            drop(crowd);
            let (refused, limited) = (count(REFUSED)? - refused, count(LIMITED)? - limited);
            if round == 0 && !self.args.smoke {
                continue;
            }
            let rate = |sent: &load::Sent| sent.events as f64 / sent.seconds;
            let p99 = |sent: &load::Sent| sent.ack_micros.value_at_quantile(0.99) as f64 / 1e3;
            report.add(
                "weir",
                Figures::from([
                    ("alone_events_per_second", rate(&alone)),
                    ("beside_events_per_second", rate(&beside)),
                    ("beside_by_alone", rate(&beside) / rate(&alone)),
                    ("alone_ack_p99_ms", p99(&alone)),
                    ("beside_ack_p99_ms", p99(&beside)),
                    ("refused", refused),
                    ("limited", limited),
                    ("edge_mib_before", mib(before.resident_peak)),
                    ("edge_peak_mib", mib(edge.usage().resident_peak)),
                ]),
            );
        }
        Ok(())
    }
}

/// Foes at work, on a thread of their own until this goes.
struct Crowd {
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Crowd {
    fn start(to: SocketAddr, foe: Foe) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let thread = std::thread::spawn(move || {
            // On Linux it is this thread's alone.
            let _ = rustix::process::nice(19);
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for (kind, foe) in foe.members().into_iter().enumerate() {
                    // What is sent is made once.
                    let payload: Arc<[u8]> = payload(foe).into();
                    for number in 0..foe.connections() {
                        let from = Ipv4Addr::new(127, 0, 1, 1 + kind as u8);
                        tasks.spawn(annoy(to, from.into(), foe, number as u64, payload.clone()));
                    }
                }
                let _ = stopped.changed().await;
            });
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// What a foe sends at once, as far as it is always the same.
fn payload(foe: Foe) -> Vec<u8> {
    let header = |kind: u8| [b"\x92\xa1t".as_slice(), &[kind], &[0xff; 4], b"some of it"].concat();
    match foe {
        Foe::Slow => b"\x92\xa1t\xc6\0\x01\0\0".to_vec(),
        Foe::Lengths => header(0xc6),
        Foe::Nesting => [b"\x92\xa1t".as_slice(), &[0x91; 64 << 10]].concat(),
        Foe::Bombs => bomb(),
        Foe::Tags | Foe::Garbage | Foe::All => Vec::new(),
    }
}

/// 1 GiB of zeros in 1 MB.
fn bomb() -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let zeros = vec![0; 1 << 20];
    // Sixteen members of 64 MiB. A write into memory does not fail.
    (0..64).for_each(|_| drop(gzip.write_all(&zeros)));
    let member = gzip.finish().unwrap_or_default();
    let mut out = Vec::new();
    encode::array(&mut out, 3);
    encode::str(&mut out, "bomb");
    encode::bin(&mut out, |out| out.extend(member.repeat(16)));
    encode::map(&mut out, 1);
    encode::str(&mut out, "compressed");
    encode::str(&mut out, "gzip");
    out
}

/// Comes again and again, whatever it is told.
async fn annoy(to: SocketAddr, from: IpAddr, foe: Foe, number: u64, payload: Arc<[u8]>) {
    let mut random = SmallRng::seed_from_u64(number);
    loop {
        if let Ok(mut socket) = connect(to, from).await {
            let _ = offend(&mut socket, foe, &mut random, &payload).await;
            // It leaves as the edge wants it to leave: with what it is told.
            let mut rest = [0; 1024];
            while matches!(socket.read(&mut rest).await, Ok(1..)) {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn connect(to: SocketAddr, from: IpAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

/// Until the edge has closed.
async fn offend(
    socket: &mut TcpStream,
    foe: Foe,
    random: &mut SmallRng,
    payload: &[u8],
) -> std::io::Result<()> {
    match foe {
        Foe::Slow => {
            socket.write_all(payload).await?;
            loop {
                tokio::time::sleep(Duration::from_millis(random.random_range(50..1000))).await;
                socket.write_all(&[0]).await?;
            }
        }
        Foe::Tags => {
            let mut out = Vec::new();
            // A tenth of 50 000 a second, in steps of 20 ms.
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                tick.tick().await;
                out.clear();
                for _ in 0..100 {
                    encode::array(&mut out, 3);
                    encode::str(&mut out, &format!("tag.{:016x}", random.next_u64()));
                    encode::uint(&mut out, 1_790_000_000);
                    encode::map(&mut out, 1);
                    encode::str(&mut out, "a");
                    encode::uint(&mut out, 1);
                }
                socket.write_all(&out).await?;
            }
        }
        Foe::Garbage => {
            let mut bytes = vec![0; 64 << 10];
            loop {
                random.fill_bytes(&mut bytes);
                socket.write_all(&bytes).await?;
            }
        }
        Foe::Lengths | Foe::Nesting | Foe::Bombs | Foe::All => socket.write_all(payload).await,
    }
}
