//! The conformance suite, and what each death, each error and each fence between two steps leaves behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tempfile::TempDir;
use weir_model::{Encoding, PartId};
use weir_shape::{Codec, Format, Partitioner};
use weir_store::conformance::{self, Harness, batch, incarnation, now_ns, part, samples, sink};
use weir_store::{Backend, Outcome, Part, PartBatch, Partition, Store, StoreError, Token};

use crate::steps::{Step, Steps};
use crate::{FileBackend, FileSettings, disk, life};

fn settings(root: &Path, template: &str, codec: Codec, shared: bool) -> FileSettings {
    let partition = Partitioner::new(template).unwrap();
    FileSettings { root: root.to_path_buf(), partition, format: Format::Envelope, codec, shared }
}

/// All files under `directory` but the staged ones, by their paths within it, unpacked.
fn files(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
            if name == "_weir" {
                continue;
            }
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let mut file = fs::File::open(&path).unwrap();
            let mut text = String::new();
            match path.extension().unwrap().to_str().unwrap() {
                "gz" => flate2::read::GzDecoder::new(file).read_to_string(&mut text),
                "zst" => zstd::Decoder::new(file).unwrap().read_to_string(&mut text),
                _ => file.read_to_string(&mut text),
            }
            .unwrap();
            found.insert(name, text);
        }
    }
    found
}

struct Directory {
    directory: TempDir,
    backend: Arc<FileBackend>,
}

#[async_trait]
impl Harness for Directory {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend) as _
    }

    async fn stored(&self) -> Vec<String> {
        files(self.directory.path()).values().flat_map(|text| text.lines()).map(str::to_owned).collect()
    }
}

async fn conforms(template: &str, codec: Codec, shared: bool) {
    let directory = TempDir::new().unwrap();
    let backend = Arc::new(FileBackend::new(settings(directory.path(), template, codec, shared)));
    let harness = Directory { directory, backend };
    conformance::run(&harness).await;
    for sink in fs::read_dir(harness.directory.path().join("_weir/staging")).unwrap() {
        let sink = sink.unwrap().path();
        let staged = fs::read_dir(&sink).unwrap().map(|life| life.unwrap().path());
        assert_eq!(staged.filter(|life| fs::read_dir(life).unwrap().next().is_some()).count(), 0, "{sink:?}");
    }
}

#[tokio::test]
async fn a_directory_of_one_node_conforms() {
    conforms("{tag}/%Y-%m-%d/%H", Codec::None, false).await;
}

#[tokio::test]
async fn a_shared_directory_conforms() {
    conforms("{tag}/%Y-%m-%d/%H", Codec::Gzip, true).await;
}

#[tokio::test]
async fn a_shared_directory_without_partitions_conforms() {
    conforms("", Codec::Zstd, true).await;
}

/// A life whose steps `at` decides, with a part of three partitions that it has not committed yet.
struct Scene {
    directory: TempDir,
    backend: FileBackend,
    store: Arc<dyn Store>,
    part: Part,
    token: Token,
    /// Steps so far.
    steps: Arc<AtomicUsize>,
}

impl Scene {
    async fn new(at: impl Fn(usize, &Path, &PartId) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let directory = TempDir::new().unwrap();
        let id = PartId { sink: sink("old"), incarnation: incarnation(), number: 0 };
        let steps = Arc::new(AtomicUsize::new(0));
        let (root, count, of) = (directory.path().to_path_buf(), Arc::clone(&steps), id.clone());
        let hook = Arc::new(move |_: Step| at(count.fetch_add(1, Ordering::SeqCst), &root, &of));
        let settings = settings(directory.path(), "{tag}", Codec::None, true);
        let backend = FileBackend::with_steps(settings, Steps { hook: Some(hook) });
        let store = backend.begin(&id.sink, id.incarnation).await.unwrap();
        let batches = ["a", "b", "c"]
            .iter()
            .zip(0..)
            .map(|(tag, seq)| batch("edge-1", seq, &samples(tag, "m", now_ns(), 5), Encoding::Plain))
            .collect();
        let part = part(&backend, id, batches);
        let token = store.token(&part.id, &part.partitions);
        Self { directory, backend, store, part, token, steps }
    }

