//! `weir log export`: what an edge's log holds is replayed into another edge, and stored once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::{Scratch, Site, loadgen_binary, metric, port, run, until, weir_binary};

const LONG: Duration = Duration::from_secs(60);
const EVENTS: u64 = 20_000;

fn export(data: &Path, options: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new(weir_binary()?);
    let output = command.args(["log", "export"]).arg(data).arg("files").args(options).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{options:?}: {said}");
    Ok(output.stdout)
}

fn lines(json: &[u8]) -> usize {
    json.iter().filter(|byte| **byte == b'\n').count()
}

/// By a listener with TLS on both sides, a shared key and a user: what lacks one of them is not let in.
fn by_the_secure_door(scratch: &Scratch, data: &Path, port: u16) -> Result<()> {
    let path = |name: &str| scratch.path().join(name).display().to_string();
    for (name, secret) in [("wrong", "open barley"), ("password", "hush")] {
        scratch.write(name, secret)?;
    }
    let send = ["--send".to_owned(), format!("127.0.0.1:{port}")];
    let ca = ["--tls-ca".to_owned(), path("tls/ca.crt"), "--tls-name".to_owned(), "edge-2".to_owned()];
    let cert =
        ["--tls-cert".to_owned(), path("tls/edge-1.crt"), "--tls-key".to_owned(), path("tls/edge-1.key")];
    let key = |file: &str| ["--shared-key-file".to_owned(), path(file)];
    let user = ["--username".to_owned(), "ada".to_owned(), "--password-file".to_owned(), path("password")];
    for (said, options) in [
        ("--tls-ca", &[&send[..]][..]),
        ("did not acknowledge", &[&send, &ca]),
        ("--shared-key-file", &[&send, &ca, &cert]),
        ("shared_key mismatch", &[&send, &ca, &cert, &key("wrong"), &user]),
        ("username/password mismatch", &[&send, &ca, &cert, &key("key")]),
    ] {
        let options = options.concat();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let error = export(data, &options).err().with_context(|| format!("{options:?} was let in"))?;
        ensure!(error.to_string().contains(said), "{options:?}: {error}");
    }
    let right = [&send[..], &ca, &cert, &key("key"), &user].concat();
    export(data, &right.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}

#[test]
fn a_log_is_replayed_into_another_edge() {
    Scratch::run("export", |scratch| {
        let (link, secure, files) = (port()?, port()?, scratch.dir("files")?);
        let topology = format!(
            r#"version = 1
cluster.name = "export"
edge = [{{ name = "edge-1", rack = "r1" }}, {{ name = "edge-2", rack = "r1" }}]
[[group]]
id = "files"
sink = [{{ name = "files-1", rack = "r1", address = "127.0.0.1:{link}" }}]
store = {{ kind = "file", path = "{}" }}
part.age = "300ms"
[[route]]
match = "**"
groups = ["files"]
[[listener]]
name = "plain"
[[listener]]
name = "secure"
edges = ["edge-2"]
address = "127.0.0.1:{secure}"
tls = {{ cert = "tls/edge-2.crt", key = "tls/edge-2.key", client_ca = "tls/ca.crt" }}
security = {{ shared_key = {{ file = "key" }}, user = [{{ username = "ada", password = "hush" }}] }}
"#,
            files.display()
        );
        scratch.write("key", "open sesame\n")?;
        let site = Site::new(scratch, &topology, &["edge-1", "edge-2", "files-1"])?;
        let mut old = site.edge("edge-1")?;
        let ledger = scratch.path().join("kept.ledger");
        let send = |to: &str, options: &[&str]| -> Result<()> {
            let mut command = Command::new(loadgen_binary()?);
            command.args(["send", "--ack", "--to", to]).args(options);
            run(&mut command).map(drop)
        };
        let to = old.forward()?.to_string();
        let events = EVENTS.to_string();
        let told = ["--events", &events, "--stream-prefix", "kept", "--ledger"];
        send(&to, &[&told[..], &[&ledger.display().to_string()]].concat())?;
        old.process.kill_9()?;
        let data: PathBuf = scratch.path().join("data-edge-1");

        // As lines, whole and in part; as messages in a file.
        ensure!(lines(&export(&data, &["--json"])?) as u64 == EVENTS);
        ensure!(lines(&export(&data, &["--json", "--from", "3", "--to", "4"])?) == 2_000);
        let file = scratch.path().join("kept.forward");
        export(&data, &["--output", &file.display().to_string()])?;
        ensure!(fs::metadata(&file)?.len() > EVENTS * 100, "{} is too short", file.display());

        // A damaged record stays behind alone, and its bytes can be had.
        let copy = scratch.dir("copy/logs/files")?;
        for entry in fs::read_dir(data.join("logs/files"))? {
            let entry = entry?;
            fs::copy(entry.path(), copy.join(entry.file_name()))?;
        }
        let segment = copy.join("00000000000000000000.seg");
        let mut bytes = fs::read(&segment)?;
        bytes[200_000] ^= 1;
        fs::write(&segment, bytes)?;
        let copy = scratch.path().join("copy");
        ensure!(lines(&export(&copy, &["--json"])?) as u64 == EVENTS - 1_000);
        ensure!(!export(&copy, &["--damaged"])?.is_empty(), "no bytes of the damaged record");

        // Twice, as after a replay that broke off; then the edge itself comes back with all that was replayed.
        let mut new = site.edge("edge-2")?;
        let other = new.forward()?.to_string();
        by_the_secure_door(scratch, &data, secure)?;
        export(&data, &["--send", &other])?;
        let repeated = metric(new.metrics, "weir_repeated_chunks_total", &[])?;
        ensure!(repeated == 20.0, "{repeated} chunks of 20 were known when they came again");
        let mut sink = site.sink("files-1")?;
        let verify = || -> Result<()> {
            let mut command = Command::new(loadgen_binary()?);
            command.arg("verify").arg("--files").arg(&files).arg("--ledger").arg(&ledger);
            run(command.args(["--wait", "60", "--expect", &events])).map(drop)
        };
        verify()?;
        old.restart()?;
        until("the old edge's log to run empty", LONG, || -> Result<()> {
            let waiting = metric(old.metrics, "weir_log_batches", &[])?;
            ensure!(waiting == 0.0, "{waiting} batches wait");
            Ok(())
        })?;
        verify().context("the edge whose log was replayed came back")?;
        [&mut old, &mut new].into_iter().try_for_each(weir_tests::Node::stop)?;
        // What the store has is left out, unless it is asked for.
        ensure!(export(&data, &["--json"])?.is_empty(), "stored batches were exported");
        sink.stop()
    });
}
