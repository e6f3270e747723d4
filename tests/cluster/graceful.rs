//! Stopping and starting in good order: a rolling restart of everything under load, and who may have a data directory.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use weir_tests::{
    Cluster, Network, Plan, Process, Sending, Verdict, in_own_world, minute_directories, say, weir_binary,
};

const LONG: Duration = Duration::from_secs(90);

#[test]
fn a_rolling_restart_shows_senders_nothing_but_new_connections() {
    in_own_world("a_rolling_restart_shows_senders_nothing_but_new_connections", |scratch| {
        let files = scratch.dir("files")?.display().to_string();
        let store = format!(
            "[group.store]\nkind = \"file\"\nshared = true\npath = \"{files}\"\npartition = \"%Y/%m/%d/%H/%M\"\n"
        );
        let plan = Plan::new(3).group("files", 2, &store).route("**", &["files"]);
        let mut network = Network::new()?;
        let mut cluster = Cluster::start(scratch, &mut network, &plan)?;
        let since = SystemTime::now();
        let forward = cluster.forward();
        let options =
            ["--events", "1000000000", "--rate", "5000", "--connections", "9", "--chunk-events", "50"];
        let mut load = Sending::start("rolling", "app", &forward, &options, scratch.path())?;
        let names: Vec<String> = cluster.nodes().map(|(name, _)| name.clone()).collect();
        for name in &names {
            let node = cluster.node(name)?;
            ensure!(node.process.stop(LONG)?.success(), "{name} did not stop in good order");
            node.restart()?;
        }
        let sent = load.cut_short(LONG)?;
        let verdict = Verdict::of(&minute_directories("--files", &files, since), &[load.ledger()], LONG)?;
        say(&format!(
            "rolling restart of {} nodes: {} reconnects, {} errors; {verdict}",
            names.len(),
            sent.reconnects,
            sent.errors
        ));
        ensure!(sent.events > 0 && sent.reconnects >= 9, "each connection met a restart: {sent:?}");
        // Every lost connection was replaced at the first try: the other edges were there. The last errors are the
        // end of the load itself, which leaves nine streams.
        ensure!(sent.errors <= sent.reconnects + 9, "{sent:?}");
        ensure!(verdict.is_sound(), "{verdict}");
        Ok(())
    });
}

#[test]
fn a_data_directory_has_one_process() {
    in_own_world("a_data_directory_has_one_process", |scratch| {
        let files = scratch.dir("files")?.display().to_string();
        let store = format!("[group.store]\nkind = \"file\"\npath = \"{files}\"\n");
        let plan = Plan::new(1).group("files", 1, &store).route("**", &["files"]);
        let mut network = Network::new()?;
        let mut cluster = Cluster::start(scratch, &mut network, &plan)?;
        for (role, name) in [("edge", "edge-1"), ("sink", "files-1")] {
            // The same node again, on another host, where no port is in its way.
            let other = network.host(&format!("other-{name}"), scratch.path())?;
            let node = cluster.node(name)?;
            let (ours, theirs) = (node.host.address().to_string(), other.address().to_string());
            let text = std::fs::read_to_string(scratch.path().join(format!("{name}.toml")))?;
            let text = text
                .replace(&ours, &theirs)
                .replace("[listen]", &format!("[listen]\nlink = \"{theirs}:24400\""));
            let text =
                if role == "edge" { text.replace(&format!("link = \"{theirs}:24400\"\n"), "") } else { text };
            let file = scratch.write(&format!("{name}-again.toml"), text)?;
            let second = || -> Result<Process> {
                let mut command = other.command(weir_binary()?);
                command.arg(role).arg("--config").arg(&file);
                Process::start(&format!("{name}-again"), command, scratch.path())
            };
            let mut refused = second()?;
            let status = refused.wait_exit(LONG)?;
            let said = refused.said()?;
            ensure!(status.code() == Some(1), "{status}: {said}");
            let holder = node.process.pid();
            ensure!(said.contains(&format!("in use by process {holder}")), "{said}");

            // A killed process holds nothing any more: the next one takes over at once.
            node.process.kill_9()?;
            second()?.wait_ready(LONG).context("after the first was killed")?;
        }
        Ok(())
    });
}