    /// What a settling of the part must say, by what is on the disk. What is there must be whole.
    fn outcome(&self) -> Outcome {
        let mut there: Vec<Partition> = Vec::new();
        for (path, text) in files(self.directory.path()) {
            let (partition, name) = path.split_once('/').unwrap();
            assert_eq!(name, format!("{}.jsonl", self.part.id));
            assert_eq!(text.lines().count(), 5, "{path}: {text}");
            there.push(partition.into());
        }
        match there.len() {
            0 => Outcome::Void,
            3 => Outcome::Committed,
            _ => Outcome::Partial(there),
        }
    }

    fn steps(&self) -> usize {
        self.steps.load(Ordering::SeqCst)
    }

    fn staged(&self) -> usize {
        let staging = disk::lives(self.directory.path(), "old").join(self.part.id.incarnation.to_string());
        fs::read_dir(staging).map_or(0, Iterator::count)
    }
}

fn broken(at: usize) -> io::Result<()> {
    Err(io::Error::other(format!("broken at step {at}")))
}

/// Runs `case` for each step of a commit, until it says that the commit came to its end without that step, and how
/// many steps it had.
async fn for_each_step<F: Future<Output = Option<usize>>>(case: impl Fn(usize) -> F) {
    for step in 0.. {
        if let Some(steps) = case(step).await {
            // Three files to make and to sync, three directories, links and removals, one sync of the names.
            assert_eq!((step, steps), (16, 16));
            break;
        }
    }
}

#[tokio::test]
async fn a_death_at_any_step_is_settled_as_it_lies() {
    for heir in ["other", "old"] {
        for_each_step(|death| async move {
            // Dead: not even what an error would clean up is cleaned up.
            let scene = Scene::new(move |step, _, _| if step >= death { broken(step) } else { Ok(()) }).await;
            if scene.store.commit(&scene.part).await.is_ok() {
                return Some(scene.steps());
            }
            let expected = scene.outcome();
            let heir = scene.backend.begin(&sink(heir), incarnation()).await.unwrap();
            for _ in 0..2 {
                let outcome = heir.resolve(&scene.part.id, &scene.token).await.unwrap();
                assert_eq!(outcome, expected, "dead at step {death}");
                assert_eq!(scene.outcome(), expected, "settled after a death at step {death}");
            }
            assert_eq!(scene.staged(), 0, "dead at step {death}");
            None
        })
        .await;
    }
}

#[tokio::test]
async fn an_error_at_any_step_is_made_good_by_a_retry() {
    for_each_step(|fault| async move {
        let scene = Scene::new(move |step, _, _| if step == fault { broken(step) } else { Ok(()) }).await;
        match scene.store.commit(&scene.part).await {
            Ok(_) => return Some(scene.steps()),
            Err(StoreError::Transient { .. }) => {}
            Err(other) => panic!("step {fault}: {other}"),
        }
        for _ in 0..2 {
            assert_eq!(scene.store.commit(&scene.part).await.unwrap().events, 15);
            assert_eq!(scene.outcome(), Outcome::Committed, "step {fault}");
            assert_eq!(scene.staged(), 0, "step {fault}");
        }
        None
    })
    .await;
}

#[tokio::test]
async fn a_life_that_settles_its_own_part_goes_on_without_it() {
    for_each_step(|fault| async move {
        let scene = Scene::new(move |step, _, _| if step == fault { broken(step) } else { Ok(()) }).await;
        if scene.store.commit(&scene.part).await.is_ok() {
            return Some(scene.steps());
        }
        let outcome = scene.store.resolve(&scene.part.id, &scene.token).await.unwrap();
        assert_eq!(outcome, scene.outcome(), "step {fault}");
        match scene.store.commit(&scene.part).await {
            Ok(_) => assert_eq!(outcome, Outcome::Committed, "step {fault}"),
            Err(error) => {
                assert!(matches!(error, StoreError::Fenced), "step {fault}: {error}");
                assert_ne!(outcome, Outcome::Committed, "step {fault}");
            }
        }
        assert_eq!(outcome, scene.outcome(), "after step {fault}");
        let next = Part { id: PartId { number: 1, ..scene.part.id.clone() }, ..scene.part.clone() };
        scene.store.commit(&next).await.unwrap();
        None
    })
    .await;
}

