//! Messages between two ends on loopback, with real certificates.

use std::time::{Duration, Instant};

use crate::common::{Cluster, Pair, localhost, node, pair, soon};
use bytes::Bytes;
use weir_link::{
    CONTROL_BYTES_MAX, CloseReason, Dialer, HEAD_BYTES_MAX, Listener, RecvError, SendError, Settings,
};

const PAYLOAD_MAX: usize = 64 << 20;

/// Bytes that repeat with no power-of-two period, so that a swapped or lost piece shows.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8).collect::<Vec<_>>().into()
}

#[tokio::test]
async fn messages_travel_both_ways() {
    let Pair { edge, sink, dialer: _dialer, listener: _listener } = pair(Settings::default()).await;
    assert_eq!((edge.peer(), sink.peer()), (&node("sink-1"), &node("edge-1")));
    assert!(edge.remote_address().ip().is_loopback() && edge.remote_address().is_ipv4());

    let (mut edge_out, mut edge_in) = edge.open_control().await.unwrap();
    let (mut sink_out, mut sink_in) = soon("control", sink.accept_control()).await.unwrap();
    for size in [0, 1, 5, 100_000] {
        edge_out.send(pattern(size)).await.unwrap();
        assert_eq!(soon("a message", sink_in.recv()).await.unwrap(), Some(pattern(size)));
        sink_out.send(pattern(size + 1)).await.unwrap();
        assert_eq!(soon("a message", edge_in.recv()).await.unwrap(), Some(pattern(size + 1)));
    }

    for number in [0, 7] {
        let mut lane = edge.open_lane(number).await.unwrap();
        let mut end = soon("a lane", sink.accept_lane()).await.unwrap();
        assert_eq!((lane.number(), end.number()), (number, number));
        for (head, payload) in [(0, 0), (3, 0), (0, 9), (200, 300_000)] {
            lane.send(pattern(head), pattern(payload)).await.unwrap();
            let got = soon("a message", end.recv(PAYLOAD_MAX)).await.unwrap();
            assert_eq!(got, Some((pattern(head), pattern(payload))));
        }
        let (finished, ended) = tokio::join!(lane.finish(), end.recv(PAYLOAD_MAX));
        finished.unwrap();
        assert_eq!(ended.unwrap(), None);
    }
    assert!(edge.stats().sent_bytes > 600_000 && edge.stats().rtt > Duration::ZERO);
}

