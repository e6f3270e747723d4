//! Against a real cluster, named by `WEIR_TEST_HDFS`: what each death and each race leaves behind.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use hdfs_native::WriteOptions;
use parking_lot::Mutex;
use weir_model::{
    BatchHeader, BatchId, Encoding, GroupId, Incarnation, LogId, MinuteTally, NodeId, PartId, Seq,
};
use weir_shape::{Codec, Partitioner};
use weir_store::conformance::{self, Harness};
use weir_store::{Backend, Outcome, Part, PartBatch, Partition, Store, StoreError};

use crate::cluster::{CallError, Cluster};
use crate::token::HdfsToken;
use crate::{HdfsBackend, HdfsSettings};

/// The cluster's address, or a visible skip.
macro_rules! hdfs {
    () => {
        match std::env::var("WEIR_TEST_HDFS") {
            Ok(url) => url,
            Err(_) => {
                eprintln!("skipped: WEIR_TEST_HDFS is not set");
                return;
            }
        }
    };
}

/// A store under a root that no other test uses. Its directory is removed when the test ends well.
struct World {
    backend: HdfsBackend,
    root: String,
}

impl World {
    fn new(url: &str) -> Self {
        static ROOTS: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        let root = format!("/weir-test/{now}-{}", ROOTS.fetch_add(1, Ordering::Relaxed));
        let settings = HdfsSettings { replication: Some(1), ..HdfsSettings::new(url, &root) };
        Self { backend: HdfsBackend::new(settings).unwrap(), root }
    }

    async fn begin(&self, name: &str, incarnation: u128) -> Arc<dyn Store> {
        self.backend.begin(&NodeId::new(name).unwrap(), Incarnation(incarnation)).await.unwrap()
    }

    /// A part of two batches, in two partitions each.
    fn part(&self, name: &str, incarnation: u128, number: u64) -> Part {
        let id = PartId { sink: NodeId::new(name).unwrap(), incarnation: Incarnation(incarnation), number };
        let batches = vec![batch("a", 0), batch("b", 1)];
        let mut partitions: Vec<Partition> =
            batches.iter().flat_map(|batch| self.backend.partitions(&batch.header)).collect();
        partitions.sort();
        partitions.dedup();
        assert_eq!(partitions.len(), 4);
        Part { id, partitions, batches }
    }

    fn cluster(&self) -> &Cluster {
        &self.backend.cluster
    }

    /// Paths under the root, staging left out.
    async fn files(&self) -> Vec<String> {
        let root = self.root.clone();
        let list = self.cluster().call(move |client| async move { client.list_status(&root, true).await });
        let found = list.await.unwrap().into_iter().filter(|entry| !entry.isdir);
        let mut files: Vec<String> =
            found.map(|entry| entry.path).filter(|path| !path.contains("/_weir/")).collect();
        files.sort();
        files
    }

    async fn done(self) {
        crate::life::remove(self.cluster(), &self.root).await.unwrap();
    }
}

/// Ten events, five in each of two hours.
fn batch(tag: &str, seq: u64) -> PartBatch {
    const HOUR: u64 = 1_700_000_000 / 3600 * 3600;
    let mut payload = Vec::new();
    for n in 0..10 {
        rmp::encode::write_array_len(&mut payload, 2).unwrap();
        rmp::encode::write_uint(&mut payload, HOUR + n % 2 * 3600).unwrap();
        rmp::encode::write_map_len(&mut payload, 1).unwrap();
        rmp::encode::write_str(&mut payload, "n").unwrap();
        rmp::encode::write_uint(&mut payload, n).unwrap();
    }
    let minute = |hour: u64| MinuteTally {
        minute: (HOUR / 60 + hour * 60) as i64,
        events: 5,
        bytes: payload.len() as u64 / 2,
        digest: 0,
    };
    let header = BatchHeader {
        tag: tag.into(),
        encoding: Encoding::Plain,
        received_ns: 1_700_000_000_000_000_000,
        chunks: Vec::new(),
        unpacked_bytes: payload.len() as u64,
        minutes: vec![minute(0), minute(1)],
    };
    let log = LogId {
        edge: NodeId::new("edge-1").unwrap(),
        group: GroupId::new("g").unwrap(),
        incarnation: Incarnation(5),
    };
    PartBatch {
        id: BatchId { log: Arc::new(log), seq: Seq(seq) },
        header: Arc::new(header),
        done: Vec::new(),
        payload: Arc::new(Bytes::from(payload)),
    }
}

/// The store's own type, for a look at its staging directory.
fn token(store: &dyn Store, part: &Part) -> HdfsToken {
    HdfsToken::decode(&part.id, &store.token(&part.id, &part.partitions)).unwrap()
}

fn places(store: &dyn Store, part: &Part) -> Vec<String> {
    let token = token(store, part);
    part.partitions.iter().map(|partition| token.path(&part.id, partition)).collect()
}