#[tokio::test]
async fn a_fence_between_any_two_steps_is_the_last_word() {
    for_each_step(|fence| async move {
        let said: Arc<Mutex<Option<BTreeMap<String, String>>>> = Arc::default();
        let note = Arc::clone(&said);
        let scene = Scene::new(move |step, root, id| {
            if step == fence {
                disk::fence(&disk::lives(root, id.sink.as_str()), &id.incarnation.to_string())?;
                *note.lock().unwrap() = Some(files(root));
            }
            Ok(())
        })
        .await;
        let committed = scene.store.commit(&scene.part).await;
        let Some(said) = said.lock().unwrap().take() else {
            committed.unwrap();
            return Some(scene.steps());
        };
        assert_eq!(files(scene.directory.path()), said, "fenced before step {fence}");
        match committed {
            Ok(_) => assert_eq!(scene.outcome(), Outcome::Committed, "fenced before step {fence}"),
            Err(error) => assert!(matches!(error, StoreError::Fenced), "fenced before step {fence}: {error}"),
        }
        let late = scene.store.commit(&scene.part).await;
        assert!(matches!(late, Err(StoreError::Fenced)), "fenced before step {fence}: {late:?}");
        assert_eq!(files(scene.directory.path()), said, "late after a fence before step {fence}");
        None
    })
    .await;
}

#[tokio::test]
async fn a_fence_that_another_left_half_done_is_finished() {
    let scene = Scene::new(|_, _, _| Ok(())).await;
    let lives = disk::lives(scene.directory.path(), "old");
    let life = scene.part.id.incarnation.to_string();
    fs::write(lives.join(&life).join("0-0"), "staged").unwrap();
    fs::rename(lives.join(&life), lives.join(format!("{}{life}", disk::FENCED))).unwrap();

    let heir = scene.backend.begin(&sink("other"), incarnation()).await.unwrap();
    assert_eq!(heir.resolve(&scene.part.id, &scene.token).await.unwrap(), Outcome::Void);
    assert_eq!(fs::read_dir(&lives).unwrap().count(), 0);
}

#[tokio::test]
async fn settling_waits_for_a_commit_that_nobody_waits_for() {
    let (reached, mut at_link) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    // Step 7 is the first link: after three creates, three syncs and a directory.
    let scene = Scene::new(move |step, _, _| {
        if step == 7 {
            reached.send(()).map_err(io::Error::other)?;
            held.lock().unwrap().recv().map_err(io::Error::other)?;
        }
        Ok(())
    })
    .await;
    let (store, part) = (Arc::clone(&scene.store), scene.part.clone());
    let commit = tokio::spawn(async move { store.commit(&part).await });
    at_link.recv().await.unwrap();
    commit.abort();
    assert!(commit.await.unwrap_err().is_cancelled());

    let mut settling = scene.store.resolve(&scene.part.id, &scene.token);
    assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(settling.as_mut().poll(cx))).await.is_pending());
    assert_eq!(scene.outcome(), Outcome::Void);
    go_on.send(()).unwrap();
    assert_eq!(settling.await.unwrap(), Outcome::Committed);
    assert_eq!(scene.outcome(), Outcome::Committed);
}

#[tokio::test]
async fn a_part_without_partitions_is_committed() {
    let scene = Scene::new(|_, _, _| Ok(())).await;
    let empty = Part { partitions: Vec::new(), batches: Vec::new(), ..scene.part.clone() };
    let token = scene.store.token(&empty.id, &empty.partitions);
    assert_eq!(scene.store.commit(&empty).await.unwrap().events, 0);
    let heir = scene.backend.begin(&sink("other"), incarnation()).await.unwrap();
    assert_eq!(heir.resolve(&empty.id, &token).await.unwrap(), Outcome::Committed);
}

