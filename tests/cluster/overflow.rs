//! A group whose log is full: what each policy does to senders that want acknowledgements and to those that do not, to
//! other groups' tags on the same connection, and to other connections. And what a full log takes of an edge's memory.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::{Node, RawSender, Scratch, Site, loadgen_binary, metric, ports, run, scrape, until};

const LONG: Duration = Duration::from_secs(60);
/// Chunks of 5 events and 500 kB: more than the 16 MiB that group a's log may take.
const CHUNKS: u64 = 40;
const EVENT_BYTES: usize = 100_000;

/// An edge and two groups: a, without its sink, and b, with its own.
struct Scene<'a> {
    site: Site<'a>,
    edge: Node,
    _b: Node,
    files: [PathBuf; 2],
}

impl<'a> Scene<'a> {
    fn start(scratch: &'a Scratch, overflow: &str, forward: &str) -> Result<Self> {
        let ([a, b], files) = (ports()?, [scratch.dir("files-a")?, scratch.dir("files-b")?]);
        let group = |id: &str, port: u16, files: &PathBuf| {
            format!(
                "[[group]]\nid = \"{id}\"\nsink = [{{ name = \"{id}-1\", rack = \"r1\", address = \"127.0.0.1:{port}\" }}]\n\
                 store = {{ kind = \"file\", path = \"{}\" }}\npart.age = \"200ms\"\n",
                files.display()
            )
        };
        let topology = format!(
            "version = 1\ncluster.name = \"overflow\"\nedge = [{{ name = \"edge-1\", rack = \"r1\" }}]\n[forward]\n{forward}\n\
             {}quota = \"16MiB\"\noverflow = {overflow}\n{}\
             [[route]]\nmatch = \"a.**\"\ngroups = [\"a\"]\n[[route]]\nmatch = \"b.**\"\ngroups = [\"b\"]\n",
            group("a", a, &files[0]),
            group("b", b, &files[1]),
        );
        let site = Site::new(scratch, &topology, &["edge-1", "a-1", "b-1"])?;
        let (b, edge) = (site.sink("b-1")?, site.edge("edge-1")?);
        Ok(Self { site, edge, _b: b, files })
    }

    fn connect(&self) -> Result<RawSender> {
        RawSender::connect(self.edge.forward()?)
    }

    /// All chunks for group a, without waiting for an answer.
    fn fill(&self, sender: &mut RawSender) -> Result<()> {
        (0..CHUNKS).try_for_each(|n| {
            sender.send_large("a.x", &format!("a-{n}"), "filling", n * 5..n * 5 + 5, EVENT_BYTES)
        })
    }

    /// A chunk of its own for group b, by another connection: acknowledged and stored, as if nothing were.
    fn others_go_on(&self, stream: &str) -> Result<()> {
        let mut other = self.connect()?;
        other.send("b.x", stream, stream, 0..10)?;
        acked(&mut other, stream).context("another connection waits")?;
        self.verify(&[1], stream, 10)
    }

    /// Each event of the stream is stored, once, in these of the groups a and b.
    fn verify(&self, groups: &[usize], stream: &str, events: u64) -> Result<()> {
        let mut command = Command::new(loadgen_binary()?);
        command.arg("verify");
        for group in groups {
            command.arg("--files").arg(&self.files[*group]);
        }
        command.args(["--wait", "60", "--expect", &events.to_string(), "--stream-prefix", stream]);
        run(&mut command).map(drop)
    }

    /// Waits until the store of group a has all that its log holds.
    fn runs_empty(&self) -> Result<()> {
        until("the log to run empty", LONG, || -> Result<()> {
            let waiting = metric(self.edge.metrics, "weir_log_batches", &[("group", "a")])?;
            ensure!(waiting == 0.0, "{waiting} batches wait");
            Ok(())
        })
    }

    fn count(&self, name: &str, policy: &str) -> Result<f64> {
        Ok(scrape(self.edge.metrics)?.get(name, &[("group", "a"), ("policy", policy)]).unwrap_or(0.0))
    }
}

fn acked(sender: &mut RawSender, chunk: &str) -> Result<()> {
    let named = sender.ack(LONG)?;
    ensure!(named == chunk, "{named} was acknowledged instead of {chunk}");
    Ok(())
}

#[test]
fn block_holds_back_the_connection_and_no_other() {
    Scratch::run("block", |scratch| {
        let scene = Scene::start(scratch, "\"block\"", "")?;
        let mut sender = scene.connect()?;
        scene.fill(&mut sender)?;
        sender.send("b.x", "behind", "behind", 0..10)?;
        until("the log to be full", LONG, || -> Result<()> {
            ensure!(scene.count("weir_log_full_total", "block")? > 0.0, "there is room");
            Ok(())
        })?;
        let mut unanswered = scene.connect()?;
        unanswered.send_unanswered("a.x", "unanswered", 0..5, EVENT_BYTES)?;
        // What is behind the blocked chunks is read and stored, though it cannot be answered yet.
        scene.verify(&[1], "behind", 10)?;
        scene.others_go_on("other")?;

        let _a = scene.site.sink("a-1")?;
        for n in 0..CHUNKS {
            acked(&mut sender, &format!("a-{n}"))?;
        }
        acked(&mut sender, "behind")?;
        scene.verify(&[0], "filling", CHUNKS * 5)?;
        scene.verify(&[0], "unanswered", 5)
    });
}

