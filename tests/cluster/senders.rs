//! Real client libraries at an edge: over TLS, with a shared key and a user where they can, through kills of the edge and
//! of themselves. And Weir itself as a sender, to another Weir.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::{
    Client, Load, Mode, Scratch, Site, loadgen_binary, metric, port, run, stored_events, until, weir_binary,
};

const LONG: Duration = Duration::from_secs(90);

/// Two edges: `near` speaks plainly and, at another port, TLS, and passes everything on to `far`, which wants TLS, a key
/// and a user, puts `via.` before each tag, and has a sink with files. With the directory of those, the port of `far`,
/// and the one for TLS of `near`.
fn site(scratch: &Scratch) -> Result<(Site<'_>, PathBuf, u16, u16)> {
    let (files_link, pass_link, far, tls) = (port()?, port()?, port()?, port()?);
    let files = scratch.dir("files")?;
    let topology = format!(
        r#"version = 1
[cluster]
name = "senders"
[[edge]]
name = "near"
rack = "r1"
[[edge]]
name = "far"
rack = "r1"
[[listener]]
name = "plain"
edges = ["near"]
[[listener]]
name = "tls"
edges = ["near"]
address = "127.0.0.1:{tls}"
tls = {{ cert = "tls/door.crt", key = "tls/door.key" }}
[[listener]]
name = "secure"
edges = ["far"]
address = "127.0.0.1:{far}"
add_tag_prefix = "via"
tls = {{ cert = "tls/far.crt", key = "tls/far.key" }}
[listener.security]
shared_key = {{ file = "key" }}
user = [{{ username = "ada", password = "hush" }}]
[[group]]
id = "files"
sink = [{{ name = "files-1", rack = "r1", address = "127.0.0.1:{files_link}" }}]
[group.store]
kind = "file"
path = "{}"
[group.part]
age = "300ms"
[[group]]
id = "pass"
sink = [{{ name = "pass-1", rack = "r1", address = "127.0.0.1:{pass_link}" }}]
[[group.transform]]
drop = {{ field = "stream", match = "^passed-[13]$" }}
[[group.transform]]
add = {{ passed = "${{tag}}" }}
[group.store]
kind = "forward"
server = [{{ address = "127.0.0.1:{far}" }}]
tls = {{ ca = "tls/ca.crt", name = "far" }}
security = {{ self_hostname = "pass", shared_key = {{ file = "key" }}, username = "ada", password = "hush" }}
[[route]]
match = "via.**"
groups = ["files"]
[[route]]
match = "**"
groups = ["pass"]
"#,
        files.display()
    );
    let site = Site::new(scratch, &topology, &["near", "far", "files-1", "pass-1"])?;
    run(Command::new(weir_binary()?).args(["ca", "issue"]).arg(scratch.path().join("tls")).args([
        "door",
        "--san",
        "localhost",
    ]))?;
    scratch.write("key", "open sesame\n")?;
    Ok((site, files, far, tls))
}

fn load(port: u16, stream: &str, mode: Mode, ack: bool, count: u64) -> Load {
    let (tag_prefix, stream) = ("client".to_owned(), stream.to_owned());
    Load { port, tag_prefix, tags: 5, count, stream, mode, ack, event_time: true }
}

/// The numbers of a stream's records in the files, and how many records there are.
fn stored(files: &Path, stream: &str) -> Result<(BTreeSet<u64>, usize)> {
    let (mut numbers, mut count) = (BTreeSet::new(), 0);
    for event in stored_events(files)?.iter().filter(|event| event["record"]["stream"] == stream) {
        numbers.insert(event["record"]["seq"].as_u64().context("a number")?);
        count += 1;
    }
    Ok((numbers, count))
}

fn all_stored(files: &Path, stream: &str, count: u64, once: bool) -> Result<()> {
    until(&format!("all of {stream}"), LONG, || {
        let (numbers, records) = stored(files, stream)?;
        ensure!(numbers.len() as u64 == count, "{} of {count} of {stream}", numbers.len());
        ensure!(!once || records as u64 == count, "{records} records for {count} of {stream}");
        Ok(())
    })
}

