//! The cluster under chaos: three edges, up to three groups of two sinks, each with its own store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use weir_tests::{
    Cluster, Disk, Fault, HdfsCluster, KafkaCluster, Network, Plan, Scratch, Sending, Verdict, metric,
    minute_directories, until,
};

use crate::faults::{LOAD, Part, Peer, Planned, What};

pub(crate) const EDGES: usize = 3;
pub(crate) const SINKS: usize = 2;
pub(crate) const BROKERS: usize = 3;
pub(crate) const DATA_NODES: usize = 2;

const LONG: Duration = Duration::from_secs(150);
/// Events a second, for each group.
const RATE: u64 = 2_000;
/// Rounds that share topics, so that a reading stays small without a topic for each round.
const ROUNDS_A_TOPIC: usize = 10;

/// Which real stores there are, besides files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stores {
    pub(crate) kafka: bool,
    pub(crate) hdfs: bool,
}

impl Stores {
    pub(crate) fn groups(self) -> Vec<&'static str> {
        let all = [("files", true), ("kafka", self.kafka), ("hdfs", self.hdfs)];
        all.into_iter().filter(|(_, there)| *there).map(|(group, _)| group).collect()
    }
}

pub(crate) struct Bench<'a> {
    scratch: &'a Scratch,
    cluster: Cluster,
    kafka: Option<KafkaCluster>,
    hdfs: Option<HdfsCluster>,
    disks: BTreeMap<String, Disk>,
    stores: Stores,
    files: String,
    began: SystemTime,
    rounds: usize,
    ledgers: Vec<(&'static str, PathBuf)>,
    // Sinks that stay away until the round of that number is over.
    away: Vec<(String, usize)>,
    _network: Network,
}