#[tokio::test]
async fn a_message_of_64_mib_arrives_whole() {
    let Pair { edge, sink, dialer: _dialer, listener: _listener } = pair(Settings::default()).await;
    let mut lane = edge.open_lane(1).await.unwrap();
    let payload = pattern(64 << 20);
    let sent = payload.clone();
    let sending = tokio::spawn(async move { lane.send(pattern(10), sent).await });
    let mut end = soon("a lane", sink.accept_lane()).await.unwrap();
    let (head, got) = soon("64 MiB", end.recv(PAYLOAD_MAX)).await.unwrap().unwrap();
    assert_eq!(head, pattern(10));
    assert!(got == payload, "64 MiB differ");
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn oversize_messages_are_refused_on_both_ends() {
    let Pair { edge, sink, dialer: _dialer, listener: _listener } = pair(Settings::default()).await;
    let (mut control, _edge_in) = edge.open_control().await.unwrap();
    let too_long = Bytes::from(vec![0; CONTROL_BYTES_MAX + 1]);
    assert!(matches!(control.send(too_long).await, Err(SendError::Oversize(_))));
    control.send(Bytes::from_static(b"fine")).await.unwrap();
    let (_sink_out, mut sink_in) = soon("control", sink.accept_control()).await.unwrap();
    assert_eq!(soon("a message", sink_in.recv()).await.unwrap().unwrap(), "fine");

    let mut lane = edge.open_lane(1).await.unwrap();
    let too_long = Bytes::from(vec![0; HEAD_BYTES_MAX + 1]);
    assert!(matches!(lane.send(too_long, Bytes::new()).await, Err(SendError::Oversize(_))));
    lane.send(Bytes::new(), pattern(101)).await.unwrap();
    let mut end = soon("a lane", sink.accept_lane()).await.unwrap();
    let error = soon("a refusal", end.recv(100)).await.unwrap_err();
    assert!(matches!(error, RecvError::Oversize(o) if o.declared == 101 && o.limit == 100), "{error}");

    // The sender learns of it; other streams go on.
    let stopped = soon("the stop", async {
        loop {
            if let Err(error) = lane.send(Bytes::new(), pattern(50)).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(matches!(stopped.await, SendError::Stopped(_)));
    control.send(Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(soon("a message", sink_in.recv()).await.unwrap().unwrap(), "still here");
}

#[tokio::test]
async fn a_message_cut_short_is_never_taken_for_whole() {
    let Pair { edge, sink, dialer: _dialer, listener: _listener } = pair(Settings::default()).await;
    let mut lane = edge.open_lane(1).await.unwrap();
    let mut end = soon("a lane", sink.accept_lane()).await.unwrap();
    // More than the windows hold, and nobody reads: the send cannot end, and is dropped in the middle.
    let send = lane.send(pattern(10), pattern(PAYLOAD_MAX));
    assert!(tokio::time::timeout(Duration::from_millis(50), send).await.is_err());
    let next = soon("a refusal", lane.send(Bytes::new(), Bytes::new())).await;
    assert!(matches!(next, Err(SendError::Torn)));
    drop(lane);
    let error = soon("an error", end.recv(PAYLOAD_MAX)).await.unwrap_err();
    assert!(matches!(error, RecvError::Reset(_)), "{error}");
}

#[tokio::test]
async fn a_cancelled_receive_loses_nothing() {
    let Pair { edge, sink, dialer: _dialer, listener: _listener } = pair(Settings::default()).await;
    let mut lane = edge.open_lane(1).await.unwrap();
    let mut end = soon("a lane", sink.accept_lane()).await.unwrap();
    let sending = tokio::spawn(async move {
        for _ in 0..20 {
            lane.send(pattern(5), pattern(400_000)).await.unwrap();
        }
        lane.finish().await
    });
    let mut got = 0;
    let all = async {
        loop {
            // Polled once, then dropped: nearly every message is received over several calls.
            tokio::select! {
                biased;
                message = end.recv(PAYLOAD_MAX) => match message.unwrap() {
                    Some(message) => {
                        assert!(message == (pattern(5), pattern(400_000)));
                        got += 1;
                    }
                    None => break,
                },
                () = tokio::task::yield_now() => {}
            }
        }
    };
    soon("20 messages", all).await;
    assert_eq!(got, 20);
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_close_tells_code_and_reason() {
    let Pair { edge, sink, dialer: _dialer, listener } = pair(Settings::default()).await;
    let mut lane = edge.open_lane(1).await.unwrap();
    sink.close(42, "draining");
    let reason = soon("the end", edge.closed()).await;
    assert_eq!(reason, CloseReason::Peer { code: 42, text: "draining".to_owned() });
    assert!(matches!(lane.send(Bytes::new(), Bytes::new()).await, Err(SendError::Closed(_))));
    assert_eq!(sink.closed().await, CloseReason::Ours);
    listener.close(0, "bye").await;
    assert!(soon("the end", listener.accept()).await.is_none());
}

#[test]
fn a_killed_peer_is_noticed_within_the_idle_timeout() {
    let idle = Duration::from_millis(600);
    let settings =
        Settings { idle_timeout: idle, keep_alive: Duration::from_millis(150), ..Settings::default() };
    let cluster = Cluster::new();
    let world =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (ours, theirs) = (world(), world());
    let listener = {
        let _inside = theirs.enter();
        Listener::bind(localhost(), &cluster.identity("sink-1"), settings.clone()).unwrap()
    };
    let addr = listener.local_addr().to_string();
    ours.block_on(async {
        let dialer = Dialer::new(&cluster.identity("edge-1"), settings).unwrap();
        let edge = soon("a connection", dialer.dial(&addr, &node("sink-1"))).await.unwrap();
        // Held until the end: a dropped handle would say goodbye, which the dead do not.
        let sink = soon("a connection", listener.accept()).await.unwrap().unwrap();
        // Keep-alives carry an idle connection past its timeout.
        assert!(tokio::time::timeout(idle * 2, edge.closed()).await.is_err(), "an idle peer was given up");

        let killed = Instant::now();
        theirs.shutdown_background();
        assert_eq!(soon("the end", edge.closed()).await, CloseReason::Silent);
        let noticed = killed.elapsed();
        assert!(noticed < idle * 2, "noticed after {noticed:?}");
        drop((sink, listener));
    });
}