#[test]
fn tls_with_a_shared_key_and_a_user_to_far_and_by_way_of_near() {
    Scratch::run("secure-senders", |scratch| {
        let (site, files, far_port, tls_port) = site(scratch)?;
        let (mut files_sink, mut pass_sink) = (site.sink("files-1")?, site.sink("pass-1")?);
        let (mut far, mut near) = (site.edge("far")?, site.edge("near")?);
        let ca = scratch.path().join("tls/ca.crt").display().to_string();
        let secure = [
            ("WEIR_TEST_CA", ca.as_str()),
            ("WEIR_TEST_SERVERNAME", "far"),
            ("WEIR_TEST_SHARED_KEY", "open sesame"),
            ("WEIR_TEST_USERNAME", "ada"),
            ("WEIR_TEST_PASSWORD", "hush"),
        ];
        let said = scratch.dir("clients")?;
        let node = Client::node();
        for (stream, mode, ack) in [
            ("node-message", Mode::Message, true),
            ("node-forward", Mode::Forward, true),
            ("node-packed", Mode::Packed, true),
            ("node-compressed", Mode::Compressed, true),
            ("node-no-ack", Mode::Packed, false),
        ] {
            let load = load(far_port, stream, mode, ack, 2_000);
            Client::sent(&mut node.start_with(&load, &secure, &said)?, &load, LONG)?;
            all_stored(&files, stream, 2_000, true)?;
        }
        // These know TLS and no key; python's library knows neither.
        for (client, stream, mode, ack) in [
            (Client::go(), "go-tls", Mode::Message, true),
            (Client::go(), "go-tls-no-ack", Mode::Message, false),
            (Client::go(), "go-tls-json", Mode::Json, true),
            (Client::java(), "java-tls", Mode::Packed, true),
            (Client::java(), "java-tls-no-ack", Mode::Packed, false),
        ] {
            let load = load(tls_port, stream, mode, ack, 2_000);
            Client::sent(&mut client.start_with(&load, &secure[..1], &said)?, &load, LONG)?;
            all_stored(&files, stream, 2_000, true)?;
        }
        // Weir as the sender: what comes in near goes by a store to far, every second stream of it, and transformed.
        run(Command::new(loadgen_binary()?)
            .args([
                "send",
                "--to",
                &near.forward()?.to_string(),
                "--ack",
                "--events",
                "20000",
                "--tags",
                "50",
                "--connections",
                "4",
            ])
            .args(["--stream-prefix", "passed", "--ledger"])
            .arg(scratch.path().join("passed.json")))?;
        until("all that was passed on", LONG, || {
            let taken = metric(far.metrics, "weir_edge_events_total", &[("group", "files")])?;
            ensure!(taken == 30_000.0, "{taken} of 30000 events came to far");
            Ok(())
        })?;
        let filtered = metric(pass_sink.metrics, "weir_store_filtered_events_total", &[("group", "pass")])?;
        ensure!(filtered == 10_000.0, "{filtered} of 10000 events were dropped");
        until("the passed events in files", LONG, || {
            let events = stored_events(&files)?;
            let of = |event: &&serde_json::Value| {
                event["record"]["stream"].as_str().is_some_and(|stream| stream.starts_with("passed"))
            };
            let passed: Vec<_> = events.iter().filter(of).collect();
            ensure!(passed.len() == 10_000, "{} of 10000", passed.len());
            let whole = |event: &&serde_json::Value| {
                let tag = event["record"]["passed"].as_str().map(|tag| format!("via.{tag}"));
                tag.as_deref() == event["tag"].as_str() && event["record"]["message"].is_string()
            };
            ensure!(passed.iter().all(whole), "events are not as they should be");
            Ok(())
        })?;
        far.stop()?;
        near.stop()?;
        files_sink.stop()?;
        pass_sink.stop()
    });
}

