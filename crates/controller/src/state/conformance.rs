//! What every state does. A member's tests call [`run`] with one that is empty, and again after it was reopened
//! call [`run_reopened`].

use super::{Change, State, StateError, VALUE_BYTES_MAX};

/// Runs through all that a state promises.
///
/// # Panics
/// When a promise is broken.
pub async fn run(state: &dyn State) {
    absent_and_present(state).await;
    all_or_nothing(state).await;
    in_order(state).await;
    bounded(state).await;
    one_of_many_wins(state).await;
}

/// What [`run`] left is still there.
///
/// # Panics
/// When it is not.
pub async fn run_reopened(state: &dyn State) {
    assert_eq!(get(state, "a/1").await.as_deref(), Some(b"one".as_slice()));
    assert_eq!(keys(state, "n/", None, 100).await.len(), 12);
}

async fn get(state: &dyn State, key: &str) -> Option<Vec<u8>> {
    state.get(key).await.expect("it can be read")
}

async fn keys(state: &dyn State, prefix: &str, before: Option<&str>, limit: usize) -> Vec<String> {
    let found = state.newest(prefix, before, limit).await.expect("it can be read");
    found.into_iter().map(|(key, _)| key).collect()
}

async fn absent_and_present(state: &dyn State) {
    assert_eq!(get(state, "a/1").await, None);
    state.commit(Change::new().absent("a/1").put("a/1", "one")).await.expect("nothing is there yet");
    assert_eq!(get(state, "a/1").await.as_deref(), Some(b"one".as_slice()));
    let again = state.commit(Change::new().absent("a/1").put("a/1", "two")).await;
    assert!(matches!(&again, Err(StateError::Conflict { key }) if key == "a/1"), "{again:?}");
    assert_eq!(get(state, "a/1").await.as_deref(), Some(b"one".as_slice()));
    // No value is a value.
    state.commit(Change::new().put("a/2", Vec::new())).await.expect("an empty value");
    assert_eq!(get(state, "a/2").await, Some(Vec::new()));
    state.commit(Change::new().unchanged("a/2", Vec::new()).remove("a/2")).await.expect("it is empty");
    assert_eq!(get(state, "a/2").await, None);
    state.commit(Change::new().remove("a/2")).await.expect("removing nothing is nothing");
}

async fn all_or_nothing(state: &dyn State) {
    state.commit(Change::new().put("b/1", "x").put("b/2", "y")).await.expect("both");
    let change = Change::new()
        .unchanged("b/1", "x")
        .unchanged("b/2", "z")
        .put("b/1", "w")
        .put("b/3", "w")
        .remove("b/2");
    let refused = state.commit(change).await;
    assert!(matches!(&refused, Err(StateError::Conflict { key }) if key == "b/2"), "{refused:?}");
    assert_eq!(get(state, "b/1").await.as_deref(), Some(b"x".as_slice()));
    assert_eq!(get(state, "b/3").await, None);
    let missing = state.commit(Change::new().unchanged("b/9", "x").put("b/9", "y")).await;
    assert!(matches!(missing, Err(StateError::Conflict { .. })), "{missing:?}");
    let change = Change::new().unchanged("b/1", "x").unchanged("b/2", "y").put("b/1", "w").remove("b/2");
    state.commit(change).await.expect("all is as demanded");
    assert_eq!(get(state, "b/1").await.as_deref(), Some(b"w".as_slice()));
    assert_eq!(get(state, "b/2").await, None);
}

async fn in_order(state: &dyn State) {
    for number in 1..=12 {
        state
            .commit(Change::new().put(format!("n/{number:04}"), number.to_string()))
            .await
            .expect("it is written");
    }
    state.commit(Change::new().put("m/9999", "").put("n0", "").put("o/0000", "")).await.expect("neighbours");
    assert_eq!(keys(state, "n/", None, 3).await, ["n/0012", "n/0011", "n/0010"]);
    assert_eq!(keys(state, "n/", Some("n/0010"), 2).await, ["n/0009", "n/0008"]);
    assert_eq!(keys(state, "n/", Some("n/0002"), 9).await, ["n/0001"]);
    assert_eq!(keys(state, "n/", Some("n/0001"), 9).await, [""; 0]);
    assert_eq!(keys(state, "n/", None, 100).await.len(), 12);
    assert_eq!(keys(state, "none/", None, 100).await, [""; 0]);
}

async fn bounded(state: &dyn State) {
    let large = vec![7; VALUE_BYTES_MAX];
    state.commit(Change::new().put("large", large.clone())).await.expect("the largest value");
    assert_eq!(get(state, "large").await, Some(large));
    let refused = state.commit(Change::new().put("larger", vec![7; VALUE_BYTES_MAX + 1])).await;
    assert!(matches!(refused, Err(StateError::TooLarge { .. })), "{refused:?}");
    state.commit(Change::new().remove("large")).await.expect("it goes");
}

async fn one_of_many_wins(state: &dyn State) {
    let tries = (0..8).map(|n| state.commit(Change::new().absent("race").put("race", n.to_string())));
    let outcomes = futures_util::future::join_all(tries).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
}
