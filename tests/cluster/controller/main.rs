//! A fleet of real processes under controllers: revisions rolled out under load, broken ones that reach nobody, controllers
//! that are killed, wiped and restored, a leader that dies together with a member of etcd, certificates that change.

#[path = "../reconfigure/broken.rs"]
mod broken;
mod fleet;

use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{EtcdCluster, Process, Scratch, Signal, metric, until};

use fleet::{Fleet, LONG, NODES, good, weir};

/// Group a's keys and its first sink's address, where nothing is special about them.
const KEYS: &str = "quota = \"1GiB\"";
const FIRST: &str = "127.0.0.1:{l1}";

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A fleet at work on its first revision.
fn started(scratch: &Scratch, controllers: usize, keys: &str) -> Result<Fleet> {
    let mut fleet = Fleet::start(scratch, controllers, keys)?;
    fleet.all_connected()?;
    good(fleet.roll_out(&fleet.topology(KEYS, FIRST)?))?;
    for node in &mut fleet.nodes {
        node.wait_ready(LONG)?;
    }
    Ok(fleet)
}

fn stop(fleet: Fleet) -> Result<()> {
    let mut all: Vec<Process> =
        fleet.nodes.into_iter().chain(fleet.controllers.into_iter().flatten()).collect();
    for process in &mut all {
        ensure!(process.stop(LONG)?.success(), "a process did not stop in good order");
    }
    Ok(())
}

#[test]
fn a_fleet_is_changed_from_one_place_and_runs_on_without_it() {
    const SECONDS: u64 = 15;
    Scratch::run("controller", |scratch| {
        let mut fleet = started(scratch, 1, "")?;
        let mut load = fleet.load("steady", SECONDS)?;
        good(fleet.roll_out(&fleet.topology("quota = \"2GiB\"\npart = { age = \"300ms\" }", FIRST)?))?;
        let before = fleet.hashes()?;
        ensure!(before.iter().all(|hash| *hash == before[0]), "{before:?}");
        // People see every node of it, and what it runs.
        let shown = String::from_utf8(fleet.weir_for_people(&["status"])?.stdout)?;
        for (name, role) in NODES {
            let line = shown.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            ensure!(line.contains(role) && line.contains(" 2 "), "{shown}");
        }
        ensure!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");

        // The controller dies, and all that it knew. Nobody notices.
        fleet.kill_controller(0)?;
        fs::remove_dir_all(fleet.data_dir(0))?;
        ensure!(load.wait_exit(LONG)?.success(), "the load failed: {}", load.said()?);
        fleet.verify("steady", SECONDS)?;

        // A new one knows nothing, and is told by hand.
        fleet.control(0)?;
        fleet.all_connected()?;
        ensure!(fleet.hashes()? == before, "a new controller changes nothing by itself");
        let mut load = fleet.load("after", 5)?;
        good(fleet.roll_out(&fleet.topology("quota = \"4GiB\"", FIRST)?))?;
        ensure!(load.wait_exit(LONG)?.success(), "the load failed: {}", load.said()?);
        fleet.verify("after", 5)?;
        ensure!(fleet.hashes()?.iter().all(|hash| *hash != before[0]), "a revision of the new one");
        stop(fleet)
    });
}

/// What only a node can know: a piece of the good text, what stands there instead, and how the roll-out ends. The last one
/// is refused by nobody: its sink falls ill.
const UNFIT: &[(&str, &str, &str, &str)] = &[
    ("an address of another host", "127.0.0.1:", "192.0.2.1:", "a-1 refused"),
    (
        "a listener of another host",
        "[[route]]",
        "[[listener]]\nname = \"x\"\naddress = \"192.0.2.1:1\"\n[[route]]",
        "edge-1 refused",
    ),
    (
        "a certificate that is nowhere",
        "[[route]]",
        "[forward]\ntls = { cert = \"/none\", key = \"/none\" }\n[[route]]",
        "edge-1 refused",
    ),
    (
        "a secret that no edge has",
        "[[route]]",
        "[forward.security]\nshared_key = { env = \"WEIR_NOT_SET\" }\n[[route]]",
        "edge-1 refused",
    ),
    ("a store that cannot be written", "path = \"/", "path = \"/proc/weir/", "a-1 "),
];

