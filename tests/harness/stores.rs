//! Starts a real Kafka, a real HDFS, or both, for people and for the store crates' live tests.
//!
//! `stores both` prints the addresses and stays until it is interrupted; `stores both -- COMMAND` runs the command with
//! `WEIR_TEST_KAFKA` and `WEIR_TEST_HDFS` set, then ends with its exit code.

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use weir_tests::{HdfsCluster, KafkaCluster, Scratch};

const USAGE: &str = "usage: stores kafka|hdfs|both [BROKERS_OR_DATANODES] [-- COMMAND ARGUMENT...]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = match arguments.iter().position(|argument| argument == "--") {
        Some(at) => arguments.split_off(at).split_off(1),
        None => Vec::new(),
    };
    let (which, nodes) = match arguments.as_slice() {
        [which] => (which.as_str(), 1),
        [which, nodes] => (which.as_str(), nodes.parse().context(USAGE)?),
        _ => bail!(USAGE),
    };
    let (want_kafka, want_hdfs) = match which {
        "kafka" => (true, false),
        "hdfs" => (false, true),
        "both" => (true, true),
        _ => bail!(USAGE),
    };

    let scratch = Scratch::new("stores")?;
    let (kafka, hdfs) = thread::scope(|scope| {
        let kafka = want_kafka.then(|| scope.spawn(|| KafkaCluster::start(&scratch, nodes)));
        let hdfs = want_hdfs.then(|| HdfsCluster::start(&scratch, nodes)).transpose();
        let kafka =
            kafka.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (kafka.transpose(), hdfs)
    });
    // Named, so that they live until the end of main.
    let (kafka, hdfs) = (kafka?, hdfs?);

    let mut variables = BTreeMap::new();
    variables.extend(kafka.as_ref().map(|kafka| ("WEIR_TEST_KAFKA", kafka.bootstrap())));
    variables.extend(hdfs.as_ref().map(|hdfs| ("WEIR_TEST_HDFS", hdfs.url())));
    for (name, value) in &variables {
        writeln!(stdout(), "{name}={value}")?;
    }
    writeln!(stdout(), "stores ready; logs and data in {}", scratch.path().display())?;

    let mut terminate = signal(SignalKind::terminate())?;
    let Some((program, arguments)) = command.split_first() else {
        tokio::select! {
            outcome = tokio::signal::ctrl_c() => outcome?,
            _ = terminate.recv() => {}
        }
        return Ok(ExitCode::SUCCESS);
    };
    let mut running = Command::new(program).args(arguments).envs(variables).kill_on_drop(true).spawn()?;
    tokio::select! {
        status = running.wait() => {
            Ok(status?.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
        }
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}
