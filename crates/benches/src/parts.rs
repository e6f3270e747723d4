//! The hot parts: what runs for every batch, or every event, on its way from a socket to a store.

use std::convert::Infallible;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use weir_forward::{Event, Limits, Session};
use weir_model::{BatchHeader, BatchId, Encoding, GroupId, Incarnation, LogId, MinuteTally, NodeId, Seq};
use weir_routing::{Member, Ring, RouteCache, Router};
use weir_shape::{Codec, Format, each_event};
use weir_spool::{Log, Options, OsDisk, Record};
use weir_store::PartBatch;
use weir_transit::BatchHead;

/// Events in one chunk.
const EVENTS: usize = 1000;
/// When everything happens, in nanoseconds since 1970.
const NOW_NS: i64 = 1_790_000_000_000_000_000;

/// Work that can be done again and again.
pub(crate) type Work = Box<dyn FnMut()>;

/// One hot part.
pub(crate) struct Part {
    /// What it is called in the baseline.
    pub(crate) name: &'static str,
    /// How many units one round of the work is.
    pub(crate) units: usize,
    /// What a unit is.
    pub(crate) unit: &'static str,
    /// How much more than the baseline is a regression, in percent.
    pub(crate) tolerance: f64,
    /// Makes the work ready.
    pub(crate) prepare: fn() -> anyhow::Result<Work>,
}

/// All parts.
pub(crate) const ALL: [Part; 13] = [
    part("scan-packed", EVENTS, "event", 2.0, || scan(packed(), 1)),
    part("scan-forward", EVENTS, "event", 2.0, || scan(forward(), 1)),
    part("scan-messages", EVENTS, "event", 3.0, || scan(messages(), 1)),
    part("scan-gzip", EVENTS, "event", 3.0, || scan(compressed("gzip", &gzip(&entries())?), 1)),
    part("scan-zstd", EVENTS, "event", 3.0, || {
        scan(compressed("zstd", &zstd::bulk::compress(&entries(), 1)?), 1)
    }),
    part("header", 100, "batch", 5.0, header),
    part("log-append", 16, "batch", 3.0, log_append),
    part("log-read", 16, "batch", 3.0, log_read),
    part("route", 1000, "tag", 3.0, route),
    part("ring", 1000, "tag", 3.0, ring),
    part("format-json", EVENTS, "event", 2.0, format_json),
    part("pack-zstd", EVENTS, "event", 3.0, pack_zstd),
    // Two endpoints and a kernel between them: acknowledgements do not always meet the same packets.
    part("link", 16, "batch", 5.0, crate::link::carry),
];

const fn part(
    name: &'static str,
    units: usize,
    unit: &'static str,
    tolerance: f64,
    prepare: fn() -> anyhow::Result<Work>,
) -> Part {
    Part { name, units, unit, tolerance, prepare }
}

/// The parts of these names; all of them where none is named.
///
/// # Errors
/// There is no part of that name.
pub(crate) fn named(names: &[String]) -> anyhow::Result<Vec<&'static Part>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let find = |name: &String| {
        let known = || ALL.iter().map(|part| part.name).collect::<Vec<_>>().join(" ");
        ALL.iter()
            .find(|part| part.name == name)
            .with_context(|| format!("no part {name:?}; there are {}", known()))
    };
    names.iter().map(find).collect()
}

/// What the gate counts: callgrind collects within this function alone, which it finds by name.
#[inline(never)]
pub(crate) fn hot(work: &mut dyn FnMut()) {
    work();
}

