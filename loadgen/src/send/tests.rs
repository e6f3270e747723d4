//! A run against listeners that read every message as a stranger would: with `rmpv`, record by record.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use clap::Parser;
use parking_lot::Mutex;
use rmpv::Value;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    send: SendArgs,
}

fn args(line: &str) -> SendArgs {
    Cli::try_parse_from(std::iter::once("send").chain(line.split_whitespace())).unwrap().send
}

/// What a listener saw.
#[derive(Debug, Default)]
struct Seen {
    /// How often each record of each stream came, leaving out repeated chunk ids.
    records: BTreeMap<(String, u64), u32>,
    /// The entries of each chunk, by its id.
    chunks: HashMap<String, Vec<Value>>,
    tags: BTreeMap<String, u64>,
    repeated_chunks: u32,
    compressed: BTreeMap<String, u32>,
    integer_times: u64,
}

impl Seen {
    fn take(&mut self, message: Value) -> Option<String> {
        let Value::Array(parts) = message else { panic!("no array: {message}") };
        let tag = parts[0].as_str().unwrap().to_owned();
        let option =
            parts.last().unwrap().as_map().cloned().filter(|_| parts.len() != 3 || !is_time(&parts[1]));
        let option: HashMap<String, Value> = option
            .unwrap_or_default()
            .into_iter()
            .map(|(k, v)| (k.as_str().unwrap().to_owned(), v))
            .collect();
        let entries = match &parts[1] {
            Value::Array(entries) => entries.clone(),
            Value::Binary(bytes) => entries(bytes, option.get("compressed").and_then(Value::as_str)),
            _ => vec![Value::Array(parts[1..3].to_vec())],
        };
        if let Some(size) = option.get("size") {
            assert_eq!(size.as_u64(), Some(entries.len() as u64));
        }
        if let Some(name) = option.get("compressed") {
            *self.compressed.entry(name.as_str().unwrap().to_owned()).or_default() += 1;
        }
        let id = option.get("chunk").map(|id| id.as_str().unwrap().to_owned());
        if let Some(id) = &id {
            if let Some(before) = self.chunks.get(id) {
                assert_eq!(before, &entries, "a chunk id that means two things");
                self.repeated_chunks += 1;
                return Some(id.clone());
            }
            self.chunks.insert(id.clone(), entries.clone());
        }
        *self.tags.entry(tag).or_default() += entries.len() as u64;
        for entry in &entries {
            self.take_entry(entry.as_array().unwrap());
        }
        id
    }

    fn take_entry(&mut self, entry: &[Value]) {
        let [time, record] = entry else { panic!("no entry: {entry:?}") };
        assert!(is_time(time), "{time}");
        self.integer_times += u64::from(time.is_u64());
        let mut record = to_json(record).as_object().unwrap().clone();
        assert_eq!(record.len(), 8, "{record:?}");
        let stream = record.remove("stream").unwrap().as_str().unwrap().to_owned();
        let seq = record.remove("seq").unwrap().as_u64().unwrap();
        let sum = record.remove("sum").unwrap();
        let canonical = serde_json::to_vec(&record).unwrap();
        assert_eq!(sum, format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&canonical)));
        *self.records.entry((stream, seq)).or_default() += 1;
    }

    /// Every number of every stream came exactly once.
    fn assert_whole(&self, events: u64) {
        assert_eq!(self.records.len() as u64, events);
        assert_eq!(self.records.values().max(), Some(&1));
        let mut next = HashMap::new();
        for (stream, seq) in self.records.keys() {
            let next = next.entry(stream).or_insert(0);
            assert_eq!(seq, next, "{stream}");
            *next += 1;
        }
    }
}

fn is_time(value: &Value) -> bool {
    value.is_u64() || matches!(value, Value::Ext(0, bytes) if bytes.len() == 8)
}

