//! TCP, TLS, Unix sockets, IPv6, PROXY headers, UDP.

use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};

use crate::scene::{Scene, Sender, ack, message, until};

/// Acknowledged once it is on the disk, whole and in order, also to a sender that has closed its half, and with no chunk
/// the connection stays open [R4, R38, R39, R40, #21].
#[tokio::test(flavor = "multi_thread")]
async fn plain_tcp_and_a_sender_that_closes_its_half() {
    let scene = Scene::start("").await;
    let mut sender = scene.tcp().await;
    sender.send(b"\x93\xa1t\x01\x80").await;
    sender.acked(b'1').await;
    // Pipelined, then half closed: both are acknowledged before the end.
    sender.send(&[message("t", b'2'), message("u", b'3')].concat()).await;
    tokio::io::AsyncWriteExt::shutdown(&mut sender.0).await.unwrap();
    assert_eq!(sender.rest().await, [ack(b'2'), ack(b'3')].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_and_without_certificates_of_senders() {
    let files = "cert = '{dir}/tls/edge-1.crt'\nkey = '{dir}/tls/edge-1.key'\n";
    let scene = Scene::start(&format!("[forward.tls]\n{files}")).await;
    let (mut sender, _) = scene.tls(None).await.unwrap();
    for chunk in 0..20 {
        sender.acked(chunk).await;
    }
    // Somebody who speaks plainly is no sender here, and disturbs nobody.
    let mut plain = scene.tcp().await;
    plain.send(&message("t", b'x')).await;
    assert!(!plain.rest().await.windows(3).any(|window| window == b"ack"));
    sender.acked(b'2').await;

    let mutual = Scene::start(&format!("[forward.tls]\n{files}client_ca = '{{dir}}/tls/ca.crt'\n")).await;
    mutual.tls(Some("client")).await.unwrap().0.acked(b'1').await;
    match mutual.tls(None).await {
        Ok(_) => panic!("a sender without a certificate came in"),
        Err(error) => assert!(error.to_string().contains("ertificate"), "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_used_for_new_connections() {
    let scene = Scene::start("").await;
    let put = |scene: &Scene, name: &str| {
        let issued = scene.issue(name);
        std::fs::copy(&issued.key, scene.path("door.key")).unwrap();
        std::fs::copy(&issued.cert, scene.path("door.crt")).unwrap();
        std::fs::read_to_string(issued.cert).unwrap()
    };
    let first = put(&scene, "first");
    scene.listen("[forward.tls]\ncert = '{dir}/door.crt'\nkey = '{dir}/door.key'\n").await.unwrap();
    let (mut old, seen) = scene.tls(None).await.unwrap();
    assert_eq!(seen, first);
    old.acked(b'1').await;
    let second = put(&scene, "second");
    until("the new certificate is shown", async || scene.tls(None).await.unwrap().1 == second).await;
    old.acked(b'2').await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_and_ipv6() {
    let scene = Scene::start(
        "[[listener]]\nname = 'six'\naddress = '[::1]:0'\n[[listener]]\nname = 'unix'\nunix = '{dir}/s/weir.sock'\nmode = '0600'\n",
    )
    .await;
    assert!(scene.address().await.starts_with("[::1]:"), "{}", scene.address().await);
    scene.tcp().await.acked(b'6').await;
    scene.unix("s/weir.sock").await.acked(b'u').await;
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(scene.path("s/weir.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    scene.edge.stop().await;
    assert!(!scene.dir.path().join("s/weir.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_killed_process_left_is_replaced() {
    let scene = Scene::start("").await;
    drop(std::os::unix::net::UnixListener::bind(scene.path("left.sock")).unwrap());
    let text = "[[listener]]\nname = 'unix'\nunix = '{dir}/left.sock'\n";
    scene.listen(text).await.unwrap();
    scene.unix("left.sock").await.acked(b'u').await;
    let alive = std::os::unix::net::UnixListener::bind(scene.path("alive.sock")).unwrap();
    let error = scene.listen("[[listener]]\nname = 'u'\nunix = '{dir}/alive.sock'\n").await.unwrap_err();
    assert!(error.to_string().contains("alive.sock"), "{error}");
    drop(alive);
    scene.unix("left.sock").await.acked(b'v').await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_load_balancers() {
    let scene = Scene::start("[forward]\nproxy_protocol = ['127.0.0.0/8']\ndeny = ['192.0.2.0/24']\n").await;
    let mut sender = scene.tcp().await;
    sender.send(b"PROXY TCP4 198.51.100.7 127.0.0.1 4000 24224\r\n").await;
    sender.acked(b'1').await;
    let mut sender = scene.tcp().await;
    // Version 2, in pieces, with a message in the last.
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x7f\0\0\x01\x0f\xa0\x5e\xa0";
    sender.send(&header[..9]).await;
    sender.send(&[&header[9..], &message("t", b'2')[..]].concat()).await;
    sender.expect(&ack(b'2')).await;
    // The balancer's own check.
    let mut sender = scene.tcp().await;
    sender.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await;
    sender.acked(b'3').await;
    // A sender that may not come in, whoever brings it; and no header at all.
    let mut denied = scene.tcp().await;
    denied.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 24224\r\n").await;
    assert_eq!(denied.rest().await, b"");
    let mut bare = scene.tcp().await;
    bare.send(&message("t", b'4').repeat(2)).await;
    assert_eq!(bare.rest().await, b"");
}

/// [R58, R59, #22]
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_answered_from_where_they_went() {
    let scene = Scene::start("[[listener]]\nname = 'any'\naddress = '0.0.0.0:0'\n").await;
    let port = scene.address().await.rsplit(':').next().unwrap().to_owned();
    // An address that is not the one the kernel would choose for an answer.
    let to = format!("127.0.0.2:{port}");
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(&to).await.unwrap();
    for content in [&b""[..], b"\0", b"anything", &[7; 1000]] {
        until("an answer", async || {
            socket.send(content).await.unwrap();
            let mut answer = [9; 8];
            let wait = Duration::from_millis(500);
            match tokio::time::timeout(wait, socket.recv(&mut answer)).await {
                Ok(got) => {
                    assert_eq!((got.unwrap(), answer[0]), (1, 0));
                    true
                }
                Err(_) => false,
            }
        })
        .await;
    }
    // Over TCP a heartbeat is a connection that says nothing.
    for _ in 0..20 {
        drop(TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap());
    }
    Sender(Box::new(TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap())).acked(b'1').await;
}
