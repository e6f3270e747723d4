//! Planted faults in a temporary tree, each found and named.

use std::fs;

use clap::Parser;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::canonical;

/// A line of stream `stream`, as a store holds it.
pub(super) fn line(stream: &str, seq: u64) -> String {
    let Value::Object(mut record) =
        json!({"took": -5, "message": format!("größe {seq}"), "context": {"b": [1], "a": true}})
    else {
        unreachable!()
    };
    let sum = canonical::sum(&record);
    record.extend([("stream".into(), stream.into()), ("seq".into(), seq.into()), ("sum".into(), sum.into())]);
    envelope(&record)
}

fn envelope(record: &Map<String, Value>) -> String {
    json!({"time": "2026-01-31T12:59:03.5Z", "tag": "app.web", "record": record}).to_string() + "\n"
}

pub(super) fn numbers(stream: &str, range: std::ops::Range<u64>) -> String {
    range.map(|seq| line(stream, seq)).collect()
}

/// A tree of files with this content.
fn tree(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: VerifyArgs,
}

/// The options that follow `verify` on a command line.
pub(super) fn parse(options: &[&str]) -> VerifyArgs {
    Cli::try_parse_from([&["verify"], options].concat()).unwrap().args
}

/// The report of `verify <options>`.
pub(super) fn report_of(options: &[&str]) -> Report {
    let args = parse(options);
    verify(&args, &expectation(&args).unwrap()).unwrap()
}

/// The report of `verify --files <dir> <options>`.
fn report(dir: &TempDir, options: &[&str]) -> Report {
    report_of(&[&["--files", dir.path().to_str().unwrap()], options].concat())
}

/// The report's text without hash, and with the directory cut from places.
fn text(dir: &TempDir, options: &[&str]) -> String {
    let text = report(dir, options).to_string().replace(&format!("{}/", dir.path().display()), "");
    text.lines().filter(|line| !line.starts_with("hash ")).map(|line| format!("{line}\n")).collect()
}

