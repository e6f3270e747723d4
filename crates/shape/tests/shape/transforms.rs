//! What steps make of a batch. The expected records were written by hand, or by a model over decoded values.

use proptest::prelude::*;
use rmpv::Value as Rmpv;
use weir_model::{BatchHeader, Encoding};
use weir_shape::transform::{Field, Pattern, TimeFormat, Transform, Transformed, Value, transform};
use weir_shape::write_json;

const RECEIVED_NS: i64 = 1_767_323_045_678_901_234;

fn header(encoding: Encoding, events: u64) -> BatchHeader {
    let minutes = vec![weir_model::MinuteTally { minute: 0, events, bytes: 0, digest: 0 }];
    BatchHeader {
        tag: "app.web.eu".into(),
        encoding,
        received_ns: RECEIVED_NS,
        chunks: Vec::new(),
        unpacked_bytes: 0,
        minutes,
    }
}

fn field(path: &str) -> Field {
    Field::parse(path).unwrap()
}

fn fields(paths: &[&str]) -> Vec<Field> {
    paths.iter().map(|path| field(path)).collect()
}

fn value(text: &str) -> Value {
    Value::parse(text).unwrap()
}

fn filter(path: &str, pattern: &str, drop: bool) -> Transform {
    Transform::Filter { field: field(path), pattern: Pattern::parse(pattern).unwrap(), drop }
}

fn redact(paths: &[&str], pattern: &str, with: &str) -> Transform {
    let pattern = Some(Pattern::parse(pattern).unwrap());
    Transform::Redact { fields: fields(paths), pattern, with: with.to_owned() }
}

/// An entry of the second 5 with 7 nanoseconds.
fn entry(record: &[u8]) -> Vec<u8> {
    [b"\x92\xd7\x00\x00\x00\x00\x05\x00\x00\x00\x07", record].concat()
}

fn packed(json: &serde_json::Value) -> Vec<u8> {
    fn decoded(json: &serde_json::Value) -> Rmpv {
        match json {
            serde_json::Value::Null => Rmpv::Nil,
            serde_json::Value::Bool(truth) => (*truth).into(),
            serde_json::Value::Number(n) => n.as_i64().map_or_else(|| n.as_f64().unwrap().into(), Into::into),
            serde_json::Value::String(text) => text.as_str().into(),
            serde_json::Value::Array(items) => Rmpv::Array(items.iter().map(decoded).collect()),
            serde_json::Value::Object(members) => {
                Rmpv::Map(members.iter().map(|(key, value)| (key.as_str().into(), decoded(value))).collect())
            }
        }
    }
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, &decoded(json)).unwrap();
    out
}

fn run(steps: &[Transform], entries: &[u8], events: u64) -> Transformed {
    transform(steps, "sink-7", &header(Encoding::Plain, events), entries)
}

/// The record of one event after the steps; none if it was dropped.
fn one(steps: &[Transform], record: &serde_json::Value) -> Option<serde_json::Value> {
    let done = run(steps, &entry(&packed(record)), 1);
    assert!(done.damage.is_none());
    assert_eq!(done.dropped + done.header.events(), 1);
    assert_eq!(done.header.unpacked_bytes, done.payload.len() as u64);
    let (front, record) = done.payload.split_at_checked(11)?;
    assert_eq!(front, &entry(b"")[..], "the time is another");
    let mut json = Vec::new();
    assert_eq!(write_json(&mut json, record).unwrap(), record.len());
    Some(serde_json::from_slice(&json).unwrap())
}

macro_rules! json {
    ($($text:tt)+) => { serde_json::from_str::<serde_json::Value>(stringify!($($text)+)).unwrap() };
}