impl<'a> Bench<'a> {
    pub(crate) fn start(scratch: &'a Scratch, stores: Stores) -> Result<Bench<'a>> {
        let mut network = Network::new()?;
        let (kafka, hdfs) = thread::scope(|scope| {
            let kafka =
                stores.kafka.then(|| scope.spawn(|| KafkaCluster::start_at(scratch, BROKERS, Network::HOME)));
            let hdfs =
                stores.hdfs.then(|| HdfsCluster::start_at(scratch, DATA_NODES, Network::HOME)).transpose();
            let kafka = kafka.map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("panicked"))));
            (kafka.transpose(), hdfs)
        });
        let (kafka, hdfs) = (kafka?, hdfs?);
        let files = scratch.dir("files")?.display().to_string();
        let minutes = "partition = \"%Y/%m/%d/%H/%M\"\n";
        let common = "quota = \"48MiB\"\n[group.store]\n";
        let mut plan = Plan::new(EDGES)
            .group(
                "files",
                SINKS,
                &format!("{common}kind = \"file\"\nshared = true\npath = \"{files}\"\n{minutes}[group.part]\nage = \"500ms\"\n"),
            )
            .route("files.**", &["files"]);
        if let Some(kafka) = &kafka {
            let brokers: Vec<_> = kafka.bootstrap().split(',').map(str::to_owned).collect();
            plan = plan
                .group(
                    "kafka",
                    SINKS,
                    &format!("{common}kind = \"kafka\"\nbrokers = {brokers:?}\ntopic = \"weir-{{tag}}\"\n"),
                )
                .route("kafka.**", &["kafka"]);
        }
        if let Some(hdfs) = &hdfs {
            plan = plan
                .group(
                    "hdfs",
                    SINKS,
                    &format!(
                        "{common}kind = \"hdfs\"\nurl = \"{}\"\npath = \"/logs\"\n{minutes}[group.part]\nage = \"1s\"\n",
                        hdfs.url()
                    ),
                )
                .route("hdfs.**", &["hdfs"]);
        }
        let mut disks = BTreeMap::new();
        for edge in (1..=EDGES).map(|number| format!("edge-{number}")) {
            let disk = Disk::memory(scratch, &format!("disk-{edge}"), 192)?;
            plan = plan.data(&edge, disk.path().join("data"));
            disks.insert(edge, disk);
        }
        let cluster = Cluster::start(scratch, &mut network, &plan)?;
        Ok(Bench {
            scratch,
            cluster,
            kafka,
            hdfs,
            disks,
            stores,
            files,
            began: SystemTime::now(),
            rounds: 0,
            ledgers: Vec::new(),
            away: Vec::new(),
            _network: network,
        })
    }

    /// Load to all groups, the faults, their end; the verdict over what was acknowledged.
    pub(crate) fn round(&mut self, seed: u64, plan: &[Planned]) -> Result<Verdict> {
        let (number, since) = (self.rounds, SystemTime::now());
        self.rounds += 1;
        let forward = self.cluster.forward();
        let events = (RATE * LOAD.as_secs()).to_string();
        let rate = RATE.to_string();
        let options = ["--events", &events, "--rate", &rate, "--connections", "6", "--tags", "4"];
        let options =
            [&options[..], &["--chunk-events", "50", "--ack-timeout", "5", "--give-up", "120"]].concat();
        let mut loads = Vec::new();
        for group in self.stores.groups() {
            let name = format!("{group}-{seed}");
            let tag = self.tag(group, number);
            loads.push((group, Sending::start(&name, &tag, &forward, &options, self.scratch.path())?));
        }
        self.play(plan, number)?;
        for (group, load) in &mut loads {
            load.finish(LONG).with_context(|| format!("the senders of {group} are not served"))?;
            self.ledgers.push((group, load.ledger().to_owned()));
        }
        let verdicts = thread::scope(|scope| {
            let witnesses: Vec<_> = loads
                .iter()
                .map(|(group, load)| {
                    let source = self.source(group, Some(number), since);
                    (group, scope.spawn(move || Verdict::of(&source, &[load.ledger()], LONG)))
                })
                .collect();
            let joined = witnesses.into_iter().map(|(group, witness)| {
                let verdict = witness.join().unwrap_or_else(|_| Err(anyhow!("panicked")))?;
                Ok((*group, verdict))
            });
            joined.collect::<Result<Vec<_>>>()
        })?;
        let mut total = Verdict::default();
        for (group, verdict) in verdicts {
            ensure!(verdict.is_sound(), "group {group}: {verdict}");
            total += verdict;
        }
        let (back, away) =
            std::mem::take(&mut self.away).into_iter().partition(|(_, until)| *until <= number);
        self.away = away;
        for (sink, _) in back as Vec<(String, usize)> {
            self.cluster.node(&sink)?.restart()?;
        }
        Ok(total)
    }

    /// The verdict over all rounds so far: nothing came late and twice.
    pub(crate) fn verdict_over_all(&self) -> Result<Verdict> {
        let mut total = Verdict::default();
        for group in self.stores.groups() {
            let ledgers = self.ledgers.iter().filter(|(of, _)| *of == group).map(|(_, path)| path.as_path());
            let ledgers: Vec<_> = ledgers.collect();
            total += Verdict::of(&self.source(group, None, self.began), &ledgers, LONG)?;
        }
        Ok(total)
    }

    /// Every log runs empty, and everybody stops in good order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        for (sink, _) in std::mem::take(&mut self.away) {
            self.cluster.node(&sink)?.restart()?;
        }
        for (name, node) in self.cluster.nodes().filter(|(name, _)| name.starts_with("edge-")) {
            let metrics = node.metrics();
            until("the edge's promises to be settled", LONG, || {
                let waiting = metric(metrics, "weir_dispatch_promised_parts", &[])?;
                ensure!(waiting == 0.0, "{waiting} parts are promised");
                Ok(())
            })?;
            ensure!(node.process.stop(LONG)?.success(), "{name} did not stop in good order");
        }
        for (name, node) in self.cluster.nodes().filter(|(name, _)| !name.starts_with("edge-")) {
            ensure!(node.process.stop(LONG)?.success(), "{name} did not stop in good order");
        }
        Ok(())
    }

    fn tag(&self, group: &str, round: usize) -> String {
        format!("{group}.t{}", round / ROUNDS_A_TOPIC)
    }

    /// Where `verify` finds what a group stored in a round, or in all.
    fn source(&self, group: &str, round: Option<usize>, since: SystemTime) -> Vec<String> {
        match (group, &self.kafka, &self.hdfs) {
            ("kafka", Some(kafka), _) => {
                let tag = round.map_or_else(|| "kafka.".to_owned(), |round| self.tag(group, round) + ".");
                ["--kafka", &kafka.bootstrap(), "--topic-prefix", &format!("weir-{tag}")]
                    .map(str::to_owned)
                    .into()
            }
            ("hdfs", _, Some(hdfs)) => minute_directories("--hdfs", &format!("{}/logs", hdfs.url()), since),
            _ => minute_directories("--files", &self.files, since),
        }
    }

    /// Begins and ends each fault at its time, then mends whatever is left.
    fn play(&mut self, plan: &[Planned], round: usize) -> Result<()> {
        let mut steps: Vec<(Duration, bool, &What)> = Vec::new();
        for planned in plan {
            steps.push((planned.from, true, &planned.what));
            steps.push((planned.until, false, &planned.what));
        }
        steps.sort_by_key(|(at, ..)| *at);
        let began = Instant::now();
        for (at, begins, what) in steps {
            thread::sleep(at.saturating_sub(began.elapsed()));
            let done = if begins { self.begin(what, round) } else { self.end(what) };
            done.with_context(|| format!("{} {what:?}", if begins { "cannot begin" } else { "cannot end" }))?;
        }
        Ok(())
    }

    fn begin(&mut self, what: &What, round: usize) -> Result<()> {
        match what {
            What::Kill(node) | What::Freeze(node) if self.away.iter().any(|(away, _)| away == node) => Ok(()),
            What::Kill(node) => self.cluster.node(node)?.process.kill_9(),
            What::Freeze(node) => self.cluster.node(node)?.process.freeze(),
            What::Away(sink) => {
                // One at a time, so that no group is without sinks for a whole round.
                if self.away.is_empty() {
                    self.cluster.node(sink)?.process.kill_9()?;
                    self.away.push((sink.clone(), round + 1));
                }
                Ok(())
            }
            What::KillStore(part) => self.each(*part, weir_tests::Process::kill_9),
            What::FreezeStore(part) => self.each(*part, weir_tests::Process::freeze),
            What::Partition(node, peer, both) => {
                let (node_at, peer_at) = self.addresses(node, peer)?;
                self.cluster.node(node)?.host.fault(Fault::Deaf(peer_at))?;
                match peer {
                    Peer::Node(peer) if *both => self.cluster.node(peer)?.host.fault(Fault::Deaf(node_at)),
                    _ => Ok(()),
                }
            }
            What::Loss(node, percent) => self.cluster.node(node)?.host.fault(Fault::Loss(*percent)),
            What::FullDisk(edge) => self.disks.get(edge).context("each edge has a disk")?.fill(),
        }
    }

    fn end(&mut self, what: &What) -> Result<()> {
        match what {
            What::Kill(node) | What::Freeze(node) if self.away.iter().any(|(away, _)| away == node) => Ok(()),
            What::Kill(node) => self.cluster.node(node)?.restart().map(drop),
            What::Freeze(node) => self.cluster.node(node)?.process.thaw(),
            What::Away(_) => Ok(()),
            What::KillStore(part) => self.restart_store(*part),
            What::FreezeStore(part) => self.each(*part, weir_tests::Process::thaw),
            What::Partition(node, peer, _) => {
                self.cluster.node(node)?.host.heal()?;
                if let Peer::Node(peer) = peer {
                    self.cluster.node(peer)?.host.heal()?;
                }
                Ok(())
            }
            What::Loss(node, _) => self.cluster.node(node)?.host.heal(),
            What::FullDisk(edge) => self.disks.get(edge).context("each edge has a disk")?.free(),
        }
    }

    fn addresses(&mut self, node: &str, peer: &Peer) -> Result<(std::net::Ipv4Addr, std::net::Ipv4Addr)> {
        let peer = match peer {
            Peer::Node(peer) => self.cluster.node(peer)?.host.address(),
            Peer::Home => Network::HOME,
        };
        Ok((self.cluster.node(node)?.host.address(), peer))
    }

    fn each(
        &mut self,
        part: Part,
        mut act: impl FnMut(&mut weir_tests::Process) -> Result<()>,
    ) -> Result<()> {
        let kafka = self.kafka.as_mut().context("no Kafka");
        let hdfs = self.hdfs.as_mut().context("no HDFS");
        match part {
            Part::Broker(index) => act(kafka?.broker(index)?),
            Part::AllBrokers => {
                let kafka = kafka?;
                (0..BROKERS).try_for_each(|index| act(kafka.broker(index)?))
            }
            Part::NameNode => act(hdfs?.name_node()),
            Part::DataNode(index) => act(hdfs?.data_node(index)?),
        }
    }

    fn restart_store(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Broker(index) => self.kafka.as_mut().context("no Kafka")?.restart(index),
            Part::AllBrokers => self.kafka.as_mut().context("no Kafka")?.restart_all(),
            Part::NameNode => self.hdfs.as_mut().context("no HDFS")?.restart_name_node(),
            Part::DataNode(index) => self.hdfs.as_mut().context("no HDFS")?.restart_data_node(index),
        }
    }
}
