//! From a batch to lines.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use weir_forward::scan::ScanError;
use weir_model::{BatchHeader, BatchId, Encoding, GroupId, Incarnation, LogId, NodeId, Seq};
use weir_shape::{Codec, Event, Format, ShapeError, each_event};
use weir_store::{PartBatch, Payload};

const RECEIVED_NS: i64 = 1_767_323_045_678_901_234;

/// Three entries: EventTime with its nanoseconds, no time, a time before 1970.
const ENTRIES: &[u8] = b"\x92\xd7\x00\x69\x57\x35\xa5\x00\x00\x00\x05\x81\xa1a\x01\
    \x92\x00\x81\xa1a\x02\
    \x92\xcb\xbf\xd0\x00\x00\x00\x00\x00\x00\x81\xa1a\xa2x\n";

fn batch_of(encoding: Encoding, payload: Arc<dyn Payload>) -> PartBatch {
    let log = LogId {
        edge: NodeId::new("edge-1").unwrap(),
        group: GroupId::new("files").unwrap(),
        incarnation: Incarnation(1),
    };
    let header = BatchHeader {
        tag: "app.\"web\"".into(),
        encoding,
        received_ns: RECEIVED_NS,
        chunks: Vec::new(),
        unpacked_bytes: 0,
        minutes: Vec::new(),
    };
    PartBatch {
        id: BatchId { log: Arc::new(log), seq: Seq(0) },
        header: Arc::new(header),
        done: Vec::new(),
        payload,
    }
}

fn plain(payload: &'static [u8]) -> PartBatch {
    batch_of(Encoding::Plain, Arc::new(Bytes::from_static(payload)))
}

/// Time and line of each event.
fn lines(batch: &PartBatch, format: Format) -> Result<Vec<(i64, String)>, ShapeError<Infallible>> {
    let mut lines = Vec::new();
    let events = each_event(batch, format, |Event { tag, time_ns, json }| {
        assert_eq!(tag, &*batch.header.tag);
        lines.push((time_ns, String::from_utf8(json.to_vec()).unwrap()));
        Ok(())
    })?;
    assert_eq!(events, lines.len() as u64);
    Ok(lines)
}

#[test]
fn events_become_envelopes_or_records() {
    let line = |time: &str, record: &str| {
        format!("{{\"time\":\"{time}\",\"tag\":\"app.\\\"web\\\"\",\"record\":{record}}}")
    };
    assert_eq!(
        lines(&plain(ENTRIES), Format::Envelope).unwrap(),
        [
            (1_767_323_045_000_000_005, line("2026-01-02T03:04:05.000000005Z", "{\"a\":1}")),
            (RECEIVED_NS, line("2026-01-02T03:04:05.678901234Z", "{\"a\":2}")),
            (-250_000_000, line("1969-12-31T23:59:59.750000000Z", "{\"a\":\"x\\n\"}")),
        ]
    );
    let records: Vec<_> =
        lines(&plain(ENTRIES), Format::Record).unwrap().into_iter().map(|(_, line)| line).collect();
    assert_eq!(records, ["{\"a\":1}", "{\"a\":2}", "{\"a\":\"x\\n\"}"]);
}

#[test]
fn packed_payloads_are_the_same() {
    let expected = lines(&plain(ENTRIES), Format::Envelope).unwrap();
    for (codec, encoding) in [(Codec::Gzip, Encoding::Gzip), (Codec::Zstd, Encoding::Zstd)] {
        let mut packed = Vec::new();
        // Two members or frames, cut within an entry.
        for half in [&ENTRIES[..7], &ENTRIES[7..]] {
            let mut writer = codec.writer(packed);
            io::Write::write_all(&mut writer, half).unwrap();
            packed = writer.finish().unwrap();
        }
        let batch = batch_of(encoding, Arc::new(Bytes::from(packed.clone())));
        assert_eq!(lines(&batch, Format::Envelope).unwrap(), expected, "{encoding:?}");

        packed.pop();
        let batch = batch_of(encoding, Arc::new(Bytes::from(packed)));
        assert!(matches!(lines(&batch, Format::Envelope), Err(ShapeError::Unpack(_))), "{encoding:?}");
    }
}

#[test]
fn times_beyond_64_bits_are_cut() {
    let batch =
        plain(b"\x92\xd3\x7f\xff\xff\xff\xff\xff\xff\xff\x80\x92\xd3\x80\x00\x00\x00\x00\x00\x00\x00\x80");
    let times: Vec<_> = lines(&batch, Format::Envelope).unwrap();
    assert_eq!(times[0].0, i64::MAX);
    assert!(times[0].1.contains("\"2262-04-11T23:47:16.854775807Z\""), "{}", times[0].1);
    assert_eq!(times[1].0, i64::MIN);
    assert!(times[1].1.contains("\"1677-09-21T00:12:43.145224192Z\""), "{}", times[1].1);
}

#[test]
fn an_error_says_where() {
    assert!(lines(&plain(b""), Format::Record).unwrap().is_empty());

    let stranger = lines(&plain(b"\x92\x01\x80\x05"), Format::Record).unwrap_err();
    assert!(
        matches!(stranger, ShapeError::Entry { index: 1, source: ScanError::NotEntry { start: 3, end: 4 } }),
        "{stranger:?}"
    );

    let mut seen = 0;
    let refused = each_event(&plain(ENTRIES), Format::Record, |_| {
        seen += 1;
        if seen == 2 { Err(io::Error::other("full")) } else { Ok(()) }
    });
    assert!(matches!(refused, Err(ShapeError::Visitor(_))));
    assert_eq!(seen, 2);

    #[derive(Debug)]
    struct Gone;
    impl Payload for Gone {
        fn load(&self) -> io::Result<Bytes> {
            Err(io::ErrorKind::NotFound.into())
        }
    }
    let gone = lines(&batch_of(Encoding::Plain, Arc::new(Gone)), Format::Record);
    assert!(matches!(gone, Err(ShapeError::Load(error)) if error.kind() == io::ErrorKind::NotFound));
}