#[tokio::test]
async fn a_damaged_batch_stops_nobody() {
    let scene = Scene::new(|_, _, _| Ok(())).await;
    let good = |seq| batch("edge-1", seq, &samples("a", "m", now_ns(), 5), Encoding::Plain);
    let cut = |mut batch: PartBatch, bytes: usize| {
        let payload = batch.payload.load().unwrap();
        batch.payload = Arc::new(payload.slice(..payload.len() - bytes));
        batch
    };
    let packed = batch("edge-1", 2, &samples("a", "m", now_ns(), 5), Encoding::Gzip);
    let batches = vec![good(0), cut(good(1), 1), cut(packed, 1), good(3)];
    let part = part(&scene.backend, scene.part.id.clone(), batches);
    let committed = scene.store.commit(&part).await.unwrap();
    assert_eq!((committed.events, committed.dead_letters), (14, 6));
    let stored = files(scene.directory.path());
    assert_eq!(stored.values().map(|text| text.lines().count()).sum::<usize>(), 14);
}

#[tokio::test]
async fn a_batch_of_many_partitions_has_few_files_open() {
    const MINUTE_NS: i64 = 60_000_000_000;
    let directory = TempDir::new().unwrap();
    let open = Mutex::new((0, 0));
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let hook = Arc::new(move |step: Step| {
        let mut open = open.lock().unwrap();
        match step {
            Step::Create => open.0 += 1,
            // The next thing after a file's sync is that it is closed.
            Step::Sync => open.1 += 1,
            _ => {}
        }
        seen.fetch_max(open.0 - open.1, Ordering::SeqCst);
        Ok(())
    });
    let settings = settings(directory.path(), "%d/%H/%M", Codec::None, false);
    let backend = FileBackend::with_steps(settings, Steps { hook: Some(hook) });
    let id = PartId { sink: sink("one"), incarnation: incarnation(), number: 0 };
    let store = backend.begin(&id.sink, id.incarnation).await.unwrap();
    // Twice through 600 minutes, so that each file gets a line early and late.
    let now = now_ns();
    let events: Vec<_> =
        (0..1200).flat_map(|n| samples("a", &format!("m{n}"), now - n % 600 * MINUTE_NS + n, 1)).collect();
    let part = part(&backend, id, vec![batch("edge-1", 0, &events, Encoding::Plain)]);
    assert_eq!(part.partitions.len(), 600);
    let token = store.token(&part.id, &part.partitions);

    assert_eq!(store.commit(&part).await.unwrap().events, 1200);
    assert_eq!(most.load(Ordering::SeqCst), backend.traits().partitions_max);
    assert_eq!(store.resolve(&part.id, &token).await.unwrap(), Outcome::Committed);
    let stored = files(directory.path());
    assert_eq!(stored.len(), 600);
    assert!(stored.values().all(|text| text.lines().count() == 2));
}

#[tokio::test]
async fn an_event_that_the_header_does_not_count_is_kept() {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let directory = TempDir::new().unwrap();
    let backend = FileBackend::new(settings(directory.path(), "%Y-%m-%d/%H", Codec::None, false));
    let id = PartId { sink: sink("one"), incarnation: incarnation(), number: 0 };
    let store = backend.begin(&id.sink, id.incarnation).await.unwrap();
    let counted = samples("a", "m", now_ns(), 1);
    let uncounted = samples("a", "m", now_ns() - HOUR_NS, 1);
    let mut strange = batch("edge-1", 0, &[counted.clone(), uncounted].concat(), Encoding::Plain);
    strange.header = Arc::new(conformance::header(&counted, Encoding::Plain));
    let part = part(&backend, id, vec![strange]);

    assert_eq!(store.commit(&part).await.unwrap().events, 2);
    // Where a settling would look for it.
    let stored = files(directory.path());
    assert_eq!(stored.into_values().map(|text| text.lines().count()).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn a_part_must_name_its_partitions() {
    let scene = Scene::new(|_, _, _| Ok(())).await;
    for partitions in [vec![], scene.part.partitions[..2].to_vec()] {
        let unnamed = Part { partitions, ..scene.part.clone() };
        let refused = scene.store.commit(&unnamed).await;
        assert!(matches!(refused, Err(StoreError::Transient { .. })), "{refused:?}");
        assert_eq!(scene.outcome(), Outcome::Void);
    }
}

#[tokio::test]
async fn errors_say_what_failed() {
    let error = life::blocking::<()>("committing part x".into(), || broken(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "committing part x failed");
    let error = life::blocking::<()>("committing part x".into(), || panic!("a bug")).await.unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }));
}
