//! Isolation, measured: one group's store is down, then hangs, then is slow. What the other groups' senders and stores see of
//! it is held against the time before.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use weir_tests::{
    Cluster, KafkaCluster, Network, Plan, Process, Scratch, Sending, Sent, Verdict, in_own_world, metric,
    number, say, until,
};

const LONG: Duration = Duration::from_secs(240);
const GROUPS: [&str; 3] = ["a", "b", "c"];
/// Events a second of each group.
const RATE: u64 = 3_000;
/// A slow store stands still for so long of each [`SLOW_PERIOD`].
const SLOW_STILL: Duration = Duration::from_millis(450);
const SLOW_PERIOD: Duration = Duration::from_millis(500);

/// How often the phases are gone through before what is seen counts as a broken wall.
const ATTEMPTS: usize = 3;

/// What happens to the store of group `a` in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Before,
    /// Nothing again: what the machine's noise alone does.
    Again,
    Down,
    Hanging,
    Slow,
}

const PHASES: [Phase; 5] = [Phase::Before, Phase::Again, Phase::Down, Phase::Hanging, Phase::Slow];

/// How the events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each group has senders of its own.
    Apart,
    /// One connection carries the tags of all.
    Together,
}

/// What one group saw in one phase.
#[derive(Debug, Clone, Copy)]
struct Seen {
    acked_per_second: f64,
    p99_ms: f64,
    stored_per_second: f64,
}

struct Bench<'a> {
    scratch: &'a Scratch,
    cluster: Cluster,
    kafka: KafkaCluster,
    files: String,
    seconds: u64,
    _network: Network,
}

impl<'a> Bench<'a> {
    fn start(scratch: &'a Scratch) -> Result<Bench<'a>> {
        let mut network = Network::new()?;
        let kafka = KafkaCluster::start_at(scratch, 1, Network::HOME)?;
        let files = scratch.dir("files")?.display().to_string();
        let brokers = kafka.bootstrap();
        let file = |group| {
            format!(
                "[group.store]\nkind = \"file\"\npath = \"{files}/{group}\"\n[group.part]\nage = \"200ms\"\n"
            )
        };
        let plan = Plan::new(1)
            .group(
                "a",
                1,
                &format!("[group.store]\nkind = \"kafka\"\nbrokers = [\"{brokers}\"]\ntopic = \"weir-a\"\n"),
            )
            .group("b", 1, &file("b"))
            .group("c", 1, &file("c"))
            .route("a.** all.0", &["a"])
            .route("b.** all.1", &["b"])
            .route("c.** all.2", &["c"]);
        let cluster = Cluster::start(scratch, &mut network, &plan)?;
        // So few show a broken wall, not a thin one; `tests/chaos isolation` takes a minute for each phase.
        let seconds = number("WEIR_TEST_SECONDS", 3);
        Ok(Bench { scratch, cluster, kafka, files, seconds, _network: network })
    }

    /// One phase: what each group saw.
    fn phase(
        &mut self,
        (way, attempt): (Way, usize),
        phase: Phase,
        ledgers: &mut Vec<std::path::PathBuf>,
    ) -> Result<[Seen; 3]> {
        let forward = self.cluster.forward();
        let mut loads = Vec::new();
        let tags: &[&str] = if way == Way::Apart { &GROUPS } else { &["all"] };
        if phase == Phase::Down {
            self.kafka.broker(0)?.kill_9()?;
        }
        let stored_before = self.stored()?;
        let began = Instant::now();
        for tag in tags {
            let name = format!("{tag}-{way:?}-{attempt}-{phase:?}");
            let groups = (GROUPS.len() / tags.len()) as u64;
            let (rate, events) = (RATE * groups, RATE * groups * self.seconds);
            let connections = if way == Way::Apart { "2" } else { "1" };
            let (rate, events) = (rate.to_string(), events.to_string());
            let options = ["--rate", &rate, "--events", &events, "--connections", connections];
            let options =
                [&options[..], &["--tags", "3", "--chunk-events", "100", "--window", "64"]].concat();
            loads.push(Sending::start(&name, tag, &forward, &options, self.scratch.path())?);
        }
        let finish = || loads.iter_mut().map(|load| load.finish(LONG)).collect::<Result<Vec<Sent>>>();
        let sent = self.during(phase, finish)?;
        let seconds = began.elapsed().as_secs_f64();
        let stored = self.stored()?;
        if phase == Phase::Down {
            self.kafka.restart(0)?;
        }
        ledgers.extend(loads.iter().map(|load| load.ledger().to_owned()));
        let mut seen = Vec::new();
        for (index, _) in GROUPS.iter().enumerate() {
            let sent = sent.get(index).or(sent.last()).context("there is a load")?;
            let p99_ms = sent.ack_ms.context("acknowledged")?.p99;
            let stored_per_second = (stored[index] - stored_before[index]) / seconds;
            seen.push(Seen { acked_per_second: sent.events_per_second, p99_ms, stored_per_second });
        }
        seen.try_into().map_err(|_| anyhow!("three groups"))
    }

    /// Runs the loads while the store of group `a` is as the phase wants it.
    fn during<T>(&mut self, phase: Phase, loads: impl FnOnce() -> Result<T>) -> Result<T> {
        let broker = self.kafka.broker(0)?;
        match phase {
            Phase::Before | Phase::Again | Phase::Down => loads(),
            Phase::Hanging => {
                broker.freeze()?;
                let done = loads();
                broker.thaw()?;
                done
            }
            Phase::Slow => {
                let over = AtomicBool::new(false);
                thread::scope(|scope| {
                    let slow = scope.spawn(|| limp(broker, &over));
                    let done = loads();
                    over.store(true, Ordering::Relaxed);
                    slow.join().map_err(|_| anyhow!("panicked"))??;
                    done
                })
            }
        }
    }

    /// Events that each group's sinks have stored so far.
    fn stored(&mut self) -> Result<[f64; 3]> {
        let mut stored = [0.0; 3];
        for (stored, group) in stored.iter_mut().zip(GROUPS) {
            let metrics = self.cluster.node(&format!("{group}-1"))?.metrics();
            // A counter is there from its first event on.
            *stored = metric(metrics, "weir_store_events_total", &[]).unwrap_or(0.0);
        }
        Ok(stored)
    }

    /// Both ways through all phases; then everything must be in its store, once.
    fn measure(&mut self, way: Way, attempt: usize) -> Result<Vec<[Seen; 3]>> {
        let mut ledgers = Vec::new();
        let mut all = Vec::new();
        for phase in PHASES {
            all.push(self.phase((way, attempt), phase, &mut ledgers)?);
            let metrics = self.cluster.node("edge-1")?.metrics();
            until("the backlog to be stored", LONG, || {
                let pending = metric(metrics, "weir_dispatch_pending_batches", &[("group", "a")])?
                    + metric(metrics, "weir_dispatch_promised_parts", &[])?;
                ensure!(pending == 0.0, "{pending} batches and parts wait");
                Ok(())
            })?;
        }
        let source = ["--files", &self.files, "--kafka", &self.kafka.bootstrap(), "--topics", "weir-a"];
        let ledgers: Vec<_> = ledgers.iter().map(|path| path.as_path()).collect();
        let verdict = Verdict::of(&source.map(str::to_owned), &ledgers, LONG)?;
        say(&format!("{way:?}: {verdict}"));
        ensure!(verdict.is_sound() && verdict.doubled == 0, "{verdict}");
        Ok(all)
    }
}

/// Stops and goes on, most of the time stopped.
fn limp(broker: &mut Process, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        broker.freeze()?;
        thread::sleep(SLOW_STILL);
        broker.thaw()?;
        thread::sleep(SLOW_PERIOD - SLOW_STILL);
    }
    Ok(())
}

