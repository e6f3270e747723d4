//! What comes in by a socket is what lies in the log, and becomes this JSON.

use weir_telemetry::{Totals, names};

use crate::scene::{Scene, ack, logged, message, until};

/// What is in the log of a scene once its edge has stopped.
async fn stored(scene: Scene) -> Vec<(String, Vec<u8>)> {
    let Scene { dir, edge, .. } = scene;
    edge.stop().await;
    logged(dir.path())
}

fn json(payload: &[u8]) -> String {
    let mut out = Vec::new();
    for entry in weir_forward::scan::entries(payload) {
        weir_shape::write_json(&mut out, entry.unwrap().record).unwrap();
        out.push(b'\n');
    }
    String::from_utf8(out).unwrap()
}

/// Every type of MessagePack, as a member `a` of a record; what its JSON is [R28, R29, R30].
const VALUES: &[(&[u8], &str)] = &[
    (b"\xc0", "null"),
    (b"\xc2", "false"),
    (b"\x7f", "127"),
    (b"\xe0", "-32"),
    (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615"),
    (b"\xd3\x80\0\0\0\0\0\0\0", "-9223372036854775808"),
    (b"\xca\x3f\x80\0\0", "1.0"),
    (b"\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a", "0.1"),
    (b"\xcb\x7f\xf8\0\0\0\0\0\0", r#""NaN""#),
    (b"\xcb\xff\xf0\0\0\0\0\0\0", r#""-Infinity""#),
    (b"\xa3\xc3\xa9\n", r#""é\n""#),
    (b"\xa2a\xff", "\"a\u{fffd}\""),
    (b"\xd9\x01x", r#""x""#),
    (b"\xda\0\x01x", r#""x""#),
    (b"\xdb\0\0\0\x01x", r#""x""#),
    (b"\xc4\x01x", r#""x""#),
    (b"\xc4\x01\xff", r#"{"$binary":"/w=="}"#),
    (b"\xc5\0\x01\xff", r#"{"$binary":"/w=="}"#),
    (b"\xd7\0\x65\x53\xf1\0\0\0\0\x05", r#""2023-11-14T22:13:20.000000005Z""#),
    (b"\xd4\x09\x01", r#"{"$ext":[9,"AQ=="]}"#),
    (b"\xc7\x03\xff\x01\x02\x03", r#"{"$ext":[-1,"AQID"]}"#),
    (b"\x93\x01\x90\x91\xc0", "[1,[],[null]]"),
    (b"\x82\xa1b\x81\xa1c\x01\xa1d\x80", r#"{"b":{"c":1},"d":{}}"#),
    (b"\x82\xa1b\x01\xa1b\x02", r#"{"b":2}"#),
    (b"\x84\x07\x01\xc3\x02\xc0\x03\xcb\x3f\xf8\0\0\0\0\0\0\x04", r#"{"7":1,"true":2,"":3,"1.5":4}"#),
    (b"\x81\xc4\x01k\x01", r#"{"k":1}"#),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_as_it_was_packed() {
    let scene = Scene::start("").await;
    let mut sender = scene.tcp().await;
    let (mut expected, mut lines) = (Vec::new(), String::new());
    for (value, text) in VALUES {
        let entry = [b"\x92\xd7\0\x65\x53\xf1\0\0\0\0\x07\x81\xa1a", *value].concat();
        sender.send(&[b"\x93\xa1t\x91", &entry[..], b"\x81\xa5chunk\xa11"].concat()).await;
        sender.expect(&ack(b'1')).await;
        expected.extend(entry);
        lines += &format!("{{\"a\":{text}}}\n");
    }
    let stored = stored(scene).await;
    assert!(stored.iter().all(|(tag, _)| tag == "t"));
    let payload: Vec<u8> = stored.into_iter().flat_map(|(_, payload)| payload).collect();
    assert_eq!(payload, expected, "byte for byte");
    assert_eq!(json(&payload), lines);
    for entry in weir_forward::scan::entries(&payload) {
        let at = weir_forward::scan::EventTime::At { secs: 1_700_000_000, nanos: 7 };
        assert_eq!(entry.unwrap().time, at, "nanoseconds are kept [R26]");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_change_tags_and_add_addresses() {
    let scene = Scene::start(
        "[forward]\nadd_tag_prefix = 'dc1'\nsource_address_key = 'from'\nsource_hostname_key = 'host'\n",
    )
    .await;
    let mut sender = scene.tcp().await;
    sender.send(b"\x94\xa1t\x01\x82\xa1a\x01\xa4from\xa4fake\x81\xa5chunk\xa11").await;
    sender.expect(&ack(b'1')).await;
    let stored = stored(scene).await;
    let [(tag, payload)] = &stored[..] else { panic!("{stored:?}") };
    assert_eq!(tag, "dc1.t");
    // Of a sender behind a balancer it is the sender's.
    let behind = Scene::start(
        "[forward]\nproxy_protocol = ['127.0.0.0/8']\nsource_address_key = 'from'\nallow = ['198.51.100.0/24']\n",
    )
    .await;
    let mut sender = behind.tcp().await;
    sender.send(b"PROXY TCP4 198.51.100.7 127.0.0.1 4000 24224\r\n").await;
    sender.acked(b'1').await;
    let mut other = behind.tcp().await;
    other.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 24224\r\n").await;
    assert_eq!(other.rest().await, b"", "not allowed");
    assert_eq!(json(&self::stored(behind).await[0].1), "{\"a\":1,\"from\":\"198.51.100.7\"}\n");
    let json = json(payload);
    // The name of the loopback address is the machine's own business.
    assert!(json.starts_with(r#"{"a":1,"from":"127.0.0.1","host":""#), "{json}");
    let scene = Scene::start(
        "[forward]\nchunk_size_warn_limit = '1KiB'\n[[listener]]\nname = 'watched'\naddress = '127.0.0.1:0'\n",
    )
    .await;
    let mut sender = scene.tcp().await;
    let large = [b"\x94\xa1t\x01\x81\xa1a\xc5\x04\0", &[7; 1024][..], b"\x81\xa5chunk\xa12"].concat();
    sender.send(&[message("t", b'1'), message("u", b'1'), large].concat()).await;
    sender.expect(&[ack(b'1'), ack(b'1'), ack(b'2')].concat()).await;
    assert_eq!(Totals::now().of(&names::FORWARD_REFUSED_TOTAL, ["watched", "large_chunk"]), 1.0);
    let scene = Scene::start("[forward]\ntag = 'all'\n").await;
    scene.tcp().await.acked(b'1').await;
    assert_eq!(self::stored(scene).await[0].0, "all");
}

/// A chunk that never decodes would take one edge after the other from its sender [R46].
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_refused_three_times_is_kept_aside() {
    let scene = Scene::start("").await;
    let poison = b"\x93\xa1t\xc4\x02\xc1\xc1\x81\xa5chunk\xa1p";
    for _ in 0..2 {
        let mut sender = scene.tcp().await;
        sender.send(&[&message("t", b'1')[..], poison].concat()).await;
        assert_eq!(sender.rest().await, ack(b'1'), "what came before it is kept");
    }
    let mut sender = scene.tcp().await;
    sender.send(&[&poison[..], &message("t", b'2')].concat()).await;
    sender.expect(&[ack(b'p'), ack(b'2')].concat()).await;
    let kept: Vec<_> = std::fs::read_dir(scene.path("data/quarantine")).unwrap().collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::read(kept[0].as_ref().unwrap().path()).unwrap(), poison);
    // Another chunk is another matter.
    let mut sender = scene.tcp().await;
    sender.send(&poison.map(|byte| if byte == b'p' { b'q' } else { byte })).await;
    assert_eq!(sender.rest().await, b"");
}

/// A chunk is known by its id, its tag and its events, and only where it has an id [R48, R49, R50].
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_chunk_is_acknowledged_and_stored_once() {
    let scene = Scene::start("").await;
    let packed = |tag: u8, event: u8, options: &[u8]| {
        [b"\x93\xa1", &[tag][..], b"\xc4\x06\x92\x01\x81\xa1a", &[event], options].concat()
    };
    let chunk = b"\x81\xa5chunk\xa11";
    let (first, again, tag, events) =
        (packed(b't', 1, chunk), packed(b't', 1, chunk), packed(b'u', 1, chunk), packed(b't', 2, chunk));
    for message in [first, again, message("t", b'1'), message("t", b'1'), message("u", b'1'), tag, events] {
        let mut sender = scene.tcp().await;
        sender.send(&message).await;
        sender.expect(&ack(b'1')).await;
    }
    let mut sender = scene.tcp().await;
    sender.send(&packed(b't', 3, b"\xc0").repeat(2)).await;
    sender.acked(b'2').await;
    let stored = stored(scene).await;
    let seen: Vec<String> = stored.iter().map(|(tag, payload)| format!("{tag} {}", json(payload))).collect();
    let [one, two, three] = [1, 2, 3].map(|event| format!("{{\"a\":{event}}}\n"));
    let expected = [("t", &one), ("u", &one), ("t", &two), ("t", &three), ("t", &three), ("t", &one)]
        .map(|(tag, json)| format!("{tag} {json}"));
    assert_eq!(seen, expected);
}

/// Whoever never reads acknowledgements may send on [R45], and nothing is ever sent that was not asked for [R3].
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_does_not_read_is_read() {
    let scene = Scene::start("").await;
    let mut sender = scene.tcp().await;
    // Half a kilobyte of acknowledgement each: far more than sockets and the queue hold.
    let count = 40 * 500;
    for block in 0..40 {
        let chunks = (block * 500..(block + 1) * 500).map(|number| {
            let chunk = format!("{number:0500}");
            [b"\x93\xa1t\x91\x92\x01\x80\x81\xa5chunk\xda\x01\xf4", chunk.as_bytes()].concat()
        });
        sender.send(&chunks.collect::<Vec<_>>().concat()).await;
    }
    // While nothing has been read, all the rest is.
    until("all of it to be stored", async || logged(scene.dir.path()).len() == count).await;
    tokio::io::AsyncWriteExt::shutdown(&mut sender.0).await.unwrap();
    let seen = sender.rest().await.len() / (500 + 8);
    assert!(seen < count, "nobody holds {count} acknowledgements for it");
    let events: usize =
        stored(scene).await.iter().map(|(_, payload)| weir_forward::scan::entries(payload).count()).sum();
    assert_eq!(events, count);
}
