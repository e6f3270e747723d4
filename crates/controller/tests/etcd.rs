//! The state in a real etcd of three members: the same promises, who leads, and what a dead member does.
//!
//! It takes Debian's `etcd-server` (tests/setup.sh); without an `etcd` to run, these tests say so and pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_controller::backup::{RestoreError, restore};
use weir_controller::desk::Desk;
use weir_controller::state::{Change, Etcd, EtcdSettings, Memory, Standing, State, StateError, conformance};
use weir_tests::EtcdCluster;

const LONG: Duration = Duration::from_secs(60);

/// The members, and the directory that they live in.
fn cluster() -> Option<(tempfile::TempDir, EtcdCluster)> {
    if !EtcdCluster::is_possible() {
        eprintln!("SKIPPED: there is no etcd here; tests/setup.sh installs it");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = EtcdCluster::start(dir.path()).unwrap();
    Some((dir, cluster))
}

fn settings(cluster: &EtcdCluster, api: &str) -> EtcdSettings {
    let endpoints = cluster.endpoints().to_vec();
    EtcdSettings { endpoints, prefix: "/weir-test".into(), tls: None, api: api.into() }
}

async fn until_standing(state: &Etcd, wanted: impl Fn(&Standing) -> bool) -> Duration {
    let began = Instant::now();
    let mut standing = state.standing();
    let met = tokio::time::timeout(LONG, standing.wait_for(|standing| wanted(standing))).await;
    assert!(met.is_ok(), "still {:?}", state.standing().borrow());
    began.elapsed()
}

fn leads(standing: &Standing) -> bool {
    *standing == Standing::Leading
}

fn follows(api: &str) -> impl Fn(&Standing) -> bool {
    move |standing| *standing == Standing::Following(Some(api.to_owned()))
}

/// Tries until one of two leads and has it done; says how long that took, and which it was.
async fn put_by_the_leader<'a>(two: (&'a Etcd, &'a Etcd), key: &str, value: &str) -> (Duration, &'a Etcd) {
    let began = Instant::now();
    loop {
        let mut standings = (two.0.standing(), two.1.standing());
        let one_leads = async {
            tokio::select! {
                _ = standings.0.wait_for(leads) => two.0,
                _ = standings.1.wait_for(leads) => two.1,
            }
        };
        let leader = tokio::time::timeout(LONG, one_leads).await.expect("somebody leads");
        match leader.commit(Change::new().put(key, value)).await {
            Ok(()) => return (began.elapsed(), leader),
            // It may know by the next try that it leads no more, or that it can reach etcd again.
            Err(why @ (StateError::NotLeading | StateError::Unavailable(_))) => {
                assert!(began.elapsed() < LONG, "{why}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_one_killed() {
    let Some((_dir, mut cluster)) = cluster() else { return };
    let first = Etcd::start(settings(&cluster, "https://first")).unwrap();
    until_standing(&first, leads).await;
    conformance::run(&first).await;
    conformance::run_reopened(&first).await;

    // A second controller on the same state follows, and may look but not change.
    let second = Etcd::start(settings(&cluster, "https://second")).unwrap();
    until_standing(&second, follows("https://first")).await;
    assert_eq!(second.get("a/1").await.unwrap().as_deref(), Some(b"one".as_slice()));
    let refused = second.commit(Change::new().put("x", "y")).await;
    assert!(matches!(refused, Err(StateError::NotLeading)), "{refused:?}");

    // A member dies: changes go on, by the same leader or, where that one had asked the dead member to prolong its lease
    // and was too late with the next, by the other.
    cluster.kill_9(0).unwrap();
    let (gap, _) = put_by_the_leader((&first, &second), "after", "a death").await;
    eprintln!("changes went on {gap:?} after a member of etcd was killed");
    assert_eq!(second.get("after").await.unwrap().as_deref(), Some(b"a death".as_slice()));

    // Two of three dead: nothing can be changed, and nobody believes that it leads.
    cluster.kill_9(1).unwrap();
    for controller in [&first, &second] {
        until_standing(controller, |standing| !leads(standing)).await;
        let refused = controller.commit(Change::new().put("x", "y")).await;
        assert!(matches!(refused, Err(StateError::NotLeading | StateError::Unavailable(_))), "{refused:?}");
    }
    cluster.restart(1).unwrap();
    let (_, leader) = put_by_the_leader((&first, &second), "again", "all is well").await;
    assert_eq!(leader.get("after").await.unwrap().as_deref(), Some(b"a death".as_slice()));

    // A leader that goes in good order is followed at once.
    let (name, other, leader) = if std::ptr::eq(leader, &first) {
        ("https://second", second, first)
    } else {
        ("https://first", first, second)
    };
    leader.resign().await;
    let took = until_standing(&other, leads).await;
    eprintln!("{name} leads {took:?} after the leader resigned");
    assert!(took < Duration::from_secs(4), "a watch is quicker than a lease: {took:?}");
}

#[test]
fn a_dead_leader_is_followed_and_changes_nothing_any_more() {
    let Some((_dir, cluster)) = cluster() else { return };
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (life, rest) = (runtime(), runtime());
    let first = life.block_on(async { Etcd::start(settings(&cluster, "https://first")).unwrap() });
    rest.block_on(until_standing(&first, leads));
    let second = rest.block_on(async { Etcd::start(settings(&cluster, "https://second")).unwrap() });
    rest.block_on(until_standing(&second, follows("https://first")));
    // Its tasks stop dead: the lease is not renewed, and not given back.
    life.shutdown_background();
    let took = rest.block_on(until_standing(&second, leads));
    eprintln!("followed {took:?} after the leader died");
    assert!(took < Duration::from_secs(20), "{took:?}");
    // It still believes that it leads. etcd knows better.
    assert!(leads(&first.standing().borrow()));
    let late = rest.block_on(first.commit(Change::new().put("late", "x")));
    assert!(matches!(late, Err(StateError::NotLeading)), "{late:?}");
    assert_eq!(rest.block_on(second.get("late")).unwrap(), None);
    rest.block_on(put_by_the_leader((&second, &second), "in time", "x"));
}

/// The entries of a backup.
fn entries(backup: &str) -> Vec<&str> {
    backup.lines().filter(|line| line.contains("\"key\"")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_into_etcd() {
    let Some((_dir, mut cluster)) = cluster() else { return };
    // More entries than fit into one transaction of etcd, which takes 128 operations.
    let before = Desk::new(Arc::new(Memory::default()), Box::new(|_| Ok(())));
    for revision in 1..=60 {
        let text = format!(
            "version = 1\n[cluster]\nname = \"test\"\n[[edge]]\nname = \"edge-1\"\nrack = \"r1\"\n\
             [[group]]\nid = \"app\"\nquota = \"{revision}GiB\"\n\
             sink = [{{ name = \"app-1\", rack = \"r1\", address = \"127.0.0.1:1\" }}]\n\
             [group.store]\nkind = \"file\"\npath = \"/srv\"\n[[route]]\nmatch = \"**\"\ngroups = [\"app\"]\n"
        );
        before.upload(&text, "", "test").await.unwrap();
    }
    let backup = before.backup("test").await.unwrap();
    assert!(entries(&backup).len() > 128, "{}", entries(&backup).len());

    let state = Arc::new(Etcd::start(settings(&cluster, "https://first")).unwrap());
    until_standing(&state, leads).await;
    // Who follows must not.
    let other = Etcd::start(settings(&cluster, "https://second")).unwrap();
    until_standing(&other, follows("https://first")).await;
    let refused = restore(&other, &backup).await;
    assert!(matches!(refused, Err(RestoreError::State(StateError::NotLeading))), "{refused:?}");
    // A cut or altered one is refused before anything is written.
    for bad in [&backup[..backup.len() / 2], &backup.replacen('A', "B", 1)] {
        assert!(matches!(restore(state.as_ref(), bad).await, Err(RestoreError::Text(_))));
    }
    assert!(state.newest("", None, 1).await.unwrap().is_empty(), "something was written");

    // With one of three dead. A try that fails on the way, as when the lease is lost, is repeated: it goes on with what lacks.
    // Nobody else stands for election by then, as with the lease the lead would go there for good.
    other.resign().await;
    cluster.kill_9(0).unwrap();
    let began = Instant::now();
    let restored = loop {
        match restore(state.as_ref(), &backup).await {
            Ok(restored) => break restored,
            Err(RestoreError::State(why)) => assert!(began.elapsed() < LONG, "{why}"),
            Err(error) => panic!("{error}"),
        }
        until_standing(&state, leads).await;
    };
    assert_eq!(restored, entries(&backup).len());
    assert_eq!(restore(state.as_ref(), &backup).await.unwrap(), restored, "again is no harm");

    // A controller on it knows all that was known, and goes on.
    let after = Desk::new(state.clone(), Box::new(|_| Ok(())));
    let again = after.backup("test").await.unwrap();
    let (had, has) = (entries(&backup), entries(&again));
    assert!(had.iter().all(|entry| has.contains(entry)), "{} entries became {}", had.len(), has.len());
    assert_eq!(after.revision(60).await.unwrap().unwrap().number, 60);
    // And now it is a state with a life of its own.
    let refused = restore(state.as_ref(), &backup).await;
    assert!(matches!(refused, Err(RestoreError::NotEmpty(_))), "{refused:?}");
}
