//! What a batch is made of: whose bytes it keeps, what is packed together, and the exact limits.

use weir_forward::unpack::unpack;
use weir_forward::{Batch, Event, Fault, Limits, Member, Session, annotate, keep_chunks};
use weir_model::Encoding;
use xxhash_rust::xxh3::xxh3_64;

use crate::bytes::{CHUNK, ENTRY, blob, cat, compressed, gzip, nested};
use crate::outcome::{LIMITS, NOW_NS};

/// All batches that come of an input which has nothing wrong with it.
fn batches(input: &[u8]) -> Vec<Batch> {
    let mut session = Session::new(LIMITS);
    session.buffer().extend_from_slice(input);
    let mut batches = Vec::new();
    while let Some(event) = session.next(NOW_NS).unwrap() {
        let Event::Batch(batch) = event else { panic!("{event:?}") };
        batches.push(batch);
    }
    batches
}

fn single(tag: &str, time: u8, options: &[u8]) -> Vec<u8> {
    cat![[0x94, 0xa0 | tag.len() as u8], tag, [time], b"\x80", options]
}

#[test]
fn a_payload_is_not_copied() {
    let mut session = Session::new(LIMITS);
    let input = cat![b"\x92\xa1t\xc4\x06", ENTRY];
    session.buffer().extend_from_slice(&input);
    let read = session.buffer().as_ptr_range();
    let Ok(Some(Event::Batch(batch))) = session.next(NOW_NS) else { panic!("no batch") };
    assert!(read.contains(&batch.payload.as_ptr()));
}

#[test]
fn a_compressed_payload_stays_as_it_came() {
    let packed = gzip(&ENTRY.repeat(20));
    let batches = batches(&compressed("gzip", &packed));
    let [Batch { header, payload, acks, .. }] = &batches[..] else { panic!("{batches:?}") };
    assert_eq!((header.encoding, &payload[..]), (Encoding::Gzip, &packed[..]));
    assert_eq!((header.events(), header.unpacked_bytes), (20, 120));
    assert_eq!(header.chunks[0].id, &b"\xa2x\n"[..]);
    assert_eq!((header.chunks[0].payload_hash, header.chunks[0].entries), (xxh3_64(&packed), 20));
    assert_eq!(acks, &b"\x81\xa3ack\xa2x\n"[..]);
}

#[test]
fn minutes_are_those_of_the_events() {
    // Received, second 59, second 60, second 61 by float, second -1, and second 119 with 10⁹ nanoseconds [R26, #24].
    let carried = b"\xd7\x00\x00\x00\x00\x77\x3b\x9a\xca\x00";
    let times: [&[u8]; 6] = [b"\x00", b"\x3b", b"\x3c", b"\xca\x42\x74\x00\x00", b"\xff", carried];
    let entries: Vec<u8> = times.iter().flat_map(|time| cat![b"\x92", time, b"\x80"]).collect();
    let batches = batches(&cat![b"\x92\xa1t", blob(&entries)]);
    let minutes: Vec<_> = batches[0].header.minutes.iter().map(|m| (m.minute, m.events, m.bytes)).collect();
    assert_eq!(minutes, [(-1, 1, 3), (0, 1, 3), (1, 2, 10), (2, 1, 12), (NOW_NS / 60_000_000_000, 1, 3)]);
}

#[test]
fn single_events_are_packed_by_tag_and_by_whether_they_have_a_chunk() {
    let chunk = |id: u8| cat![b"\x81\xa5chunk\xa1", [id]];
    let input = cat![
        single("a", 1, &chunk(b'1')),
        single("a", 2, &chunk(b'2')),
        single("a", 3, b"\xc0"),
        single("a", 4, b"\xc0"),
        single("b", 5, b"\xc0"),
    ];
    let batches = batches(&input);
    let seen: Vec<_> = batches.iter().map(|batch| (&*batch.header.tag, &batch.payload[..])).collect();
    let entries: [&[u8]; 3] = [b"\x92\x01\x80\x92\x02\x80", b"\x92\x03\x80\x92\x04\x80", b"\x92\x05\x80"];
    assert_eq!(seen, [("a", entries[0]), ("a", entries[1]), ("b", entries[2])]);
    let chunks: Vec<_> =
        batches[0].header.chunks.iter().map(|c| (&c.id[..], c.payload_hash, c.entries)).collect();
    let hash = |entry: &[u8]| xxh3_64(entry);
    assert_eq!(
        chunks,
        [(&b"\xa11"[..], hash(b"\x92\x01\x80"), 1), (&b"\xa12"[..], hash(b"\x92\x02\x80"), 1)]
    );
    assert_eq!(batches[0].acks, &b"\x81\xa3ack\xa11\x81\xa3ack\xa12"[..]);
    assert!(batches[1].header.chunks.is_empty() && batches[1].acks.is_empty());
}