#[test]
fn fields_are_added() {
    let add = |path: &str, made: Value| Transform::Add(vec![(field(path), made)]);
    for (path, made, expected) in [
        ("env", value("prod"), json!({"a": 1, "m": {"b": 2}, "env": "prod"})),
        ("a", value("prod"), json!({"a": "prod", "m": {"b": 2}})),
        ("m.c", Value::integer(-3), json!({"a": 1, "m": {"b": 2, "c": -3}})),
        ("x.y.z", Value::bool(true), json!({"a": 1, "m": {"b": 2}, "x": {"y": {"z": true}}})),
        (r"x\.y", Value::float(0.5), json!({"a": 1, "m": {"b": 2}, "x.y": 0.5})),
        // A path through what is no map leads nowhere.
        ("a.b", value("no"), json!({"a": 1, "m": {"b": 2}})),
        ("c", value("${tag}"), json!({"a": 1, "m": {"b": 2}, "c": "app.web.eu"})),
        (
            "c",
            value("<${tag_parts[1]} ${tag_parts[-1]} ${tag_parts[9]}>"),
            json!({"a": 1, "m": {"b": 2}, "c": "<web eu >"}),
        ),
        // One placeholder alone takes the value as it is, others its text.
        ("c", value("${record.m}"), json!({"a": 1, "m": {"b": 2}, "c": {"b": 2}})),
        ("c", value("${record.m.b}"), json!({"a": 1, "m": {"b": 2}, "c": 2})),
        ("c", value("${record.nowhere}"), json!({"a": 1, "m": {"b": 2}})),
        (
            "c",
            value("b=${record.m.b}, m=${record.m}, n=${record.nowhere}"),
            json!({"a": 1, "m": {"b": 2}, "c": "b=2, m={\"b\":2}, n="}),
        ),
        (
            "c",
            value("${time} ${hostname}"),
            json!({"a": 1, "m": {"b": 2}, "c": "1970-01-01T00:00:05.000000007Z sink-7"}),
        ),
        ("c", value("$${tag} $ {"), json!({"a": 1, "m": {"b": 2}, "c": "${tag} $ {"})),
    ] {
        let done = one(&[add(path, made)], &json!({"a": 1, "m": {"b": 2}}));
        assert_eq!(done, Some(expected), "{path}");
    }
}

#[test]
fn fields_are_moved_and_removed() {
    let rename = |from: &str, to: &str| Transform::Rename(vec![(field(from), field(to))]);
    let remove = |paths: &[&str]| Transform::Remove(fields(paths));
    let keep = |paths: &[&str]| Transform::Keep(fields(paths));
    for (step, expected) in [
        (rename("a", "z"), json!({"z": 1, "m": {"b": 2, "c": {"d": 3}}})),
        (rename("a", "m"), json!({"m": 1})),
        (rename("a", "m.b"), json!({"m": {"b": 1, "c": {"d": 3}}})),
        (rename("m.c.d", "d"), json!({"a": 1, "m": {"b": 2, "c": {}}, "d": 3})),
        (rename("m.c", "m"), json!({"a": 1, "m": {"d": 3}})),
        (rename("m.b", "m.e"), json!({"a": 1, "m": {"e": 2, "c": {"d": 3}}})),
        // Nothing is lost on the way to where nothing can be.
        (rename("m", "a.x"), json!({"a": 1, "m": {"b": 2, "c": {"d": 3}}})),
        (rename("x", "a"), json!({"a": 1, "m": {"b": 2, "c": {"d": 3}}})),
        (remove(&["a", "m.c", "x", "a.b"]), json!({"m": {"b": 2}})),
        (keep(&["a"]), json!({"a": 1})),
        (keep(&["m.c", "x"]), json!({"m": {"c": {"d": 3}}})),
        (keep(&["m.b", "m.c.d", "a.x"]), json!({"m": {"b": 2, "c": {"d": 3}}})),
        (keep(&["x"]), json!({})),
    ] {
        let shown = step.to_string();
        assert_eq!(one(&[step], &json!({"a": 1, "m": {"b": 2, "c": {"d": 3}}})), Some(expected), "{shown}");
    }
}

#[test]
fn values_are_hidden() {
    let all =
        Transform::Redact { fields: fields(&["pin", "user.mail", "x"]), pattern: None, with: "-".into() };
    assert_eq!(
        one(&[all], &json!({"pin": 12, "user": {"mail": ["a", "b"], "id": 3}})),
        Some(json!({"pin": "-", "user": {"mail": "-", "id": 3}}))
    );
    let some = redact(&["m", "n"], r"\d{4}", "$1");
    assert_eq!(
        one(
            &[some],
            &json!({"m": {"list": ["card 1234 5678", 99999, 5, null], "1234": "1234"}, "n": 12345, "o": "1234"})
        ),
        Some(json!({"m": {"list": ["card $1 $1", "$19", 5, null], "1234": "$1"}, "n": "$15", "o": "1234"}))
    );
}

#[test]
fn events_are_dropped_as_fluentds_grep_does() {
    for (step, passes) in [
        (filter("level", "^(warn|error)$", false), true),
        (filter("level", "^w$", false), false),
        (filter("level", "arn", true), false),
        (filter("status", "^5..$", false), true),
        (filter("deep.flag", "^true$", true), false),
        // A missing field, and nil, have an empty text.
        (filter("nowhere", ".", false), false),
        (filter("nowhere", ".", true), true),
        (filter("nil", "^$", true), false),
    ] {
        let record = json!({"level": "warn", "status": 503, "nil": null, "deep": {"flag": true}});
        let shown = step.to_string();
        assert_eq!(one(&[step], &record), passes.then_some(record), "{shown}");
    }
}

