//! What is reported of a wrong file, and where. Each case is a change to a file that is right.

use weir_topology::{Problem, Severity, parse_node, parse_topology};

const TOPOLOGY: &str = r#"version = 1
[cluster]
name = "test"
[[edge]]
name = "edge-1"
rack = "r1"
[[group]]
id = "app"
quota = "1GiB"
overflow = "block"
sink = [{ name = "app-1", rack = "r1", address = "host:24401", weight = 1 }]
[group.part]
age = "5s"
[group.store]
kind = "file"
path = "out"
[[group]]
id = "bus"
[[group.sink]]
name = "bus-1"
rack = "r1"
address = "[::1]:24402"
[group.store]
kind = "kafka"
brokers = ["host:9092"]
[[route]]
match = "app.**"
groups = ["app"]
[[route]]
match = "** sys.*"
groups = ["app", "bus"]
"#;

const NODE: &str = r#"name = "edge-1"
role = "edge"
rack = "r1"
data_dir = "data"
topology = "topology.toml"
[listen]
forward = "127.0.0.1:0"
[tls]
ca = "ca.crt"
cert = "edge-1.crt"
key = "edge-1.key"
"#;

/// Text that is taken out, text that is put in, and what is reported then: `line:column`, a piece of the
/// message, a piece of the hint.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str, &'static str)]);

