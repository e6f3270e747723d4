//! Section 11: JSON connections, by the same table.

use crate::bytes::cat;
use crate::{Case, case};

const ONE: &str = r#""t" Plain [1, {"a": 1}]"#;

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("Message, as the Go client sends it [#30]", r#"["t",1,{"a":1},{}]"#, &[ONE]),
        case("Message without options", r#"["t",1,{"a":1}]"#, &[ONE]),
        case(
            "Message with a chunk: the ack is JSON",
            r#"["t",1,{"a":1},{"chunk":"x\"\n"}]"#,
            &[r#""t" Plain [1, {"a": 1}] chunks 1 ack {\"ack\":\"x\\\"\\n\"}"#],
        ),
        case(
            "Forward, with and without white space between the messages",
            "[\"t\", [[1, {\"a\": 1}], [2.5, {}]], {\"chunk\": 7}]\r\n \t[\"t\",[]]  [\"u\",3,{}][\"u\",4,{}]\n",
            &[
                r#""t" Plain [1, {"a": 1}] [2.5, {}] chunks 1 ack {\"ack\":7}"#,
                r#""u" Plain [3, {}] [4, {}]"#,
            ],
        ),
        case(
            "values of every kind, and brackets in text",
            r#"["t",1,{"a":[null,true,-1,18446744073709551615,1.5,"]}\\\"é\u00e9"],"b":{}}]"#,
            &[
                "\"t\" Plain [1, {\"a\": [nil, true, -1, 18446744073709551615, 1.5, \"]}\\\\\\\"éé\"], \"b\": {}}]",
            ],
        ),
        case("chunk null is none", r#"["t",1,{"a":1},{"chunk":null}]"#, &[ONE]),
        case(
            "chunk that is no string is echoed",
            r#"["t",[],{"chunk":[1,{"b":null}]}]"#,
            &[r#"ack {\"ack\":[1,{\"b\":null}]}"#],
        ),
        case(
            "text that is not UTF-8",
            cat![b"[\"t\",1,{\"a\":\"\xff\"}]"],
            &["\"t\" Plain [1, {\"a\": \"\u{fffd}\"}]"],
        ),
        case(
            "packed modes make no sense",
            r#"["t","abc",{"chunk":"x"}]["t","abc"]"#,
            &[r#"ack {\"ack\":\"x\"} skip invalid_message=1"#, "skip invalid_message=1"],
        ),
        case(
            "objects and other values are skipped",
            "{\"a\":1} 12 \"x[\" null[\"t\",1,{\"a\":1}]true ",
            &[
                "skip not_message=1",
                "skip not_message=1",
                "skip not_message=1",
                "skip not_message=1",
                ONE,
                "skip not_message=1",
            ],
        ),
        case(
            "invalid entries",
            r#"["t",[1,[1,{"a":1}],[true,{}]]]"#,
            &[concat!(r#""t" Plain [1, {"a": 1}]"#, " skip invalid_entry=2")],
        ),
        case("not JSON", r#"["t",1,{"a":1}]["t",nope]"#, &[ONE, "close malformed_json"]),
        case("a bracket too many", r#"["t",1,{"a":1}]]"#, &[ONE, "close malformed_json"]),
        case("brackets that do not match", r#"["t",1,{"a":1]]"#, &["close malformed_json"]),
        case("too many elements", format!("[{}1]", "1,".repeat(16)), &["close outer_array"]),
        case("as deep as can be", format!(r#"["t",{}]"#, nested(126)), &["skip invalid_entry=1"]),
        case("too deep", format!(r#"["t",{}]"#, nested(127)), &["close too_deep"]),
        case("cut", r#"["t",1,{"a":1}] ["t",1,"#, &[ONE, "incomplete 7"]),
        case("white space first is not JSON", " [\"t\",1,{}]", &["skip not_message=1"; 11]),
    ]
}