fn entries(bytes: &[u8], compressed: Option<&str>) -> Vec<Value> {
    let mut plain = Vec::new();
    match compressed {
        None => plain.extend_from_slice(bytes),
        Some("gzip") => drop(flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap()),
        Some("zstd") => plain = zstd::stream::decode_all(bytes).unwrap(),
        Some(other) => panic!("{other}"),
    }
    let mut rest = &plain[..];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        entries.push(rmpv::decode::read_value(&mut rest).unwrap());
    }
    entries
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Boolean(yes) => (*yes).into(),
        Value::Integer(number) => number.as_u64().map_or_else(|| number.as_i64().unwrap().into(), Into::into),
        Value::String(text) => text.as_str().unwrap().into(),
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Map(pairs) => {
            pairs.iter().map(|(k, v)| (k.as_str().unwrap().to_owned(), to_json(v))).collect()
        }
        other => panic!("{other}"),
    }
}

/// Answers all connections; each of the first `failing` is closed after one message, that one unanswered.
fn listen(failing: usize) -> (String, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = seen.clone();
    thread::spawn(move || {
        for (number, socket) in listener.incoming().enumerate() {
            let seen = shared.clone();
            thread::spawn(move || serve(socket.unwrap(), &seen, number < failing));
        }
    });
    (address, seen)
}

fn serve(mut socket: TcpStream, seen: &Mutex<Seen>, failing: bool) {
    socket.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    while !reader.fill_buf().unwrap_or_default().is_empty() {
        let Ok(message) = rmpv::decode::read_value(&mut reader) else { return };
        let id = seen.lock().take(message);
        if failing {
            return;
        }
        if let Some(id) = id {
            let ack = Value::Map(vec![("ack".into(), id.into())]);
            let mut bytes = Vec::new();
            rmpv::encode::write_value(&mut bytes, &ack).unwrap();
            // In two pieces, so that the sender meets a cut acknowledgement.
            socket.write_all(&bytes[..3]).unwrap();
            socket.write_all(&bytes[3..]).unwrap();
        }
    }
}

fn send(line: &str) -> Outcome {
    tokio::runtime::Runtime::new().unwrap().block_on(run(&args(line))).unwrap()
}

#[test]
fn every_record_comes_once_in_every_mode() {
    for mode in ["message", "forward", "packed", "gzip", "zstd"] {
        for time in ["eventtime", "integer"] {
            let (address, seen) = listen(0);
            let outcome = send(&format!(
                "--to {address} --mode {mode} --time {time} --ack --events 2500 --connections 3 --tags 4 --chunk-events 100"
            ));
            assert!(outcome.failures.is_empty(), "{mode}: {:?}", outcome.failures);
            let seen = seen.lock();
            seen.assert_whole(2500);
            assert_eq!(seen.tags.keys().collect::<Vec<_>>(), ["app.0", "app.1", "app.2", "app.3"]);
            assert_eq!(seen.integer_times, if time == "integer" { 2500 } else { 0 });
            let compressed = seen.compressed.keys().map(String::as_str).collect::<Vec<_>>();
            assert_eq!(compressed, if ["gzip", "zstd"].contains(&mode) { vec![mode] } else { vec![] });

            let summary = &outcome.summary;
            assert_eq!((summary.events, summary.errors, summary.reconnects), (2500, 0, 0));
            assert_eq!(summary.acks, seen.chunks.len() as u64);
            assert!(summary.ack_ms.is_some());
            assert_eq!(outcome.ledger.streams.len(), 3);
            assert_eq!(outcome.ledger.streams["s-0"].acked.0, [[0, 833]]);
            assert_eq!(outcome.ledger.streams["s-2"].acked.0, [[0, 832]]);
            assert!(outcome.ledger.streams["s-2"].maybe.0.is_empty());
        }
    }
}