fn ledger(dir: &TempDir, ledger: &Value) -> String {
    let path = dir.path().join("ledger.json");
    fs::write(&path, ledger.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn each_fault_is_found_and_named() {
    let altered = line("s-0", 7).replace("größe 7", "große 7");
    let content = [
        numbers("s-0", 0..3), // 3 and 4 are lost
        numbers("s-0", 5..7),
        altered,
        numbers("s-0", 8..10),
        numbers("s-1", 0..2),
    ]
    .concat();
    let dir = tree(&[
        ("a/1.jsonl", content.as_bytes()),
        ("b/2.jsonl", (line("s-1", 2) + &line("s-1", 1)).as_bytes()),
    ]);
    let expected = "NOT FINE: 12 events of 2 streams (0 not judged); 2 lost, 1 doubled, 1 altered, 0 foreign
lost: s-0 seq 3-4
doubled: s-1 seq 1 at b/2.jsonl:2
altered: s-0 seq 7 at a/1.jsonl:6
";
    assert_eq!(text(&dir, &[]), expected);
}

#[test]
fn a_whole_store_is_fine_in_any_order_and_form() {
    let (first, second) = (numbers("s-0", 0..40), numbers("s-0", 40..100));
    let plain = tree(&[("x.jsonl", (first.clone() + &second).as_bytes())]);
    let fine = report(&plain, &["--expect", "100"]);
    assert!(fine.is_fine(), "{fine}");

    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(second.as_bytes()).unwrap();
    let gz = gz.finish().unwrap();
    let zst = zstd::encode_all(first.as_bytes(), 1).unwrap();
    let files: [(&str, &[u8]); 6] = [
        ("a/2.jsonl.gz", &gz),
        ("b/1.jsonl.zst", &zst),
        ("b/empty.jsonl.gz", b""),
        ("_weir/1.jsonl", first.as_bytes()),
        ("b/.1.jsonl", first.as_bytes()),
        ("b/1.jsonl.tmp", first.as_bytes()),
    ];
    let packed = report(&tree(&files), &["--expect", "100"]);
    assert!(packed.is_fine(), "{packed}");
    assert_eq!(packed.hash, fine.hash);

    let cut = text(&tree(&[("1.jsonl.gz", &gz[..gz.len() - 9])]), &[]);
    assert!(cut.contains("altered: at "), "{cut}");
}

#[test]
fn the_hash_knows_values_but_not_the_order_of_members() {
    let hash = |record: &str| {
        let line = format!(r#"{{"time":"2026-01-31T12:59:03Z","tag":"t","record":{record}}}"#);
        report(&tree(&[("x.jsonl", line.as_bytes())]), &["--expect", "1"]).hash
    };
    assert_eq!(hash(r#"{"a":{"x":1,"y":2},"b":"é"}"#), hash(r#"{"b":"\u00e9", "a":{"y":2,"x":1}}"#));
    assert_ne!(hash(r#"{"a":1}"#), hash(r#"{"a":"1"}"#));
}

#[test]
fn the_ledger_says_what_must_and_what_may_be_there() {
    let content = numbers("s-0", 0..5) + &numbers("s-0", 6..12) + &numbers("other", 3..5) + &line("s-0", 10);
    let dir = tree(&[("x.jsonl", content.as_bytes())]);
    let check = |streams: Value, options: &[&str], expected: &str| {
        let path = ledger(&dir, &json!({"streams": streams}));
        assert_eq!(text(&dir, &[&["--ledger", &path], options].concat()), expected);
    };
    check(
        json!({"s-0": {"acked": [[0, 4], [6, 9]], "maybe": [[5, 5], [10, 20]]}}),
        &[],
        "NOT FINE: 14 events of 1 streams (2 not judged); 0 lost, 1 doubled, 0 altered, 0 foreign
doubled: s-0 seq 10 at x.jsonl:14
",
    );
    check(
        json!({"s-0": {"acked": [[0, 9]], "maybe": [[10, 10]]}, "s-9": {"acked": [[0, 1]], "maybe": []}}),
        &[],
        "NOT FINE: 14 events of 1 streams (2 not judged); 3 lost, 1 doubled, 0 altered, 1 foreign
lost: s-0 seq 5
lost: s-9 seq 0-1
doubled: s-0 seq 10 at x.jsonl:14
foreign: s-0 seq 11 at x.jsonl:11
",
    );
    check(
        json!({"other": {"acked": [[3, 4]], "maybe": []}, "s-0": {"acked": [[0, 99]], "maybe": []}}),
        &["--stream-prefix", "oth"],
        "fine: 2 events of 1 streams (0 not judged); 0 lost, 0 doubled, 0 altered, 0 foreign\n",
    );
}

#[test]
fn filters_leave_out_streams_and_tags() {
    let other = numbers("s-1", 5..6).replace("app.web", "sys.disk");
    let dir = tree(&[("x.jsonl", (numbers("s-0", 0..3) + &numbers("t-0", 0..2) + &other).as_bytes())]);
    let events = |options: &[&str]| report(&dir, options).events;
    assert_eq!(events(&[]), 6);
    assert_eq!(events(&["--stream-prefix", "s-"]), 4);
    assert_eq!(events(&["--stream-prefix", "s-0", "--stream-prefix", "t-"]), 5);
    assert_eq!(events(&["--tag", "sys."]), 1);
}

#[test]
fn a_wrong_total_is_a_loss_or_foreign() {
    let dir = tree(&[("x.jsonl", (numbers("s-0", 0..3) + &line("s-0", 1)).as_bytes())]);
    assert_eq!(report(&dir, &["--expect", "5"]).lost, 2);
    assert_eq!(report(&dir, &["--expect", "2"]).foreign, 1);
    let exact = report(&dir, &["--expect", "3"]);
    assert_eq!((exact.lost, exact.foreign, exact.doubled), (0, 0, 1));

    let empty = tree(&[]);
    assert!(!report(&empty, &[]).is_fine());
    assert!(report(&empty, &["--expect", "0"]).is_fine());
}

#[test]
fn differing_minutes_are_named() {
    let at =
        |time: &str, text: &str| format!(r#"{{"time":"{time}","tag":"t","record":{{"m":"{text}"}}}}"#) + "\n";
    let early = at("2026-01-31T12:58:59.999999999Z", "a");
    let ours = tree(&[("x.jsonl", (early.clone() + &at("2026-01-31T12:59:00Z", "b")).as_bytes())]);
    let minutes = report(&ours, &["--per-minute"]).minutes;
    let path = ours.path().join("minutes.json");
    fs::write(&path, serde_json::to_string(&minutes).unwrap()).unwrap();
    let against = ["--against", path.to_str().unwrap()];
    assert!(report(&ours, &against).is_fine());

    let theirs = tree(&[("x.jsonl", (early + &at("2026-01-31T12:59:00Z", "c")).as_bytes())]);
    assert_eq!(report(&theirs, &against).differing_minutes, ["2026-01-31T12:59Z"]);
}

#[test]
fn waiting_ends_when_the_last_event_is_there() {
    let dir = tree(&[("x.jsonl", numbers("s-0", 0..3).as_bytes())]);
    let path = dir.path().join("_late");
    fs::write(&path, numbers("s-0", 3..5)).unwrap();
    let target = dir.path().join("y.jsonl");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| report(&dir, &["--expect", "5", "--wait", "60"]));
        fs::rename(path, target).unwrap();
        let report = waiting.join().unwrap();
        assert!(report.is_fine(), "{report}");
    });
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn wrong_use_is_refused() {
    let refused = |args: &[&str]| Cli::try_parse_from([&["verify"], args].concat()).is_err();
    assert!(refused(&[]));
    assert!(refused(&["--kafka", "localhost:1"]));
    assert!(refused(&["--files", "x", "--topics", "t"]));
    assert!(!refused(&["--files", "x", "--hdfs", "hdfs://a/b", "--kafka", "localhost:1", "--topics", "a,b"]));
    assert!(!refused(&["--kafka", "localhost:1", "--topic-prefix", "a"]));
    let args =
        Cli::try_parse_from(["verify", "--files", "x", "--ledger", "/nonexistent/ledger"]).unwrap().args;
    assert_eq!(format!("{:?}", command(args).unwrap()), format!("{:?}", ExitCode::from(2)));
}

#[test]
fn doubles_of_resent_chunks_are_told_apart() {
    let content = [numbers("s-0", 0..10), numbers("s-0", 2..5), numbers("s-0", 8..9)].concat();
    let dir = tree(&[("a.jsonl", content.as_bytes())]);
    let path = ledger(
        &dir,
        &json!({"streams": {"s-0": {"acked": [[0, 9]], "maybe": [], "resent": [[0, 3], [6, 7]]}}}),
    );
    let report = report(&dir, &["--ledger", &path]);
    assert_eq!((report.doubled, report.doubled_resent, report.lost), (4, 2, 0));
    assert!(!report.is_fine());
}

#[test]
fn a_missing_directory_is_empty_where_that_is_asked_for() {
    let dir = tree(&[("a/1.jsonl", numbers("s-0", 0..3).as_bytes())]);
    let [there, missing] = ["a", "b"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let options = ["--files", &there, "--files", &missing, "--expect", "3"];
    assert!(verify(&parse(&options), &Expectation::default()).is_err());
    assert!(report_of(&[&options[..], &["--missing-ok"]].concat()).is_fine());
}
