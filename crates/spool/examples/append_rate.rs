//! How fast the log takes durable appends of 250 KiB, next to a plain loop of write and fdatasync.
//!
//! ```text
//! cargo run --release -p weir-spool --example append_rate -- [DIR] [SECONDS]
//! ```
//! DIR should be on the disk that counts; the default is the system's directory for temporary files, where
//! a tmpfs would make the figures worthless.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_model::SeqRanges;
use weir_spool::{GroupLog, Options};

const PAYLOAD_BYTES: usize = 250 << 10;
const SEGMENT_BYTES: u64 = 64 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let base = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let period = Duration::from_secs(args.next().map_or(Ok(3), |text| text.parse())?);
    let dir = base.join(format!("weir-append-rate-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    say(&format!("{:<24}{:>9}{:>12}{:>12}{:>12}", "", "MB/s", "CPU-s/GB", "appends/s", "mean ms"))?;
    let outcome = measure_all(&dir, period);
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn measure_all(dir: &Path, period: Duration) -> Result<(), Box<dyn Error>> {
    measure("raw write + fdatasync", 1, || raw(dir, period))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    for writers in [1, 8, 32] {
        let name = format!("log, {writers} writers");
        let dir = dir.join(writers.to_string());
        measure(&name, writers, || runtime.block_on(log(&dir, writers, period)))?;
    }
    Ok(())
}

/// Runs `work`, which returns how many payloads it has made durable, and prints its figures.
fn measure(
    name: &str,
    writers: usize,
    work: impl FnOnce() -> Result<u64, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    let count = work()?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let bytes = count as f64 * PAYLOAD_BYTES as f64;
    let mean_ms = seconds * 1e3 * writers as f64 / count as f64;
    let (rate, cost) = (bytes / 1e6 / seconds, cpu / (bytes / 1e9));
    say(&format!("{name:<24}{rate:>9.0}{cost:>12.2}{:>12.0}{mean_ms:>12.2}", count as f64 / seconds))
}

fn raw(dir: &Path, period: Duration) -> Result<u64, Box<dyn Error>> {
    let payload = vec![7; PAYLOAD_BYTES];
    let path = dir.join("raw");
    let (start, mut count) = (Instant::now(), 0);
    let mut file = std::fs::File::create(&path)?;
    while start.elapsed() < period {
        file.write_all(&payload)?;
        file.sync_data()?;
        count += 1;
        if file.metadata()?.len() >= SEGMENT_BYTES {
            std::fs::remove_file(&path)?;
            file = std::fs::File::create(&path)?;
        }
    }
    Ok(count)
}

async fn log(dir: &Path, writers: usize, period: Duration) -> Result<u64, Box<dyn Error>> {
    let (log, _) = GroupLog::open(dir, Options { segment_bytes: SEGMENT_BYTES, ..Options::default() })?;
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let count = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (log, payload, count) = (log.clone(), payload.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                while start.elapsed() < period {
                    let seq = log.append(Bytes::from_static(b"header"), payload.clone()).await?;
                    count.fetch_add(1, Ordering::Relaxed);
                    if seq.0 % 256 == 255 {
                        let mut committed = SeqRanges::new();
                        committed.insert_range(0..seq.0);
                        log.trim(committed);
                    }
                }
                Ok::<(), weir_spool::AppendError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    log.close().await;
    Ok(count.load(Ordering::Relaxed))
}

/// CPU time of this process, user and kernel, in seconds (proc(5): fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        behind_name.split_whitespace().skip(11).take(2).map_while(|f| f.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

fn say(line: &str) -> Result<(), Box<dyn Error>> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
