//! What every node shows of itself, and the node that needs no files.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weir_tests::{
    Node, Process, Scratch, Signal, Site, loadgen_binary, metric, page, port, run, scrape, until, weir_binary,
};

const LONG: Duration = Duration::from_secs(60);
/// How soon a first event must be in sight; on an idle machine it takes about a second, and a disk may be busy.
const SOON: Duration = Duration::from_secs(20);

/// All lines below a directory.
fn lines(dir: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path: PathBuf = entry?.path();
        if path.is_dir() {
            all.extend(lines(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "jsonl") {
            all.extend(fs::read_to_string(path)?.lines().map(str::to_owned));
        }
    }
    Ok(all)
}

/// Starts `weir standalone` in a directory that is empty, without arguments where its ports are free.
fn standalone(dir: &Path, logs: &Path) -> Result<Node> {
    let start = |args: &[&str]| {
        let mut command = Command::new(weir_binary()?);
        command.arg("standalone").args(args).current_dir(dir);
        Node::of(Process::start("standalone", command, logs)?)
    };
    match start(&[]) {
        Ok(node) => {
            assert_eq!(node.forward()?, SocketAddr::from(([127, 0, 0, 1], 24224)));
            Ok(node)
        }
        Err(error) if format!("{error:?}").contains("cannot listen") => {
            eprintln!("a default port is in use here; others are chosen");
            start(&["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
        }
        Err(error) => Err(error),
    }
}

fn is_healthy(node: &Node, role: &str) -> Result<()> {
    let (status, body) = page(node.metrics, "/health")?;
    ensure!(status == 200 && body.contains(role), "/health: {status} {body}");
    until("the node to be ready", LONG, || -> Result<()> {
        let (status, body) = page(node.metrics, "/ready")?;
        ensure!(status == 200, "/ready: {status} {body}");
        Ok(())
    })?;
    ensure!(scrape(node.metrics)?.get("weir_ready", &[]) == Some(1.0), "weir_ready is not 1");
    Ok(())
}

#[test]
fn standalone_needs_no_arguments_and_shows_the_first_event_soon() {
    Scratch::run("standalone", |scratch| {
        let dir = scratch.dir("empty")?;
        let mut node = standalone(&dir, &scratch.dir("said")?)?;
        let mut socket = TcpStream::connect(node.forward()?)?;
        let sent = Instant::now();
        socket.write_all(b"\x93\xa7app.web\xce\x65\x00\x00\x00\x81\xa4user\xa3ada")?;
        let line = until("the first event", LONG, || {
            lines(&dir.join("weir-data/output"))?.into_iter().next().context("nothing yet")
        })?;
        let took = sent.elapsed();
        println!("the first event was in sight after {took:.2?}");
        ensure!(took <= SOON, "the first event took {took:?}");
        assert_eq!(
            line,
            r#"{"time":"2023-09-12T06:06:56.000000000Z","tag":"app.web","record":{"user":"ada"}}"#
        );

        is_healthy(&node, "standalone")?;
        let metrics = scrape(node.metrics)?;
        for direction in ["in", "stored"] {
            let labels = [("tag", "app.web"), ("direction", direction)];
            assert_eq!(metrics.get("weir_tag_events_total", &labels), Some(1.0), "{direction}");
            let bytes = metrics.get("weir_tag_bytes_total", &labels);
            ensure!(bytes.is_some_and(|bytes| bytes > 0.0), "{direction}: {bytes:?} bytes");
        }
        node.stop()
    });
}

#[test]
fn every_role_shows_metrics_and_health_and_counts_tags_up_to_a_cap() {
    Scratch::run("pages", |scratch| {
        let (site, files) = Site::files(scratch)?;
        let (mut sink, mut edge) = (site.sink("files-1")?, site.edge("edge-1")?);
        is_healthy(&edge, "edge")?;
        is_healthy(&sink, "sink")?;

        // 3 000 events of 1 500 tags: the table has 1 000 rows, and the others share one.
        run(Command::new(loadgen_binary()?)
            .args(["send", "--to", &edge.forward()?.to_string(), "--ack", "--events", "3000"])
            .args(["--tags", "1500", "--chunk-events", "1", "--connections", "1"]))?;
        run(Command::new(loadgen_binary()?)
            .args(["verify", "--wait", "60", "--expect", "3000", "--files"])
            .arg(&files))?;
        for (node, direction) in [(&edge, "in"), (&sink, "stored")] {
            let of = |name: &str, tag: &str| {
                scrape(node.metrics).map(|all| all.get(name, &[("direction", direction), ("tag", tag)]))
            };
            let (_, text) = page(node.metrics, "/metrics")?;
            let rows = text.lines().filter(|line| line.starts_with("weir_tag_events_total{")).count();
            ensure!(rows <= 1001, "{rows} rows of tags");
            assert_eq!(scrape(node.metrics)?.get("weir_tag_events_total", &[]), Some(3000.0), "{direction}");
            assert_eq!(of("weir_tag_events_total", "app.7")?, Some(2.0), "{direction}");
            ensure!(of("weir_tag_bytes_total", "app.7")? > Some(300.0), "{direction}");
            assert_eq!(of("weir_tag_events_total", "__other__")?, Some(1000.0), "{direction}");
        }
        edge.stop()?;
        sink.stop()
    });
}

#[test]
fn a_sink_without_its_store_is_healthy_and_not_ready() {
    Scratch::run("not-ready", |scratch| {
        let [link, nobody] = [port()?, port()?];
        let topology = format!(
            "version = 1\n[cluster]\nname = \"not-ready\"\n[[group]]\nid = \"bus\"\n\
             sink = [{{ name = \"bus-1\", rack = \"r1\", address = \"127.0.0.1:{link}\" }}]\n\
             [group.store]\nkind = \"kafka\"\nbrokers = [\"127.0.0.1:{nobody}\"]\n\
             options = {{ \"socket.connection.setup.timeout.ms\" = \"1000\" }}\n\
             [[route]]\nmatch = \"**\"\ngroups = [\"bus\"]\n"
        );
        let sink = Site::new(scratch, &topology, &["bus-1"])?.sink("bus-1")?;
        until("the sink to say that it is not ready", LONG, || -> Result<()> {
            let (status, body) = page(sink.metrics, "/ready")?;
            ensure!(status == 503 && body.contains("store"), "{status} {body}");
            Ok(())
        })?;
        assert_eq!(page(sink.metrics, "/health")?.0, 200);
        assert_eq!(scrape(sink.metrics)?.get("weir_ready", &[]), Some(0.0));
        Ok(())
    });
}

#[test]
fn standalone_takes_other_topologies_up_while_it_runs() {
    const EVENTS: u64 = 12_000;
    Scratch::run("standalone-reload", |scratch| {
        let files = scratch.dir("files")?;
        let topology = |groups: &[&str], routes: &[(&str, &str)]| {
            let group = |id: &&str| {
                format!(
                    "[[group]]\nid = \"{id}\"\nsink = [{{ name = \"{id}-1\", rack = \"r1\", address = \"10.0.0.1:1\" }}]\n\
                     [group.store]\nkind = \"file\"\npath = \"{}/{id}\"\n[group.part]\nage = \"300ms\"\n",
                    files.display()
                )
            };
            let route =
                |(tags, id): &(&str, &str)| format!("[[route]]\nmatch = \"{tags}\"\ngroups = [\"{id}\"]\n");
            let (groups, routes): (String, String) =
                (groups.iter().map(group).collect(), routes.iter().map(route).collect());
            format!("version = 1\n[cluster]\nname = \"reload\"\n{groups}{routes}")
        };
        let first = topology(&["a"], &[("**", "a")]);
        let file = scratch.write("topology.toml", &first)?;
        let mut command = Command::new(weir_binary()?);
        command.args(["standalone", "--watch", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
        command.arg("--config").arg(&file).arg("--data-dir").arg(scratch.path().join("data"));
        let mut node = Node::of(Process::start("standalone", command, &scratch.dir("said")?)?)?;
        let applied = |count: f64| {
            until("the topology to be taken up", LONG, || {
                let applied = metric(node.metrics, "weir_config_applied_total", &[])?;
                ensure!(applied == count, "{applied} of {count} taken up");
                Ok(())
            })
        };
        let mut load = Command::new(loadgen_binary()?);
        load.args(["send", "--to", &node.forward()?.to_string(), "--ack", "--events", &EVENTS.to_string()]);
        load.args(["--rate", "2000", "--tags", "20", "--tag-prefix", "app", "--chunk-events", "10"]);
        load.arg("--ledger").arg(scratch.path().join("ledger"));
        let mut load = Process::start("load", load, &scratch.dir("said")?)?;

        // A group more, seen without a word. In one step, so that nobody reads half a file.
        let put = |text: &str| -> Result<()> { Ok(fs::rename(scratch.write("topology.new", text)?, &file)?) };
        put(&topology(&["a", "b"], &[("app.*1", "b"), ("**", "a")]))?;
        applied(1.0)?;
        until("the new group to be stored", LONG, || {
            ensure!(!lines(&files.join("b"))?.is_empty(), "no event");
            Ok(())
        })?;
        // A wrong one is refused whole, with its place.
        put(&first.replace("groups = [\"a\"]", "groups = [\"x\"]"))?;
        node.process.signal(Signal::HUP)?;
        node.process.wait_for_line("there is no group \"x\"", LONG)?;
        // The first group goes; its log is delivered first.
        put(&topology(&["b"], &[("**", "b")]))?;
        node.process.signal(Signal::HUP)?;
        applied(2.0)?;
        ensure!(load.wait_exit(LONG)?.success(), "the load failed: {}", load.said()?);
        run(Command::new(loadgen_binary()?)
            .args(["verify", "--wait", "60", "--expect", &EVENTS.to_string(), "--files"])
            .arg(&files)
            .arg("--ledger")
            .arg(scratch.path().join("ledger")))?;
        let status = run(Command::new(weir_binary()?).args(["status", &node.metrics.to_string()]))?;
        let log =
            |id: &str| status.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap_or_default();
        ensure!(log("b").contains("attached") && !log("a").contains("attached"), "{status}");
        node.stop()
    });
}

#[test]
fn a_sink_of_another_group_is_asked_less_and_less_and_told_of_once() {
    const REFUSALS: f64 = 6.0;
    Scratch::run("another", |scratch| {
        let (site, _) = Site::files(scratch)?;
        let sink = site.sink("files-1")?;
        // Another cluster, whose group of another name has a sink of this one's name and address.
        let topology = fs::read_to_string(site.topology())?.replace("\"files\"", "\"other\"");
        scratch.write("other.toml", topology)?;
        let file = site.node_file("edge-1", "edge", "forward = \"127.0.0.1:0\"")?;
        let file = scratch.write(
            "another.toml",
            fs::read_to_string(file)?.replace("\"topology.toml\"", "\"other.toml\""),
        )?;
        let began = Instant::now();
        let mut command = Command::new(weir_binary()?);
        command.arg("edge").arg("--config").arg(file);
        let edge = Node::of(Process::start("edge-1", command, &scratch.dir("said")?)?)?;
        until("the sink to refuse it again and again", LONG, || {
            let refused = metric(sink.metrics, "weir_sink_refused_total", &[("reason", "name_or_group")])?;
            ensure!(refused >= REFUSALS, "{refused} times");
            Ok(())
        })?;
        // At least 200 ms before the second, 400 before the third, 800 before each further one.
        let took = began.elapsed();
        ensure!(took >= Duration::from_secs(3), "{REFUSALS} times in {took:?}");
        let said = edge.process.said()?;
        let lines = |text: &str| said.matches(text).count();
        ensure!(
            lines("does not take the session up") == 1 && lines("do both have the same topology?") == 1,
            "{said}"
        );
        ensure!(lines("connected to sink") + lines("lost the connection") == 0, "{said}");
        Ok(())
    });
}

#[test]
fn an_edge_of_another_authority_is_refused_without_a_flood_of_lines() {
    const REFUSALS: f64 = 12.0;
    Scratch::run("refused", |scratch| {
        let (site, _) = Site::files(scratch)?;
        let sink = site.sink("files-1")?;
        let (began, alien) = (Instant::now(), scratch.dir("alien")?);
        run(Command::new(weir_binary()?).args(["ca", "init"]).arg(&alien))?;
        run(Command::new(weir_binary()?).args(["ca", "issue"]).arg(&alien).arg("edge-1"))?;
        let file = site.node_file("edge-1", "edge", "forward = \"127.0.0.1:0\"")?;
        let file = scratch.write("alien.toml", fs::read_to_string(file)?.replace("\"tls/", "\"alien/"))?;
        let mut command = Command::new(weir_binary()?);
        command.arg("edge").arg("--config").arg(file);
        let edge = Node::of(Process::start("edge-1", command, &scratch.dir("said")?)?)?;
        until("the sink to refuse it again and again", LONG, || {
            let refused = metric(sink.metrics, "weir_sink_refused_total", &[])?;
            ensure!(refused >= REFUSALS, "{refused} times");
            Ok(())
        })?;
        let said = [sink.process.said()?, edge.process.said()?];
        let took = began.elapsed();
        // One in ten seconds for each reason, and there are two: its certificate, or its going first.
        let most = 2 * (1 + took.as_secs() as usize / 10);
        let lines = said[0].matches("refused an edge").count();
        ensure!((1..=most).contains(&lines), "{lines} lines in {took:?}: {}", said[0]);
        ensure!(said[1].matches("cannot reach the sink").count() == 1, "{}", said[1]);
        Ok(())
    });
}
