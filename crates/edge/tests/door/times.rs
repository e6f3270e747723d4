//! Deadlines, ages and bounds.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::scene::{Scene, Sender, ack, logged, message, until};

/// With all due acknowledgements written before the end [R60].
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_and_endless_messages_are_closed() {
    let scene = Scene::start("[forward]\nidle_timeout = '1s'\nmessage_timeout = '1s'\n").await;
    let mut idle = scene.tcp().await;
    idle.acked(b'1').await;
    let mut slow = scene.tcp().await;
    let endless = [b"\x93\xa1t\x91\x92\x01\x81\xa1a\xc6\0\0\xff\xff", &[0; 10][..]].concat();
    slow.send(&[message("t", b'2'), endless].concat()).await;
    let began = Instant::now();
    assert_eq!(slow.rest().await, ack(b'2'), "what was whole is acknowledged");
    assert_eq!(idle.rest().await, b"");
    assert!(began.elapsed() >= Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_is_closed_between_two_messages() {
    let scene = Scene::start("[forward]\nmax_connection_age = '1s'\n").await;
    // One that is in the middle of a message when its time comes.
    let (half, rest) = (&message("t", b'h')[..5], &message("t", b'h')[5..]);
    let mut slow = scene.tcp().await;
    slow.send(half).await;
    let mut sender = scene.tcp().await;
    let (mut sent, mut seen) = (0_usize, Vec::new());
    let began = Instant::now();
    // It sends without a pause, and loses nothing but what it is not told of.
    loop {
        assert!(began.elapsed() < Duration::from_secs(20));
        if tokio::io::AsyncWriteExt::write_all(&mut sender.0, &message("t", b'1')).await.is_err() {
            break;
        }
        sent += 1;
        let mut answer = [0; 7];
        match tokio::io::AsyncReadExt::read_exact(&mut sender.0, &mut answer).await {
            Ok(_) => seen.extend(answer),
            Err(_) => break,
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(800), "{:?}", began.elapsed());
    assert_eq!(seen.len() % 7, 0);
    assert!(sent - seen.len() / 7 <= 1 && sent > 10, "{sent} sent, {} acknowledged", seen.len() / 7);
    scene.tcp().await.acked(b'2').await;
    // The longest that its age may be is over as well.
    tokio::time::sleep_until((began + Duration::from_millis(1300)).into()).await;
    slow.send(rest).await;
    assert_eq!(slow.rest().await, ack(b'h'));
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalive_can_be_denied() {
    let scene = Scene::start("[forward]\ndeny_keepalive = true\n").await;
    // What came together with the first is taken too.
    let packed = |chunk| [b"\x93\xa1t\xc4\x03\x92\x01\x80\x81\xa5chunk\xa1", &[chunk][..]].concat();
    let mut sender = scene.tcp().await;
    sender.send(&[packed(b'1'), packed(b'2'), packed(b'3')].concat()).await;
    assert_eq!(sender.rest().await, [ack(b'1'), ack(b'2'), ack(b'3')].concat());
    // And what is on its way when we close, where nobody waits for an answer: at least if the machine keeps up [R60].
    let mut tries = 0;
    while !logged(scene.dir.path()).iter().any(|(tag, _)| tag == "late") {
        assert!(tries < 20, "never taken");
        tries += 1;
        let mut sender = scene.tcp().await;
        sender.acked(b'4').await;
        assert_eq!(sender.rest().await, b"");
        let _ = sender.0.write_all(b"\x93\xa4late\x01\x80").await;
        let _ = sender.0.shutdown().await;
        drop(sender);
        let taken =
            until("it is taken", async || logged(scene.dir.path()).iter().any(|(tag, _)| tag == "late"));
        let _ = tokio::time::timeout(Duration::from_millis(100), taken).await;
    }
}

/// More behind what was refused is no reason for a reset, which may destroy what is due: it is read on for a while [R60, #19].
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_sender_is_not_reset() {
    let scene = Scene::start("").await;
    let mut listened = false;
    // At least if the machine keeps up with the while.
    for _ in 0..10 {
        let mut sender = scene.tcp().await;
        sender.send(&[message("t", b'1'), vec![0xc1; 40 << 10]].concat()).await;
        assert_eq!(sender.rest().await, ack(b'1'));
        // A reset would come soon, and then nothing more can be written.
        let refused = until("a reset", async || sender.0.write_all(b"more").await.is_err());
        listened |= tokio::time::timeout(Duration::from_millis(50), refused).await.is_err();
    }
    assert!(listened);
}

/// Whoever is closed and stays all the same gives its place free soon, be it silent, deaf or loud [R60].
#[tokio::test(flavor = "multi_thread")]
async fn who_is_closed_and_stays_makes_room() {
    let refused = async |scene: &Scene| {
        let mut sender = scene.tcp().await;
        sender.send(b"\xc1").await;
        sender
    };
    let idle = async |scene: &Scene| scene.tcp().await;
    // Far more acknowledgements than sockets and the queue hold.
    let deaf = async |scene: &Scene| {
        let mut sender = scene.tcp().await;
        let chunk = [b"\x93\xa1t\x90\x81\xa5chunk\xda\x03\xe8", &[b'1'; 1000][..]].concat();
        for _ in 0..40 {
            sender.send(&chunk.repeat(500)).await;
        }
        sender.send(b"\xc1").await;
        sender
    };
    let freed = async |scene: &Scene, sender: Sender| {
        until("there is room again", async || {
            let mut sender = scene.tcp().await;
            sender.0.write_all(&message("t", b'1')).await.is_ok() && sender.some(7).await == ack(b'1')
        })
        .await;
        drop(sender);
    };
    let one = "[forward]\nmax_connections = 1\n";
    tokio::join!(
        async {
            let scene = Scene::start(one).await;
            freed(&scene, refused(&scene).await).await;
        },
        async {
            let scene = Scene::start(&format!("{one}idle_timeout = '1s'\n")).await;
            freed(&scene, idle(&scene).await).await;
        },
        async {
            let scene = Scene::start(one).await;
            freed(&scene, deaf(&scene).await).await;
        },
        async {
            let scene = Scene::start("").await;
            let mut sender = refused(&scene).await;
            let (block, mut taken) = (vec![0; 1 << 20], 0);
            while sender.0.write_all(&block).await.is_ok() {
                taken += 1;
            }
            assert!(taken < 64, "{taken} MiB are more than sockets hold");
        },
    );
}

/// A sender with another address than `Scene::tcp`'s.
async fn elsewhere(scene: &Scene) -> Sender {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    Sender(Box::new(socket.connect(scene.address().await.parse().unwrap()).await.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_have_bounds() {
    let scene = Scene::start("[forward]\nmax_connections = 3\nmax_connections_per_source = 2\n").await;
    let (mut first, mut second) = (scene.tcp().await, scene.tcp().await);
    first.acked(b'1').await;
    second.acked(b'2').await;
    assert_eq!(scene.tcp().await.rest().await, b"");
    elsewhere(&scene).await.acked(b'3').await;
    drop(first);
    until("there is room again", async || {
        let mut sender = scene.tcp().await;
        let mut byte = [0];
        tokio::io::AsyncWriteExt::write_all(&mut sender.0, &message("t", b'4')).await.is_ok()
            && tokio::io::AsyncReadExt::read(&mut sender.0, &mut byte).await.is_ok_and(|got| got == 1)
    })
    .await;
    second.acked(b'5').await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_slow_drop_and_close() {
    let limit = |action: &str, events: u32| {
        format!(
            "[[forward.limit]]
per = 'connection'
match = 'debug.**'
events = {events}
events_burst = 10
action = '{action}'
"
        )
    };
    let scene = Scene::start(&limit("slow", 50)).await;
    let flood = message("debug.x", b'1').repeat(100);
    let began = Instant::now();
    let mut sender = scene.tcp().await;
    // One read may bring them all as one batch: the debt is paid before the next.
    sender.send(&flood).await;
    sender.expect(&ack(b'1').repeat(100)).await;
    sender.acked(b'2').await;
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());

    scene.listen(&limit("drop", 5)).await.unwrap();
    let mut sender = scene.tcp().await;
    for chunk in 0..100 {
        sender.send(&message("debug.dropped", chunk)).await;
        sender.expect(&ack(chunk)).await;
    }
    let kept = logged(scene.dir.path()).iter().filter(|(tag, _)| tag == "debug.dropped").count();
    assert!((1..100).contains(&kept), "{kept} of 100");
    scene.listen(&limit("close", 5)).await.unwrap();
    let mut sender = scene.tcp().await;
    let mut taken = 0;
    for _ in 0..100 {
        if tokio::io::AsyncWriteExt::write_all(&mut sender.0, &message("debug.x", b'4')).await.is_err() {
            break;
        }
        let mut answer = [0; 7];
        if tokio::io::AsyncReadExt::read_exact(&mut sender.0, &mut answer).await.is_err() {
            break;
        }
        taken += 1;
    }
    assert!((10..100).contains(&taken), "{taken}");
    // Other tags are not concerned.
    scene.tcp().await.acked(b'5').await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_owes_pays_on_all_its_connections() {
    let scene =
        Scene::start("[[forward.limit]]\nper = 'source'\nevents = 20\nevents_burst = 10\naction = 'slow'\n")
            .await;
    let (mut one, mut other) = (scene.tcp().await, scene.tcp().await);
    one.acked(b'1').await;
    other.acked(b'2').await;
    let began = Instant::now();
    one.send(&message("t", b'3').repeat(60)).await;
    one.expect(&ack(b'3')).await;
    elsewhere(&scene).await.acked(b'4').await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // Fifty of them have to be waited for, and they come before this one.
    other.acked(b'5').await;
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_too_often_is_left_to_wait() {
    let scene = Scene::start(
        "[[forward.limit]]\nper = 'source'\nconnections = 1\nconnections_burst = 1\naction = 'close'\n",
    )
    .await;
    let mut first = scene.tcp().await;
    first.acked(b'1').await;
    // The first of these may pass yet.
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(scene.tcp().await);
    }
    let began = Instant::now();
    assert_eq!(others.pop().unwrap().rest().await, b"");
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    first.acked(b'2').await;
    elsewhere(&scene).await.acked(b'3').await;
}

/// A batch that cannot be stored in time is answered with a close: neither late, nor with anything else, nor never
/// [R41, R42, R44, #18].
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_stored_in_time_is_not_acknowledged() {
    let scene = Scene::with_group("quota = '64MiB'", "[forward]\nack_deadline = '1s'\n").await;
    let mut sender = scene.tcp().await;
    let body = vec![0; 1 << 20];
    let mut large =
        [b"\x93\xa1t\x91\x92\x01\x81\xa1a\xc6\0\x10\0\0", &body[..], b"\x81\xa5chunk\xa11"].concat();
    let mut acknowledged = 0;
    let began = loop {
        // Another payload each time, or it would be taken for a sender's retry.
        large[100] = acknowledged;
        let began = Instant::now();
        if tokio::io::AsyncWriteExt::write_all(&mut sender.0, &large).await.is_err() {
            break began;
        }
        // Whole, or nothing at all.
        match sender.some(7).await {
            answer if answer.is_empty() => break began,
            answer => assert_eq!(answer, ack(b'1')),
        }
        acknowledged += 1;
        assert!(acknowledged < 100, "the quota holds no such amount");
    };
    assert!(acknowledged > 10, "{acknowledged}");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(15), "{took:?}");
}

/// What is known never to be stored is answered at once, not when its time is over [R41].
#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_ends_its_connection() {
    let scene = Scene::with_group(
        "quota = '64MiB'\noverflow = 'drop_oldest'\nack = 'store'",
        "[[listener]]\nname = 'patient'\naddress = '127.0.0.1:0'\n\
         [[listener]]\nname = 'quick'\naddress = '127.0.0.2:0'\nack = 'edge'\n",
    )
    .await;
    let mut patient = scene.tcp().await;
    patient.send(&message("t", b'1')).await;
    let address = scene.edge.listeners().await[1].1.clone();
    let mut quick = Sender(Box::new(tokio::net::TcpStream::connect(address).await.unwrap()));
    let closed = tokio::spawn(async move { patient.rest().await });
    let body = vec![0; 1 << 20];
    let mut large =
        [b"\x93\xa1t\x91\x92\x01\x81\xa1a\xc6\0\x10\0\0", &body[..], b"\x81\xa5chunk\xa12"].concat();
    while !closed.is_finished() {
        // Another payload each time; long before it is the first again, the quota is used up.
        large[100] = large[100].checked_add(1).expect("it is dropped");
        quick.send(&large).await;
        quick.expect(&ack(b'2')).await;
    }
    assert_eq!(closed.await.unwrap(), b"", "not acknowledged");
}

/// Who finishes a message that is larger than its share of memory has others wait, and must not wait itself.
#[tokio::test(flavor = "multi_thread")]
async fn who_finishes_beyond_its_share_and_falls_silent_is_closed() {
    let scene = Scene::start("[forward]\nmemory = '32MiB'\n").await;
    // Of 16 MiB one connection may hold 7, and this one stops at 9 of 12.
    let mut silent = scene.tcp().await;
    silent.send(&[b"\x92\xa1t\xc6\0\xc0\0\0", &vec![0xc0; 9 << 20][..]].concat()).await;
    let mut modest = scene.tcp().await;
    modest.send(&[b"\x92\xa1t\xc6\0\xc0\0\0", &[0xc0; 1000][..]].concat()).await;
    let began = Instant::now();
    assert_eq!(silent.rest().await, b"");
    let took = began.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(20), "{took:?}");
    // Within its share nobody is closed for it.
    modest.send(b"\xc0").await;
    assert!(tokio::time::timeout(Duration::from_millis(100), modest.rest()).await.is_err());
}
