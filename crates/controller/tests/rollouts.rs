//! What reports and time do to a roll-out, as tables of moments.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use jiff::{SignedDuration, Timestamp};
use weir_controller::rollout::{OnFailure, Phase, Policy, RevisionRef, Rollout, Seen, Start, View, Wave};
use weir_model::NodeId;

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
}

fn revision(number: u64) -> RevisionRef {
    RevisionRef { number, hash: format!("h{number}") }
}

/// Words for a node: `old` and `new` run that revision, `refused` runs the old one, `sick` and `erring` run the new one,
/// `gone` is not there.
fn seen(word: &str) -> Seen {
    let run = |number: u64| Seen { connected: true, applied: Some(format!("h{number}")), ..Seen::default() };
    match word {
        "old" => run(1),
        "new" => run(2),
        "refused" => Seen { refused: Some(("h2".into(), "no such broker".into())), ..run(1) },
        "refused-other" => Seen { refused: Some(("h9".into(), "long ago".into())), ..run(1) },
        "sick" => Seen { ailment: Some("store: down".into()), ..run(2) },
        "sick-old" => Seen { ailment: Some("store: down".into()), ..run(1) },
        "erring" => Seen { errors_per_second: 5.0, ..run(2) },
        "erring-old" => Seen { errors_per_second: 4.0, ..run(1) },
        "gone" => Seen { connected: false, ..run(1) },
        _ => panic!("{word}"),
    }
}

fn view(words: &str) -> View {
    words.split_whitespace().zip(["a", "b", "c"]).map(|(word, name)| (node(name), seen(word))).collect()
}

fn start(policy: Policy, from: Option<u64>, words: &str) -> Rollout {
    let wave = |label: &str, names: &[&str]| Wave {
        label: label.into(),
        nodes: names.iter().map(|it| node(it)).collect(),
    };
    let start = Start {
        id: 7,
        to: revision(2),
        from: from.map(revision),
        author: "ada".into(),
        policy,
        waves: vec![wave("canary", &["a"]), wave("all", &["b", "c"])],
    };
    Rollout::start(start, &view(words), at(0))
}

/// Shows the roll-out each moment (second, the words for a, b and c), and compares phase and wave after it.
fn check(policy: Policy, from: Option<u64>, first: &str, moments: &[(i64, &str, &str)]) -> Rollout {
    let mut rollout = start(policy, from, first);
    for (second, words, expected) in moments {
        rollout.step(&view(words), at(*second));
        let now = format!("{} {}", rollout.phase.word(), rollout.wave);
        assert_eq!(now, *expected, "second {second}, {words}: {:?}", rollout.phase);
    }
    rollout
}

fn policy() -> Policy {
    Policy::default()
}

#[test]
fn all_goes_well() {
    let rollout = check(
        policy(),
        Some(1),
        "old old old",
        &[
            (1, "old old old", "applying 0"),
            (2, "new old old", "settling 0"),
            (31, "new old old", "settling 0"),
            (32, "new old old", "applying 1"),
            (33, "new new old", "applying 1"),
            (34, "new new new", "settling 1"),
            (63, "new new new", "settling 1"),
            (64, "new new new", "done 1"),
            (999, "refused gone sick", "done 1"),
        ],
    );
    assert_eq!(rollout.stable(), Some(&revision(2)));
    assert_eq!(rollout.assigned(&node("a-new-node")), Some(&revision(2)));
}

#[test]
fn a_refusal_at_the_canary_goes_no_further() {
    let rollout = check(
        policy(),
        Some(1),
        "old old old",
        &[(1, "refused old old", "rolling back 0"), (2, "refused old old", "rolled back 0")],
    );
    for name in ["a", "b", "c"] {
        assert_eq!(rollout.assigned(&node(name)), Some(&revision(1)));
    }
    let Phase::RolledBack { reason, missing, .. } = &rollout.phase else { panic!() };
    assert_eq!((reason.as_str(), missing.as_slice()), ("a refused: no such broker", [].as_slice()));
    // What it refused long ago is no refusal of this one.
    check(policy(), Some(1), "refused-other old old", &[(1, "refused-other old old", "applying 0")]);
}

