//! What a right file means: defaults, values that are given, and paths.

use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_topology::{
    Ack, Affinity, ByteSize, Codec, FileStore, Format, HdfsStore, KafkaKey, KafkaStore, Listen, LogFormat,
    Options, Overflow, PartLimits, Repeats, Role, Secret, Stage, StoreConfig, Topology, parse_node,
    parse_topology,
};

fn with_store(rest_of_group: &str) -> Topology {
    let text = format!(
        "version = 1\ncluster.name = 'c'\n[[route]]\nmatch = '**'\ngroups = ['g']\n[[group]]\nid = 'g'\n\
         sink = [{{ name = 's', rack = 'r', address = 'h:1' }}]\n{rest_of_group}"
    );
    parse_topology(&text, "t.toml").expect("a right file").0
}

fn part(mebibytes: u64, ms: u64) -> PartLimits {
    PartLimits { bytes: ByteSize(mebibytes << 20), age: Duration::from_millis(ms) }
}

#[test]
fn what_a_file_does_not_say() {
    let file = with_store("store = { kind = 'file', path = 'out' }");
    let door = &file.forward.listeners[0].settings;
    assert_eq!(file.forward.memory, ByteSize(1 << 30));
    // What Fluentd sends in one message, and what it inflates; nobody who says nothing is sent away.
    assert_eq!(
        (door.chunk_size_limit, door.decompression_size_limit),
        (ByteSize(512 << 20), ByteSize(256 << 20))
    );
    assert_eq!((door.idle_timeout, door.message_timeout, door.max_connection_age), (None, None, None));
    assert_eq!(
        (door.handshake_timeout, door.ack_deadline),
        (Duration::from_secs(10), Duration::from_secs(60))
    );
    let group = &file.groups[0];
    assert_eq!((group.quota, &group.overflow), (ByteSize(10 << 30), &Overflow::Block));
    assert_eq!((group.affinity, group.ack, group.sinks[0].weight), (Affinity::None, Ack::Edge, 1));
    assert_eq!(group.stage, Stage { memory: ByteSize(48 << 20), disk: ByteSize(4 << 30) });
    assert_eq!(group.part, part(64, 1_000));
    assert_eq!(group.repeats, Repeats { window: Duration::from_secs(600), chunks: 500_000 });
    assert_eq!(
        group.store,
        StoreConfig::File(FileStore {
            path: "out".into(),
            partition: "%Y/%m/%d/%H".into(),
            codec: Codec::None,
            format: Format::Envelope,
            shared: false,
        })
    );

    let kafka = with_store("store = { kind = 'kafka', brokers = ['a:1', 'b:2'] }");
    assert_eq!(kafka.groups[0].part, part(16, 200));
    assert_eq!(
        kafka.groups[0].store,
        StoreConfig::Kafka(KafkaStore {
            brokers: "a:1,b:2".into(),
            topic: "weir-g".into(),
            key: KafkaKey::Tag,
            compression: "lz4".into(),
            transactions: true,
            commit_topic: None,
            dead_letter_topic: None,
            options: Options::default(),
        })
    );

    let hdfs = with_store("store = { kind = 'hdfs', url = 'hdfs://n', path = '/p' }");
    assert_eq!(hdfs.groups[0].part, part(128, 60_000));
    assert_eq!(
        hdfs.groups[0].store,
        StoreConfig::Hdfs(HdfsStore {
            url: "hdfs://n".into(),
            path: "/p".into(),
            partition: "%Y/%m/%d/%H".into(),
            codec: Codec::None,
            format: Format::Envelope,
            replication: None,
            user: None,
            options: Options::default(),
        })
    );
}