/// One edge with a port that it keeps, and a sink with files; with their directory and the port.
fn lasting(scratch: &Scratch) -> Result<(Site<'_>, PathBuf, u16)> {
    let (link, forward, files) = (port()?, port()?, scratch.dir("files")?);
    let topology = format!(
        "version = 1\ncluster.name = \"kills\"\nedge = [{{ name = \"edge-1\", rack = \"r1\" }}]\n\
         route = [{{ match = \"**\", groups = [\"files\"] }}]\n\
         [[listener]]\nname = \"here\"\naddress = \"127.0.0.1:{forward}\"\n\
         [[group]]\nid = \"files\"\nsink = [{{ name = \"files-1\", rack = \"r1\", address = \"127.0.0.1:{link}\" }}]\n\
         store = {{ kind = \"file\", path = \"{}\" }}\npart = {{ age = \"300ms\" }}\n",
        files.display()
    );
    Ok((Site::new(scratch, &topology, &["edge-1", "files-1"])?, files, forward))
}

#[test]
fn senders_outlive_kills_of_their_edge_and_lose_nothing_acknowledged() {
    Scratch::run("killed-under-senders", |scratch| {
        let (site, files, forward) = lasting(scratch)?;
        let (mut edge, mut sink) = (site.edge("edge-1")?, site.sink("files-1")?);
        let logs = scratch.dir("clients")?;
        let go = load(forward, "go-killed", Mode::Message, true, 3_000);
        let mut sending = vec![(Client::go().start(&go, &logs)?, go)];
        for kill in 1..=3 {
            // These are quick: new ones before each kill.
            for (client, mode, count) in
                [(Client::java(), Mode::Packed, 20_000), (Client::node(), Mode::Forward, 5_000)]
            {
                let load = load(forward, &format!("{}-killed-{kill}", client.name), mode, true, count);
                sending.push((client.start(&load, &logs)?, load));
            }
            until("more events", LONG, || {
                let (numbers, _) = stored(&files, "go-killed")?;
                ensure!(numbers.len() >= kill * 300, "{} before kill {kill}", numbers.len());
                Ok(())
            })?;
            edge.process.kill_9()?;
            edge.restart()?;
        }
        // The libraries send again what was not acknowledged; an event that was, is there.
        for (process, load) in &mut sending {
            Client::sent(process, load, LONG)?;
            all_stored(&files, &load.stream, load.count, false)?;
        }
        edge.stop()?;
        sink.stop()
    });
}

#[test]
fn a_killed_sender_finds_all_that_it_was_told_of() {
    Scratch::run("killed-senders", |scratch| {
        let (site, files, forward) = lasting(scratch)?;
        let (mut edge, mut sink) = (site.edge("edge-1")?, site.sink("files-1")?);
        let logs = scratch.dir("clients")?;
        for (client, mode) in [(Client::go(), Mode::Message), (Client::node(), Mode::Packed)] {
            let first = load(forward, &format!("{}-first", client.name), mode, true, 1_000_000);
            let mut process = client.start(&first, &logs)?;
            let told = |said: &str| {
                said.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok()).max()
            };
            until("some acknowledgements", LONG, || {
                ensure!(told(&process.said()?) >= Some(1_000), "{:?}", told(&process.said()?));
                Ok(())
            })?;
            process.kill_9()?;
            let told = told(&process.said()?).context("acknowledgements")?;
            // Again, and to the end.
            let second = load(forward, &format!("{}-second", client.name), mode, true, 2_000);
            client.send(&second, &logs, LONG)?;
            all_stored(&files, &second.stream, second.count, true)?;
            let (numbers, records) = stored(&files, &first.stream)?;
            ensure!(
                (0..told).all(|number| numbers.contains(&number)),
                "of {told} acknowledged some are missing"
            );
            ensure!(numbers.len() == records, "{records} records of {} events", numbers.len());
        }
        edge.stop()?;
        sink.stop()
    });
}
