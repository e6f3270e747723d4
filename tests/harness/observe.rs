//! Looking at a running program from outside: its metrics, its connections, its memory.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// How long a scrape may take.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a node told at `/metrics`, in Prometheus's text format.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// The sum of the samples of this name that carry at least these labels; nothing if there are none.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |sample: &&Sample| {
            let has = |(label, value): &(&str, &str)| sample.labels.get(*label).is_some_and(|v| v == value);
            sample.name == name && labels.iter().all(has)
        };
        let mut values = self.0.iter().filter(fits).map(|sample| sample.value).peekable();
        values.peek().is_some().then(|| values.sum())
    }

    fn parse(text: &str) -> Result<Metrics> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples: Result<_> =
            lines.map(|line| parse_sample(line).with_context(|| format!("not a sample: {line}"))).collect();
        Ok(Metrics(samples?))
    }
}

/// All events in the files (`*.jsonl`) below a directory, as a file store writes them.
///
/// # Errors
/// If a file cannot be read, is empty, or has a line that is not JSON: a store shows none of these.
pub fn stored_events(dir: &Path) -> Result<Vec<serde_json::Value>> {
    let mut events = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            events.extend(stored_events(&path)?);
        } else if path.extension().is_some_and(|kind| kind == "jsonl") {
            let text = fs::read_to_string(&path)?;
            ensure!(!text.is_empty(), "{} is empty", path.display());
            for line in text.lines() {
                events.push(serde_json::from_str(line)?);
            }
        }
    }
    Ok(events)
}

/// All metrics of the node at this address.
///
/// # Errors
/// If it does not answer, or not with metrics.
pub fn scrape(addr: SocketAddr) -> Result<Metrics> {
    let body = http_get(addr, "/metrics").with_context(|| format!("no metrics from {addr}"))?;
    Metrics::parse(&body)
}

/// One metric of the node at this address: the sum of all samples that carry at least these labels.
///
/// # Errors
/// If the node does not answer or has no such sample.
pub fn metric(addr: SocketAddr, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let found = scrape(addr)?.get(name, labels);
    found.with_context(|| format!("{addr} has no metric {name} with {labels:?}"))
}

/// How many established TCP connections a process holds to this port of any machine.
///
/// # Errors
/// If the process is gone or belongs to somebody else.
pub fn connections(pid: u32, port: u16) -> Result<usize> {
    let mut inodes = HashSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may be closed between the listing and this look.
        let Ok(link) = fs::read_link(entry?.path()) else { continue };
        let link = link.to_string_lossy();
        inodes
            .extend(link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned));
    }
    let mut count = 0;
    for table in ["tcp", "tcp6"] {
        // A machine without IPv6 has no second table.
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        count += established(&text, port).filter(|inode| inodes.contains(*inode)).count();
    }
    Ok(count)
}

/// The resident memory of a process, in bytes.
///
/// # Errors
/// If the process is gone.
pub fn rss(pid: u32) -> Result<u64> {
    memory(pid, "VmRSS:")
}

/// The most resident memory that a process ever had, in bytes.
///
/// # Errors
/// If the process is gone.
pub fn peak_rss(pid: u32) -> Result<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, which: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(which));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.with_context(|| format!("no {which} it has ended"))?.trim().parse::<u64>()? * 1024)
}

/// The inodes of a `/proc/net/tcp` table's established connections to a remote port.
fn established(table: &str, port: u16) -> impl Iterator<Item = &str> {
    const ESTABLISHED: &str = "01";
    let remote_end = format!(":{port:04X}");
    table.lines().skip(1).filter_map(move |line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (remote, state, inode) = (columns.get(2)?, columns.get(3)?, columns.get(9)?);
        (remote.ends_with(&remote_end) && *state == ESTABLISHED).then_some(*inode)
    })
}

/// `name{label="value",...} value [timestamp]`
fn parse_sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.trim_start_matches([',', ' ']).to_owned(), value);
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, its escapes undone, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

/// The body of an answer with status 200.
pub(crate) fn http_get(addr: SocketAddr, path: &str) -> Result<String> {
    let (status, body) = page(addr, path)?;
    ensure!(status == 200, "status {status}: {body}");
    Ok(body)
}

/// A page of a node, such as `/ready`: its status and body.
///
/// # Errors
/// If nobody answers, or not with HTTP.
pub fn page(addr: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, SCRAPE_TIMEOUT)?;
    stream.set_read_timeout(Some(SCRAPE_TIMEOUT))?;
    stream.set_write_timeout(Some(SCRAPE_TIMEOUT))?;
    // HTTP/1.0, so that the answer ends with the connection and has no chunks.
    let question = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("not an HTTP answer")?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn reads_prometheus_text() {
        let text = r#"# TYPE weir_events_total counter
weir_events_total{tag="a",group="k"} 3
weir_events_total{tag="b \"},{\\",group="k"} 4 1700000000000

weir_up 1
weir_lag_seconds{quantile="0.99"} 2.5e-3
"#;
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.get("weir_events_total", &[("tag", "a")]), Some(3.0));
        assert_eq!(metrics.get("weir_events_total", &[("tag", "b \"},{\\"), ("group", "k")]), Some(4.0));
        assert_eq!(metrics.get("weir_events_total", &[]), Some(7.0));
        assert_eq!(metrics.get("weir_events_total", &[("tag", "c")]), None);
        assert_eq!(metrics.get("weir_up", &[]), Some(1.0));
        assert_eq!(metrics.get("weir_lag_seconds", &[("quantile", "0.99")]), Some(0.0025));
        assert!(Metrics::parse("half{a=\"b 1").is_err());
    }

    #[test]
    fn scrapes_over_plain_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                asked.extend(byte);
            }
            stream.write_all(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nweir_up 1\n").unwrap();
            String::from_utf8(asked).unwrap()
        });
        assert_eq!(metric(addr, "weir_up", &[]).unwrap(), 1.0);
        assert!(server.join().unwrap().starts_with("GET /metrics HTTP/1.0\r\n"));
    }

    #[test]
    fn counts_connections_to_a_port_by_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let me = std::process::id();
        assert_eq!(connections(me, addr.port()).unwrap(), 0);
        let one = TcpStream::connect(addr).unwrap();
        let _two = TcpStream::connect(addr).unwrap();
        assert_eq!(connections(me, addr.port()).unwrap(), 2);
        drop(one);
        assert_eq!(connections(me, addr.port()).unwrap(), 1);
        assert!(rss(me).unwrap() > 1 << 20);
    }
}