#[test]
fn lost_connections_resend_the_same_chunks() {
    for mode in ["message", "forward", "packed", "gzip", "zstd"] {
        let (failing, seen_by_failing) = listen(usize::MAX);
        let (sound, seen) = listen(2);
        let outcome = send(&format!(
            "--to {failing} --to {sound} --mode {mode} --ack --events 1000 --connections 4 --chunk-events 50 --window 3"
        ));
        assert!(outcome.failures.is_empty(), "{mode}: {:?}", outcome.failures);
        let seen = seen.lock();
        seen.assert_whole(1000);
        assert!(seen.repeated_chunks > 0);
        let elsewhere = seen_by_failing.lock();
        assert!(!elsewhere.chunks.is_empty());
        for (id, entries) in &elsewhere.chunks {
            assert_eq!(seen.chunks.get(id), Some(entries), "resent as it was");
        }
        let summary = &outcome.summary;
        assert!(summary.errors >= 2 && summary.reconnects >= 2, "{summary:?}");
        assert!(outcome.ledger.streams.values().all(|stream| stream.acked.0 == [[0, 249]]));
        assert!(
            outcome.ledger.streams.values().all(|stream| stream.resent.contains(0)),
            "all met the failing"
        );
    }
}

#[test]
fn without_acks_all_is_sent_and_nothing_promised() {
    let (address, seen) = listen(0);
    let outcome = send(&format!(
        "--to {address} --events 1001 --connections 2 --chunk-events 100 --stream-prefix run2"
    ));
    assert!(outcome.failures.is_empty());
    let stream = &outcome.ledger.streams["run2-0"];
    assert!(stream.acked.0.is_empty());
    assert_eq!(
        (&stream.maybe.0[..], &stream.sent.as_ref().unwrap().0[..]),
        (&[[0, 500]][..], &[[0, 500]][..])
    );
    // The listener may still be reading what the sender has written.
    let started = Instant::now();
    while seen.lock().records.len() < 1001 && started.elapsed() < Duration::from_secs(20) {
        thread::yield_now();
    }
    seen.lock().assert_whole(1001);
    assert!(seen.lock().chunks.is_empty());
}

#[test]
fn gives_up_in_time_and_says_what_is_open() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let outcome = send(&format!(
        "--to {address} --ack --events 1000 --connections 1 --chunk-events 100 --window 3 --give-up 1"
    ));
    assert_eq!(outcome.failures.len(), 1);
    assert_eq!(outcome.summary.events, 0);
    let stream = &outcome.ledger.streams["s-0"];
    assert!(stream.acked.0.is_empty());
    assert_eq!(stream.maybe.0, [[0, 299]]);
}

#[test]
fn leaves_a_connection_that_does_not_acknowledge() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (sound, seen) = listen(0);
    let outcome = send(&format!(
        "--to {} --to {sound} --ack --events 1000 --connections 1 --chunk-events 100 --window 3 --ack-timeout 1",
        silent.local_addr().unwrap()
    ));
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    seen.lock().assert_whole(1000);
    assert_eq!(outcome.ledger.streams["s-0"].resent.0, [[0, 299]]);
}

#[test]
fn keeps_to_the_rate() {
    let (address, _seen) = listen(0);
    let outcome =
        send(&format!("--to {address} --ack --rate 10000 --events 3000 --connections 3 --chunk-events 10"));
    // The last chunk leaves its own length before the end of the 0.3 s; a loaded machine may take longer.
    assert!(outcome.summary.seconds >= 0.29, "{:?}", outcome.summary);
}

#[test]
fn records_have_the_size_that_was_asked_for() {
    for bytes in [200, 250, 287, 1000, 70_000] {
        let records = Records::new(7, bytes, "s-0", TimeForm::Eventtime);
        let moment = crate::records::Moment { seconds: 1, nanoseconds: 2 };
        for seq in 0..100 {
            let mut out = Vec::new();
            records.append(&mut out, &records.opening("s-0", moment), seq);
            let record_bytes = out.len() - 10;
            assert!((bytes - 4..=bytes).contains(&record_bytes), "{record_bytes} for {bytes}");
        }
    }
}

#[test]
fn wrong_use_is_refused() {
    let line = |line: &str| Cli::try_parse_from(line.split_whitespace()).is_err();
    assert!(line("send"));
    assert!(line("send --to nowhere"));
    assert!(line("send --to :1"));
    assert!(line("send --to host:0"));
    assert!(line("send --to host:1 --rate 0"));
    assert!(line("send --to host:1 --rate NaN"));
    assert!(line("send --to host:1 --events 0"));
    assert!(!line("send --to host:1 --rate 0.5 --events 1"));
}