#[tokio::test]
async fn a_part_is_a_file_for_each_partition() {
    let world = World::new(&hdfs!());
    let store = world.begin("sink-1", 1).await;
    let part = world.part("sink-1", 1, 0);
    let committed = store.commit(&part).await.unwrap();
    assert_eq!((committed.events, committed.dead_letters), (20, 0));
    assert_eq!(world.files().await, places(&*store, &part));
    // Again, as after a lost answer: the same, once.
    assert_eq!(store.commit(&part).await.unwrap(), committed);
    assert_eq!(world.files().await.len(), 4);
    let token = store.token(&part.id, &part.partitions);
    assert_eq!(store.resolve(&part.id, &token).await.unwrap(), Outcome::Committed);
    store.commit(&world.part("sink-1", 1, 1)).await.unwrap();
    store.end().await;
    let staging = crate::token::directory(&world.root, "_weir/staging/sink-1");
    assert!(world.backend.names(&staging).await.unwrap().is_empty());
    world.done().await;
}

#[tokio::test]
async fn a_fence_stops_a_late_create_and_a_late_rename() {
    let world = World::new(&hdfs!());
    let store = world.begin("sink-1", 1).await;
    let part = world.part("sink-1", 1, 0);
    let token = store.token(&part.id, &part.partitions);
    let staging = self::token(&*store, &part).staging;

    // The old life has one file written and one still open when it is cut off.
    let (written, target) = (format!("{staging}/0-0-0"), places(&*store, &part)[0].clone());
    let open = format!("{staging}/0-0-1");
    let options = || WriteOptions::default().create_parent(false).replication(1);
    let path = written.clone();
    world
        .cluster()
        .call(move |client| async move { Box::pin(client.create(&path, options()).await?.close()).await })
        .await
        .unwrap();
    let path = open.clone();
    let mut writer = world
        .cluster()
        .call(move |client| async move {
            let mut writer = client.create(&path, options()).await?;
            Box::pin(writer.write_bytes(Bytes::from_static(b"half"))).await?;
            Ok(writer)
        })
        .await
        .unwrap();

    let other = World {
        backend: HdfsBackend::new((*world.backend.settings).clone()).unwrap(),
        root: world.root.clone(),
    };
    let resolver = other.begin("sink-2", 7).await;
    for _ in 0..2 {
        assert_eq!(resolver.resolve(&part.id, &token).await.unwrap(), Outcome::Void);
    }

    // Its late calls must all fail.
    let rename =
        world.cluster().call(move |client| async move { client.rename(&written, &target, false).await });
    assert!(rename.await.unwrap_err().not_found());
    let late = format!("{staging}/0-0-2");
    let create =
        world.cluster().call(move |client| async move { client.create(&late, options()).await.map(drop) });
    assert!(create.await.unwrap_err().not_found());
    let close = world.cluster().call(move |_| async move { Box::pin(writer.close()).await });
    assert!(matches!(close.await, Err(CallError::Hdfs(_))));
    // Whole commits as well, and for good.
    for _ in 0..2 {
        assert!(matches!(store.commit(&part).await, Err(StoreError::Fenced)));
    }
    assert!(world.files().await.is_empty());
    assert_eq!(resolver.resolve(&part.id, &token).await.unwrap(), Outcome::Void);
    world.done().await;
}

#[tokio::test]
async fn a_death_between_renames_shows_what_is_there() {
    let world = World::new(&hdfs!());
    let store = world.begin("sink-1", 1).await;
    let part = world.part("sink-1", 1, 0);
    let token = store.token(&part.id, &part.partitions);
    // As far as the second rename.
    for place in &places(&*store, &part)[..2] {
        let place = place.clone();
        world
            .cluster()
            .call(move |client| async move {
                Box::pin(client.create(&place, WriteOptions::default()).await?.close()).await
            })
            .await
            .unwrap();
    }
    let resolver = world.begin("sink-2", 7).await;
    let partial = Outcome::Partial(part.partitions[..2].to_vec());
    for _ in 0..2 {
        assert_eq!(resolver.resolve(&part.id, &token).await.unwrap(), partial);
    }
    assert!(matches!(store.commit(&part).await, Err(StoreError::Fenced)));

    // The next sink is given the rest under a new id, and leaves out what is there.
    let mut rest = world.part("sink-2", 7, 0);
    rest.partitions = part.partitions[2..].to_vec();
    for batch in &mut rest.batches {
        batch.done = part.partitions[..2].to_vec();
    }
    assert_eq!(resolver.commit(&rest).await.unwrap().events, 10);
    assert_eq!(world.files().await.len(), 4);
    world.done().await;
}