#[test]
fn later_waves_are_called_back_too() {
    let moments = [
        (1, "new old old", "settling 0"),
        (31, "new old old", "applying 1"),
        (32, "new new refused", "rolling back 1"),
        (33, "new new refused", "rolling back 1"),
        (34, "old old refused", "rolled back 1"),
    ];
    check(policy(), Some(1), "old old old", &moments);
    // A node that does not come back in time is named, and waited for no longer.
    let late = [
        (1, "new old old", "settling 0"),
        (31, "new old old", "applying 1"),
        (32, "new new refused", "rolling back 1"),
        (151, "old gone refused", "rolling back 1"),
        (152, "old gone refused", "rolled back 1"),
    ];
    let rollout = check(policy(), Some(1), "old old old", &late);
    let Phase::RolledBack { missing, .. } = &rollout.phase else { panic!() };
    assert_eq!(*missing, [node("b")]);
}

#[test]
fn the_first_of_a_fleet_halts_instead() {
    let mut rollout = check(policy(), None, "old old old", &[(1, "refused old old", "halted 0")]);
    assert_eq!(rollout.assigned(&node("b")), None);
    assert!(rollout.roll_back("x".into(), at(2)).unwrap_err().to_string().contains("no earlier revision"));
    rollout.supersede(8, at(3)).unwrap();
    assert_eq!(rollout.phase.word(), "superseded");
}