#[test]
fn a_pack_has_room_for_so_many_bytes() {
    let all = single("t", 1, b"\xc0").repeat(1000);
    let sizes: Vec<_> = batches(&all).iter().map(|batch| batch.payload.len()).collect();
    assert_eq!(sizes, [1023, 1023, 954], "entries of 3 bytes, 1024 at most");
    let large = cat![b"\x93\xa1t\x01\x81\xa1a\xc5\x05\x00", [0; 0x500]];
    assert_eq!(batches(&large)[0].payload.len(), large.len() - 2, "one that is larger goes alone");
}

#[test]
fn a_bad_single_event_does_not_overtake_good_ones() {
    let mut session = Session::new(LIMITS);
    session.buffer().extend(cat![single("t", 1, CHUNK), single("t", 0xc3, CHUNK), b"\xc1"]);
    assert!(matches!(session.next(NOW_NS), Ok(Some(Event::Batch(_)))));
    assert!(matches!(session.next(NOW_NS), Ok(Some(Event::Ack { .. }))));
    assert_eq!(session.next(NOW_NS).unwrap_err().fault, Fault::Malformed);
}

/// Up to them everything passes, and what is larger is closed at once [R11, R13, R36, #17, #28].
#[test]
fn the_limits_are_exact() {
    let last = |input: &[u8]| {
        let mut session = Session::new(LIMITS);
        session.buffer().extend_from_slice(input);
        session.next(NOW_NS).map(|event| matches!(event, Some(Event::Batch(_)))).map_err(|v| v.fault)
    };
    let deep = |depth| cat![b"\x93\xa1t\x01\x81\xa1a", nested(depth)];
    assert_eq!(last(&deep(126)), Ok(true), "with the outer array and the record 128 levels");
    assert_eq!(last(&deep(127)), Err(Fault::TooDeep));
    let entry = |head: &[u8], depth, end: &[u8]| {
        last(&cat![b"\x92\xa1t", blob(&cat![b"\x92", head, nested(depth), end])])
    };
    assert_eq!(entry(b"\x01\x81\xa1a", 126, b""), Ok(true), "packed, counted from the entry");
    assert_eq!(entry(b"\x01\x81\xa1a", 127, b""), Err(Fault::TooDeep));
    assert_eq!(entry(b"\x92\x01", 126, b"\x80"), Ok(true), "beside its time");
    assert_eq!(entry(b"\x92\x01", 127, b"\x80"), Err(Fault::TooDeep));

    let large = |bytes: u16| cat![b"\x93\xa1t\x01\x81\xa1a\xc5", bytes.to_be_bytes(), vec![0; bytes.into()]];
    assert_eq!(large(4086).len(), LIMITS.message_bytes_max);
    assert_eq!(last(&large(4086)), Ok(true));
    assert_eq!(last(&large(4087)), Err(Fault::TooLarge { limit: 4096 }));

    let grown = |values: u16| {
        let value = b"\xcf\x00\x00\x00\x00\x00\x00\x00\x00";
        cat![b"\x93\xa1t\x01\x81\xa1a\xdc", values.to_be_bytes(), value.repeat(values.into())]
    };
    assert_eq!(last(&grown(454)), Ok(true));
    assert_eq!(last(&grown(455)), Err(Fault::TooLarge { limit: 4096 }), "no header said so");

    let inflated = |bytes: u16| {
        compressed("gzip", &gzip(&cat![b"\x92\x01\x81\xa1a\xc5", bytes.to_be_bytes(), vec![0; bytes.into()]]))
    };
    assert_eq!(last(&inflated(2040)), Ok(true));
    assert_eq!(last(&inflated(2041)), Err(Fault::DecompressLimit { limit: 2048 }));

    let chunk =
        |bytes: u16| cat![b"\x93\xa1t\x90\x81\xa5chunk\xc5", bytes.to_be_bytes(), vec![0; bytes.into()]];
    assert_eq!(last(&chunk(1021)), Ok(false));
    assert_eq!(last(&chunk(1022)), Err(Fault::ChunkTooLong { bytes: 1025 }));
}

