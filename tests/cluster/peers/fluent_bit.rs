//! The modes of its output, one after another; then TLS with a shared key and a user at both ends, through kills of the
//! edge and of Fluent Bit. `weir-loadgen` is its source, and holds the store against what that was told.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::{Process, Scratch, Site, loadgen_binary, port, run, until};

use crate::{MirroredSite, Nodes, is_here, numbers};

const LONG: Duration = Duration::from_secs(120);

/// A Fluent Bit between two ports, with a buffer on disk.
fn between(scratch: &Scratch, name: &str, from: u16, to: u16, options: &str) -> Result<Process> {
    let buffer = scratch.dir(&format!("{name}-buffer"))?;
    let configuration = format!(
        "[SERVICE]\n  flush 0.2\n  grace 60\n  scheduler.base 1\n  scheduler.cap 2\n  storage.path {}\n\
         [INPUT]\n  name forward\n  listen 127.0.0.1\n  port {from}\n  storage.type filesystem\n\
         [OUTPUT]\n  name forward\n  match *\n  host 127.0.0.1\n  port {to}\n  retry_limit no_limits\n{options}",
        buffer.display()
    );
    start(scratch, name, &configuration)
}

fn start(scratch: &Scratch, name: &str, configuration: &str) -> Result<Process> {
    let file = scratch.write(&format!("{name}.conf"), configuration)?;
    let mut command = Command::new("fluent-bit");
    command.arg("-c").arg(file);
    Process::start(name, command, &scratch.dir("said")?)
}

/// Sends numbered events to `port`, some at a time, and waits until they are acknowledged; with their ledger.
fn send(scratch: &Scratch, stream: &str, port: u16, events: u64) -> Result<()> {
    let mut command = Command::new(loadgen_binary()?);
    command.args(["send", "--ack", "--chunk-events", "50", "--tags", "5", "--connections", "2"]);
    command.args([
        "--give-up",
        "20",
        "--to",
        &format!("127.0.0.1:{port}"),
        "--events",
        &events.to_string(),
        "--rate",
        "5000",
    ]);
    command.args(["--stream-prefix", stream, "--ledger"]).arg(ledger(scratch, stream));
    run(&mut command).map(drop)
}

fn ledger(scratch: &Scratch, stream: &str) -> PathBuf {
    scratch.path().join(format!("{stream}.ledger"))
}

fn verify(scratch: &Scratch, files: &Path, stream: &str) -> Result<String> {
    let mut command = Command::new(loadgen_binary()?);
    command.args(["verify", "--wait", "60", "--stream-prefix", stream, "--ledger"]);
    run(command.arg(ledger(scratch, stream)).arg("--files").arg(files))
}

#[test]
fn fluent_bit_sends_in_each_of_its_modes() {
    if !is_here("fluent-bit") {
        return;
    }
    Scratch::run("fluent-bit-modes", |scratch| {
        let (site, files) = Site::files(scratch)?;
        let (mut sink, mut edge) = (site.sink("files-1")?, site.edge("edge-1")?);
        let door = edge.forward()?.port();
        for (mode, options) in [
            ("plain", ""),
            ("options", "  send_options true\n"),
            ("integers", "  time_as_integer true\n"),
            ("acknowledged", "  require_ack_response true\n"),
            ("gzip", "  require_ack_response true\n  compress gzip\n"),
            ("metadata", "  require_ack_response true\n  retain_metadata_in_forward_mode true\n"),
        ] {
            let from = port()?;
            let mut bit = between(scratch, mode, from, door, options)?;
            send(scratch, mode, from, 5_000)?;
            verify(scratch, &files, mode)?;
            ensure!(bit.stop(LONG)?.success(), "{}", bit.said()?);
        }
        edge.stop()?;
        sink.stop()
    });
}

#[test]
fn fluent_bit_sends_and_receives_through_kills() {
    if !is_here("fluent-bit") {
        return;
    }
    Scratch::run("fluent-bit", |scratch| {
        let site = MirroredSite::new(scratch, "fluent-bit")?;
        let dir = scratch.path().display();
        let secure = format!(
            "  require_ack_response true\n  compress gzip\n  tls on\n  tls.verify on\n  tls.ca_file {dir}/tls/ca.crt\n\
             \x20 tls.vhost localhost\n  shared_key open sesame\n  self_hostname sender\n  username ada\n  password hush\n"
        );
        let receives = format!(
            "[SERVICE]\n  flush 0.2\n  grace 60\n\
             [INPUT]\n  name forward\n  listen 127.0.0.1\n  port {}\n  shared_key open sesame\n  self_hostname receiver\n\
             \x20 security.users ada hush\n  tls on\n  tls.verify off\n  tls.crt_file {dir}/tls/door.crt\n  tls.key_file {dir}/tls/door.key\n\
             [OUTPUT]\n  name file\n  match *\n  path {}\n  file events.jsonl\n  format plain\n",
            site.receiver,
            site.received.display()
        );
        let mut receiver = start(scratch, "receiver", &receives)?;
        let Nodes { mut edge, sinks: [mut sink, mut mirror] } = site.start()?;
        let from = port()?;
        let mut sender = between(scratch, "sender", from, site.door, &secure)?;
        for round in ["first", "second"] {
            send(scratch, round, from, 5_000)?;
            // What it has not passed on yet it sends again.
            edge.process.kill_9()?;
            edge.restart()?;
            verify(scratch, &site.files, round)?;
        }
        // It writes what it takes before it answers, and after a kill sends what it knows no answer to again, under
        // another name: a store may then hold that twice.
        send(scratch, "last", from, 5_000)?;
        sender.kill_9()?;
        sender.restart()?;
        until("all of them, here and there", LONG, || {
            let ((here, lines), (there, copies)) =
                (numbers(&site.files, |event| &event["record"])?, numbers(&site.received, |event| event)?);
            ensure!(here.len() == 15_000 && there == here, "{} here, {} there", here.len(), there.len());
            println!("15000 events of Fluent Bit: {lines} lines stored, {copies} at the mirror");
            Ok(())
        })?;
        ensure!(sender.stop(LONG)?.success(), "{}", sender.said()?);
        edge.stop()?;
        sink.stop()?;
        mirror.stop()?;
        receiver.stop(LONG).map(drop)
    });
}