#[test]
fn broken_revisions_reach_nobody() {
    const SECONDS: u64 = 40;
    Scratch::run("controller-broken", |scratch| {
        let fleet = started(scratch, 1, "")?;
        let path = fleet.topology(KEYS, FIRST)?;
        let text = fs::read_to_string(&path)?;
        let before = fleet.hashes()?;
        let mut load = fleet.load("steady", SECONDS)?;

        // What a controller can see is refused by it, with its place: nothing is kept, nothing is rolled out.
        for broken in broken::TOPOLOGIES {
            fs::write(&path, broken.of(&text))?;
            let refused = fleet.weir(&["rollout", "start", &path.display().to_string()])?;
            let said = said(&refused);
            ensure!(!refused.status.success() && said.contains("error:"), "{}: {said}", broken.what);
            // There is another edge, and it has that name.
            let why = if broken.what == "this edge is gone" { "two nodes" } else { broken.said };
            ensure!(said.contains(why.trim_start_matches("topology.toml:")), "{}: {said}", broken.what);
        }
        let status: Value = serde_json::from_str(&good(fleet.weir(&["status"]))?)?;
        ensure!(
            status["status"]["rollout"]["id"] == 1 && status["status"]["stable"]["number"] == 1,
            "{status}"
        );

        // The rest shows at the canary, and all go back.
        for (what, from, to, why) in UNFIT {
            fs::write(&path, text.replacen(from, to, 1))?;
            let file = path.display().to_string();
            let refused = fleet.weir(&["rollout", "start", &file, "--settle", "5", "--wait"])?;
            let said = said(&refused);
            ensure!(
                !refused.status.success() && said.contains("\"rolled_back\"") && said.contains(why),
                "{what}: {said}"
            );
            let rollout: Value = serde_json::from_slice(&refused.stdout)?;
            ensure!(rollout["wave"] == 0, "{what} went beyond the canary: {said}");
            until("all on the old revision", LONG, || {
                ensure!(fleet.hashes()? == before, "{what}: not yet");
                Ok(())
            })?;
        }
        ensure!(load.wait_exit(LONG)?.success(), "the load failed: {}", load.said()?);
        fleet.verify("steady", SECONDS)?;
        stop(fleet)
    });
}

#[test]
fn a_leader_and_a_member_of_etcd_die_in_a_roll_out() {
    const SECONDS: u64 = 30;
    Scratch::run("controller-etcd", |scratch| {
        let mut etcd = EtcdCluster::start(&scratch.dir("etcd")?)?;
        // All that it takes: one line.
        let state = format!("state = {{ etcd = {:?} }}", etcd.endpoints());
        let mut fleet = started(scratch, 3, &state)?;
        let before = fleet.hashes()?;
        let leader = fleet.leader()?;

        let mut load = fleet.load("steady", SECONDS)?;
        let file = fleet.topology("quota = \"2GiB\"", FIRST)?.display().to_string();
        let rollout: Value =
            serde_json::from_str(&good(fleet.weir(&["rollout", "start", &file, "--settle", "4"]))?)?;
        until("the canary to run it", LONG, || {
            let rollout: Value = serde_json::from_str(&good(fleet.weir(&["rollout", "status"]))?)?;
            ensure!(rollout["phase"] == "settling" && rollout["wave"] == 0, "{rollout}");
            Ok(())
        })?;
        fleet.kill_controller(leader)?;
        etcd.kill_9(leader)?;

        // Another goes on, the same roll-out; every agent finds it.
        let ended: Value = serde_json::from_str(&good(fleet.weir(&["rollout", "status", "--wait"]))?)?;
        ensure!(ended["id"] == rollout["id"] && ended["phase"] == "done", "{ended}");
        fleet.all_connected()?;
        let after = fleet.hashes()?;
        ensure!(after.iter().all(|hash| *hash == after[0] && *hash != before[0]), "{after:?}");
        ensure!(fleet.leader()? != leader);
        // Nobody who sends has noticed.
        ensure!(load.wait_exit(LONG)?.success(), "the load failed: {}", load.said()?);
        let said = load.said()?;
        let summary: Value =
            serde_json::from_str(said.lines().rev().find(|line| line.starts_with('{')).unwrap_or("{}"))?;
        ensure!(summary["errors"] == 0 && summary["reconnects"] == 0, "{summary}");
        fleet.verify("steady", SECONDS)?;

        // The dead come back and follow.
        etcd.restart(leader)?;
        fleet.control(leader)?;
        fleet.leader()?;
        stop(fleet)
    });
}

#[test]
fn a_wiped_controller_is_restored_from_its_backup() {
    Scratch::run("controller-restored", |scratch| {
        let mut fleet = started(scratch, 1, "")?;
        good(fleet.roll_out(&fleet.topology("quota = \"2GiB\"", FIRST)?))?;
        let before = fleet.hashes()?;
        // While it runs, and kept elsewhere, as a token is.
        let (backup, again) = (scratch.path().join("weir.backup"), scratch.path().join("again.backup"));
        good(fleet.weir(&["controller", "backup", &backup.display().to_string()]))?;
        let token = scratch.path().join("token");
        fs::copy(fleet.token()?, &token)?;
        let config = scratch.path().join("controller-1.toml");
        let restore = || weir(&["controller", "restore", "--config"], &[&config, &backup]);
        ensure!(format!("{:?}", restore()).contains("another process"), "it runs");

        fleet.kill_controller(0)?;
        fs::remove_dir_all(fleet.data_dir(0))?;
        restore()?;
        restore().context("the same backup again is no harm")?;
        fleet.access(scratch.path().join("tls/ca.crt"), Some(token));
        fleet.control(0)?;
        fleet.all_connected()?;
        ensure!(fleet.hashes()? == before);

        // All of it is there: revisions, roll-outs, tokens, and the audit log, which has gone on.
        good(fleet.weir(&["controller", "backup", &again.display().to_string()]))?;
        let entries = |path| -> Result<Vec<String>> {
            let text = fs::read_to_string(path)?;
            Ok(text.lines().filter(|line| line.contains("\"key\"")).map(str::to_owned).collect())
        };
        let (had, has) = (entries(&backup)?, entries(&again)?);
        for kind in ["revision/", "text/", "rollout/", "token/", "audit/"] {
            ensure!(had.iter().any(|entry| entry.contains(&format!("\"{kind}"))), "no {kind} in {had:?}");
        }
        ensure!(had.iter().all(|entry| has.contains(entry)), "{had:?} became {has:?}");
        ensure!(!fleet.data_dir(0).join("admin.token").exists(), "there is an admin token already");
        // It goes on where it was, to revision 3 and back to an old one.
        good(fleet.roll_out(&fleet.topology("quota = \"3GiB\"", FIRST)?))?;
        good(fleet.weir(&["rollout", "start", "--revision", "2", "--settle", "0", "--wait"]))?;
        ensure!(fleet.hashes()? == before);
        stop(fleet)
    });
}

