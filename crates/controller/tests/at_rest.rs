//! What lies on the disk: no token, no secret; and all of it can be had back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use weir_controller::backup::{RestoreError, restore};
use weir_controller::desk::Desk;
use weir_controller::state::{Change, Embedded, State};
use weir_controller::tokens::Role;

const SECRET: &str = "hunter2-and-more";

fn topology(password: &str) -> String {
    format!(
        "version = 1\n[cluster]\nname = \"test\"\n[[edge]]\nname = \"edge-1\"\nrack = \"r1\"\n[[group]]\nid = \"app\"\n\
         sink = [{{ name = \"app-1\", rack = \"r1\", address = \"127.0.0.1:1\" }}]\n\
         [group.store]\nkind = \"kafka\"\nbrokers = [\"k:1\"]\n[group.store.options]\n\"sasl.password\" = {password}\n\
         [[route]]\nmatch = \"**\"\ngroups = [\"app\"]\n"
    )
}

fn open(path: &Path) -> Arc<Embedded> {
    Arc::new(Embedded::open(path).unwrap())
}

fn desk(state: &Arc<Embedded>) -> Desk {
    Desk::new(state.clone(), Box::new(|_| Ok(())))
}

/// A state with two revisions and two tokens, and the tokens.
async fn filled(state: &Arc<Embedded>) -> [String; 2] {
    let desk = desk(state);
    let (_, admin) = desk.create_token("ada-the-admin", Role::Admin, "test").await.unwrap();
    let (_, viewer) = desk.create_token("view", Role::Viewer, "test").await.unwrap();
    desk.upload(&topology("{ env = \"PASSWORD\" }"), "first", "ada").await.unwrap();
    desk.upload(&topology("{ file = \"/run/password\" }"), "second", "ada").await.unwrap();
    desk.upload(&topology(&format!("\"{SECRET}\"")), "third", "ada").await.unwrap_err();
    [admin, viewer]
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn neither_tokens_nor_secrets_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("controller.redb");
    let state = open(&path);
    let tokens = filled(&state).await;
    let mut texts = Vec::new();
    for number in 1..=2 {
        let packed = state.get(&format!("text/{number:012}")).await.unwrap().unwrap();
        texts.push(weir_agent::talk::unpack(&packed).unwrap());
    }
    assert_eq!(state.get("text/000000000003").await.unwrap(), None);
    drop(state);
    let bytes = std::fs::read(&path).unwrap();
    // The search finds what is there: names are no secrets.
    assert!(holds(&bytes, "ada-the-admin") && texts[0].contains("PASSWORD"));
    for token in &tokens {
        let secret = token.splitn(3, '_').nth(2).unwrap();
        assert!(!holds(&bytes, &secret[..12]), "a token lies on the disk");
    }
    assert!(!holds(&bytes, SECRET) && texts.iter().all(|text| !text.contains(SECRET)));
}

#[tokio::test]
async fn a_backup_brings_all_of_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(&dir.path().join("controller.redb"));
    let [admin, viewer] = filled(&state).await;
    let desk = desk(&state);
    let text = desk.backup("ada").await.unwrap();
    for secret in [SECRET, &admin, &viewer] {
        assert!(!text.contains(secret));
    }

    let again = open(&dir.path().join("again.redb"));
    let entries = restore(again.as_ref(), &text).await.unwrap();
    // As after a crash in the middle of it: what is there is right, the rest follows.
    again.commit(Change::new().remove("text/000000000002")).await.unwrap();
    assert_eq!(restore(again.as_ref(), &text).await.unwrap(), entries);
    let restored = self::desk(&again);
    assert_eq!(restored.revisions(None, 9).await.unwrap(), desk.revisions(None, 9).await.unwrap());
    assert_eq!(restored.text(2).await.unwrap(), desk.text(2).await.unwrap());
    assert_eq!(restored.audit(None, 99).await.unwrap(), desk.audit(None, 99).await.unwrap());
    // Tokens are read by whoever leads.
    let until_known = async {
        while restored.recognise(&admin).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = restored.run(CancellationToken::new()) => panic!("it leads for ever"),
        known = tokio::time::timeout(Duration::from_secs(60), until_known) => known.unwrap(),
    }
    assert_eq!(restored.recognise(&admin).unwrap().role, Role::Admin);
    assert_eq!(restored.recognise(&viewer).unwrap().role, Role::Viewer);
    // It goes on from there.
    let next = restored.upload(&topology("{ env = \"P\" }"), "", "ada").await.unwrap();
    assert_eq!(next.revision.number, 3);
    let refused = restore(again.as_ref(), &text).await;
    assert!(matches!(refused, Err(RestoreError::NotEmpty(_))), "{refused:?}");
}

#[tokio::test]
async fn a_damaged_backup_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(&dir.path().join("controller.redb"));
    filled(&state).await;
    let text = desk(&state).backup("ada").await.unwrap();
    let empty = open(&dir.path().join("empty.redb"));
    let (half, _) = text.split_at(text.len() / 2);
    let lost = text.split_inclusive('\n').enumerate().filter(|(line, _)| *line != 2).map(|(_, line)| line);
    for damaged in [
        String::new(),
        "{}".to_owned(),
        half.to_owned(),
        lost.collect(),
        text.replacen("token/", "tokin/", 1),
    ] {
        let refused = restore(empty.as_ref(), &damaged).await;
        assert!(matches!(refused, Err(RestoreError::Text(_))), "{refused:?}");
    }
    assert_eq!(empty.newest("", None, 9).await.unwrap(), []);
}