const WRONG_TOPOLOGIES: &[Case] = &[
    ("version = 1", "version = = 1", &[("1:11", "extra `=`", "")]),
    ("version = 1", "version = 2", &[("1:11", "version 2", "version = 1")]),
    ("version = 1\n", "", &[("1:1", "missing field `version`", "")]),
    ("quota =", "qouta =", &[("9:1", "unknown key `qouta`", "did you mean \"quota\"?")]),
    ("weight =", "wieght =", &[("11:64", "unknown key `wieght`", "weight")]),
    ("[[edge]]", "[[edges]]", &[("4:3", "unknown key `edges`", "did you mean \"edge\"?")]),
    ("path =", "pathh = \"\"\npath =", &[("16:1", "unknown key `pathh`", "did you mean \"path\"?")]),
    ("rack = \"r1\"\n[[group]]", "[[group]]", &[("4:1", "missing field `rack`", "add the key `rack`")]),
    ("\"app-1\"", "\"edge-1\"", &[("11:18", "two nodes \"edge-1\"", "line 5")]),
    ("\"bus-1\"", "\"app-1\"", &[("20:8", "two nodes \"app-1\"", "line 11")]),
    (
        "id = \"bus\"",
        "id = \"app\"",
        &[("18:6", "two groups \"app\"", "line 8"), ("31:18", "no group \"bus\"", "app")],
    ),
    ("groups = [\"app\"]", "groups = [\"apq\"]", &[("28:11", "no group \"apq\"", "did you mean \"app\"?")]),
    ("\"app\", \"bus\"", "\"bus\", \"bus\"", &[("31:18", "named twice", "")]),
    ("groups = [\"app\"]", "groups = []", &[("28:10", "leads nowhere", "")]),
    (
        "sink = [{ name = \"app-1\", rack = \"r1\", address = \"host:24401\", weight = 1 }]",
        "sink = []",
        &[("7:1", "no sinks", "sink = [{")],
    ),
    ("host:24401", "host", &[("11:50", "has no port", "host:port")]),
    ("host:24401", "host:0", &[("11:50", "port 0", "")]),
    ("[::1]:24402", "::1:24402", &[("22:11", "not an address", "[::1]")]),
    ("weight = 1", "weight = 0", &[("11:73", "weight 0", "1 or more")]),
    ("\"1GiB\"", "\"1 pound\"", &[("9:9", "\"1 pound\" is not a size", "64MiB")]),
    ("\"5s\"", "5", &[("13:7", "\"5\" is not a duration", "200ms")]),
    ("\"5s\"", "\"0s\"", &[("13:7", "above 0", "")]),
    ("brokers = [\"host:9092\"]", "brokers = []", &[("25:11", "needs brokers", "brokers = [")]),
    ("brokers = [\"host:9092\"]", "", &[("23:1", "needs brokers", "brokers = [")]),
    ("\"host:9092\"]", "\"host:9092\", \"\"]", &[("25:11", "needs brokers", "")]),
    (
        "[\"host:9092\"]",
        "[\"host:9092\"]\noptions = { a = 20 }",
        &[("26:17", "20 stands where text belongs", "\"20\"")],
    ),
    (
        "[\"host:9092\"]",
        "[\"host:9092\"]\ncompression = \"lz5\"",
        &[("26:15", "\"lz5\"", "did you mean \"lz4\"?")],
    ),
    ("path = \"out\"", "path = \"out\"\npath = \"in\"", &[("17:1", "duplicate key", "")]),
    (
        "kind = \"file\"\npath = \"out\"",
        "kind = \"hdfs\"\nurl = \"nn:8020\"\npath = \"out\"\nreplication = 0",
        &[("16:7", "not the URL", "hdfs://"), ("17:8", "not absolute", "\"/out\""), ("18:15", "no copy", "")],
    ),
    ("[cluster]\nname = \"test\"\n", "", &[("1:1", "names no cluster", "[cluster]")]),
    ("kind = \"file\"\npath = \"out\"\n", "", &[("14:1", "no kind", "")]),
    ("[group.store]\nkind = \"file\"\npath = \"out\"\n", "", &[("7:1", "no store", "[group.store]")]),
    ("\"kafka\"", "\"kafak\"", &[("24:8", "no store is of kind \"kafak\"", "did you mean \"kafka\"?")]),
    ("kind = \"file\"\n", "", &[("14:1", "no kind", "file, kafka, hdfs, forward")]),
    (
        "groups = [\"app\"]",
        "groups = [\"app\"]\nack = \"sore\"",
        &[("29:7", "\"sore\" is not known", "did you mean \"store\"?")],
    ),
    ("\"app.**\"", "\" \"", &[("27:9", "matches nothing", "**")]),
    ("\"app.**\"", "\"app.** sys.{a\"", &[("27:21", "\"sys.{a\": the '{'", "without white space")]),
    ("\"app.**\"", "'''sys.{a, b}'''", &[("27:16", "'{'", "white space"), ("27:21", "'}'", "white space")]),
    ("\"app.**\"", "\"xx} x}\"", &[("27:12", "'}'", "{a,b}"), ("27:15", "'}'", "{a,b}")]),
    ("\"app\", \"bus\"", "\"app\", \"bsu\"", &[("31:18", "no group \"bsu\"", "bus")]),
    ("\"app.**\"", "\"app.\\u007Ba\"", &[("27:9", "'{'", "{a,b}")]),
    ("\"app.**\"", "\"/app.*/\"", &[("27:10", "regular expressions", "")]),
    (
        "path = \"out\"",
        "path = \"out\"\npartition = \"%Y/%j\"",
        &[("17:13", "\"%j\" in a partition template", "%Y/%m/%d/%H")],
    ),
    (
        "[\"host:9092\"]",
        "[\"host:9092\"]\ntopic = \"logs {tag}\"\ncommit_topic = \"{tag}\"\n",
        &[("26:9", "\"logs {tag}\" is not a topic", "{tag} stands"), ("27:16", "\"{tag}\" is not", "249")],
    ),
    (
        "[group.part]",
        "ack = \"sore\"\n[group.part]",
        &[("12:7", "\"sore\" is not known", "did you mean \"store\"?")],
    ),
    ("\"block\"", "\"blok\"", &[("10:12", "\"blok\" is not known", "did you mean \"block\"?")]),
    ("\"block\"", "{ divert = \"app\" }", &[("10:23", "to itself", "")]),
    ("\"block\"", "{ divert = \"bux\" }", &[("10:23", "no group \"bux\"", "bus")]),
    ("id = \"bus\"", "id = \"b/s\"", &[("18:6", "may hold only", ""), ("31:18", "no group \"bus\"", "")]),
];

const WARNED_TOPOLOGIES: &[Case] = &[
    ("\"app.**\"", "\"**\"", &[("30:9", "line 27 takes all its tags", "before")]),
    (
        "\"** sys.*\"",
        "\"app.{a,b} app\"",
        &[("29:1", "dropped and counted", "**"), ("30:9", "line 27 takes all its tags", "before")],
    ),
    ("\"app\", \"bus\"", "\"app\"", &[("17:1", "no route leads to group \"bus\"", "name it in a route")]),
    ("[::1]:24402", "host:24401", &[("22:11", "two sinks have the address", "line 11")]),
    ("\"** sys.*\"", "\"sys.*\"", &[("29:1", "dropped and counted", "**")]),
    ("", "", &[]),
];