#[test]
fn what_is_beside_the_record_is_injected() {
    let inject = |format: &str| Transform::Inject {
        time: Some((field("at"), TimeFormat::parse(format).unwrap())),
        tag: Some(field("log.tag")),
        hostname: Some(field("host")),
    };
    for (format, time) in [
        ("rfc3339", json!("1970-01-01T00:00:05.000000007Z")),
        ("unixtime", json!(5)),
        ("unixtime_millis", json!(5000)),
        ("float", json!(5.000000007)),
        ("%Y-%m-%dT%H:%M:%S%z", json!("1970-01-01T00:00:05+0000")),
    ] {
        let mut expected = json!({"a": 1, "at": 0, "log": {"tag": "app.web.eu"}, "host": "sink-7"});
        expected["at"] = time;
        assert_eq!(one(&[inject(format)], &json!({"a": 1})), Some(expected), "{format}");
    }
    assert!(TimeFormat::parse("%!").is_err() && TimeFormat::parse("soon").is_err());
    // Neighbours in one second share their text, others do not.
    let at = |second: u8| [b"\x92", &[second][..], b"\x80"].concat();
    let stream = [at(5), at(5), at(65)].concat();
    let done = run(&[inject("%S.%f")], &stream, 3);
    assert_eq!(done.payload.windows(2).filter(|two| two == b"05").count(), 3, "{:?}", done.payload);
    assert_eq!(
        done.header.minutes.iter().map(|m| (m.minute, m.events)).collect::<Vec<_>>(),
        [(0, 2), (1, 1)]
    );
}

#[test]
fn what_is_not_touched_keeps_its_bytes() {
    // Forms that no encoder would choose, an ext, a bin, a key that is no text, two members of one name, metadata.
    let odd = b"\xd1\x00\x05\xcb\x7f\xf8\0\0\0\0\0\x01\xd6\x2a\x01\x02\x03\x04\xc5\x00\x01\xff\x07\xdb\0\0\0\x01a\xa1d\x01\xa1d\x02";
    let record = [
        b"\xdf\0\0\0\x06\xa1x\x01" as &[u8],
        &b"\xd9\x01y"[..],
        &odd[..3],
        b"\xa1z",
        &odd[3..12],
        b"\xa1w",
        &odd[12..18],
        &odd[18..22],
        b"\xc0",
        &odd[22..29],
    ]
    .concat();
    // Seven members: `x`, `y`, `z`, `w`, a bin as key, 7, and no more.
    let front = b"\x93\x92\xd7\x00\x00\x00\x00\x05\x00\x00\x00\x07\x81\xa1m\xdd\0\0\0\0";
    let whole = [&front[..], &record, b"\xc3"].concat();
    let same = run(&[Transform::Remove(fields(&["nowhere"])), filter("x", "1", false)], &whole, 1);
    assert_eq!(same.payload, whole, "a record that no step changes is copied whole");
    let done = run(&[Transform::Remove(fields(&["x"]))], &whole, 1);
    let members = &record[5 + 3..];
    assert_eq!(done.payload, [&front[..], b"\x85", members, b"\xc3"].concat());
}

#[test]
fn compressed_batches_are_inflated_and_damaged_ones_cut() {
    use std::io::Write as _;
    let stream = [entry(b"\x81\xa1a\x01"), entry(b"\x81\xa1a\x02")].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&stream).unwrap();
    let gzip = gzip.finish().unwrap();
    let steps = [filter("a", "1", true)];
    let done = transform(&steps, "", &header(Encoding::Gzip, 2), &gzip);
    assert_eq!((done.payload, done.dropped), (entry(b"\x81\xa1a\x02").into(), 1));
    assert_eq!((done.header.encoding, done.header.events()), (Encoding::Plain, 1));
    let done = transform(&steps, "", &header(Encoding::Gzip, 2), &gzip[..gzip.len() - 9]);
    assert_eq!((done.payload.len(), done.damage.map(|(lost, _)| lost)), (0, Some(2)));
    // The sound front goes on, through the steps.
    let done = run(&steps, &[&stream[..], b"\xc1"].concat(), 4);
    assert_eq!((done.dropped, done.header.events(), done.damage.map(|(lost, _)| lost)), (1, 1, Some(2)));
}

