//! Shared keys and users, over a socket.

use std::time::Duration;

use sha2::{Digest, Sha512};

use weir_telemetry::{Totals, names};

use crate::scene::{Scene, Sender, message, until};

const SECURITY: &str = r#"
    [forward]
    handshake_timeout = "1s"
    [forward.security]
    self_hostname = "door"
    shared_key = { file = "{dir}/key" }
    [[forward.security.user]]
    username = "ada"
    password = "hush"
"#;

fn digest(parts: &[&[u8]]) -> String {
    format!("{:x}", parts.iter().fold(Sha512::new(), |sha, part| sha.chain_update(part)).finalize())
}

fn text(text: &str) -> Vec<u8> {
    [&[0xd9, text.len() as u8], text.as_bytes()].concat()
}

/// Answers the HELO with this key and password.
async fn ping(sender: &mut Sender, key: &str, password: &str) -> Vec<u8> {
    let mut hello = [0; 65];
    tokio::io::AsyncReadExt::read_exact(&mut sender.0, &mut hello).await.unwrap();
    assert_eq!(&hello[..6], b"\x92\xa4HELO");
    let after = |name: &[u8]| {
        let at = hello.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 2;
        hello[at..at + 16].to_vec()
    };
    let (nonce, auth) = (after(b"nonce"), after(b"auth"));
    let salt = b"0123456789abcdef";
    let key_digest = digest(&[salt, b"client", &nonce, key.as_bytes()]);
    let password = digest(&[&auth, b"ada", password.as_bytes()]);
    let ping = [
        &b"\x96\xa4PING"[..],
        &text("client"),
        b"\xb0",
        salt,
        &text(&key_digest),
        &text("ada"),
        &text(&password),
    ];
    sender.send(&ping.concat()).await;
    let server = digest(&[salt, b"door", &nonce, key.as_bytes()]);
    [&b"\x95\xa4PONG\xc3\xa0\xa4door"[..], &text(&server)].concat()
}

async fn scene() -> Scene {
    let scene = Scene::start("").await;
    std::fs::write(scene.path("key"), "open sesame\n").unwrap();
    scene.listen(SECURITY).await.unwrap();
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_the_key_comes_in() {
    let scene = scene().await;
    let mut sender = scene.tcp().await;
    let pong = ping(&mut sender, "open sesame", "hush").await;
    sender.expect(&pong).await;
    sender.acked(b'1').await;
    for (key, password, reason) in
        [("wrong", "hush", "shared_key mismatch"), ("open sesame", "wrong", "username/password mismatch")]
    {
        let mut sender = scene.tcp().await;
        ping(&mut sender, key, password).await;
        // Messages behind the PING are never looked at, and more than is read at once is no reason for a reset [R57, R60].
        sender.send(&message("t", b'x').repeat(2000)).await;
        let expected =
            [&b"\x95\xa4PONG\xc2"[..], &[0xa0 | reason.len() as u8], reason.as_bytes(), b"\xa0\xa0"].concat();
        assert_eq!(sender.rest().await, expected, "{reason}");
    }
    sender.acked(b'2').await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_not_waited_for() {
    let scene = scene().await;
    let mut silent = scene.tcp().await;
    let mut event = scene.tcp().await;
    event.send(&message("t", b'x')).await;
    let rest = event.rest().await;
    assert!(rest.windows(4).any(|window| window == b"PONG"), "{rest:?}");
    let began = std::time::Instant::now();
    let hello = silent.rest().await;
    assert_eq!(hello.len(), 65, "a HELO and no more");
    assert!(began.elapsed() < Duration::from_secs(15));
    // What one proves is of no use to another [R53].
    let other = scene.tcp().await.some(65).await;
    for (from, to) in [(15, 31), (38, 54)] {
        assert_ne!(hello[from..to], other[from..to], "nonce or salt");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_not_there_changes_nothing() {
    let scene = scene().await;
    let error = scene.listen(&SECURITY.replace("{dir}/key", "{dir}/no-such-key")).await.unwrap_err();
    let whole = format!("{:?}", anyhow_chain(&error));
    assert!(whole.contains("no-such-key"), "{whole}");
    let mut sender = scene.tcp().await;
    let pong = ping(&mut sender, "open sesame", "hush").await;
    sender.expect(&pong).await;
    sender.acked(b'1').await;
}

/// Heartbeats and health checks do nothing but connect and leave [R59].
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_early_is_no_news() {
    let scene = scene().await;
    scene
        .listen(&format!("{SECURITY}[[listener]]\nname = 'visited'\naddress = '127.0.0.2:0'\n"))
        .await
        .unwrap();
    // Seen as it ought to be, and counted.
    let told = || Totals::now().of(&names::FORWARD_REFUSED_TOTAL, ["visited", "invalid_ping"]);
    let mut stranger = scene.tcp().await;
    stranger.send(b"\xc0").await;
    stranger.rest().await;
    until("what is news to be told", async || told() > 0.0).await;
    for _ in 0..10 {
        scene.tcp().await.some(65).await;
    }
    let mut sender = scene.tcp().await;
    let pong = ping(&mut sender, "open sesame", "hush").await;
    sender.expect(&pong).await;
    sender.acked(b'1').await;
    assert_eq!(Totals::now().of(&names::FORWARD_REFUSED_TOTAL, ["visited", "handshake"]), 0.0);
}

fn anyhow_chain(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}
