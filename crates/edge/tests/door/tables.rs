//! The two tables of the protocol's reference at a running edge, row by row: where servers disagree (`[#1]` to `[#30]`) and bad input
//! (`[B1]` to `[B20]`, in the order of that table). For each: what is sent, and in which pieces; which events are in
//! the log, as JSON; the acknowledgements byte for byte; what becomes of the connection; what is counted.
//!
//! A binary of its own: it holds the process's counters to exact numbers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails, there and then")]

#[allow(dead_code, reason = "the other tests use more of it")]
mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_forward::scan::{EventTime, entries};
use weir_model::{BatchHeader, Seq};
use weir_spool::inspect::{self, Item};
use weir_telemetry::{Totals, names};

use scene::{Scene, Sender, until};

/// Rows that need more than bytes on a connection, and the test that holds them.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("#18 B20", include_str!("times.rs"), "what_is_not_stored_in_time_is_not_acknowledged"),
    ("#22", include_str!("carriers.rs"), "heartbeats_are_answered_from_where_they_went"),
    ("#23 B18", include_str!("handshake.rs"), "who_knows_the_key_comes_in"),
    ("B15", include_str!("bytes.rs"), "a_chunk_refused_three_times_is_kept_aside"),
];

/// Small ones, so that what is too large is quickly sent.
const LIMITS: &str = "[forward]\nchunk_size_limit = '64KiB'\ndecompression_size_limit = '64KiB'\n";

/// What becomes of the connection.
enum Fate {
    /// It goes on: the next message is taken and acknowledged.
    Open,
    /// Closed, once what was due has been written.
    Closed,
    /// The sender ends it there.
    Left,
    /// It waits for this, in silence, and then goes on.
    Waits(Vec<u8>),
}

struct Row {
    name: &'static str,
    /// `~~~` stands for the tag, another one for each way of cutting.
    bytes: Vec<u8>,
    /// Behind what was there before: a time and a record for each event.
    stored: Vec<String>,
    acks: Vec<u8>,
    fate: Fate,
    /// Violations and skips by their labels.
    counted: Vec<(&'static str, u64)>,
}

fn row(name: &'static str, bytes: impl Into<Vec<u8>>) -> Row {
    let bytes = bytes.into();
    Row { name, bytes, stored: Vec::new(), acks: Vec::new(), fate: Fate::Open, counted: Vec::new() }
}

impl Row {
    fn stored(mut self, events: &[&str]) -> Self {
        self.stored = events.iter().map(|&event| event.to_owned()).collect();
        self
    }

    fn acks(mut self, acks: &[u8]) -> Self {
        self.acks = acks.to_vec();
        self
    }

    fn closed(mut self, reason: &'static str) -> Self {
        self.fate = Fate::Closed;
        self.counted(reason, 1)
    }

    fn counted(mut self, reason: &'static str, times: u64) -> Self {
        self.counted.push((reason, times));
        self
    }

    fn fate(mut self, fate: Fate) -> Self {
        self.fate = fate;
        self
    }
}

/// Joins parts to one `Vec<u8>`.
macro_rules! cat {
    ($($part:expr),* $(,)?) => {{
        let mut all: Vec<u8> = Vec::new();
        $(all.extend_from_slice(AsRef::<[u8]>::as_ref(&$part));)*
        all
    }};
}

const ENTRY: &[u8] = b"\x92\x01\x81\xa1a\x01";
const EVENT: &str = r#"1.000000000 {"a":1}"#;
const CHUNK: &[u8] = b"\x81\xa5chunk\xa2x\n";
const ACK: &[u8] = b"\x81\xa3ack\xa2x\n";

fn bin(bytes: &[u8]) -> Vec<u8> {
    cat![b"\xc6", (bytes.len() as u32).to_be_bytes(), bytes]
}

fn forward(entries: &[u8], count: u8, options: &[u8]) -> Vec<u8> {
    cat![b"\x93\xa3~~~", [0x90 | count], entries, options]
}

fn packed(stream: &[u8], options: &[u8]) -> Vec<u8> {
    cat![b"\x93\xa3~~~", bin(stream), options]
}

fn compressed(how: &str, body: &[u8]) -> Vec<u8> {
    packed(body, &cat![b"\x82\xa5chunk\xa2x\n\xaacompressed", [0xa0 | how.len() as u8], how])
}

fn message(time: &[u8], record: &[u8]) -> Vec<u8> {
    cat![b"\x94\xa3~~~", time, record, CHUNK]
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 1).unwrap()
}