const WRONG_NODES: &[Case] = &[
    (
        "rack",
        "rakc",
        &[("1:1", "missing field `rack`", ""), ("3:1", "unknown key `rakc`", "did you mean \"rack\"?")],
    ),
    ("\"edge\"", "\"egde\"", &[("2:8", "\"egde\" is not known", "edge")]),
    ("name = \"edge-1\"", "name = 7", &[("1:8", "where text belongs", "\"7\"")]),
    ("127.0.0.1:0", "127.0.0.1", &[("7:11", "has no port", "host:port")]),
    ("\"edge\"", "\"sink\"", &[("7:11", "no forward listener", "link")]),
    ("forward =", "link =", &[("7:8", "no link listener", "link")]),
    (
        "key = \"edge-1.key\"",
        "kye = \"edge-1.key\"",
        &[("8:1", "missing field `key`", ""), ("11:1", "unknown key `kye`", "key")],
    ),
    ("\"data\"", "\"\"", &[("4:12", "empty", "")]),
    (
        "[listen]",
        "listen = 1\n[listening]",
        &[("6:10", "is a table", ""), ("7:2", "unknown key `listening`", "listen")],
    ),
];

/// Runs `parse` on each changed file and shows all cases that went otherwise at once.
fn check(right: &str, cases: &[Case], severity: Severity, parse: impl Fn(&str) -> Vec<Problem>) {
    let mut failures = String::new();
    for (from, to, expected) in cases {
        assert!(right.contains(from), "{from:?} is not in the file that is changed");
        let found = parse(&right.replacen(from, to, 1));
        let as_expected = |(problem, (place, message, hint)): (&Problem, &(&str, &str, &str))| {
            format!("{}:{}", problem.line, problem.column) == *place
                && problem.message.contains(message)
                && problem.hint.as_deref().unwrap_or_default().contains(hint)
                && problem.severity == severity
        };
        if found.len() != expected.len() || !found.iter().zip(*expected).all(as_expected) {
            let found: String = found.iter().map(|problem| format!("{problem}\n")).collect();
            failures += &format!("{from:?} became {to:?}; expected {expected:?}, found\n{found}\n");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn wrong_topologies() {
    let parse = |text: &str| parse_topology(text, "t.toml").err().unwrap_or_default();
    check(TOPOLOGY, WRONG_TOPOLOGIES, Severity::Error, parse);
}

#[test]
fn warned_topologies() {
    let parse = |text: &str| parse_topology(text, "t.toml").unwrap().1;
    check(TOPOLOGY, WARNED_TOPOLOGIES, Severity::Warning, parse);
}

#[test]
fn wrong_nodes() {
    parse_node(NODE, "n.toml").expect(NODE);
    let parse = |text: &str| parse_node(text, "n.toml").err().unwrap_or_default();
    check(NODE, WRONG_NODES, Severity::Error, parse);
}

#[test]
fn all_problems_come_at_once() {
    let changes = [
        ("name = \"test\"", "nam = \"test\""),
        ("\"1GiB\"", "\"x\""),
        ("weight = 1", "weight = 0"),
        ("kind = \"file\"", "kind = \"flie\""),
        ("\"bus\"\n", "\"bus\"\nquotta = 1\nafinity = 2\n"),
        ("groups = [\"app\"]", "groups = [\"nowhere\"]"),
    ];
    let text = changes.iter().fold(TOPOLOGY.to_owned(), |text, (from, to)| text.replacen(from, to, 1));
    let found = parse_topology(&text, "t.toml").expect_err(&text);
    let lines: Vec<usize> = found.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 3, 9, 11, 15, 19, 20, 30], "{found:#?}");
}

/// What is wrong with listeners, at the end of a right file: what is added, and what is reported, as above.
const WRONG_LISTENERS: &[(&str, &[(&str, &str)])] = &[
    ("[forward]\nmemori = '1GiB'", &[("unknown key `memori`", "")]),
    ("[forward]\nmemory = '1MiB'", &[("16MiB", "")]),
    ("[forward]\nallow = ['10.0.0.0/33']", &[("is not a network", "10.0.0.0/8")]),
    ("[forward]\nidle_timeout = '0s'", &[("end at once", "leave the key out")]),
    ("[forward]\nmax_connections = 0", &[("nobody could connect", "")]),
    ("[forward]\nsource_prefix_v4 = 33", &[("has 32 bits", "")]),
    ("[forward.tls]\ncert = 'c'", &[("missing field `key`", "add the key `key`")]),
    (
        "[forward.security]\nself_hostname = 'localhost'\nshared_key = 'k'",
        &[("called \"localhost\"", "Fluent Bit")],
    ),
    (
        "[forward.security]\nshared_key = { environment = 'K' }",
        &[("a variable or a file", "{ env = \"NAME\" }")],
    ),
    (
        "[forward.security]\nshared_key = 'k'\nuser = [{ username = 'ada', password = 'p' }]\nclient = [{ network = '::/0', users = ['adb'] }]",
        &[("no user \"adb\"", "did you mean \"ada\"?")],
    ),
    ("[[forward.limit]]\naction = 'slow'", &[("limits nothing", "events = 10000")]),
    ("[[forward.limit]]\nevents = 0\naction = 'slow'", &[("lets nothing through", "")]),
    ("[[forward.limit]]\nevents = 1\naction = 'stop'", &[("\"stop\" is not known", "slow")]),
    ("[[forward.limit]]\nevents = 1\nmatch = 'a.{b'\naction = 'drop'", &[("pattern \"a.{b\"", "")]),
    ("[[forward.limit]]\nconnections = 1\naction = 'drop'", &[("only be closed", "close")]),
    (
        "[[forward.limit]]\nconnections = 1\nper = 'tag'\naction = 'close'",
        &[("no tag yet", "per = \"source\"")],
    ),
    ("[[listener]]\naddress = '0.0.0.0:1'", &[("missing field `name`", "")]),
    ("[[listener]]\nname = 'a'\naddress = 'here:1'\nunix = 's'", &[("one place", "second [[listener]]")]),
    ("[[listener]]\nname = 'a'\nunix = 's'\nmode = 'rw'", &[("no file mode", "chmod")]),
    ("[[listener]]\nname = 'a'\nedges = ['edge-2']", &[("no edge \"edge-2\"", "edge-1")]),
    ("[[listener]]\nname = 'a'\n[[listener]]\nname = 'a'\naddress = 'h:1'", &[("two listeners \"a\"", "")]),
    ("[[listener]]\nname = 'a'\n[[listener]]\nname = 'b'", &[("in the same place", "another address")]),
    // Said once, though two listeners inherit it.
    (
        "[forward]\ndeny = ['x']\n[[listener]]\nname = 'a'\n[[listener]]\nname = 'b'\naddress = 'h:1'",
        &[("\"x\" is not a network", "")],
    ),
];

#[test]
fn wrong_listeners() {
    for (added, expected) in WRONG_LISTENERS {
        let text = format!("{TOPOLOGY}{added}\n");
        let problems = parse_topology(&text, "t.toml").expect_err(added);
        let seen: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(seen.len(), expected.len(), "{added}: {seen:#?}");
        for (problem, (message, hint)) in problems.iter().zip(*expected) {
            assert!(problem.message.contains(message), "{added}: {problem}");
            assert!(problem.hint.as_deref().unwrap_or_default().contains(hint), "{added}: {problem}");
        }
    }
}

#[test]
fn a_listener_inherits_what_it_does_not_say() {
    let text = format!(
        "{TOPOLOGY}[forward]\nmax_connections = 7\nidle_timeout = '1min'\n[[listener]]\nname = 'a'\n\
         [[listener]]\nname = 'b'\nunix = 'b.sock'\nmax_connections = 8\nedges = ['edge-1']\n"
    );
    let (topology, _) = parse_topology(&text, "t.toml").unwrap();
    let seen: Vec<_> = topology
        .forward
        .of(&"edge-1".parse().unwrap())
        .map(|listener| {
            (listener.name.as_str(), listener.settings.max_connections, listener.settings.idle_timeout)
        })
        .collect();
    let minute = Some(std::time::Duration::from_secs(60));
    assert_eq!(seen, [("a", 7, minute), ("b", 8, minute)]);
    assert_eq!(topology.forward.of(&"edge-9".parse().unwrap()).count(), 1);
}

type Reported = &'static [(&'static str, &'static str, &'static str)];