#[test]
fn certificates_change_without_a_restart() {
    Scratch::run("controller-certificates", |scratch| {
        let keys = "api = { cert = \"api/controller-1.crt\", key = \"api/controller-1.key\" }";
        let (tls, api) = (scratch.path().join("tls"), scratch.dir("api")?);
        let own = |dir: &Path| -> Result<()> {
            weir(&["ca", "init"], &[dir])?;
            weir(&["ca", "issue", "--san", "127.0.0.1"], &[dir, "controller-1".as_ref()]).map(drop)
        };
        own(&api)?;
        let mut fleet = Fleet::start(scratch, 1, keys)?;
        fleet.access(api.join("ca.crt"), None);
        fleet.all_connected()?;

        // The API's certificate, of another authority than before.
        let other = scratch.dir("other")?;
        own(&other)?;
        let old_ca = scratch.path().join("old-ca.crt");
        fs::copy(api.join("ca.crt"), &old_ca)?;
        for file in ["ca.crt", "controller-1.crt", "controller-1.key"] {
            fs::copy(other.join(file), api.join(file))?;
        }
        hang_up_controller(&mut fleet)?;
        good(fleet.weir(&["status"]))?;
        fleet.access(old_ca, None);
        let refused = said(&fleet.weir(&["status"])?);
        ensure!(refused.contains("--ca names the authority"), "{refused}");
        fleet.access(api.join("ca.crt"), None);
        good(fleet.roll_out(&fleet.topology(KEYS, FIRST)?))?;
        fleet.nodes.iter_mut().try_for_each(|node| node.wait_ready(LONG).map(drop))?;

        // Another authority for all nodes. Agents that went on with what they began with would be refused after this.
        weir(&["ca", "rotate"], &[&tls])?;
        weir(&["ca", "renew"], &[&tls])?;
        hang_up_controller(&mut fleet)?;
        hang_up_nodes(&mut fleet)?;
        weir(&["ca", "retire"], &[&tls])?;
        hang_up_controller(&mut fleet)?;
        hang_up_nodes(&mut fleet)?;
        fleet.kill_controller(0)?;
        fleet.control(0)?;
        fleet.all_connected()?;

        // A revoked node is shown out at once, and let in with another certificate.
        let connected = |fleet: &Fleet, wanted: bool| {
            until("edge-2 to come or go", LONG, || {
                let agents = fleet.agents()?;
                let edge = agents.iter().find(|agent| agent["name"] == "edge-2");
                let connected = edge.is_some_and(|edge| edge["connected"] == true);
                ensure!(connected == wanted, "connected: {connected}");
                Ok(())
            })
        };
        weir(&["ca", "revoke"], &[&tls, "edge-2".as_ref()])?;
        hang_up_controller(&mut fleet)?;
        connected(&fleet, false)?;
        fleet.nodes[1].wait_for_line("the controller cannot be talked to", LONG)?;
        weir(&["ca", "issue"], &[&tls, "edge-2".as_ref()])?;
        fleet.nodes[1].signal(Signal::HUP)?;
        connected(&fleet, true)?;
        stop(fleet)
    });
}

/// SIGHUP to the controller, and until it shows its certificates anew.
fn hang_up_controller(fleet: &mut Fleet) -> Result<()> {
    let controller = fleet.controllers[0].as_mut().context("it does not run")?;
    let count = |said: String| said.matches("certificates are read again").count();
    let before = count(controller.said()?);
    controller.signal(Signal::HUP)?;
    until("the certificates to be read again", LONG, || {
        ensure!(count(controller.said()?) > before, "not yet");
        Ok(())
    })
}

/// SIGHUP to all nodes, and until each has taken its files up anew.
fn hang_up_nodes(fleet: &mut Fleet) -> Result<()> {
    for node in &mut fleet.nodes {
        let metrics = node.wait_ready(LONG)?.addr("metrics")?;
        let count = || metric(metrics, "weir_config_applied_total", &[]).unwrap_or(0.0);
        let before = count();
        node.signal(Signal::HUP)?;
        until("the files to be read again", LONG, || {
            ensure!(count() > before, "not yet");
            Ok(())
        })?;
    }
    Ok(())
}
