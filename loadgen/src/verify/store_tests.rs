//! Reading real stores; each test needs one, named by `WEIR_TEST_KAFKA` or `WEIR_TEST_HDFS`.

use std::time::{SystemTime, UNIX_EPOCH};

use hdfs_native::{ClientBuilder, WriteOptions};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::{
    tests::{line, numbers, report_of},
    *,
};

const TIMEOUT: Duration = Duration::from_secs(60);

fn store(variable: &str) -> Option<String> {
    let store = std::env::var(variable).ok();
    if store.is_none() {
        eprintln!("skipped: {variable} is not set");
    }
    store
}

fn unique() -> String {
    format!("verify-{}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos())
}

#[test]
fn kafka_shows_committed_messages_of_all_partitions() {
    let Some(bootstrap) = store("WEIR_TEST_KAFKA") else { return };
    let run = unique();
    let (one, two) = (format!("{run}-1"), format!("{run}-2"));
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &bootstrap);
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let topics = [&one, &two].map(|name| NewTopic::new(name, 3, TopicReplication::Fixed(1)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for made in runtime.block_on(admin.create_topics(&topics, &AdminOptions::new())).unwrap() {
        made.unwrap();
    }

    let producer: BaseProducer = config.set("transactional.id", &run).create().unwrap();
    let send = |topic: &str, partition: i32, seq: u64| {
        let line = line("s-0", seq);
        producer.send(BaseRecord::<(), _>::to(topic).partition(partition).payload(line.trim_end())).unwrap();
    };
    producer.init_transactions(TIMEOUT).unwrap();
    producer.begin_transaction().unwrap();
    (0..300).for_each(|seq| send(&one, (seq % 2) as i32, seq)); // partition 2 stays empty
    (300..310).for_each(|seq| send(&two, 1, seq));
    producer.commit_transaction(TIMEOUT).unwrap();
    producer.begin_transaction().unwrap();
    (0..10).for_each(|seq| send(&one, 0, seq));
    producer.flush(TIMEOUT).unwrap();
    producer.abort_transaction(TIMEOUT).unwrap();

    let all = report_of(&["--kafka", &bootstrap, "--topic-prefix", &run, "--expect", "310"]);
    assert!(all.is_fine(), "{all}");

    producer.begin_transaction().unwrap();
    send(&one, 2, 17);
    producer.commit_transaction(TIMEOUT).unwrap();
    let doubled = report_of(&["--kafka", &bootstrap, "--topics", &format!("{one},{two}"), "--expect", "310"]);
    let text = doubled.to_string();
    // Partitions are read side by side, so either of the two may be the second.
    assert!(text.contains("doubled: s-0 seq 17 at "), "{text}");
    assert!(text.contains(&format!("{one}/2@0")) || text.contains(&format!("{one}/1@8")), "{text}");
    assert_eq!((doubled.events, doubled.doubled, doubled.lost), (311, 1, 0));
    let args = tests::parse(&["--kafka", &bootstrap, "--topics", &format!("{one},{run}-3")]);
    assert!(is_gone(&verify(&args, &expectation(&args).unwrap()).unwrap_err()));
    runtime.block_on(admin.delete_topics(&[&one, &two], &AdminOptions::new())).unwrap();
}

#[test]
fn hdfs_shows_all_files_but_hidden_ones() {
    let Some(cluster) = store("WEIR_TEST_HDFS") else { return };
    let root = format!("/{}", unique());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = {
        let _guard = runtime.enter();
        ClientBuilder::new().with_url(&cluster).build().unwrap()
    };
    let write = |name: &str, bytes: Vec<u8>| {
        let path = format!("{root}/{name}");
        let options = WriteOptions::default().create_parent(true);
        runtime.block_on(async {
            let mut file = client.create(&path, options).await.unwrap();
            Box::pin(file.write_bytes(bytes.into())).await.unwrap();
            Box::pin(file.close()).await.unwrap();
        });
    };
    write("app/1.jsonl", numbers("s-0", 0..10_000).into_bytes()); // more than one read
    write("app/web/2.jsonl.zst", zstd::encode_all(numbers("s-0", 10_000..10_100).as_bytes(), 1).unwrap());
    write("_weir/staging/3.jsonl", line("s-0", 5).into_bytes());
    write("app/empty.jsonl", Vec::new());
    let url = format!("{cluster}{root}/");
    let all = report_of(&["--hdfs", &url, "--expect", "10100"]);
    assert!(all.is_fine(), "{all}");

    write("z/4.jsonl", line("s-0", 5).into_bytes());
    let text = report_of(&["--hdfs", &url]).to_string();
    assert!(text.contains(&format!("doubled: s-0 seq 5 at {root}/z/4.jsonl:1")), "{text}");

    let args = tests::parse(&["--hdfs", &format!("{url}/nothing")]);
    assert!(is_gone(&verify(&args, &expectation(&args).unwrap()).unwrap_err()));
    runtime.block_on(client.delete(&root, true)).unwrap();
}
