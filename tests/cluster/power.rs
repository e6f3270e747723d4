//! Power cuts: an edge's disk loses what was not synced, at a random moment under load. What was acknowledged is stored
//! afterwards, once. And the other way round: with syncs that do nothing, this test sees the loss.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use weir_tests::{
    Cluster, Disk, Network, Plan, Scratch, Sending, Verdict, chance, first_seed, in_own_world, metric,
    minute_directories, rounds, say, until,
};

const LONG: Duration = Duration::from_secs(60);
/// Long enough for what the log kept to be stored; for waiting in vain.
const SHORT: Duration = Duration::from_secs(10);
/// In CI; `tests/chaos power` runs as many as one likes.
const ROUNDS: u64 = 6;

/// One edge on a disk of its own, and one sink that stores in files elsewhere.
struct Bench {
    disk: Disk,
    cluster: Cluster,
    files: String,
    syncs: bool,
    _network: Network,
}

impl Bench {
    fn start(scratch: &Scratch, preload: Option<&str>) -> Result<Bench> {
        let disk = Disk::ext4(scratch, "disk", 192)?;
        let files = scratch.dir("files")?.display().to_string();
        let store = format!(
            "quota = \"96MiB\"\n[group.store]\nkind = \"file\"\npath = \"{files}\"\npartition = \"%Y/%m/%d/%H/%M\"\n\
             [group.part]\nage = \"200ms\"\n"
        );
        let mut plan = Plan::new(1).group("files", 1, &store).route("**", &["files"]);
        plan = plan.data("edge-1", disk.path().join("data"));
        if let Some(library) = preload {
            plan = plan.environment("edge-1", "LD_PRELOAD", library);
        }
        let mut network = Network::new()?;
        let cluster = Cluster::start(scratch, &mut network, &plan)?;
        Ok(Bench { disk, cluster, files, syncs: preload.is_none(), _network: network })
    }

    /// Load, a power cut, a restart; the verdict over what was acknowledged, and what happened, in words.
    fn round(&mut self, scratch: &Scratch, name: &str, seed: u64) -> Result<(Verdict, String)> {
        let mut chance = chance(seed);
        let since = SystemTime::now();
        let chunk = [1, 10, 100, 1000][chance.random_range(0..4)].to_string();
        // With a sink that hangs, all that is acknowledged is in the log alone.
        let hang = !self.syncs || chance.random_bool(0.5);
        // An edge that stays frozen knows nothing of the cut, as in life. One that runs on meets errors, and must not
        // acknowledge. It is frozen during the cut all the same: a sync that is under way at that moment may say yes
        // though its bytes are lost. That is the kernel's race, and a short program in C sees it too.
        let stays_frozen = chance.random_bool(0.5);
        let load_for = Duration::from_millis(chance.random_range(0..1500));
        let told = format!(
            "chunks of {chunk}, {load_for:?} of load, sink hangs: {hang}, stays frozen: {stays_frozen}"
        );

        if hang {
            self.cluster.node("files-1")?.process.freeze()?;
        }
        let forward = self.cluster.forward();
        let options = ["--events", "1000000000", "--rate", "40000", "--connections", "8", "--window", "4"];
        let options = [&options[..], &["--chunk-events", &chunk, "--give-up", "600"]].concat();
        let mut load = Sending::start(name, "cut", &forward, &options, scratch.path())?;
        let edge = self.cluster.node("edge-1")?;
        let metrics = edge.metrics();
        until("the first acknowledgements", LONG, || {
            let acks = metric(metrics, "weir_forward_acks_total", &[])?;
            ensure!(acks > 0.0, "none");
            Ok(())
        })?;
        std::thread::sleep(load_for);
        edge.process.freeze()?;
        edge.process.wait_frozen(LONG)?;
        self.disk.cut_power()?;
        // Without syncs it is told nothing.
        if stays_frozen || !self.syncs {
            edge.process.kill_9()?;
        } else {
            // It cannot know what is on its disk any more, says so, and ends.
            edge.process.thaw()?;
            let status = edge.process.wait_exit(LONG)?;
            let said = edge.process.said()?;
            ensure!(status.code() == Some(1) && said.contains("start this node again"), "{status}: {said}");
        }
        let sent = load.cut_short(LONG)?;
        self.disk.remount()?;
        if hang {
            self.cluster.node("files-1")?.process.thaw()?;
        }
        self.cluster.node("edge-1")?.restart()?;
        let source = minute_directories("--files", &self.files, since);
        let verdict = Verdict::of(&source, &[load.ledger()], if self.syncs { LONG } else { SHORT })?;
        Ok((verdict, format!("{told}: {} acknowledged, {verdict}", sent.events)))
    }
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    in_own_world("a_power_cut_loses_nothing_acknowledged", |scratch| {
        let mut bench = Bench::start(scratch, None)?;
        let (rounds, first) = (rounds(ROUNDS), first_seed());
        let began = Instant::now();
        let mut total = Verdict::default();
        for seed in first..first + rounds {
            let (verdict, told) = bench.round(scratch, &format!("cut{seed}"), seed)?;
            say(&format!("seed {seed}: {told}"));
            ensure!(
                verdict.is_sound(),
                "{verdict}\nto repeat: tests/chaos --rounds 1 --seed {seed} power\n{told}"
            );
            total += verdict;
        }
        let took = began.elapsed().as_secs_f64();
        say(&format!("{rounds} power cuts, seeds from {first}, in {took:.0} s: {total}"));
        Ok(())
    });
}

#[test]
fn syncs_that_do_nothing_are_found_out() {
    in_own_world("syncs_that_do_nothing_are_found_out", |scratch| {
        let library = liar(scratch)?;
        let mut bench = Bench::start(scratch, Some(&library))?;
        let mut tries = String::new();
        for seed in 0..5 {
            let (verdict, told) = bench.round(scratch, &format!("lie{seed}"), seed)?;
            say(&format!("without syncs, seed {seed}: {told}"));
            writeln!(tries, "{told}")?;
            if verdict.lost > 0 {
                return Ok(());
            }
        }
        anyhow::bail!("five power cuts without a single sync lost nothing: this test proves nothing\n{tries}")
    });
}

/// A library whose syncs say yes and do nothing.
fn liar(scratch: &Scratch) -> Result<String> {
    let source = "int fsync(int fd) { return 0; }\nint fdatasync(int fd) { return 0; }\nint syncfs(int fd) { return 0; }\n";
    let source = scratch.write("liar.c", source)?;
    let library = scratch.path().join("liar.so");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    ensure!(status.context("no C compiler")?.success(), "the C compiler fails");
    Ok(library.display().to_string())
}