#[test]
fn another_protocol_is_soon_recognised() {
    let count = |input: &[u8]| {
        let mut session = Session::new(LIMITS);
        session.buffer().extend_from_slice(input);
        let mut skipped = 0;
        loop {
            match session.next(NOW_NS) {
                Ok(Some(_)) => skipped += 1,
                Ok(None) => return (skipped, None),
                Err(violation) => return (skipped, Some(violation.fault)),
            }
        }
    };
    assert_eq!(count(b"GET / HTTP/1.1\r\nHost: weir\r\n"), (15, Some(Fault::NotForward)));
    assert_eq!(count(&cat![[1; 15], ENTRY, [1; 15]]).1, None, "an array between them starts the count anew");
}

#[test]
fn a_refused_message_can_be_kept_elsewhere() {
    let input = cat![b"\x93\xa1t\xc4\x01\xc1", CHUNK];
    let mut session = Session::new(LIMITS);
    session.buffer().extend_from_slice(&input);
    let refused = session.next(NOW_NS).unwrap_err().refused.unwrap();
    assert_eq!((&*refused.tag, &refused.message[..]), ("t", &input[..]));
    assert_eq!(refused.chunk.as_deref(), Some(&b"\xa2x\n"[..]));
    assert_eq!(refused.ack, &b"\x81\xa3ack\xa2x\n"[..]);
    assert_eq!(session.next(NOW_NS), Ok(None));
}

#[test]
fn a_tag_has_a_longest_length() {
    let stored = |bytes: u16| {
        let mut session = Session::new(Limits::default());
        session.buffer().extend(cat![
            b"\x93\xda",
            bytes.to_be_bytes(),
            vec![b't'; bytes.into()],
            b"\x01\x80"
        ]);
        matches!(session.next(NOW_NS), Ok(Some(Event::Batch(_))))
    };
    assert!(stored(4096));
    assert!(!stored(4097));
}

#[test]
fn members_are_added_behind_those_of_a_record() {
    let members = [Member::new("from", "10.0.0.1"), Member::new("host", "h")];
    let added = b"\xa4from\xa810.0.0.1\xa4host\xa1h";
    // With metadata, with an element behind the record, with a record that outgrows its kind of header.
    let large = cat![b"\x92\x3d\x8f", b"\xa1k\x01".repeat(15)];
    let stream = cat![b"\x93\x92\x01\x81\xa1m\x02\x81\xa1a\x01\xc3", large];
    // What came packed stays packed, for it may be small because of that.
    for (input, encoding) in [
        (cat![b"\x92\xa1t", blob(&stream)], Encoding::Plain),
        (compressed("gzip", &gzip(&stream)), Encoding::Zstd),
    ] {
        let before = batches(&input).remove(0);
        let after = annotate(before.clone(), &members);
        let expected = cat![
            b"\x93\x92\x01\x81\xa1m\x02\x83\xa1a\x01",
            added,
            b"\xc3\x92\x3d\xde\x00\x11",
            b"\xa1k\x01".repeat(15),
            added
        ];
        let plain = unpack(after.header.encoding, &after.payload, 4096).unwrap();
        assert_eq!((&plain[..], after.header.encoding), (&expected[..], encoding));
        assert_eq!(after.header.chunks, before.header.chunks, "a retry is still the same chunk");
        assert_eq!(after.header.unpacked_bytes, expected.len() as u64);
        // As if it had come so.
        let same = batches(&cat![b"\x92\xa1t", blob(&expected)]).remove(0);
        assert_eq!(after.header.minutes, same.header.minutes);
    }
}

#[test]
fn chunks_can_be_taken_out_of_a_pack() {
    let chunk = |id: u8| cat![b"\x81\xa5chunk\xa1", [id]];
    let input =
        cat![single("t", 1, &chunk(b'a')), single("t", 70, &chunk(b'b')), single("t", 2, &chunk(b'c'))];
    let found = batches(&input);
    let [batch] = &found[..] else { panic!("{found:?}") };
    let (header, payload) = keep_chunks(&batch.header, &batch.payload, &[true, false, true], 100).unwrap();
    // The same as if the one in the middle had never been sent.
    let without = batches(&cat![single("t", 1, &chunk(b'a')), single("t", 2, &chunk(b'c'))]);
    assert_eq!((&header, &payload), (&without[0].header, &without[0].payload));
    let (all, same) = keep_chunks(&batch.header, &batch.payload, &[true; 3], 100).unwrap();
    assert_eq!((&all, &same), (&batch.header, &batch.payload));
    assert_eq!(keep_chunks(&batch.header, &batch.payload.slice(1..), &[true; 3], 100), None);
    assert_eq!(keep_chunks(&batch.header, &batch.payload, &[true; 2], 100), None);
}