#[test]
fn failures_of_every_kind() {
    type Case<'a> = (&'a str, &'a [(i64, &'a str, &'a str)], &'a str);
    let table: &[Case<'_>] = &[
        (
            "old old old",
            &[(119, "old old old", "applying 0"), (120, "old old old", "rolling back 0")],
            "within 120 s",
        ),
        (
            "old old old",
            &[(1, "gone old old", "applying 0"), (61, "gone old old", "rolling back 0")],
            "lost for 60 s",
        ),
        (
            "old old old",
            &[
                (1, "sick old old", "applying 0"),
                (15, "sick old old", "applying 0"),
                (16, "sick old old", "rolling back 0"),
            ],
            "unwell: store: down",
        ),
        (
            "old old old",
            &[
                (1, "new old old", "settling 0"),
                (20, "sick old old", "settling 0"),
                (35, "sick old old", "rolling back 0"),
            ],
            "unwell",
        ),
        (
            "old old old",
            &[(1, "erring old old", "applying 0"), (16, "erring old old", "rolling back 0")],
            "5.0 errors/s, 0.0 before",
        ),
        ("gone old old", &[(1, "gone old old", "rolling back 0")], "nothing could be proven"),
    ];
    for (first, moments, reason) in table {
        let rollout = check(policy(), Some(1), first, moments);
        let Phase::RollingBack { reason: said, .. } = &rollout.phase else { panic!() };
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn what_is_no_failure() {
    // A short illness only begins the watch anew.
    let moments = [
        (1, "new old old", "settling 0"),
        (20, "sick old old", "settling 0"),
        (25, "new old old", "settling 0"),
        (49, "new old old", "settling 0"),
        (50, "new old old", "applying 1"),
    ];
    check(policy(), Some(1), "old old old", &moments);
    // Who was unwell or showed errors before says nothing about the revision.
    check(
        policy(),
        Some(1),
        "sick-old old old",
        &[(1, "sick old old", "settling 0"), (31, "sick old old", "applying 1")],
    );
    check(
        policy(),
        Some(1),
        "erring-old old old",
        &[(1, "erring old old", "settling 0"), (31, "erring old old", "applying 1")],
    );
    // A node that was away is not waited for; it gets the revision when it comes back.
    let away = [
        (1, "new old gone", "settling 0"),
        (31, "new old gone", "applying 1"),
        (32, "new new gone", "settling 1"),
        (62, "new new gone", "done 1"),
    ];
    assert_eq!(check(policy(), Some(1), "old old gone", &away).assigned(&node("c")), Some(&revision(2)));
    // One that comes back within its wave must apply it, though.
    let back = [
        (31, "new old gone", "settling 0"),
        (61, "new old gone", "applying 1"),
        (62, "new new gone", "settling 1"),
        (70, "new new refused", "rolling back 1"),
    ];
    check(policy(), Some(1), "old old gone", &back);
    // Some may fail, if the policy says so.
    let one = Policy { failures_max: 1, ..policy() };
    let moments = [
        (1, "new old old", "settling 0"),
        (31, "new old old", "applying 1"),
        (32, "new new refused", "settling 1"),
    ];
    check(one, Some(1), "old old old", &moments);
}

#[test]
fn people_may_hold_it() {
    let approval = Policy { approval: true, ..policy() };
    let moments = [
        (1, "new old old", "settling 0"),
        (31, "new old old", "waiting for approval 0"),
        (900, "new old old", "waiting for approval 0"),
    ];
    let mut rollout = check(approval.clone(), Some(1), "old old old", &moments);
    assert_eq!(rollout.assigned(&node("b")), Some(&revision(1)));
    rollout.approve(&view("new old old"), at(901)).unwrap();
    assert_eq!(rollout.assigned(&node("b")), Some(&revision(2)));
    assert!(rollout.approve(&view("new old old"), at(901)).is_err());
    // A wave that waits is still watched.
    let sick = [
        (1, "new old old", "settling 0"),
        (31, "new old old", "waiting for approval 0"),
        (32, "sick old old", "waiting for approval 0"),
        (47, "sick old old", "rolling back 0"),
    ];
    check(approval, Some(1), "old old old", &sick);

    let mut rollout = check(policy(), Some(1), "old old old", &[(1, "new old old", "settling 0")]);
    assert!(rollout.resume(&view("new old old"), at(2)).is_err());
    rollout.halt("ada: wait".into(), at(2)).unwrap();
    rollout.step(&view("new old old"), at(500));
    assert_eq!(rollout.assigned(&node("a")), Some(&revision(2)), "it keeps what it has");
    assert_eq!(rollout.assigned(&node("b")), Some(&revision(1)));
    rollout.resume(&view("new old old"), at(501)).unwrap();
    assert_eq!((rollout.phase.word(), rollout.attempt), ("applying", 1));
    rollout.roll_back("ada: no".into(), at(502)).unwrap();
    assert_eq!(rollout.assigned(&node("a")), Some(&revision(1)));
    assert!(
        rollout.roll_back("again".into(), at(503)).is_err() && rollout.halt("x".into(), at(503)).is_err()
    );
    assert!(rollout.supersede(8, at(503)).is_err(), "it must end first");
}

#[test]
fn halting_is_a_choice() {
    let halt = Policy { on_failure: OnFailure::Halt, ..policy() };
    let rollout = check(
        halt,
        Some(1),
        "old old old",
        &[(1, "refused old old", "halted 0"), (900, "new new new", "halted 0")],
    );
    assert_eq!(rollout.assigned(&node("b")), Some(&revision(1)));
}

#[test]
fn a_new_leader_goes_on_where_the_old_one_was() {
    let rollout = check(
        policy(),
        Some(1),
        "old old gone",
        &[(1, "new old gone", "settling 0"), (31, "new old gone", "applying 1")],
    );
    let kept = serde_json::to_vec(&rollout).unwrap();
    let read: Rollout = serde_json::from_slice(&kept).unwrap();
    let mut rollout = read.resumed(at(100));
    assert_eq!(rollout.assigned(&node("a")), Some(&revision(2)));
    assert_eq!(rollout.assigned(&node("stranger")), Some(&revision(1)));
    // Nobody has come back yet: that is no failure at once, and c was away before.
    rollout.step(&view("gone gone gone"), at(101));
    assert_eq!(rollout.phase.word(), "applying");
    rollout.step(&view("new new gone"), at(140));
    assert_eq!(rollout.phase.word(), "settling");
    rollout.step(&view("new new gone"), at(170));
    assert_eq!(rollout.phase.word(), "done");
}
