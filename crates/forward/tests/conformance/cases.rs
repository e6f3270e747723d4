//! The tables. Numbers as in `[R..]` are those of the protocol's requirements, `#..` rows of its list of
//! disagreements between servers.

use crate::bytes::{CHUNK, ENTRY, blob, cat, compressed, gzip, gzip_with_fields, nested, zstd};
use crate::{Case, case};

const ONE: &[&str] = &[r#""t" Plain [1, {"a": 1}]"#];
const ONE_ACKED: &[&str] = &[r#""t" Plain [1, {"a": 1}] chunks 1 ack \x81\xa3ack\xa2x\n"#];
const ACK: &[&str] = &[r"ack \x81\xa3ack\xa2x\n"];

pub(crate) fn modes() -> Vec<Case> {
    vec![
        case(
            "Message, the example of the specification",
            b"\x93\xa1t\xce\x65\x53\xf1\x00\x81\xa1a\x01",
            &[r#""t" Plain [1700000000, {"a": 1}]"#],
        ),
        case("Message with empty options", b"\x94\xa1t\x01\x81\xa1a\x01\x80", ONE),
        case("Message with nil options [#4]", b"\x94\xa1t\x01\x81\xa1a\x01\xc0", ONE),
        case("Message with a chunk", cat![b"\x94\xa1t\x01\x81\xa1a\x01", CHUNK], ONE_ACKED),
        case(
            "Message with metadata in its options",
            b"\x94\xa1t\x01\x81\xa1a\x01\x81\xa8metadata\x81\xa1m\x02",
            &[r#""t" Plain [[1, {"m": 2}], {"a": 1}]"#],
        ),
        case(
            "elements behind the options are ignored [R16]",
            b"\x96\xa1t\x01\x81\xa1a\x01\xc0\x01\xa1x",
            ONE,
        ),
        case(
            "as many elements as there may be [R8]",
            cat![b"\xdc\x00\x10\xa1t\x01\x81\xa1a\x01", [0xc0; 13]],
            ONE,
        ),
        case("Forward", cat![b"\x92\xa1t\x92", ENTRY, ENTRY], &[r#""t" Plain [1, {"a": 1}] [1, {"a": 1}]"#]),
        case("Forward with a chunk", cat![b"\x93\xa1t\x91", ENTRY, CHUNK], ONE_ACKED),
        case("Forward without entries [R19]", b"\x92\xa1t\x90", &[]),
        case("Forward without entries but a chunk [R19]", cat![b"\x93\xa1t\x90", CHUNK], ACK),
        case("Packed in str", cat![b"\x92\xa1t\xa6", ENTRY], ONE),
        case("Packed in str8", cat![b"\x92\xa1t\xd9\x06", ENTRY], ONE),
        case("Packed in str16", cat![b"\x92\xa1t\xda\x00\x06", ENTRY], ONE),
        case("Packed in str32, as Fluentd", cat![b"\x92\xa1t\xdb\x00\x00\x00\x06", ENTRY], ONE),
        case("Packed in bin8 with a chunk", cat![b"\x93\xa1t\xc4\x06", ENTRY, CHUNK], ONE_ACKED),
        case("Packed in bin16", cat![b"\x92\xa1t\xc5\x00\x06", ENTRY], ONE),
        case("Packed in bin32, as Fluent Bit", cat![b"\x92\xa1t\xc6\x00\x00\x00\x06", ENTRY], ONE),
        case("Packed, nil options [#4]", cat![b"\x93\xa1t\xc4\x06", ENTRY, b"\xc0"], ONE),
        case("Packed and empty", b"\x92\xa1t\xa0", &[]),
        case("Packed and empty with a chunk [R37, #26]", cat![b"\x93\xa1t\xc4\x00", CHUNK], ACK),
        case("outer array16 [R9]", cat![b"\xdc\x00\x02\xa1t\x91", ENTRY], ONE),
        case("outer array32 [R9, #25]", cat![b"\xdd\x00\x00\x00\x02\xa1t\x91", ENTRY], ONE),
        case("entries in array16", cat![b"\x92\xa1t\xdc\x00\x01", ENTRY], ONE),
        case("entries in array32", cat![b"\x92\xa1t\xdd\x00\x00\x00\x01", ENTRY], ONE),
        case("tag in str8", cat![b"\x92\xd9\x01t\x91", ENTRY], ONE),
        case("tag in str32", cat![b"\x92\xdb\x00\x00\x00\x01t\x91", ENTRY], ONE),
        case("tag in bin [#9]", cat![b"\x92\xc4\x01t\x91", ENTRY], ONE),
        case("empty tag [R17]", cat![b"\x92\xa0\x91", ENTRY], &[r#""" Plain [1, {"a": 1}]"#]),
        case(
            "tag that is not UTF-8 [R17]",
            cat![b"\x92\xa2t\xff\x91", ENTRY],
            &["\"t\u{fffd}\" Plain [1, {\"a\": 1}]"],
        ),
        case(
            "Fluent Bit's default: EventTime and metadata in each entry [R51, #7]",
            b"\x92\xa3d.t\x91\x92\x92\xd7\x00\x65\x53\xf1\x00\x00\x00\x00\x05\x80\x81\xa1a\x01",
            &[r#""d.t" Plain [[[0, [101, 83, 241, 0, 0, 0, 0, 5]], {}], {"a": 1}]"#],
        ),
        case(
            "pipelined messages of all kinds, in order [R2]",
            cat![
                b"\x93\xa1s\x01\x80",
                b"\x92\xa1t\x91",
                ENTRY,
                b"\x94\xa1u\x01\x80",
                CHUNK,
                b"\x94\xa1u\x02\x80\x81\xa5chunk\xc4\x01y",
                b"\x94\xa1u\x03\x80\xc0",
                b"\x92\xa1t\xa6",
                ENTRY,
            ],
            &[
                r#""s" Plain [1, {}]"#,
                r#""t" Plain [1, {"a": 1}]"#,
                r#""u" Plain [1, {}] [2, {}] chunks 2 ack \x81\xa3ack\xa2x\n\x81\xa3ack\xc4\x01y"#,
                r#""u" Plain [3, {}]"#,
                r#""t" Plain [1, {"a": 1}]"#,
            ],
        ),
    ]
}

pub(crate) fn entries() -> Vec<Case> {
    vec![
        case(
            "elements behind the record are kept and ignored",
            b"\x92\xa1t\x91\x93\x01\x80\xa1x",
            &[r#""t" Plain [1, {}, "x"]"#],
        ),
        case(
            "long array header of an entry",
            b"\x92\xa1t\x91\xdd\x00\x00\x00\x02\x01\x80",
            &[r#""t" Plain [1, {}]"#],
        ),
        case("time 0 is the time of receipt [R23, #5]", b"\x93\xa1t\x00\x80", &[r#""t" Plain [0, {}]"#]),
        case("time nil [R24]", b"\x93\xa1t\xc0\x80", &[r#""t" Plain [nil, {}]"#]),
        case(
            "float time [#6]",
            b"\x93\xa1t\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\x80",
            &[r#""t" Plain [1.5, {}]"#],
        ),
        case(
            "time in MessagePack's own timestamp [R25]",
            b"\x93\xa1t\xd6\xff\x00\x00\x00\x01\x80",
            &[r#""t" Plain [[-1, [0, 0, 0, 1]], {}]"#],
        ),
        case("negative time", b"\x93\xa1t\xff\x80", &[r#""t" Plain [-1, {}]"#]),
        case(
            "metadata header of one element",
            b"\x92\xa1t\x91\x92\x91\x01\x80",
            &[r#""t" Plain [[1], {}]"#],
        ),
        case(
            "metadata header of three elements",
            b"\x92\xa1t\x91\x92\x93\x01\x80\xc0\x80",
            &[r#""t" Plain [[1, {}, nil], {}]"#],
        ),
        case(
            "one invalid among good ones [R20, #1]",
            cat![b"\x93\xa1t\x95", ENTRY, b"\x05", ENTRY, b"\x91\x01", ENTRY, CHUNK],
            &[concat!(
                r#""t" Plain [1, {"a": 1}] [1, {"a": 1}] [1, {"a": 1}]"#,
                r" chunks 1 ack \x81\xa3ack\xa2x\n skip invalid_entry=2"
            )],
        ),
        case(
            "every kind of invalid entry",
            b"\x92\xa1t\x99\x90\x80\xa1x\x92\xa1x\x80\x92\x01\x90\x92\xd6\x00\x00\x00\x00\x01\x80\x92\x90\x80\x92\x91\x91\x01\x80\x92\xc3\x80",
            &["skip invalid_entry=9"],
        ),
        case(
            "an empty metadata header does not take its time from behind itself",
            cat![b"\x92\xa1t", blob(b"\x92\x90\x05\x80")],
            &["skip invalid_entry=2"],
        ),
        case(
            "entries that are not nested are no event [R18]",
            cat![b"\x93\xa1t\x92\x01\x80", CHUNK],
            &[r"ack \x81\xa3ack\xa2x\n skip invalid_entry=2"],
        ),
        case(
            "Message whose record is no map [R27]",
            cat![b"\x94\xa1t\x01\x90", CHUNK],
            &[r"ack \x81\xa3ack\xa2x\n skip invalid_entry=1"],
        ),
        case("Message whose time is no time", b"\x93\xa1t\xc3\x80", &["skip invalid_entry=1"]),
        case(
            "packed: invalid values are left out",
            cat![b"\x92\xa1t", blob(&cat![b"\xc0", ENTRY, b"\x07", ENTRY])],
            &[r#""t" Plain [1, {"a": 1}] [1, {"a": 1}] skip invalid_entry=2"#],
        ),
        case(
            "packed: cut inside the last entry [R21]",
            cat![b"\x93\xa1t", blob(&cat![ENTRY, &ENTRY[..5]]), CHUNK],
            &[concat!(
                r#""t" Plain [1, {"a": 1}] chunks 1 ack \x81\xa3ack\xa2x\n"#,
                " skip truncated_entry=1"
            )],
        ),
        case(
            "packed: nothing but a cut entry",
            cat![b"\x93\xa1t", blob(&ENTRY[..5]), CHUNK],
            &[r"ack \x81\xa3ack\xa2x\n skip truncated_entry=1"],
        ),
        case(
            "packed: a count that goes beyond the end is a cut entry",
            cat![b"\x92\xa1t", blob(&cat![ENTRY, b"\xdd\xff\xff\xff\xff\x01"])],
            &[r#""t" Plain [1, {"a": 1}] skip truncated_entry=1"#],
        ),
        case(
            "group markers are no events [R52]",
            cat![
                b"\x92\xa1t\x93\x92\x92\xd7\x00\xff\xff\xff\xff\x00\x00\x00\x00\x80\x80",
                ENTRY,
                b"\x92\x92\xd7\x00\xff\xff\xff\xfe\x00\x00\x00\x00\x80\x80",
            ],
            &[r#""t" Plain [1, {"a": 1}] skip group_marker=2"#],
        ),
        case(
            "a group marker in Message mode, and the same time without metadata",
            cat![
                b"\x94\xa1t\xd7\x00\xff\xff\xff\xff\x00\x00\x00\x00\x80\x81\xa8metadata\x80",
                b"\x93\xa1t\xd7\x00\xff\xff\xff\xff\x00\x00\x00\x00\x80",
            ],
            &["skip group_marker=1", r#""t" Plain [[0, [255, 255, 255, 255, 0, 0, 0, 0]], {}]"#],
        ),
        case(
            "not a group marker: an integer, or nanoseconds, or no metadata form",
            cat![
                b"\x92\xa1t\x93\x92\x91\xce\xff\xff\xff\xff\x80",
                b"\x92\x91\xd7\x00\xff\xff\xff\xff\x00\x00\x00\x01\x80",
                b"\x92\xd7\x00\xff\xff\xff\xff\x00\x00\x00\x00\x80",
            ],
            &[concat!(
                r#""t" Plain [[4294967295], {}] [[[0, [255, 255, 255, 255, 0, 0, 0, 1]]], {}]"#,
                " [[0, [255, 255, 255, 255, 0, 0, 0, 0]], {}]"
            )],
        ),
        case(
            "unknown ext, bin, bad UTF-8, odd keys in a record are passed through [R28 to R30, #8, #10, #11]",
            b"\x93\xa1t\x01\x84\xa1a\xd4\x09\x01\xa1b\xc4\x01\xff\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc4\x01k\xc3",
            &[r#""t" Plain [1, {"a": [9, [1]], "b": [255], 1: 18446744073709551615, [107]: true}]"#],
        ),
    ]
}

pub(crate) fn options() -> Vec<Case> {
    let with = |options: &[u8]| cat![b"\x93\xa1t\x91", ENTRY, options];
    vec![
        case("chunk nil is none [#29]", with(b"\x81\xa5chunk\xc0"), ONE),
        case("chunk false is none", with(b"\x81\xa5chunk\xc2"), ONE),
        case(
            "chunk in bin: the same type comes back",
            with(b"\x81\xa5chunk\xc4\x01y"),
            &[r#""t" Plain [1, {"a": 1}] chunks 1 ack \x81\xa3ack\xc4\x01y"#],
        ),
        case(
            "chunk in str8: the same bytes come back",
            with(b"\x81\xa5chunk\xd9\x01y"),
            &[r#""t" Plain [1, {"a": 1}] chunks 1 ack \x81\xa3ack\xd9\x01y"#],
        ),
        case(
            "chunk that is no string is echoed [#15]",
            with(b"\x81\xa5chunk\x92\x01\xc0"),
            &[r#""t" Plain [1, {"a": 1}] chunks 1 ack \x81\xa3ack\x92\x01\xc0"#],
        ),
        case(
            "empty chunk is acked [#16]",
            with(b"\x81\xa5chunk\xa0"),
            &[r#""t" Plain [1, {"a": 1}] chunks 1 ack \x81\xa3ack\xa0"#],
        ),
        case("key in bin [R10]", with(b"\x81\xc4\x05chunk\xa2x\n"), ONE_ACKED),
        case(
            "map32 options, unknown and odd keys, as Fluent Bit and npm send them [R9, R31]",
            with(
                b"\xdf\x00\x00\x00\x05\x01\x02\xa5chunk\xa2x\n\xa4size\xcd\xff\xff\xadfluent_signal\x00\xc0\x91\x01",
            ),
            ONE_ACKED,
        ),
        case("compressed text [R34]", with(b"\x81\xaacompressed\xa4text"), ONE),
        case(
            "options that are no map: events taken, counted [R15]",
            with(b"\x05"),
            &[r#""t" Plain [1, {"a": 1}] skip invalid_options=1"#],
        ),
        case(
            "metrics: no events but an ack [R32]",
            cat![b"\x93\xa1t\xc4\x02\xc1\xc1\x82\xadfluent_signal\x01\xa5chunk\xa2x\n"],
            &[r"ack \x81\xa3ack\xa2x\n skip unsupported_signal=1"],
        ),
        case(
            "traces without a chunk",
            cat![b"\x93\xa1t\x91", ENTRY, b"\x81\xadfluent_signal\xcd\x00\x02"],
            &["skip unsupported_signal=1"],
        ),
        case(
            "bad tag: nothing taken, acked [R17]",
            cat![b"\x93\x05\x91", ENTRY, CHUNK],
            &[r"ack \x81\xa3ack\xa2x\n skip invalid_tag=1"],
        ),
        case("bad tag without a chunk", cat![b"\x92\xc0\x91", ENTRY], &["skip invalid_tag=1"]),
    ]
}

pub(crate) fn compression() -> Vec<Case> {
    const GZIP: &[&str] = &[r#""t" Gzip [1, {"a": 1}] chunks 1 ack \x81\xa3ack\xa2x\n"#];
    const ZSTD: &[&str] = &[r#""t" Zstd [1, {"a": 1}] chunks 1 ack \x81\xa3ack\xa2x\n"#];
    const DAMAGED: &[&str] = &["refuse decompress_error"];
    let whole = gzip(ENTRY);
    let mut wrong_crc = whole.clone();
    let crc_at = wrong_crc.len() - 8;
    wrong_crc[crc_at] ^= 1;
    let mut wrong_len = whole.clone();
    let len_at = wrong_len.len() - 4;
    wrong_len[len_at] ^= 1;
    vec![
        case("gzip", compressed("gzip", &whole), GZIP),
        case(
            "gzip members whose borders are no entry borders, some empty [R33, #27]",
            compressed(
                "gzip",
                &cat![gzip(b""), gzip(&ENTRY[..2]), gzip(b""), gzip_with_fields(&ENTRY[2..]), gzip(b"")],
            ),
            GZIP,
        ),
        case("gzip of nothing [R37]", compressed("gzip", &gzip(b"")), ACK),
        case("nothing, called gzip [R37]", compressed("gzip", b""), ACK),
        case("zstd [#14]", compressed("zstd", &zstd(ENTRY)), ZSTD),
        case(
            "zstd frames [R33]",
            compressed("zstd", &cat![zstd(&ENTRY[..2]), zstd(b""), zstd(&ENTRY[2..])]),
            ZSTD,
        ),
        case("unknown name, gzip inside [R34, #13]", compressed("lzo", &whole), GZIP),
        case("unknown name, zstd inside", compressed("lzo", &zstd(ENTRY)), ZSTD),
        case("unknown name, plain inside", compressed("lzo", ENTRY), ONE_ACKED),
        case("text", compressed("text", ENTRY), ONE_ACKED),
        case(
            "an invalid entry inside: the rest is packed anew",
            compressed("gzip", &gzip(&cat![ENTRY, b"\x05", ENTRY])),
            &[concat!(
                r#""t" Zstd [1, {"a": 1}] [1, {"a": 1}] chunks 1 ack \x81\xa3ack\xa2x\n"#,
                " skip invalid_entry=1"
            )],
        ),
        case(
            "a cut entry inside",
            compressed("zstd", &zstd(&cat![ENTRY, &ENTRY[..3]])),
            &[concat!(
                r#""t" Zstd [1, {"a": 1}] chunks 1 ack \x81\xa3ack\xa2x\n"#,
                " skip truncated_entry=1"
            )],
        ),
        case("gzip, wrong checksum [R35, #12]", compressed("gzip", &wrong_crc), DAMAGED),
        case("gzip, wrong length [R35]", compressed("gzip", &wrong_len), DAMAGED),
        case("gzip, cut", compressed("gzip", &whole[..whole.len() - 1]), DAMAGED),
        case("gzip, cut in the second header", compressed("gzip", &cat![whole, &whole[..5]]), DAMAGED),
        case("gzip, garbage behind it", compressed("gzip", &cat![whole, b"xyz"]), DAMAGED),
        case("gzip by name only", compressed("gzip", ENTRY), DAMAGED),
        case("zstd, cut", compressed("zstd", &zstd(ENTRY)[..8]), DAMAGED),
        case("zstd, garbage behind it", compressed("zstd", &cat![zstd(ENTRY), b"xyzxyz"]), DAMAGED),
        case(
            "inflates too far [R36]: refused, and the session can go on behind it",
            cat![compressed("zstd", &zstd(&[0; 2049])), b"\x92\xa1t\xa6", ENTRY],
            &["refuse decompress_limit", ONE[0]],
        ),
    ]
}

pub(crate) fn bad_input() -> Vec<Case> {
    let prior = cat![b"\x92\xa1t\x91", ENTRY];
    let after = |bytes: &[u8]| cat![prior, bytes];
    let record = |value: &[u8]| cat![b"\x93\xa1t\x01\x81\xa1a", value];
    let too_deep = &[ONE[0], "close too_deep"];
    vec![
        case("impossible byte between messages [R14, #19]", after(b"\xc1"), &[ONE[0], "close malformed"]),
        case(
            "impossible byte inside a message",
            after(b"\x92\xa1t\x91\x92\x01\xc1"),
            &[ONE[0], "close malformed"],
        ),
        case("nested too deep [R11]", after(&record(&nested(127))), too_deep),
        case("outer array of 17 [R8]", after(b"\xdc\x00\x11"), &[ONE[0], "close outer_array"]),
        case("outer array of 2^32-1 [R12]", after(b"\xdd\xff\xff\xff\xff"), &[ONE[0], "close outer_array"]),
        case(
            "declared count too large [R13, #20]",
            after(b"\x92\xa1t\xdd\xff\xff\xff\xff"),
            &[ONE[0], "close too_large"],
        ),
        case(
            "declared map too large [R13]",
            after(b"\x93\xa1t\x01\xde\x08\x00"),
            &[ONE[0], "close too_large"],
        ),
        case(
            "declared length too large [R13]",
            after(b"\x92\xc6\x00\x00\x10\x00"),
            &[ONE[0], "close too_large"],
        ),
        case(
            "declared ext too large [R13]",
            after(b"\x92\xc9\xff\xff\xff\xff"),
            &[ONE[0], "close too_large"],
        ),
        case(
            "incomplete at the end of file [R1]",
            after(&b"\x92\xa1t\x92\x92\x01\x80\x92\x01"[..]),
            &[ONE[0], "incomplete 9"],
        ),
        case("nil is a heartbeat [R6, #3]", cat![b"\xc0\xc0", prior, b"\xc0"], ONE),
        case(
            "values that are no message [R7, #2]",
            cat![b"\x05", prior, b"\x81\x01\x91\x02", prior, b"\xa1x"],
            &["skip not_message=1", ONE[0], "skip not_message=1", ONE[0], "skip not_message=1"],
        ),
        case(
            "arrays of no or one element [R5]",
            b"\x90\x91\x92\x01\x02",
            &["skip invalid_message=1", "skip invalid_message=1"],
        ),
        case("tag and time only", b"\x92\xa1t\x01", &["skip invalid_message=1"]),
        case(
            "malformed inside a packed stream [R22]",
            cat![prior, b"\x93\xa1t", blob(&cat![ENTRY, b"\xc1"]), CHUNK],
            &[ONE[0], "refuse malformed_entries"],
        ),
        case(
            "too deep inside a packed stream",
            cat![prior, b"\x92\xa1t", blob(&nested(129))],
            &[ONE[0], "refuse too_deep"],
        ),
    ]
}