/// A transform of group app that is wrong, and what is reported: `line:column`, a piece of the message, a piece of the hint.
const WRONG_TRANSFORMS: &[(&str, Reported)] = &[
    ("transform = 'x'", &[("12:13", "a list of tables", "[[transform]]")]),
    ("transform = ['x']", &[("12:14", "is a table", "")]),
    ("transform = [{}]", &[("12:14", "one step", "known here: add, rename")]),
    ("transform = [{ remove = 'a', keep = 'b' }]", &[("12:14", "one step", "in their order")]),
    (
        "transform = [{ remov = 'a' }]",
        &[("12:16", "no transform is called \"remov\"", "did you mean \"remove\"?")],
    ),
    ("transform = [{ remove = [] }]", &[("12:25", "names no field", "remove = [\"field\"")]),
    ("transform = [{ remove = 7 }]", &[("12:25", "is no field", "in quotes")]),
    (
        "transform = [{ keep = ['a', 'b..c', 'd.'] }]",
        &[("12:32", "empty name", "one dot"), ("12:40", "empty name", "one dot")],
    ),
    ("transform = [{ remove = 'a\\' }]", &[("12:27", "backslash", "twice")]),
    ("transform = [{ add = 'x' }]", &[("12:22", "a table of fields", "env = \"prod\"")]),
    ("transform = [{ add = {} }]", &[("12:22", "names no field", "env")]),
    ("transform = [{ add = { a = [1] } }]", &[("12:28", "cannot be added", "text, a number")]),
    ("transform = [{ add = { a = 2026-01-02 } }]", &[("12:28", "cannot be added", "time in quotes")]),
    ("transform = [{ add = { a = 'x ${tagg}' } }]", &[("12:31", "${tagg} is not known", "${tag_parts[0]}")]),
    ("transform = [{ add = { a = 'x ${tag' } }]", &[("12:31", "without \"}\"", "$${")]),
    ("transform = [{ add = { a = '${record.b..c}' } }]", &[("12:40", "empty name", "${record.field}")]),
    ("transform = [{ rename = { a = 'a.b' } }]", &[("12:31", "into itself", "")]),
    ("transform = [{ rename = { a = 1 } }]", &[("12:31", "is no field", "in quotes")]),
    ("transform = [{ drop = 'a' }]", &[("12:23", "a table belongs", "^debug$")]),
    ("transform = [{ drop = { field = 'a' } }]", &[("12:23", "missing field `match`", "add the key")]),
    ("transform = [{ only = { field = 'a', match = '(' } }]", &[("12:46", "unclosed group", "regex")]),
    (
        "transform = [{ only = { field = '', match = 'x', mach = 1 } }]",
        &[("12:33", "empty name", ""), ("12:50", "unknown key `mach`", "match")],
    ),
    ("transform = [{ redact = { fields = [] } }]", &[("12:25", "names no field", "fields = ")]),
    (
        "transform = [{ redact = { fields = ['a'], match = '[' } }]",
        &[("12:51", "regular expression", "no look-around")],
    ),
    ("transform = [{ inject = {} }]", &[("12:25", "names no field", "tag_key")]),
    (
        "transform = [{ inject = { tag_key = 'a', time_format = 'float' } }]",
        &[("12:56", "goes nowhere", "time_key")],
    ),
    (
        "transform = [{ inject = { time_key = 'a', time_format = 'soon' } }]",
        &[("12:57", "no format of a time", "%Y-%m-%d")],
    ),
];

#[test]
fn wrong_transforms() {
    for (added, expected) in WRONG_TRANSFORMS {
        let text = TOPOLOGY.replacen("[group.part]", &format!("{added}\n[group.part]"), 1);
        let problems = parse_topology(&text, "t.toml").expect_err(added);
        let seen: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(seen.len(), expected.len(), "{added}: {seen:#?}");
        for (problem, (place, message, hint)) in problems.iter().zip(*expected) {
            assert_eq!(format!("{}:{}", problem.line, problem.column), *place, "{added}: {problem}");
            assert!(problem.message.contains(message), "{added}: {problem}");
            assert!(problem.hint.as_deref().unwrap_or_default().contains(hint), "{added}: {problem}");
        }
    }
}
