//! Over TLS with a shared key and a user, at both ends, through two kills of the edge.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::{Process, Scratch, until};

use crate::{MirroredSite, Nodes, is_here, numbers};

/// After a failure Fluentd leaves a server alone for more than ten seconds.
const LONG: Duration = Duration::from_secs(120);

/// A Fluentd that sends numbered events to `to`, and one that takes events at `at` and writes them below `received`.
fn configurations(scratch: &Scratch, to: u16, at: u16) -> [String; 2] {
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
    [sends, receives]
}

fn start(scratch: &Scratch, name: &str, configuration: &str) -> Result<Process> {
    let file = scratch.write(&format!("{name}.conf"), configuration)?;
    let mut command = Command::new("fluentd");
    command.arg("--no-supervisor").arg("-c").arg(file);
    Process::start(name, command, &scratch.dir("said")?)
}

#[test]
fn fluentd_sends_and_receives_and_loses_nothing() {
    if !is_here("fluentd") {
        return;
    }
    Scratch::run("fluentd", |scratch| {
        let site = MirroredSite::new(scratch, "fluentd")?;
        let [sends, receives] = configurations(scratch, site.door, site.receiver);
        let mut receiver = start(scratch, "receiver", &receives)?;
        let Nodes { mut edge, sinks: [mut sink, mut mirror] } = site.start()?;
        let mut sender = start(scratch, "sender", &sends)?;
        let here = || numbers(&site.files, |event| &event["record"]);
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
            let ((here, lines), (there, copies)) = (here()?, numbers(&site.received, |event| event)?);
            let sent = here.last().context("an event")?.1 + 1;
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