/// One event of eight fields and about 250 bytes.
fn event(n: usize) -> Vec<u8> {
    let mut entry = vec![0x92, 0xd7, 0x00];
    entry.extend((1_790_000_000 + n as u32 / 100).to_be_bytes());
    entry.extend((n as u32 * 1_999_993 % 1_000_000_000).to_be_bytes());
    entry.push(0x88);
    let mut text = |key: &str, value: &str| {
        entry.push(0xa0 | key.len() as u8);
        entry.extend(key.as_bytes());
        match value.len() {
            short @ 0..32 => entry.push(0xa0 | short as u8),
            long => entry.extend([0xd9, long as u8]),
        }
        entry.extend(value.as_bytes());
    };
    text("host", &format!("web-{:04}", n % 500));
    text("method", ["GET", "POST", "DELETE"][n % 3]);
    text("path", &format!("/api/v1/users/{n:08}/orders/{:06}/items", n * 7 % 999_999));
    // One line in eight needs escapes, one in eight is not ASCII.
    let referer =
        ["https://shop.example.com/catalogue/page/4711", "said \"no\" and went", "größer als erwartet"];
    text("referer", referer[if n.is_multiple_of(8) { 1 } else { 2 * usize::from(n % 8 == 3) }]);
    text("agent", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101");
    text("remote", &format!("10.{}.{}.{}", n % 250, n % 240, n % 230));
    entry.extend(b"\xa4code\xcd\x00\xc8");
    entry.extend(b"\xa4size\xce\x00\x01\x02\x03");
    entry
}

fn entries() -> Vec<u8> {
    (0..EVENTS).flat_map(event).collect()
}

fn packed() -> Vec<u8> {
    let entries = entries();
    let mut message = b"\x93\xa7app.web\xc6".to_vec();
    message.extend((entries.len() as u32).to_be_bytes());
    message.extend(entries);
    message.extend(b"\x81\xa5chunk\xb8AAECAwQFBgcICQoLDA0ODw==");
    message
}

fn forward() -> Vec<u8> {
    let mut message = b"\x92\xa7app.web\xdd".to_vec();
    message.extend((EVENTS as u32).to_be_bytes());
    message.extend(entries());
    message
}

fn messages() -> Vec<u8> {
    (0..EVENTS).flat_map(|n| [b"\x93\xa7app.web", &event(n)[1..]].concat()).collect()
}

fn compressed(how: &str, packed: &[u8]) -> Vec<u8> {
    let mut message = b"\x93\xa7app.web\xc6".to_vec();
    message.extend((packed.len() as u32).to_be_bytes());
    message.extend(packed);
    message.extend(b"\x82\xa5chunk\xb8AAECAwQFBgcICQoLDA0ODw==\xaacompressed\xa4");
    message.extend(how.as_bytes());
    message
}

fn gzip(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain)?;
    encoder.finish()
}

fn scan(message: Vec<u8>, batches: usize) -> anyhow::Result<Work> {
    let mut session = Session::new(Limits::default());
    Ok(Box::new(move || {
        // As a socket gives it: in pieces.
        let mut found = 0;
        for piece in message.chunks(128 << 10) {
            session.buffer().extend_from_slice(piece);
            while let Ok(Some(Event::Batch(batch))) = session.next(NOW_NS) {
                black_box(&batch.payload);
                found += 1;
            }
        }
        assert!(found >= batches, "{found} batches");
    }))
}

pub(crate) fn batch_header() -> BatchHeader {
    BatchHeader {
        tag: "app.web".into(),
        encoding: Encoding::Plain,
        received_ns: NOW_NS,
        chunks: vec![weir_model::ChunkIdentity {
            id: Bytes::from_static(b"\xb8AAECAwQFBgcICQoLDA0ODw=="),
            payload_hash: 0x1234_5678_9abc_def0,
            entries: EVENTS as u64,
        }],
        unpacked_bytes: 250_000,
        minutes: vec![MinuteTally {
            minute: 29_833_333,
            events: EVENTS as u64,
            bytes: 250_000,
            digest: u64::MAX,
        }],
    }
}

/// What every batch's header goes through: made at the edge, into the link's head, and read at the sink.
fn header() -> anyhow::Result<Work> {
    let header = batch_header();
    Ok(Box::new(move || {
        for n in 0..100 {
            let head =
                BatchHead { seq: Seq(n), done: Vec::new(), recall: false, header: header.encode().into() };
            let read = BatchHead::decode(&head.encode());
            let header = read.ok().and_then(|head| BatchHeader::decode(&head.header).ok());
            assert!(black_box(header).is_some());
        }
    }))
}