#[test]
fn what_a_file_says() {
    let text = "quota = 4096\nack = 'edge'\noverflow = 'drop_newest'\naffinity = 'rack'\nstage = { memory = '1MiB', disk = '2MiB' }\n\
                part = { bytes = '3MiB', age = '4s' }\n[group.store]\nkind = 'kafka'\nbrokers = ['a:1']\n\
                topic = 't'\nkey = 'none'\ncompression = 'none'\ntransactions = false\ncommit_topic = 'c'\n\
                dead_letter_topic = 'd'\noptions = { 'linger.ms' = '5' }";
    let topology = with_store(text);
    let group = &topology.groups[0];
    assert_eq!((group.quota, &group.overflow), (ByteSize(4096), &Overflow::DropNewest));
    assert_eq!(group.affinity, Affinity::Rack);
    assert_eq!(group.stage, Stage { memory: ByteSize(1 << 20), disk: ByteSize(2 << 20) });
    assert_eq!(group.part, part(3, 4_000));
    assert_eq!(
        group.store,
        StoreConfig::Kafka(KafkaStore {
            brokers: "a:1".into(),
            topic: "t".into(),
            key: KafkaKey::None,
            compression: "none".into(),
            transactions: false,
            commit_topic: Some("c".into()),
            dead_letter_topic: Some("d".into()),
            options: Options([("linger.ms".to_owned(), Secret::Given("5".to_owned()))].into()),
        })
    );
}

#[test]
fn a_service_is_a_group_and_the_route_to_it() {
    let text = "version = 1\n[cluster]\nname = 'c'\n\
        [[group]]\nid = 'rest'\nsink = [{ name = 'r', rack = 'a', address = 'h:1' }]\nstore = { kind = 'file', path = 'r' }\n\
        [[route]]\nmatch = '**'\ngroups = ['rest']\n\
        [[service]]\nid = 'pay'\nmatch = 'pay.**'\ncopy_to = ['rest']\nquota = '1MiB'\n\
        sink = [{ name = 'p', rack = 'a', address = 'h:2' }]\n[service.store]\nkind = 'file'\npath = 'p'";
    let (topology, warnings) = parse_topology(text, "t").unwrap_or_else(|e| panic!("{e:?}"));
    assert!(warnings.is_empty(), "{warnings:?}");
    let pay = topology.group(&"pay".parse().unwrap()).unwrap();
    assert_eq!((pay.quota, pay.sinks.len()), (ByteSize(1 << 20), 1));
    // Before the routes, wherever it stands.
    assert_eq!(topology.routes[0].patterns, "pay.**");
    assert_eq!(topology.routes[0].groups, ["pay", "rest"].map(|id| id.parse().unwrap()));

    let place = |text: &str| {
        let problem = &parse_topology(text, "t").unwrap_err()[0];
        (problem.line, problem.message.clone())
    };
    assert_eq!(place(&text.replace("match = 'pay.**'\n", "")), (11, "the service has no tags".into()));
    assert_eq!(place(&text.replace("pay.**", "pay.{")).0, 13);
    assert_eq!(place(&text.replace("copy_to = ['rest']", "copy_to = ['rset']")).0, 14);
    assert_eq!(place(&text.replace("copy_to = ['rest']", "copy_to = 'rest'")).0, 14);
    assert_eq!(place(&text.replace("quota", "qouta")), (15, "unknown key `qouta`".into()));
}

#[test]
fn a_password_is_not_printed() {
    let topology = with_store(
        "[group.store]\nkind = 'kafka'\nbrokers = ['a:1']\noptions = { 'sasl.password' = 'swordfish' }",
    );
    let printed = format!("{topology:?} {topology:#?}");
    assert!(printed.contains("sasl.password"));
    // One that is not written here is not printed either, and its place is looked for beside the topology.
    let mut elsewhere = with_store(
        "[group.store]\nkind = 'kafka'\nbrokers = ['a:1']\n\
         options = { a = { env = 'WEIR_NO_SUCH_NAME' }, b = { file = 'b.txt' }, c = 'plain' }",
    );
    elsewhere.rebase(Path::new("/etc/weir"));
    let StoreConfig::Kafka(KafkaStore { options, .. }) = &elsewhere.groups[0].store else { panic!() };
    assert_eq!(options.0["b"], Secret::File("/etc/weir/b.txt".into()));
    assert_eq!(options.read().unwrap_err().0, "a");
    assert!(printed.contains("sasl.password") && !printed.contains("swordfish"), "{printed}");
}

