//! Fluentd itself, as a sender and as a receiver, over TLS with a shared key and a user. Skipped where `fluentd` is not on
//! the PATH: how to get it is in tests/README.md.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::{Process, Scratch, Site, port, run, until, weir_binary};

/// After a failure Fluentd leaves a server alone for more than ten seconds.
const LONG: Duration = Duration::from_secs(120);

/// A Fluentd that sends numbered events to `to`, and one that takes events at `at` and writes them below `received`.
fn configurations(scratch: &Scratch, to: u16, at: u16) -> Result<[String; 2]> {
    let dir = scratch.path().display();
    let sends = format!(
        r#"<source>
  @type sample
  tag client.fluentd
  rate 500
  sample {{"stream":"fluentd","message":"from fluentd"}}
  auto_increment_key seq
</source>
<match client.**>
  @type forward
  require_ack_response true
  ack_response_timeout 20
  compress gzip
  transport tls
  tls_cert_path {dir}/tls/ca.crt
  <security>
    self_hostname sender
    shared_key open sesame
  </security>
  <server>
    host localhost
    port {to}
    username ada
    password hush
  </server>
  <buffer>
    flush_mode interval
    flush_interval 0.3s
    retry_wait 0.5s
    retry_max_interval 1s
  </buffer>
</match>
<label @FLUENT_LOG>
  <match **>
    @type null
  </match>
</label>
"#
    );
    let receives = format!(
        r#"<source>
  @type forward
  bind 127.0.0.1
  port {at}
  <transport tls>
    cert_path {dir}/tls/door.crt
    private_key_path {dir}/tls/door.key
  </transport>
  <security>
    self_hostname receiver
    shared_key open sesame
    user_auth true
    <user>
      username ada
      password hush
    </user>
  </security>
</source>
<match client.**>
  @type file
  path {dir}/received/events
  append true
  <format>
    @type json
  </format>
  <buffer []>
    flush_mode immediate
  </buffer>
</match>
"#
    );
    Ok([sends, receives])
}

fn start(scratch: &Scratch, name: &str, configuration: &str) -> Result<Process> {
    let file = scratch.write(&format!("{name}.conf"), configuration)?;
    let mut command = Command::new("fluentd");
    command.arg("--no-supervisor").arg("-c").arg(file);
    Process::start(name, command, &scratch.dir("said")?)
}

/// The numbers in the lines below `dir`, and how many lines there are; `record` finds the record in a line.
fn numbers(
    dir: &Path,
    record: fn(&serde_json::Value) -> &serde_json::Value,
) -> Result<(BTreeSet<u64>, usize)> {
    let (mut found, mut lines, mut open) = (BTreeSet::new(), 0, vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|kind| kind == "jsonl" || kind == "log") {
                for line in std::fs::read_to_string(&path)?.lines() {
                    // A line that is being written comes with the next look.
                    let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
                    found.insert(record(&event)["seq"].as_u64().context("a number")?);
                    lines += 1;
                }
            }
        }
    }
    Ok((found, lines))
}

#[test]
fn fluentd_sends_and_receives_and_loses_nothing() {
    if Command::new("fluentd").arg("--version").output().is_err() {
        println!("SKIPPED: there is no fluentd on the PATH");
        return;
    }
    Scratch::run("fluentd", |scratch| {
        let (files_link, pass_link, door, receiver) = (port()?, port()?, port()?, port()?);
        let (files, received) = (scratch.dir("files")?, scratch.dir("received")?);
        // Stored here, and mirrored to the other Fluentd.
        let topology = format!(
            r#"version = 1
cluster.name = "fluentd"
edge = [{{ name = "edge-1", rack = "r1" }}]
route = [{{ match = "**", groups = ["files", "mirror"] }}]
[[listener]]
name = "door"
address = "127.0.0.1:{door}"
tls = {{ cert = "tls/door.crt", key = "tls/door.key" }}
[listener.security]
shared_key = "open sesame"
user = [{{ username = "ada", password = "hush" }}]
[[group]]
id = "files"
sink = [{{ name = "files-1", rack = "r1", address = "127.0.0.1:{files_link}" }}]
store = {{ kind = "file", path = "{}" }}
part = {{ age = "300ms" }}
[[group]]
id = "mirror"
sink = [{{ name = "mirror-1", rack = "r1", address = "127.0.0.1:{pass_link}" }}]
[group.store]
kind = "forward"
server = [{{ address = "127.0.0.1:{receiver}" }}]
tls = {{ ca = "tls/ca.crt", name = "localhost" }}
security = {{ self_hostname = "weir", shared_key = "open sesame", username = "ada", password = "hush" }}
"#,
            files.display()
        );
        let site = Site::new(scratch, &topology, &["edge-1", "files-1", "mirror-1"])?;
        run(Command::new(weir_binary()?).args(["ca", "issue"]).arg(scratch.path().join("tls")).args([
            "door",
            "--san",
            "localhost",
        ]))?;
        let [sends, receives] = configurations(scratch, door, receiver)?;
        let mut receiver = start(scratch, "receiver", &receives)?;
        let (mut sink, mut mirror) = (site.sink("files-1")?, site.sink("mirror-1")?);
        let mut edge = site.edge("edge-1")?;
        let mut sender = start(scratch, "sender", &sends)?;
        let here = || numbers(&files, |event| &event["record"]);
        for kill in 1..=2 {
            let before = here()?.0.len();
            until("more events", LONG, || {
                let now = here()?.0.len();
                ensure!(now > before + 1000, "{now} before kill {kill}");
                Ok(())
            })?;
            edge.process.kill_9()?;
            edge.restart()?;
        }
        let before = here()?.0.len();
        until("events after the last kill", LONG, || {
            let now = here()?.0.len();
            ensure!(now > before + 1000, "{now}");
            Ok(())
        })?;
        // It sends what it has before it ends.
        ensure!(sender.stop(LONG)?.success(), "{}", sender.said()?);
        until("all of them, here and there", LONG, || {
            let ((here, lines), (there, copies)) = (here()?, numbers(&received, |event| event)?);
            let sent = here.last().context("an event")? + 1;
            ensure!(
                here.len() as u64 == sent && lines as u64 == sent,
                "{lines} lines with {} of {sent}",
                here.len()
            );
            ensure!(there == here, "{} of {sent} came to the mirror", there.len());
            println!("{sent} events of Fluentd, stored once; {copies} lines at the mirror");
            Ok(())
        })?;
        edge.stop()?;
        sink.stop()?;
        mirror.stop()?;
        receiver.stop(LONG).map(drop)
    });
}
