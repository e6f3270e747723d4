//! Connects again and again, as a sender would that has just started, and remembers whether it was ever refused.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

const EVERY: Duration = Duration::from_millis(5);
const CONNECT_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(u64, Duration)>>,
}

impl Probe {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                TcpStream::connect_timeout(&address, CONNECT_MAX)
                    .with_context(|| format!("connection {count} failed"))?;
                longest = longest.max(began.elapsed());
                count += 1;
                std::thread::sleep(EVERY);
            }
            Ok((count, longest))
        });
        Self { stop, thread }
    }

    /// How many connections were made, and how long the slowest took.
    pub(crate) fn end(self) -> Result<(u64, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the probe died"))?
    }
}