#[test]
fn paths_start_at_the_directory_of_their_file() {
    let mut topology = with_store("store = { kind = 'file', path = '../out' }");
    topology.rebase(Path::new("/etc/weir"));
    assert!(
        matches!(&topology.groups[0].store, StoreConfig::File(file) if file.path == Path::new("/etc/weir/../out"))
    );

    let text = "name = 'n'\nrole = 'sink'\nrack = 'r'\ndata_dir = '/var/weir'\ntopology = 't.toml'\n\
                tls = { ca = 'ca', cert = 'tls/n.crt', key = '/key' }";
    let mut node = parse_node(text, "n.toml").unwrap();
    node.rebase(Path::new("/etc/weir"));
    assert_eq!((node.data_dir, node.topology), ("/var/weir".into(), PathBuf::from("/etc/weir/t.toml")));
    let tls = node.tls;
    assert_eq!(
        [tls.ca, tls.cert, tls.key],
        ["/etc/weir/ca", "/etc/weir/tls/n.crt", "/key"].map(PathBuf::from)
    );
}

#[test]
fn where_a_node_listens() {
    let listens = |role: &str, listen: &str| {
        let text = format!(
            "name = 'n'\nrole = '{role}'\nrack = 'r'\ndata_dir = 'd'\ntopology = 't'\nlisten = {{ {listen} }}\n\
             tls = {{ ca = 'a', cert = 'c', key = 'k' }}\nlog = {{ format = 'json' }}"
        );
        let node = parse_node(&text, "n.toml").unwrap();
        assert_eq!((node.log.level.as_str(), node.log.format), ("info", LogFormat::Json));
        assert_eq!(node.role, if role == "edge" { Role::Edge } else { Role::Sink });
        node.listen
    };
    let listen = |forward: Option<&str>, link: Option<&str>, metrics: &str| Listen {
        forward: forward.map(Into::into),
        link: link.map(Into::into),
        metrics: Some(metrics.into()),
    };
    assert_eq!(listens("edge", ""), listen(Some("0.0.0.0:24224"), None, "127.0.0.1:24220"));
    assert_eq!(listens("edge", "forward = '[::]:0', metrics = 'm:1'"), listen(Some("[::]:0"), None, "m:1"));
    assert_eq!(listens("sink", ""), listen(None, None, "127.0.0.1:24220"));
    assert_eq!(
        listens("sink", "link = '0.0.0.0:24400'"),
        listen(None, Some("0.0.0.0:24400"), "127.0.0.1:24220")
    );
}

#[test]
fn what_a_file_says_of_acknowledging_and_repeats() {
    let text = "version = 1\ncluster.name = 'c'\n[[route]]\nmatch = '**'\ngroups = ['g']\n[[group]]\nid = 'g'\nack = 'store'\n\
                sink = [{ name = 's', rack = 'r', address = 'h:1' }]\noverflow = { divert = 'h' }\n\
                repeats = { window = '1h', chunks = 7 }\nstore = { kind = 'file', path = 'out' }\n[[group]]\nid = 'h'\n\
                sink = [{ name = 't', rack = 'r', address = 'h:2' }]\noverflow = 'drop_oldest'\n\
                store = { kind = 'file', path = 'out2' }\n";
    let (file, warnings) = parse_topology(text, "t.toml").expect("a right file");
    assert_eq!((file.groups[0].ack, file.groups[1].ack), (Ack::Store, Ack::Edge));
    assert_eq!(file.groups[0].repeats, Repeats { window: Duration::from_secs(3600), chunks: 7 });
    assert_eq!(file.groups[0].overflow, Overflow::Divert("h".parse().unwrap()));
    assert_eq!(file.groups[1].overflow, Overflow::DropOldest);
    assert!(warnings.is_empty(), "{warnings:?}");

    // Sixty seconds is later than any sender is told; and a copy beside a divert would be stored twice.
    for (old, new, complaint) in [
        ("path = 'out' }", "path = 'out' }\npart.age = '60s'", "a part of group \"g\" is closed after 60 s"),
        ("['g']", "['g', 'h']", "diverts to \"h\", which gets a copy"),
        ("chunks = 7", "chunks = 700000000", "too many chunks"),
    ] {
        let problems = parse_topology(&text.replace(old, new), "t.toml").expect_err(complaint);
        assert!(problems.iter().any(|p| p.to_string().contains(complaint)), "{problems:?}");
    }
}