/// Arrays within each other, the innermost empty.
fn nested(depth: usize) -> Vec<u8> {
    let mut value = vec![0x91; depth - 1];
    value.push(0x90);
    value
}

/// The byte at `from_end` is another one.
fn damaged(mut bytes: Vec<u8>, from_end: usize) -> Vec<u8> {
    let at = bytes.len() - from_end;
    bytes[at] ^= 1;
    bytes
}

fn disagreements() -> Vec<Row> {
    let whole = gzip(ENTRY);
    let hundred = format!("1.000000000 {{\"a\":{}{}}}", "[".repeat(98), "]".repeat(98));
    vec![
        row("[#1] an invalid entry among good ones", forward(&cat![ENTRY, b"\x05", ENTRY], 3, CHUNK))
            .stored(&[EVENT, EVENT])
            .acks(ACK)
            .counted("invalid_entry", 1),
        row("[#1] the same, packed", packed(&cat![ENTRY, b"\x05", ENTRY], CHUNK))
            .stored(&[EVENT, EVENT])
            .acks(ACK)
            .counted("invalid_entry", 1),
        row("[#2] a value that is no message", cat![b"\x05", forward(ENTRY, 1, CHUNK)])
            .stored(&[EVENT])
            .acks(ACK)
            .counted("not_message", 1),
        row("[#3] nil", cat![b"\xc0", forward(ENTRY, 1, CHUNK), b"\xc0"]).stored(&[EVENT]).acks(ACK),
        row("[#4] nil options, Message", b"\x94\xa3~~~\x01\x81\xa1a\x01\xc0").stored(&[EVENT]),
        row("[#4] nil options, Forward", forward(ENTRY, 1, b"\xc0")).stored(&[EVENT]),
        row("[#4] nil options, packed", packed(ENTRY, b"\xc0")).stored(&[EVENT]),
        row("[#5] time 0", message(b"\x00", b"\x81\xa1a\x01")).stored(&[r#"received {"a":1}"#]).acks(ACK),
        row("[#6] float time, Message", message(b"\xcb\x3f\xf8\0\0\0\0\0\0", b"\x80"))
            .stored(&["1.500000000 {}"])
            .acks(ACK),
        row("[#6] float time in an entry", forward(b"\x92\xca\x3f\xc0\0\0\x80", 1, CHUNK))
            .stored(&["1.500000000 {}"])
            .acks(ACK),
        row(
            "[#7] entries with metadata",
            forward(b"\x92\x92\xd7\0\0\0\0\x01\0\0\0\x05\x81\xa1m\x02\x81\xa1a\x01", 1, CHUNK),
        )
        .stored(&[r#"1.000000005 {"a":1}"#])
        .acks(ACK),
        row("[#8] a payload in str, and a value, that are no UTF-8", {
            let stream = b"\x92\x01\x81\xa1a\xa2\xffb";
            cat![b"\x93\xa3~~~", [0xdb, 0, 0, 0, stream.len() as u8], stream, CHUNK]
        })
        .stored(&["1.000000000 {\"a\":\"\u{fffd}b\"}"])
        .acks(ACK),
        row("[#9] a tag in bin", cat![b"\x93\xc4\x03~~~\x91", ENTRY, CHUNK]).stored(&[EVENT]).acks(ACK),
        row("[#10] an unknown ext in a record", message(b"\x01", b"\x81\xa1a\xd4\x09\x01"))
            .stored(&[r#"1.000000000 {"a":{"$ext":[9,"AQ=="]}}"#])
            .acks(ACK),
        row("[#11] a key that is no string", message(b"\x01", b"\x81\x07\x01"))
            .stored(&[r#"1.000000000 {"7":1}"#])
            .acks(ACK),
        row("[#12] gzip with a wrong checksum", compressed("gzip", &damaged(whole.clone(), 8)))
            .closed("decompress_error"),
        row("[#12] gzip with a wrong length", compressed("gzip", &damaged(whole.clone(), 4)))
            .closed("decompress_error"),
        row("[#12] gzip, cut", compressed("gzip", &whole[..whole.len() - 1])).closed("decompress_error"),
        row("[#12] zstd, cut", compressed("zstd", &zstd(ENTRY)[..8])).closed("decompress_error"),
        row("[#12] a malformed stream", packed(&cat![ENTRY, b"\xc1"], CHUNK)).closed("malformed_entries"),
        row("[#13] an unknown name, gzip inside", compressed("lzo", &whole)).stored(&[EVENT]).acks(ACK),
        row("[#13] an unknown name, zstd inside", compressed("lzo", &zstd(ENTRY))).stored(&[EVENT]).acks(ACK),
        row("[#13] an unknown name, plain inside", compressed("lzo", ENTRY)).stored(&[EVENT]).acks(ACK),
        row("[#14] zstd", compressed("zstd", &zstd(ENTRY))).stored(&[EVENT]).acks(ACK),
        row("[#15] a chunk that is no string", forward(ENTRY, 1, b"\x81\xa5chunk\x92\x01\xc0"))
            .stored(&[EVENT])
            .acks(b"\x81\xa3ack\x92\x01\xc0"),
        row("[#16] an empty chunk", forward(ENTRY, 1, b"\x81\xa5chunk\xa0"))
            .stored(&[EVENT])
            .acks(b"\x81\xa3ack\xa0"),
        row("[#17] over the size limit", packed(&[0; 64 << 10], CHUNK)).closed("too_large"),
        row("[#19] garbage behind a good message", cat![forward(ENTRY, 1, CHUNK), [0xc1; 100]])
            .stored(&[EVENT])
            .acks(ACK)
            .closed("malformed"),
        row("[#20] a huge length", b"\x92\xa3~~~\xc6\xff\xff\xff\xff").closed("too_large"),
        row("[#20] a huge count", b"\x92\xa3~~~\xdd\xff\xff\xff\xff").closed("too_large"),
        row("[#21] no chunk", cat![b"\x92\xa3~~~\x91", ENTRY]).stored(&[EVENT]),
        row("[#24] 10⁹ nanoseconds", message(b"\xd7\0\0\0\0\x01\x3b\x9a\xca\x05", b"\x80"))
            .stored(&["2.000000005 {}"])
            .acks(ACK),
        row(
            "[#25] long headers",
            cat![b"\xdd\0\0\0\x03\xa3~~~\xdd\0\0\0\x01", ENTRY, b"\xdf\0\0\0\x01", &CHUNK[1..]],
        )
        .stored(&[EVENT])
        .acks(ACK),
        row("[#26] an empty packed payload", packed(b"", CHUNK)).acks(ACK),
        row("[#27] an empty first member", compressed("gzip", &cat![gzip(b""), whole]))
            .stored(&[EVENT])
            .acks(ACK),
        row("[#28] nested 100 levels", message(b"\x01", &cat![b"\x81\xa1a", nested(98)]))
            .stored(&[&hundred])
            .acks(ACK),
        row("[#29] chunk nil", forward(ENTRY, 1, b"\x81\xa5chunk\xc0")).stored(&[EVENT]),
        row("[#30] JSON", r#"["~~~",1,{"a":1},{"chunk":"x"}]"#).stored(&[EVENT]).acks(br#"{"ack":"x"}"#),
    ]
}

fn bad_input() -> Vec<Row> {
    let cut = cat![b"\x92\xa3~~~\x92", ENTRY, b"\x92\x01"];
    let grown = cat![b"\x93\xa3~~~\x01\xdc\x20\0", b"\xcf\0\0\0\0\0\0\0\0".repeat(0x2000)];
    let long = |header: &[u8]| cat![b"\x93\xa3~~~\x01", header];
    vec![
        row("[B1] an impossible byte between messages", b"\xc1").closed("malformed"),
        row("[B1] an impossible byte inside a message", b"\x92\xa3~~~\x91\x92\x01\xc1").closed("malformed"),
        row("[B2] nested too deep", message(b"\x01", &cat![b"\x81\xa1a", nested(127)])).closed("too_deep"),
        row("[B2] nested too deep, packed", packed(&nested(129), CHUNK)).closed("too_deep"),
        row("[B3] a declared str", long(b"\x81\xa1a\xdb\x10\0\0\0")).closed("too_large"),
        row("[B3] a declared bin", long(b"\x81\xa1a\xc6\x10\0\0\0")).closed("too_large"),
        row("[B3] a declared ext", long(b"\x81\xa1a\xc9\x10\0\0\0")).closed("too_large"),
        row("[B3] a declared array", long(b"\x81\xa1a\xdd\x10\0\0\0")).closed("too_large"),
        row("[B3] a declared map", long(b"\xdf\x10\0\0\0")).closed("too_large"),
        row("[B3] an outer array of 17", b"\xdc\0\x11").closed("outer_array"),
        row("[B3] an outer array of 2³²−1", b"\xdd\xff\xff\xff\xff").closed("outer_array"),
        row("[B4] it grows over the limit, and no header said so", grown).closed("too_large"),
        row("[B5] incomplete, then the end", cut).fate(Fate::Left).counted("truncated", 1),
        row("[B6] incomplete, then silence", cat![b"\x93\xa3~~~\x91", &ENTRY[..4]])
            .fate(Fate::Waits(cat![&ENTRY[4..], CHUNK]))
            .stored(&[EVENT])
            .acks(ACK),
        row("[B7] values that are no message", b"\x05\x81\x01\x02\xa1x\xc3").counted("not_message", 4),
        row("[B7] sixteen of them", [1; 16]).closed("not_forward").counted("not_message", 15),
        row("[B8] arrays of no and of one element, a tag and a time", b"\x90\x91\xa3~~~\x92\xa3~~~\x01")
            .counted("invalid_message", 3),
        row("[B8] a tag that is none", cat![b"\x93\x05\x91", ENTRY, CHUNK])
            .acks(ACK)
            .counted("invalid_tag", 1),
        row("[B8] a record that is no map", message(b"\x01", b"\x90")).acks(ACK).counted("invalid_entry", 1),
        row("[B8] a time that is none", message(b"\xc3", b"\x80")).acks(ACK).counted("invalid_entry", 1),
        row("[B9] options that are no map", forward(ENTRY, 1, b"\xa5chunk"))
            .stored(&[EVENT])
            .counted("invalid_options", 1),
        row("[B10] invalid entries", forward(&cat![b"\x91\x01", ENTRY, b"\x92\x01\x90"], 3, CHUNK))
            .stored(&[EVENT])
            .acks(ACK)
            .counted("invalid_entry", 2),
        row("[B10] invalid entries, packed", packed(&cat![b"\xc0\x07", ENTRY], CHUNK))
            .stored(&[EVENT])
            .acks(ACK)
            .counted("invalid_entry", 2),
        row("[B11] cut inside the last entry", packed(&cat![ENTRY, &ENTRY[..5]], CHUNK))
            .stored(&[EVENT])
            .acks(ACK)
            .counted("truncated_entry", 1),
        row("[B11] the same, compressed", compressed("gzip", &gzip(&cat![ENTRY, &ENTRY[..5]])))
            .stored(&[EVENT])
            .acks(ACK)
            .counted("truncated_entry", 1),
        row("[B12] malformed in the stream", packed(&cat![ENTRY, b"\xc1", ENTRY], CHUNK))
            .closed("malformed_entries"),
        row("[B12] malformed in the inflated stream", compressed("zstd", &zstd(&cat![ENTRY, b"\xc1"])))
            .closed("malformed_entries"),
        row("[B13] no gzip", compressed("gzip", ENTRY)).closed("decompress_error"),
        row("[B13] gzip, and garbage behind it", compressed("gzip", &cat![gzip(ENTRY), b"xyz"]))
            .closed("decompress_error"),
        row("[B13] gzip with a wrong checksum", compressed("gzip", &damaged(gzip(ENTRY), 8)))
            .closed("decompress_error"),
        row("[B13] zstd, and garbage behind it", compressed("zstd", &cat![zstd(ENTRY), b"xyzxyz"]))
            .closed("decompress_error"),
        row("[B14] gzip that inflates too far", compressed("gzip", &gzip(&[0; (64 << 10) + 1])))
            .closed("decompress_limit"),
        row("[B14] zstd that inflates too far", compressed("zstd", &zstd(&[0; (64 << 10) + 1])))
            .closed("decompress_limit"),
        row(
            "[B16] metrics, as Fluent Bit sends them",
            packed(b"\x82\xa4meta\x80\xa7metrics\x90", b"\x82\xadfluent_signal\x01\xa5chunk\xa2x\n"),
        )
        .acks(ACK)
        .counted("unsupported_signal", 1),
        row(
            "[B16] metrics with `fluentd_compat`: the record is an array",
            forward(b"\x92\xd7\0\0\0\0\x01\0\0\0\0\x91\x80", 1, b"\x82\xa5chunk\xa2x\n\xadfluent_signal\x01"),
        )
        .acks(ACK)
        .counted("unsupported_signal", 1),
        row(
            "[B16] traces, compressed and without a chunk",
            packed(&gzip(b"\x80"), b"\x82\xaacompressed\xa4gzip\xadfluent_signal\x02"),
        )
        .counted("unsupported_signal", 1),
        row("[B17] no JSON", r#"["~~~",1,{"a":1},{"chunk":"x"}]["~~~",nope]"#)
            .stored(&[EVENT])
            .acks(br#"{"ack":"x"}"#)
            .closed("malformed_json"),
        row(
            "[B19] no UTF-8, and bin, anywhere",
            cat![
                b"\x93\xc4\x03~~~\x91\x92\x01\x82\xc4\x01k\xa1\xff\xa1\xff\xc4\x01\xff",
                b"\x81\xc4\x05chunk\xa1\xff"
            ],
        )
        .stored(&["1.000000000 {\"k\":\"\u{fffd}\",\"\u{fffd}\":{\"$binary\":\"/w==\"}}"])
        .acks(b"\x81\xa3ack\xa1\xff"),
    ]
}

/// How a row's bytes are cut into writes.
fn cuts(bytes: &[u8]) -> Vec<(&'static str, Vec<&[u8]>)> {
    let middle = bytes.len() / 2;
    // A large one byte by byte would take a while: its head and its end are what matters.
    let (head, body) = bytes.split_at(bytes.len().min(64));
    let (body, end) = body.split_at(body.len().saturating_sub(64));
    let mut single: Vec<&[u8]> = head.chunks(1).collect();
    single.extend((!body.is_empty()).then_some(body));
    single.extend(end.chunks(1));
    vec![("whole", vec![bytes]), ("halves", vec![&bytes[..middle], &bytes[middle..]]), ("bytes", single)]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_both_tables() {
    let scene = Scene::start(LIMITS).await;
    let rows: Vec<Row> = disagreements().into_iter().chain(bad_input()).collect();
    let mut expected = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let json = matches!(row.bytes[0], b'[' | b'{');
        for (cut, way) in ["w", "h", "b"].into_iter().enumerate() {
            let tag = format!("{index:02}{way}");
            let named = |bytes: &[u8]| replace(bytes, &tag);
            // What came before is always kept and acknowledged.
            let (prior, prior_ack) = event("p", json);
            let bytes = named(&cat![prior, row.bytes]);
            let (how, pieces) = cuts(&bytes).swap_remove(cut);
            let at = || format!("{}, {how}", row.name);
            let before = counts();
            let told = Totals::now().sum(&names::FORWARD_REFUSED_TOTAL);
            let mut sender = scene.tcp().await;
            for piece in pieces {
                // It may be closed before it has taken all.
                if sender.0.write_all(piece).await.is_err() {
                    break;
                }
                sender.0.flush().await.unwrap();
                // Not waited for: what comes apart is to be read apart.
                tokio::time::sleep(Duration::from_micros(if how == "halves" { 20_000 } else { 200 })).await;
            }
            let mut acks = cat![prior_ack, row.acks];
            match &row.fate {
                Fate::Open => {
                    let (next, ack) = event("z", json);
                    sender.send(&named(&next)).await;
                    acks.extend(ack);
                    sender.0.shutdown().await.unwrap();
                }
                Fate::Waits(more) => {
                    expect(&mut sender, &prior_ack, &at()).await;
                    let silence = tokio::time::timeout(Duration::from_millis(200), sender.0.read_u8()).await;
                    assert!(silence.is_err(), "{}: {silence:?}", at());
                    let (next, ack) = event("z", json);
                    sender.send(&named(&cat![more, next])).await;
                    acks = cat![row.acks, ack];
                    sender.0.shutdown().await.unwrap();
                }
                Fate::Left => sender.0.shutdown().await.unwrap(),
                Fate::Closed => {}
            }
            let said = sender.rest().await;
            assert_eq!(said.escape_ascii().to_string(), acks.escape_ascii().to_string(), "{}", at());
            // The reason is counted by the time that the last connection is gone.
            let wanted: BTreeMap<String, u64> =
                row.counted.iter().map(|&(label, times)| (label.to_owned(), times)).collect();
            let mut seen = BTreeMap::new();
            until(&at(), async || {
                seen = counts();
                for (label, times) in &before {
                    let left = seen.get(label).copied().unwrap_or(0) - times;
                    seen.insert(label.clone(), left);
                }
                seen.retain(|_, times| *times > 0);
                seen.values().sum::<u64>() >= wanted.values().sum()
            })
            .await;
            assert_eq!(seen, wanted, "{}", at());
            // What is counted is told in the log, too, and counted for its listener.
            until(&format!("{}: the log", at()), async || {
                let now = Totals::now().sum(&names::FORWARD_REFUSED_TOTAL);
                (now > told) != wanted.is_empty()
            })
            .await;
            let mut events = vec![r#"1.000000000 {"p":1}"#.to_owned()];
            events.extend(row.stored.iter().cloned());
            if matches!(row.fate, Fate::Open | Fate::Waits(_)) {
                events.push(r#"1.000000000 {"z":1}"#.to_owned());
            }
            expected.insert(tag, (at(), events));
        }
    }
    let stored = stored(scene).await;
    for (tag, (at, events)) in &expected {
        assert_eq!(stored.get(tag), Some(events), "{at}");
    }
    assert_eq!(stored.len(), expected.len(), "{:?}", stored.keys());
}

#[test]
fn every_row_has_a_case() {
    let numbers = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '#'));
        words.filter(|word| word.starts_with(['#', 'B']) && word.len() > 1).map(str::to_owned).collect()
    };
    let rows = disagreements().into_iter().chain(bad_input());
    let mut found: BTreeSet<String> =
        rows.flat_map(|row| numbers(row.name.split(']').next().unwrap())).collect();
    for (names, file, test) in ELSEWHERE {
        assert!(file.contains(&format!("fn {test}()")), "no test {test}");
        found.extend(numbers(names));
    }
    let wanted: BTreeSet<String> =
        (1..=30).map(|row| format!("#{row}")).chain((1..=20).map(|row| format!("B{row}"))).collect();
    assert_eq!(found, wanted);
}

/// An event that everybody takes, and the answer to it.
fn event(name: &str, json: bool) -> (Vec<u8>, Vec<u8>) {
    match json {
        true => (
            format!(r#"["~~~",1,{{"{name}":1}},{{"chunk":"{name}"}}]"#).into(),
            format!(r#"{{"ack":"{name}"}}"#).into(),
        ),
        false => (
            cat![b"\x94\xa3~~~\x01\x81\xa1", name, b"\x01\x81\xa5chunk\xa1", name],
            cat![b"\x81\xa3ack\xa1", name],
        ),
    }
}

async fn expect(sender: &mut Sender, wanted: &[u8], at: &str) {
    let mut seen = vec![0; wanted.len()];
    sender.0.read_exact(&mut seen).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(seen, wanted, "{at}");
}

fn replace(bytes: &[u8], tag: &str) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Some(at) = bytes.windows(3).position(|window| window == b"~~~") {
        bytes[at..at + 3].copy_from_slice(tag.as_bytes());
    }
    bytes
}

/// Violations and skips by label.
fn counts() -> BTreeMap<String, u64> {
    let totals = Totals::now();
    let violations = totals.by_label(&names::FORWARD_VIOLATIONS_TOTAL);
    violations
        .into_iter()
        .chain(totals.by_label(&names::FORWARD_SKIPPED_TOTAL))
        .map(|(label, value)| (label, value as u64))
        .collect()
}

/// What is in the log once the edge has stopped: a time and a record of each event, by tag.
async fn stored(scene: Scene) -> BTreeMap<String, Vec<String>> {
    let Scene { dir, edge, .. } = scene;
    edge.stop().await;
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let visit = |_: &inspect::SegmentInfo, item: Item| {
        if let Item::Record { record, .. } = item {
            let header = BatchHeader::decode(&record.header).unwrap();
            let plain = weir_forward::unpack::unpack(header.encoding, &record.payload, 1 << 20).unwrap();
            let events = found.entry(header.tag.to_string()).or_default();
            for entry in entries(&plain) {
                let entry = entry.unwrap();
                let mut json = Vec::new();
                weir_shape::write_json(&mut json, entry.record).unwrap();
                let json = String::from_utf8(json).unwrap();
                events.push(match entry.time {
                    EventTime::Received => format!("received {json}"),
                    EventTime::At { secs, nanos } => format!("{secs}.{nanos:09} {json}"),
                });
            }
        }
        ControlFlow::Continue(())
    };
    inspect::visit(&dir.path().join("data/logs/g"), Seq(0), visit).unwrap();
    found
}
