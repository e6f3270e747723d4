//! Writes the corpus: small inputs of every kind, made by our own encoders, from which the fuzzers go on.
//!
//!     seeds DIRECTORY

use std::io::Write;
use std::path::Path;

use rmpv::Value;
use weir_spool::{GroupLog, Options};

fn main() {
    let dir = std::env::args().nth(1).expect("usage: seeds DIRECTORY");
    let dir = Path::new(&dir);
    let entry = encode(&Value::Array(vec![
        Value::Ext(0, vec![0x65, 0x53, 0xf1, 0, 0, 0, 0, 5]),
        Value::Map(vec![
            ("message".into(), "hello".into()),
            ("n".into(), Value::from(u64::MAX)),
            ("f".into(), Value::from(0.5)),
            ("bin".into(), Value::Binary(vec![0xff, 0])),
            (Value::from(7), Value::Array(vec![Value::Nil, true.into()])),
        ]),
    ]));
    let metadata = [&b"\x92\x92\x01\x80"[..], b"\x81\xa1a\x01"].concat();
    let stream = [&entry[..], &metadata, &entry].concat();
    let options = |compressed: &str| {
        Value::Map(vec![
            ("chunk".into(), "0123456789abcdef".into()),
            ("size".into(), 3.into()),
            ("compressed".into(), compressed.into()),
        ])
    };
    let packed = |body: &[u8], how: &str| {
        encode(&Value::Array(vec!["app.web".into(), Value::Binary(body.to_vec()), options(how)]))
    };
    let messages: Vec<(&str, Vec<u8>)> = vec![
        ("message", [&b"\x94\xa1t\xce\x65\x53\xf1\x00\x81\xa1a\x01\x81\xa5chunk\xa1c"[..]].concat()),
        ("forward", [&b"\x92\xa1t\x93"[..], &stream].concat()),
        ("packed", packed(&stream, "text")),
        ("gzip", packed(&gzip(&stream), "gzip")),
        ("gzip-members", packed(&[gzip(&stream[..9]), gzip(b""), gzip(&stream[9..])].concat(), "gzip")),
        ("zstd", packed(&zstd::bulk::compress(&stream, 1).expect("memory"), "zstd")),
        ("signal", b"\x93\xa1t\xc4\x01\x00\x81\xadfluent_signal\x01".to_vec()),
        ("json", br#"["t",1,{"a":[null,1.5,"x"]},{"chunk":"c"}]["t",[[1,{}]]]"#.to_vec()),
        ("strangers", b"\xc0\x05\x90\x81\x01\x02".to_vec()),
        ("damaged", b"\x92\xa1t\x91\x92\x01\xc1".to_vec()),
    ];
    for (name, bytes) in &messages {
        // The first byte says in which pieces it comes.
        put(dir, "session", name, &[&[7], &bytes[..]].concat());
    }
    for (name, kind, bytes) in [
        ("gzip", 0, gzip(&stream)),
        ("gzip-members", 0, [gzip(&stream), gzip(b""), gzip(b"x")].concat()),
        ("zstd", 1, zstd::bulk::compress(&stream, 1).expect("memory")),
        ("zstd-bomb", 1, zstd::bulk::compress(&vec![0; 1 << 20], 1).expect("memory")),
    ] {
        put(dir, "unpack", name, &[&[kind], &bytes[..]].concat());
    }
    let ping = encode(&Value::Array(vec![
        "PING".into(),
        "client".into(),
        Value::Binary(vec![1; 16]),
        "0".repeat(128).into(),
        "ada".into(),
        "0".repeat(128).into(),
    ]));
    put(dir, "handshake", "ping", &[&[255], &ping[..]].concat());
    put(dir, "handshake", "message", &[&[255], &messages[0].1[..]].concat());
    for (name, sealed) in [("segment", true), ("open", false)] {
        put(dir, "log", name, &segment(&stream, sealed));
    }
}

fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("a Vec takes every write");
    bytes
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).expect("a Vec takes every write");
    encoder.finish().expect("a Vec takes every write")
}

/// The first segment of a log, with three records; closed with a seal, or as a crash would leave it.
fn segment(payload: &[u8], sealed: bool) -> Vec<u8> {
    let dir = std::env::temp_dir().join(format!("weir-seeds-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let bytes = runtime.block_on(async {
        let (log, _) = GroupLog::open(&dir, Options::default()).expect("a log");
        for _ in 0..3 {
            let payload = bytes::Bytes::copy_from_slice(payload);
            log.append(bytes::Bytes::from_static(b"header"), payload).await.expect("a record");
        }
        let first = || {
            let paths = std::fs::read_dir(&dir).expect("the log").flatten().map(|entry| entry.path());
            let segment = paths.filter(|path| path.extension().is_some_and(|kind| kind == "seg")).min();
            std::fs::read(segment.expect("a segment")).expect("the segment")
        };
        let open = first();
        log.close().await;
        if sealed { first() } else { open }
    });
    let _ = std::fs::remove_dir_all(&dir);
    // What lies behind the records is room that was made ready.
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    bytes[..(end + 16).min(bytes.len())].to_vec()
}

fn put(dir: &Path, target: &str, name: &str, bytes: &[u8]) {
    let dir = dir.join(target);
    std::fs::create_dir_all(&dir).expect("the corpus");
    std::fs::write(dir.join(name), bytes).expect("the corpus");
}