fn log_append() -> anyhow::Result<Work> {
    let dir = tempfile::tempdir()?;
    let (payload, header) = (Bytes::from(entries()), Bytes::from(batch_header().encode()));
    let options = Options { segment_bytes: 1 << 30, ..Options::default() };
    let (mut log, _) = Log::open(&Arc::new(OsDisk), dir.path(), options, Incarnation(1), NOW_NS as u64)?;
    Ok(Box::new(move || {
        let _dir = &dir;
        let records: Vec<_> = (0..16).map(|_| Record::new(header.clone(), payload.clone())).collect();
        assert!(log.append(&records, NOW_NS as u64).is_ok() && log.sync().is_ok());
    }))
}

fn log_read() -> anyhow::Result<Work> {
    let dir = tempfile::tempdir()?;
    let (payload, header) = (Bytes::from(entries()), Bytes::from(batch_header().encode()));
    let options = Options { segment_bytes: 1 << 30, ..Options::default() };
    let (mut log, _) = Log::open(&Arc::new(OsDisk), dir.path(), options, Incarnation(1), NOW_NS as u64)?;
    let records: Vec<_> = (0..16).map(|_| Record::new(header.clone(), payload.clone())).collect();
    log.append(&records, NOW_NS as u64)?;
    log.sync()?;
    Ok(Box::new(move || {
        let _dir = &dir;
        let (mut reader, mut read) = (log.reader(Seq(0)), 0);
        while let Ok(records) = reader.read(2 << 20)
            && !records.is_empty()
        {
            read += records.len();
        }
        assert_eq!(read, 16);
    }))
}

/// Ten thousand routes; half of the tags are remembered by the connection, half are met for the first time.
fn route() -> anyhow::Result<Work> {
    let routes = (0..10_000).map(|n| (format!("app{n}.** svc{n}.{{a,b}}.*"), vec![]));
    let router = Router::new(routes.chain([("**".to_owned(), vec![])]).collect())?;
    let tags: Vec<String> = (0..1000).map(|n| format!("app{}.web.access", n * 7)).collect();
    ensure!(router.route(&tags[3]) == Some(21), "the router does not do its work");
    Ok(Box::new(move || {
        let mut cache = RouteCache::new(256);
        for pair in tags.chunks(2) {
            for tag in [&pair[0], &pair[0], &pair[1], &pair[1]] {
                black_box(cache.route(&router, black_box(tag)));
            }
        }
    }))
}

fn ring() -> anyhow::Result<Work> {
    let member =
        |n| anyhow::Ok(Member { node: NodeId::new(&format!("sink-{n}"))?, weight: 1, rack: "r".into() });
    let members = (0..20).map(member).collect::<anyhow::Result<Vec<_>>>()?;
    let ring = Ring::new(&members, None);
    let tags: Vec<String> = (0..1000).map(|n| format!("app.{n}")).collect();
    Ok(Box::new(move || {
        for tag in &tags {
            assert!(ring.owner(black_box(tag), &|node| node.as_str() != "sink-3").is_some());
        }
    }))
}

fn batch() -> anyhow::Result<PartBatch> {
    let log =
        LogId { edge: NodeId::new("edge-1")?, group: GroupId::new("files")?, incarnation: Incarnation(1) };
    Ok(PartBatch {
        id: BatchId { log: Arc::new(log), seq: Seq(0) },
        header: Arc::new(batch_header()),
        done: Vec::new(),
        payload: Arc::new(Bytes::from(entries())),
    })
}

fn format_json() -> anyhow::Result<Work> {
    let batch = batch()?;
    Ok(Box::new(move || {
        let visited = each_event(&batch, Format::Envelope, |event| {
            black_box(event.json);
            Ok::<_, Infallible>(())
        });
        assert!(visited.is_ok_and(|events| events == EVENTS as u64));
    }))
}

fn pack_zstd() -> anyhow::Result<Work> {
    let mut lines = Vec::new();
    each_event(&batch()?, Format::Envelope, |event| {
        lines.extend_from_slice(event.json);
        lines.push(b'\n');
        Ok::<_, Infallible>(())
    })?;
    Ok(Box::new(move || {
        let mut writer = Codec::Zstd.writer(Vec::new());
        let packed = writer.write_all(&lines).and_then(|()| writer.finish());
        assert!(packed.is_ok_and(|packed| !black_box(packed).is_empty()));
    }))
}
