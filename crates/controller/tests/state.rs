//! The same promises of every state. etcd's are in `etcd.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use weir_controller::state::{Change, Embedded, Memory, Standing, State, StateError, conformance};

#[tokio::test]
async fn memory_keeps_the_promises() {
    let state = Memory::default();
    conformance::run(&state).await;
    conformance::run_reopened(&state).await;
    state.set_standing(Standing::Following(None));
    let refused = state.commit(Change::new().put("a", "b")).await;
    assert!(matches!(refused, Err(StateError::NotLeading)), "{refused:?}");
}

#[tokio::test]
async fn a_file_keeps_the_promises() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let state = Embedded::open(&path).unwrap();
    conformance::run(&state).await;
    // A second process would spoil it.
    let Err(StateError::Open { detail, .. }) = Embedded::open(&path) else { panic!("opened twice") };
    assert!(detail.contains("another process"), "{detail}");
    drop(state);
    conformance::run_reopened(&Embedded::open(&path).unwrap()).await;
}

#[tokio::test]
async fn a_file_of_another_kind_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    std::fs::write(&path, "no state at all, but somebody's file").unwrap();
    let Err(StateError::Open { detail, .. }) = Embedded::open(&path) else { panic!("opened") };
    assert!(detail.contains("restore"), "{detail}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "no state at all, but somebody's file");
}