#[test]
fn a_part_closes_before_its_senders_are_given_up() {
    let text = |deadline: &str, age: &str| {
        format!(
            "version = 1\n[cluster]\nname = 'c'\n[forward]\nack_deadline = '{deadline}'\n[[edge]]\nname = 'e'\nrack = 'r'\n\
             [[group]]\nid = 'g'\nack = 'store'\nsink = [{{ name = 's', rack = 'r', address = 'h:1' }}]\n\
             part.age = '{age}'\nstore = {{ kind = 'file', path = 'out' }}\n\
             [[route]]\nmatch = '**'\ngroups = ['g']\n"
        )
    };
    for (deadline, age, fits) in
        [("60s", "59s", true), ("60s", "60s", false), ("90s", "60s", true), ("5s", "6s", false)]
    {
        let parsed = parse_topology(&text(deadline, age), "topology.toml");
        assert_eq!(parsed.is_ok(), fits, "{deadline} {age}: {parsed:?}");
        let problems = parsed.err().unwrap_or_default();
        assert!(
            fits || problems[0].to_string().contains("11:7: error: a part of group \"g\" is closed after"),
            "{problems:?}"
        );
    }
}

#[test]
fn the_most_specific_acknowledgement_holds() {
    let edge_and_store = [Ack::Edge, Ack::Store];
    for group in edge_and_store {
        assert_eq!(Ack::of(None, None, group), group);
        for listener in edge_and_store {
            assert_eq!(Ack::of(None, Some(listener), group), listener);
            for route in edge_and_store {
                assert_eq!(Ack::of(Some(route), Some(listener), group), route);
            }
        }
    }
    // What each place says, and in which line a part of 5 s is too old for a sender that is told within 5 s.
    let (edge, store) = ("ack = 'edge', ", "ack = 'store', ");
    for (forward, group, listener, route, other, lines) in [
        ("", "", "", "", store, vec![]),
        ("", store, "", "", "", vec![6]),
        ("", "", store, "", "", vec![10]),
        ("", "", "", store, "", vec![13]),
        (store, "", "", "", "", vec![3]),
        (store, "", edge, "", "", vec![]),
        ("", store, edge, "", "", vec![]),
        ("", store, "", edge, "", vec![]),
        ("", "", store, edge, "", vec![]),
        ("", store, edge, store, "", vec![13]),
    ] {
        let text = format!(
            "version = 1\ncluster.name = 'c'\nforward = {{ {forward}ack_deadline = '5s' }}\nedge = [{{ name = 'e', rack = 'r' }}]\n\
             group = [\n{{ {group}id = 'g', sink = [{{ name = 's', rack = 'r', address = 'h:1' }}], part.age = '5s', \
             store = {{ kind = 'file', path = 'g' }} }},\n{{ id = 'h', sink = [{{ name = 't', rack = 'r', address = 'h:2' }}], \
             store = {{ kind = 'file', path = 'h' }} }},\n]\nlistener = [\n{{ {listener}name = 'l' }},\n]\n\
             route = [\n{{ {route}match = 'a', groups = ['g'] }},\n{{ {other}match = '**', groups = ['h'] }},\n]\n"
        );
        let problems = parse_topology(&text, "t.toml").err().unwrap_or_default();
        assert!(
            problems.iter().all(|problem| problem.message.contains("a part of group \"g\"")),
            "{problems:?}"
        );
        assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), lines, "{text}");
    }
}
