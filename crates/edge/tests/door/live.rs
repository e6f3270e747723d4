//! Settings change while senders are connected.

use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};

use weir_telemetry::{Totals, names};

use crate::scene::{Scene, Sender, ack, message, until};

const ONE_BYTE_A_SECOND: &str =
    "[[forward.limit]]\nname = 'tiny'\nper = 'connection'\nevents = 1\naction = 'close'\n";

#[tokio::test(flavor = "multi_thread")]
async fn connections_outlive_a_change_and_follow_it() {
    let scene = Scene::start("").await;
    let address = scene.address().await;
    let mut old = scene.tcp().await;
    old.acked(b'1').await;
    scene
        .listen("[[listener]]\nname = 'main'\n[[listener]]\nname = 'more'\naddress = '127.0.0.1:0'\n")
        .await
        .unwrap();
    assert_eq!(scene.address().await, address, "the first is still where it was, with its port");
    old.acked(b'2').await;
    let more = scene.edge.listeners().await[1].1.clone();
    let mut there = Sender(Box::new(TcpStream::connect(&more).await.unwrap()));
    there.acked(b'3').await;

    // A limit that was not there when it connected.
    scene.listen(ONE_BYTE_A_SECOND).await.unwrap();
    until("the second listener is closed", async || TcpStream::connect(&more).await.is_err()).await;
    assert_eq!(there.rest().await, b"", "closed between two messages");
    // What is left lets a batch of any size pass, once.
    old.send(&message("t", b'4').repeat(30)).await;
    old.expect(&ack(b'4')).await;
    old.send(&message("t", b'4').repeat(30)).await;
    let seen = old.rest().await.len() / ack(b'4').len();
    assert!(seen < 59, "{seen} acknowledgements");
    scene.listen("").await.unwrap();
    let mut new = scene.tcp().await;
    new.send(&message("t", b'5').repeat(30)).await;
    new.expect(&ack(b'5').repeat(30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_changed_whole_is_not_changed() {
    let scene = Scene::start("").await;
    let address = scene.address().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "[[listener]]\nname = 'new'\naddress = '127.0.0.1:0'\n[[listener]]\nname = 'taken'\naddress = '{}'\n",
        taken.local_addr().unwrap()
    );
    let error = scene.listen(&text).await.unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    assert_eq!(scene.edge.listeners().await.len(), 1);
    assert_eq!(scene.address().await, address);
    scene.tcp().await.acked(b'1').await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_edge_takes_what_was_sent() {
    let scene = Scene::start("").await;
    let mut idle = scene.tcp().await;
    let mut busy = scene.tcp().await;
    busy.acked(b'0').await;
    // Half a message now, the rest when the edge has been told to stop.
    let last = message("t", b'1');
    busy.send(&last[..5]).await;
    idle.acked(b'i').await;
    let stopping = tokio::spawn(scene.edge.stop());
    assert_eq!(idle.rest().await, b"");
    busy.send(&last[5..]).await;
    assert_eq!(busy.rest().await, ack(b'1'));
    stopping.await.unwrap();
}

/// Whoever drains says no more that it is well, while it still takes what was begun [R58].
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_answers_no_heartbeats() {
    const LISTENER: &str = "[[listener]]\nname = 'other'\naddress = '127.0.0.2:0'\n";
    // What is done, and whether connections end with it.
    for (change, closes) in
        [("the edge stops", true), ("its listener is taken out", true), ("heartbeats are turned off", false)]
    {
        let scene = Scene::start(LISTENER).await;
        let address = scene.address().await;
        let heartbeat = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        heartbeat.connect(&address).await.unwrap();
        // An answer, or the word that the port is closed.
        let ask = async || {
            heartbeat.send(b"").await?;
            match tokio::time::timeout(Duration::from_millis(200), heartbeat.recv(&mut [0; 8])).await {
                Ok(got) => got.map(|got| got == 1),
                Err(_) => Ok(false),
            }
        };
        until("an answer", async || matches!(ask().await, Ok(true))).await;
        let mut busy = Sender(Box::new(TcpStream::connect(&address).await.unwrap()));
        let last = message("t", b'1');
        busy.send(&[&message("t", b'0'), &last[..5]].concat()).await;
        busy.expect(&ack(b'0')).await;
        match change {
            "the edge stops" => drop(tokio::spawn(scene.edge.stop())),
            "its listener is taken out" => scene.listen("").await.unwrap(),
            _ => scene.listen(&format!("{LISTENER}heartbeat = false\n")).await.unwrap(),
        }
        until(change, async || ask().await.is_err()).await;
        if closes {
            until(change, async || TcpStream::connect(&address).await.is_err()).await;
        }
        busy.send(&last[5..]).await;
        busy.expect(&ack(b'1')).await;
    }
}

/// At the same address it is the same listener: its connections stay, and count from then on under its new name.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_listener_counts_under_its_new_name() {
    let called = |name: &str| {
        format!(
            "[forward]
chunk_size_warn_limit = '1KiB'
[[forward.limit]]
name = 'few'
per = 'connection'
match = 'debug.**'
events = 1
action = 'drop'
[[listener]]
name = '{name}'
address = '127.0.0.2:0'
"
        )
    };
    let counts = |name: &str| {
        let totals = Totals::now();
        let limited = totals.of(&names::FORWARD_LIMITED_TOTAL, [name, "few", "drop"]);
        let dropped = totals.of(&names::FORWARD_DROPPED_EVENTS_TOTAL, [name, "few"]);
        (totals.of(&names::FORWARD_REFUSED_TOTAL, [name, "large_chunk"]), limited, dropped)
    };
    let large = [b"\x94\xa1t\x01\x81\xa1a\xc5\x04\0", &[7; 1024][..], b"\x81\xa5chunk\xa1l"].concat();
    let scene = Scene::start(&called("one")).await;
    let address = scene.address().await;
    let mut old = scene.tcp().await;
    let mut before = (0.0, 0.0, 0.0);
    for (name, each) in [("one", 1.0), ("another", 2.0)] {
        scene.listen(&called(name)).await.unwrap();
        assert_eq!(scene.edge.listeners().await, [(name.to_owned(), address.clone())]);
        let mut new = scene.tcp().await;
        for sender in [&mut old, &mut new].into_iter().take(each as usize) {
            sender.send(&large).await;
            sender.expect(&ack(b'l')).await;
            let (_, seen, _) = counts(name);
            until(name, async || {
                sender.send(&message("debug.x", b'd')).await;
                sender.expect(&ack(b'd')).await;
                counts(name).1 > seen
            })
            .await;
        }
        let (large, limited, dropped) = counts(name);
        assert!(large == each && limited == dropped && limited >= each, "{name}: {:?}", counts(name));
        if name == "one" {
            before = counts(name);
        }
    }
    assert_eq!(counts("one"), before);
}
