//! A real Apache Kafka: brokers that are their own controllers (KRaft), each a process of its own.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::jvm::java;
use crate::paths::output;
use crate::port::port;
use crate::process::Process;
use crate::scratch::Scratch;

/// From `java` to serving: 3 s on an idle machine of 2 cores, many times that on a busy one.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// A broker hands over its partitions first; where no controller is left to hand them to, it waits in vain.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const HEAP_MIB_MAX: u32 = 512;
const CLUSTER_ID: &str = "4L6g3nShT-eMCtK--X86sw";
const LOGGING: &str = "rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1} %m%n
";

/// Running brokers on free ports, without TLS; logs and data lie in `kafka/` of the scratch directory.
#[derive(Debug)]
pub struct KafkaCluster {
    brokers: Vec<Process>,
    host: Ipv4Addr,
    ports: Vec<u16>,
}

impl KafkaCluster {
    /// Starts so many brokers and waits until all serve. With three or more, topics have three replicas and survive
    /// the loss of any one broker.
    ///
    /// # Errors
    /// If the jars are missing or a broker does not come up; with the last lines of its log.
    pub fn start(scratch: &Scratch, brokers: usize) -> Result<KafkaCluster> {
        KafkaCluster::start_at(scratch, brokers, Ipv4Addr::LOCALHOST)
    }

    /// The same at another address of this machine, such as [`crate::Network::HOME`].
    ///
    /// # Errors
    /// See [`KafkaCluster::start`].
    pub fn start_at(scratch: &Scratch, brokers: usize, host: Ipv4Addr) -> Result<KafkaCluster> {
        ensure!(brokers > 0, "a cluster of no brokers");
        let ports: Vec<_> = (0..brokers).map(|_| port()).collect::<Result<_>>()?;
        let controllers: Vec<_> = (0..brokers).map(|_| port()).collect::<Result<_>>()?;
        let mut processes = Vec::new();
        for node in 0..brokers {
            let dir = scratch.dir(&format!("kafka/broker-{node}"))?;
            fs::write(dir.join("log4j2.properties"), LOGGING)?;
            let properties = dir.join("server.properties");
            fs::write(&properties, server_properties(node, host, &ports, &controllers, &dir))?;

            let mut format = java("kafka", &dir, HEAP_MIB_MAX)?;
            format.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]).arg(&properties);
            output(&mut format)?;

            let mut serve = java("kafka", &dir, HEAP_MIB_MAX)?;
            serve.arg("-Dlog4j2.configurationFile=log4j2.properties").arg("kafka.Kafka").arg(&properties);
            processes.push(Process::start(&format!("kafka-{node}"), serve, &scratch.dir("kafka")?)?);
        }
        let mut cluster = KafkaCluster { brokers: processes, host, ports };
        cluster.wait_all_serve()?;
        Ok(cluster)
    }

    /// The bootstrap list: `HOST:PORT,...`, every broker.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<_> = self.ports.iter().map(|port| format!("{}:{port}", self.host)).collect();
        addresses.join(",")
    }

    /// The brokers' ports for clients, in order.
    #[must_use]
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// One broker's process, counted from 0: to kill, freeze, thaw or look at.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn broker(&mut self, index: usize) -> Result<&mut Process> {
        self.brokers.get_mut(index).with_context(|| format!("no broker {index}"))
    }

    /// Starts a stopped or killed broker again on its old data and ports, and waits until it serves.
    ///
    /// # Errors
    /// If it still runs or does not come up.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        let broker = self.broker(index)?;
        broker.restart()?;
        wait_serves(broker)
    }

    /// Stops every broker: an outage of the whole store.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn stop_all(&mut self) -> Result<()> {
        for broker in &mut self.brokers {
            if broker.exited()?.is_none() {
                broker.signal(crate::Signal::TERM)?;
            }
        }
        for broker in &mut self.brokers {
            if broker.wait_exit(STOP_TIMEOUT).is_err() {
                broker.kill_9()?;
            }
        }
        Ok(())
    }

    /// The end of the outage: starts every broker and waits until all serve.
    ///
    /// # Errors
    /// If one still runs or does not come up.
    pub fn restart_all(&mut self) -> Result<()> {
        // All at once: a broker serves only when a majority of the controllers runs.
        self.brokers.iter_mut().try_for_each(Process::restart)?;
        self.wait_all_serve()
    }

    fn wait_all_serve(&mut self) -> Result<()> {
        self.brokers.iter_mut().try_for_each(wait_serves)
    }
}

fn wait_serves(broker: &mut Process) -> Result<()> {
    broker.wait_for_line("Kafka Server started", START_TIMEOUT).map(drop)
}

fn server_properties(node: usize, host: Ipv4Addr, ports: &[u16], controllers: &[u16], dir: &Path) -> String {
    let voters: Vec<_> =
        controllers.iter().enumerate().map(|(node, port)| format!("{node}@{host}:{port}")).collect();
    let (port, controller) = (ports[node], controllers[node]);
    let replicas = ports.len().min(3);
    let in_sync = replicas.saturating_sub(1).max(1);
    // Internal topics get few partitions (50 by default, each with its files), indexes little memory, and a dead
    // broker is noticed after 3 s.
    format!(
        "process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={dir}/data
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
",
        voters = voters.join(","),
        dir = dir.display(),
    )
}