#[tokio::test]
async fn a_new_life_ends_the_old_one_of_its_sink_only() {
    let world = World::new(&hdfs!());
    let old = world.begin("sink-1", 1).await;
    let other = world.begin("sink-2", 2).await;
    let stored = world.part("sink-1", 1, 0);
    let lost = world.part("sink-1", 1, 1);
    let tokens = [old.token(&stored.id, &stored.partitions), old.token(&lost.id, &lost.partitions)];
    old.commit(&stored).await.unwrap();
    let new = world.begin("sink-1", 3).await;
    assert!(matches!(old.commit(&lost).await, Err(StoreError::Fenced)));
    assert_eq!(new.resolve(&stored.id, &tokens[0]).await.unwrap(), Outcome::Committed);
    assert_eq!(new.resolve(&lost.id, &tokens[1]).await.unwrap(), Outcome::Void);
    new.commit(&world.part("sink-1", 3, 0)).await.unwrap();
    other.commit(&world.part("sink-2", 2, 0)).await.unwrap();
    world.done().await;
}

// A delayed `mkdirs` of a begin that was tried twice must not bring a fenced life back.
#[tokio::test]
async fn a_life_begun_again_stages_elsewhere() {
    let world = World::new(&hdfs!());
    let first = world.begin("sink-1", 1).await;
    let part = world.part("sink-1", 1, 0);
    let again = world.begin("sink-1", 1).await;
    assert_ne!(token(&*first, &part).staging, token(&*again, &part).staging);
    assert!(matches!(first.commit(&part).await, Err(StoreError::Fenced)));
    again.commit(&part).await.unwrap();
    world.done().await;
}

#[tokio::test]
async fn a_caller_that_gives_up_can_come_back() {
    let world = World::new(&hdfs!());
    let store = world.begin("sink-1", 1).await;
    let part = world.part("sink-1", 1, 0);
    // However far it came.
    for polls in [1, 3, 6, 12, 24] {
        let mut left = polls;
        let mut commit = store.commit(&part);
        std::future::poll_fn(|context| {
            left -= 1;
            let answer = commit.as_mut().poll(context);
            if left == 0 || answer.is_ready() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
    assert_eq!(store.commit(&part).await.unwrap().events, 20);
    assert_eq!(world.files().await, places(&*store, &part));
    world.done().await;
}

#[tokio::test]
async fn a_damaged_batch_stops_nobody() {
    let world = World::new(&hdfs!());
    let store = world.begin("sink-1", 1).await;
    let mut part = world.part("sink-1", 1, 0);
    // Ends within its last entry; cannot be unpacked at all, and half of it is stored already.
    let payload = part.batches[0].payload.load().unwrap();
    part.batches[0].payload = Arc::new(payload.slice(..payload.len() - 1));
    Arc::make_mut(&mut part.batches[1].header).encoding = Encoding::Gzip;
    part.batches[1].done = vec![part.partitions[2].clone()];
    let committed = store.commit(&part).await.unwrap();
    assert_eq!((committed.events, committed.dead_letters), (9, 1 + 5));
    let token = store.token(&part.id, &part.partitions);
    assert_eq!(store.resolve(&part.id, &token).await.unwrap(), Outcome::Committed);
    world.done().await;
}

/// A store under test, and what was read of it: a file in place never changes.
struct Directory {
    world: World,
    backend: Arc<HdfsBackend>,
    read: Mutex<BTreeMap<String, Vec<String>>>,
}

#[async_trait]
impl Harness for Directory {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend) as _
    }

    async fn stored(&self) -> Vec<String> {
        let files = self.world.files().await;
        for path in files.iter().filter(|path| !self.read.lock().contains_key(*path)).collect::<Vec<_>>() {
            let asked = path.clone();
            let read = self.world.cluster().call(move |client| async move {
                let mut file = client.read(&asked).await?;
                let length = file.file_length();
                Box::pin(file.read_bytes(length)).await
            });
            let bytes = read.await.unwrap();
            let mut text = String::new();
            if path.ends_with(".gz") {
                flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
            } else {
                text = String::from_utf8(bytes.to_vec()).unwrap();
            }
            self.read.lock().insert(path.clone(), text.lines().map(str::to_owned).collect());
        }
        let read = self.read.lock();
        files.iter().flat_map(|path| read[path].iter().cloned()).collect()
    }
}

async fn conforms(url: &str, template: &str, codec: Codec) {
    let world = World::new(url);
    let partitioner = Partitioner::new(template).unwrap();
    let settings = HdfsSettings { partitioner, codec, ..(*world.backend.settings).clone() };
    let backend = Arc::new(HdfsBackend::new(settings).unwrap());
    let harness = Directory { world, backend, read: Mutex::default() };
    conformance::run(&harness).await;
    harness.world.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_by_tag_and_hour_conform() {
    conforms(&hdfs!(), "{tag}/%Y-%m-%d/%H", Codec::Gzip).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_without_partitions_conform() {
    conforms(&hdfs!(), "", Codec::None).await;
}