#[test]
fn no_step_makes_a_record_too_deep_to_be_read() {
    for depth in [1, 60, 100, 120, 125, 126, 127] {
        let mut record = b"\x81\xa1a".to_vec();
        record.extend(vec![0x91; depth]);
        record.push(0x01);
        let steps = [Transform::Rename(vec![(field("a"), field("b.c.d.e"))])];
        let stream = entry(&record);
        if weir_forward::scan::entries(&stream).any(|entry| entry.is_err()) {
            continue;
        }
        let done = run(&steps, &stream, 1);
        assert!(weir_forward::scan::entries(&done.payload).all(|entry| entry.is_ok()), "{depth}");
        assert!(done.payload.len() >= stream.len(), "{depth}: nothing is lost");
    }
}

#[test]
fn all_steps_in_their_order() {
    let steps = [
        Transform::Add(vec![(field("level"), value("debug"))]),
        Transform::Rename(vec![(field("level"), field("severity"))]),
        filter("severity", "debug", false),
        Transform::Keep(fields(&["severity"])),
    ];
    assert_eq!(one(&steps, &json!({"level": "error", "x": 1})), Some(json!({"severity": "debug"})));
    let shown = steps.map(|step| step.to_string());
    assert_eq!(
        shown,
        ["add level = \"debug\"", "rename level to severity", "only severity like /debug/", "keep severity"]
    );
}

/// Values of every type.
fn anything() -> impl Strategy<Value = Rmpv> {
    let leaf = prop_oneof![
        Just(Rmpv::Nil),
        any::<bool>().prop_map(Rmpv::from),
        any::<i64>().prop_map(Rmpv::from),
        any::<u64>().prop_map(Rmpv::from),
        any::<f32>().prop_map(Rmpv::from),
        any::<f64>().prop_map(Rmpv::from),
        "[a-c]{0,3}".prop_map(Rmpv::from),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Rmpv::from),
        (any::<i8>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, data)| Rmpv::Ext(kind, data)),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Rmpv::Array),
            members(inner).prop_map(Rmpv::Map),
        ]
    })
}

fn members(value: impl Strategy<Value = Rmpv>) -> impl Strategy<Value = Vec<(Rmpv, Rmpv)>> {
    prop::collection::btree_map("[a-d]", value, 0..5)
        .prop_map(|map| map.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// Removes by decoded values.
fn without(value: &mut Rmpv, names: &[&str]) {
    let (Rmpv::Map(members), [first, rest @ ..]) = (value, names) else { return };
    members.retain(|(key, _)| !(rest.is_empty() && key.as_str() == Some(first)));
    for (_, inner) in members.iter_mut().filter(|(key, _)| key.as_str() == Some(first)) {
        without(inner, rest);
    }
}

fn encoded(value: &Rmpv) -> Vec<u8> {
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, value).unwrap();
    out
}

proptest! {
    #[test]
    fn any_record_loses_what_is_removed_and_nothing_else(
        record in members(anything()),
        path in prop::collection::vec("[a-d]", 1..4),
    ) {
        let record = Rmpv::Map(record);
        let mut expected = record.clone();
        without(&mut expected, &path.iter().map(String::as_str).collect::<Vec<_>>());
        let done = run(&[Transform::Remove(fields(&[&path.join(".")]))], &entry(&encoded(&record)), 1);
        prop_assert_eq!(&done.payload[..], &entry(&encoded(&expected))[..]);
    }

    #[test]
    fn any_steps_make_readable_records_of_any(
        records in prop::collection::vec(members(anything()), 1..4),
        paths in prop::collection::vec("[a-d](\\.[a-d]){0,3}", 8),
        order in Just([0, 1, 2, 3, 4, 5, 6]).prop_shuffle(),
    ) {
        let steps = [
            Transform::Add(vec![(field(&paths[0]), value("${tag}-${record.a}")), (field(&paths[1]), value("${record.b}"))]),
            Transform::Rename(vec![(field(&paths[2]), field(&paths[3]))]),
            Transform::Remove(fields(&[&paths[4]])),
            Transform::Keep(fields(&["a", "b", "c.a"])),
            redact(&["a", &paths[5]], "a|7|e", "#"),
            filter(&paths[6], "aaa", true),
            Transform::Inject { time: Some((field(&paths[7]), TimeFormat::Rfc3339)), tag: None, hostname: None },
        ];
        let steps: Vec<Transform> = order.iter().map(|index| steps[*index].clone()).collect();
        let stream: Vec<u8> = records.iter().flat_map(|record| entry(&encoded(&Rmpv::Map(record.clone())))).collect();
        let done = run(&steps, &stream, records.len() as u64);
        prop_assert!(done.damage.is_none());
        prop_assert_eq!(done.dropped + done.header.events(), records.len() as u64);
        let left = weir_forward::scan::entries(&done.payload).collect::<Result<Vec<_>, _>>();
        prop_assert_eq!(left.map(|left| left.len() as u64), Ok(done.header.events()));
    }
}