#[test]
fn a_blocked_connection_is_closed_at_its_deadline_and_its_chunks_may_come_again() {
    Scratch::run("block-deadline", |scratch| {
        let scene = Scene::start(scratch, "\"block\"", "ack_deadline = \"2s\"")?;
        let mut sender = scene.connect()?;
        scene.fill(&mut sender)?;
        let answered = (0..CHUNKS).take_while(|_| sender.ack(LONG).is_ok()).count() as u64;
        ensure!((1..CHUNKS).contains(&answered), "{answered} chunks were acknowledged");
        scene.others_go_on("other")?;
        let _a = scene.site.sink("a-1")?;
        scene.runs_empty()?;
        let mut again = scene.connect()?;
        scene.fill(&mut again)?;
        (0..CHUNKS).try_for_each(|n| acked(&mut again, &format!("a-{n}")))?;
        scene.verify(&[0], "filling", CHUNKS * 5)
    });
}

/// With a policy that does not wait everybody is answered and goes on; `stores` are the groups that have the events.
fn goes_on(name: &str, overflow: &str, policy: &str, stores: &[usize]) {
    Scratch::run(name, |scratch| {
        let scene = Scene::start(scratch, overflow, "")?;
        let mut sender = scene.connect()?;
        scene.fill(&mut sender)?;
        sender.send("b.x", "behind", "behind", 0..10)?;
        (0..CHUNKS).try_for_each(|n| acked(&mut sender, &format!("a-{n}")))?;
        acked(&mut sender, "behind")?;
        scene.verify(&[1], "behind", 10)?;
        ensure!(scene.count("weir_log_full_total", policy)? > 0.0, "the log was never full");
        let mut unanswered = scene.connect()?;
        unanswered.send_unanswered("a.x", "unanswered", 0..5, EVENT_BYTES)?;
        unanswered.send_unanswered("b.x", "after", 0..10, 0)?;
        scene.verify(&[1], "after", 10)?;
        scene.others_go_on("other")?;

        // What was dropped its sender may send again; whatever else is sent again is known.
        let dropped = scene.count("weir_log_dropped_batches_total", policy)?;
        ensure!((dropped > 0.0) == policy.starts_with("drop"), "{dropped} batches were dropped");
        let _a = scene.site.sink("a-1")?;
        scene.runs_empty()?;
        scene.fill(&mut sender)?;
        (0..CHUNKS).try_for_each(|n| acked(&mut sender, &format!("a-{n}")))?;
        scene.verify(stores, "filling", CHUNKS * 5)
    });
}

#[test]
fn drop_newest_answers_and_drops_what_comes() {
    goes_on("drop-newest", "\"drop_newest\"", "drop_newest", &[0]);
}

#[test]
fn drop_oldest_answers_and_drops_what_was_there() {
    goes_on("drop-oldest", "\"drop_oldest\"", "drop_oldest", &[0]);
}

#[test]
fn divert_gives_to_the_other_group() {
    goes_on("divert", "{ divert = \"b\" }", "divert", &[0, 1]);
}

#[test]
fn a_blocked_group_takes_no_more_than_its_share_of_memory() {
    Scratch::run("memory-share", |scratch| {
        // Two groups: a share is an eighth, 16 MiB. The senders to a would hold 16 MiB each.
        let mut scene = Scene::start(scratch, "\"block\"", "memory = \"128MiB\"")?;
        let share = f64::from(16 << 20);
        let forward = scene.edge.forward()?;
        let done = AtomicBool::new(false);
        let most = thread::scope(|scope| {
            for n in 0..12 {
                let done = &done;
                scope.spawn(move || {
                    // Closed or not answered, it comes again, as senders do.
                    while !done.load(Ordering::Relaxed) {
                        let Ok(mut sender) = RawSender::connect(forward) else { return };
                        let sent = |k: u64| {
                            let chunk = format!("{n}-{k}");
                            sender.send_large("a.x", &chunk, "filling", k * 10..k * 10 + 10, EVENT_BYTES)
                        };
                        let _ = (0..30).try_for_each(sent);
                    }
                });
            }
            let watched = || -> Result<f64> {
                until("the log to be full", LONG, || -> Result<()> {
                    ensure!(scene.count("weir_log_full_total", "block")? > 0.0, "there is room");
                    Ok(())
                })?;
                let (mut most, mut sender) = (0.0_f64, scene.connect()?);
                for n in 0..50_u64 {
                    sender.send_large("b.x", &format!("b-{n}"), "other", n * 20..n * 20 + 20, EVENT_BYTES)?;
                    acked(&mut sender, &format!("b-{n}")).context("group b waits for group a")?;
                    most = most.max(metric(scene.edge.metrics, "weir_log_waiting_bytes", &[("group", "a")])?);
                }
                Ok(most)
            };
            let most = watched();
            done.store(true, Ordering::Relaxed);
            // Whoever still writes to a connection that is not read ends with the edge.
            scene.edge.process.kill_9()?;
            most
        })?;
        ensure!(most > 0.5 * share, "only {most} bytes waited: nothing was tested");
        ensure!(most <= share, "{most} bytes waited for room in one log");
        scene.edge.restart()?;
        scene.verify(&[1], "other", 1_000)
    });
}