fn table(way: Way, all: &[[Seen; 3]]) -> String {
    let mut text = format!("{way:?}; ratios to the phase before\n");
    text += "group  store of a     acked/s  ratio   p99 ms  ratio  stored/s  ratio\n";
    for (index, group) in GROUPS.iter().enumerate() {
        for (phase, seen) in PHASES.iter().zip(all) {
            let (before, now) = (all[0][index], seen[index]);
            let ratio = |now: f64, before: f64| now / before.max(0.001);
            let _ = writeln!(
                text,
                "{group:<6} {:<12} {:>9.0} {:>6.3} {:>8.1} {:>6.2} {:>9.0} {:>6.3}",
                format!("{phase:?}").to_lowercase(),
                now.acked_per_second,
                ratio(now.acked_per_second, before.acked_per_second),
                now.p99_ms,
                ratio(now.p99_ms, before.p99_ms),
                now.stored_per_second,
                ratio(now.stored_per_second, before.stored_per_second),
            );
        }
    }
    text
}

#[test]
fn a_faulty_store_costs_other_groups_nothing() {
    in_own_world("a_faulty_store_costs_other_groups_nothing", |scratch| {
        let mut bench = Bench::start(scratch)?;
        for way in [Way::Apart, Way::Together] {
            // A disk that stalls in one phase looks like a broken wall; a broken wall looks like it each time.
            let mut judged = Ok(());
            for attempt in 0..ATTEMPTS {
                let all = bench.measure(way, attempt)?;
                say(&table(way, &all));
                judged = judge(&all);
                match &judged {
                    Ok(()) => break,
                    Err(error) => say(&format!("attempt {attempt}: {error}")),
                }
            }
            judged?;
        }
        Ok(())
    });
}

/// Coarse: this machine may have other work. The table is the measurement.
fn judge(all: &[[Seen; 3]]) -> Result<()> {
    let worst_p99_before = all[0].iter().chain(&all[1]).map(|seen| seen.p99_ms).fold(0.0, f64::max);
    for (phase, seen) in PHASES.iter().zip(all).skip(2) {
        for (index, group) in GROUPS.iter().enumerate().skip(1) {
            let (before, now) = (all[0][index], seen[index]);
            let told = format!("group {group}, {phase:?}: {now:?}, before: {before:?}");
            ensure!(now.acked_per_second > 0.8 * before.acked_per_second, "acknowledged less; {told}");
            ensure!(now.stored_per_second > 0.7 * before.stored_per_second, "stored less; {told}");
            ensure!(now.p99_ms < 5.0 * worst_p99_before + 250.0, "acknowledged late; {told}");
        }
    }
    Ok(())
}
