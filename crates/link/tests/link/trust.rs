//! Who may talk to whom.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::{Cluster, localhost, node, soon};
use weir_link::ca::{Authority, CA_KEY, CaError};
use weir_link::{AcceptError, DialError, Dialer, Identity, IdentityError, Listener, Settings};

/// Dials `peer` and gives what both sides made of it.
async fn meet(
    edge: &Identity,
    sink: &Identity,
    peer: &str,
) -> (Result<String, DialError>, Result<String, AcceptError>) {
    let listener = Listener::bind(localhost(), sink, Settings::default()).unwrap();
    let dialer = Dialer::new(edge, Settings::default()).unwrap();
    let addr = format!("localhost:{}", listener.local_addr().port());
    let peer = node(peer);
    let (dialled, accepted) =
        soon("a verdict", async { tokio::join!(dialer.dial(&addr, &peer), listener.accept()) }).await;
    (dialled.map(|c| c.peer().to_string()), accepted.unwrap().map(|c| c.peer().to_string()))
}

#[tokio::test]
async fn nodes_of_one_cluster_know_each_other_by_name() {
    let cluster = Cluster::new();
    for (edge, sink) in [("edge-1", "sink-1"), ("Edge_2.rack-a", "sink_2")] {
        let (dialled, accepted) = meet(&cluster.identity(edge), &cluster.identity(sink), sink).await;
        assert_eq!((dialled.unwrap().as_str(), accepted.unwrap().as_str()), (sink, edge));
    }
}

#[tokio::test]
async fn a_sink_of_another_cluster_is_refused_by_the_edge() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (dialled, accepted) =
        meet(&ours.identity("edge-1"), &theirs.identity_trusting("sink-1", &ours), "sink-1").await;
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    let error = accepted.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn an_edge_of_another_cluster_is_refused_by_the_sink_and_told_so() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (dialled, accepted) =
        meet(&theirs.identity_trusting("edge-1", &ours), &ours.identity("sink-1"), "sink-1").await;
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::Untrusted { .. }), "{error}");
    assert!(
        error.to_string().contains("the peer says: ") && error.to_string().contains("UnknownIssuer"),
        "{error}"
    );
    let error = accepted.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn another_node_at_the_address_is_refused() {
    let cluster = Cluster::new();
    let (dialled, _) = meet(&cluster.identity("edge-1"), &cluster.identity("sink-2"), "sink-1").await;
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("sink-1") && error.to_string().contains("sink-2"), "{error}");
}

#[tokio::test]
async fn only_the_first_name_in_a_certificate_is_the_node() {
    let cluster = Cluster::new();
    let authority = Authority::open(cluster.dir.path()).unwrap();
    let issued = authority.issue(&node("sink-2"), &["sink-1".to_owned()], 1).unwrap();
    let both = Identity::load(&issued.ca, &issued.cert, &issued.key).unwrap();
    assert_eq!(both.name(), &node("sink-2"));
    let (dialled, _) = meet(&cluster.identity("edge-1"), &both, "sink-1").await;
    let error = dialled.unwrap_err().to_string();
    assert!(error.contains("sink-2 is at this address"), "{error}");
}

#[tokio::test]
async fn a_certificate_is_replaced_while_connections_live() {
    let (old, new) = (Cluster::new(), Cluster::new());
    let listener = Listener::bind(localhost(), &old.identity("sink-1"), Settings::default()).unwrap();
    let dialer = Dialer::new(&old.identity("edge-1"), Settings::default()).unwrap();
    let addr = listener.local_addr().to_string();
    let sink = node("sink-1");
    let dial = || async {
        soon("a verdict", async { tokio::join!(dialer.dial(&addr, &sink), listener.accept()) }).await
    };

    let (first, first_end) = dial().await;
    let (first, first_end) = (first.unwrap(), first_end.unwrap().unwrap());
    listener.replace_identity(&new.identity("sink-1"));
    let (refused, _) = dial().await;
    assert!(
        matches!(refused, Err(DialError::Untrusted { .. })),
        "the listener shows its new certificate at once"
    );
    dialer.replace_identity(&new.identity("edge-1"));
    let (second, second_end) = dial().await;
    assert!(second.is_ok() && second_end.unwrap().is_ok());

    let mut lane = first.open_lane(3).await.unwrap();
    lane.send("old".into(), "connection".into()).await.unwrap();
    let mut end = soon("a lane", first_end.accept_lane()).await.unwrap();
    assert_eq!(soon("a message", end.recv(100)).await.unwrap(), Some(("old".into(), "connection".into())));
}

#[tokio::test]
async fn a_closed_door_refuses_and_a_dead_port_times_out() {
    let cluster = Cluster::new();
    let settings =
        Settings { handshake_timeout: std::time::Duration::from_millis(300), ..Settings::default() };
    let listener = Listener::bind(localhost(), &cluster.identity("sink-1"), settings.clone()).unwrap();
    let dialer = Dialer::new(&cluster.identity("edge-1"), settings).unwrap();
    let addr = listener.local_addr().to_string();
    let silent = std::net::UdpSocket::bind(localhost()).unwrap();
    let silent_addr = silent.local_addr().unwrap().to_string();
    let error = soon("a verdict", dialer.dial(&silent_addr, &node("sink-1"))).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout { .. }), "{error}");

    listener.refuse_new();
    let error = soon("a verdict", dialer.dial(&addr, &node("sink-1"))).await.unwrap_err();
    assert!(matches!(error, DialError::Connect { .. } | DialError::Timeout { .. }), "{error}");
    let error = soon("a verdict", dialer.dial("no-port", &node("sink-1"))).await.unwrap_err();
    assert!(matches!(error, DialError::Resolve { .. }), "{error}");
}

#[test]
fn certificate_files_are_checked_when_loaded() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let issue = |cluster: &Cluster, name: &str, days| {
        Authority::open(cluster.dir.path()).unwrap().issue(&node(name), &[], days).unwrap()
    };
    let good = issue(&ours, "edge-1", 1);
    let other = issue(&ours, "edge-2", 1);
    let stranger = issue(&theirs, "edge-1", 1);
    let expired = issue(&ours, "edge-3", 0);
    let text = |result: Result<Identity, IdentityError>| result.unwrap_err().to_string();

    let identity = Identity::load(&good.ca, &good.cert, &good.key).unwrap();
    assert_eq!(identity.name(), &node("edge-1"));
    assert!(identity.expires() > std::time::SystemTime::now());

    let missing = text(Identity::load(&good.ca, &ours.dir.path().join("none.crt"), &good.key));
    assert!(missing.contains("none.crt"), "{missing}");
    let mixed = text(Identity::load(&good.ca, &good.cert, &other.key));
    assert!(mixed.contains("edge-2.key does not belong to") && mixed.contains("edge-1.crt"), "{mixed}");
    let swapped = text(Identity::load(&good.ca, &good.key, &good.cert));
    assert!(swapped.contains("edge-1.key holds no usable certificate"), "{swapped}");
    let foreign = text(Identity::load(&good.ca, &stranger.cert, &stranger.key));
    assert!(foreign.contains("UnknownIssuer") && foreign.contains("weir ca issue"), "{foreign}");
    // Good for no day at all: valid for the rest of this second at most.
    let old = loop {
        if let Err(error) = Identity::load(&expired.ca, &expired.cert, &expired.key) {
            break error.to_string();
        }
        std::thread::yield_now();
    };
    assert!(old.to_lowercase().contains("expired"), "{old}");
}

#[test]
fn keys_are_private_and_an_authority_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    let issued = authority.issue(&node("sink-1"), &["10.0.0.1".to_owned()], 1).unwrap();
    for key in [dir.path().join(CA_KEY), issued.key.clone()] {
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
    assert!(matches!(Authority::create(dir.path()), Err(CaError::Exists(_))));

    // What was there before is replaced as a whole, and by an authority opened again.
    let before = fs::read(&issued.cert).unwrap();
    let again = Authority::open(dir.path()).unwrap().issue(&node("sink-1"), &[], 1).unwrap();
    assert_eq!(again, issued);
    assert_ne!(fs::read(&issued.cert).unwrap(), before);
    Identity::load(&again.ca, &again.cert, &again.key).unwrap();

    for bad in ["9", "10.0.0.1", "a..b", "sink-"] {
        assert!(
            matches!(authority.issue(&node(bad), &[], 1), Err(CaError::Name(_))),
            "{bad} must be refused"
        );
    }
    assert!(matches!(
        authority.issue(&node("sink-1"), &["no name".to_owned()], 1),
        Ok(_) | Err(CaError::Sign { .. })
    ));
}

/// The identity of `name` from the files that its directory holds now.
fn load(cluster: &Cluster, name: &str) -> Result<Identity, IdentityError> {
    let file = |suffix: &str| cluster.dir.path().join(format!("{name}.{suffix}"));
    Identity::load(&cluster.dir.path().join("ca.crt"), &file("crt"), &file("key"))
}

#[tokio::test]
async fn a_revoked_node_is_refused_and_the_others_are_not() {
    let cluster = Cluster::new();
    let authority = Authority::open(cluster.dir.path()).unwrap();
    let (stolen, other) = (cluster.identity("edge-1"), cluster.identity("edge-2"));
    cluster.identity("edge-3");
    authority.revoke(&node("edge-1")).unwrap();
    // The list is carried on: the second revocation keeps the first.
    authority.revoke(&node("edge-3")).unwrap();
    let sink = cluster.identity("sink-1");
    let (dialled, accepted) = meet(&stolen, &sink, "sink-1").await;
    let error = dialled.unwrap_err().to_string();
    assert!(error.contains("Revoked"), "{error}");
    accepted.unwrap_err();
    let (dialled, _) = meet(&other, &sink, "sink-1").await;
    assert_eq!(dialled.unwrap(), "sink-1");
    // A new certificate of the same name is good again.
    let (dialled, _) = meet(&cluster.identity("edge-1"), &sink, "sink-1").await;
    assert_eq!(dialled.unwrap(), "sink-1");
}

#[tokio::test]
async fn an_authority_is_replaced_while_nodes_of_both_talk() {
    let cluster = Cluster::new();
    cluster.identity("edge-1");
    cluster.identity("sink-1");
    let authority = Authority::rotate(cluster.dir.path()).unwrap();
    let old = load(&cluster, "edge-1").unwrap();
    let renewed = authority.renew(&[node("sink-1")], 1, 30).unwrap();
    assert_eq!(renewed.len(), 1);
    let new = load(&cluster, "sink-1").unwrap();
    let (dialled, accepted) = meet(&old, &new, "sink-1").await;
    assert_eq!((dialled.unwrap().as_str(), accepted.unwrap().as_str()), ("sink-1", "edge-1"));
    authority.retire().unwrap();
    assert!(matches!(load(&cluster, "edge-1"), Err(IdentityError::Untrusted { .. })));
    load(&cluster, "sink-1").unwrap();
}

#[test]
fn renewal_touches_only_what_runs_out() {
    let cluster = Cluster::new();
    let authority = Authority::open(cluster.dir.path()).unwrap();
    authority.issue(&node("edge-1"), &["127.0.0.1".to_owned(), "edge-1.example.net".to_owned()], 20).unwrap();
    authority.issue(&node("edge-2"), &[], 90).unwrap();
    let renewed = authority.renew(&[node("edge-1"), node("edge-2"), node("edge-3")], 30, 60).unwrap();
    let names: Vec<_> = renewed.iter().map(|issued| issued.cert.file_stem().unwrap().to_owned()).collect();
    assert_eq!(names, ["edge-1", "edge-3"]);
    let text = format!("{:?}", authority.issued().unwrap());
    assert!(text.contains("127.0.0.1") && text.contains("edge-1.example.net"), "{text}");
    assert!(authority.renew(&[node("edge-1"), node("edge-2"), node("edge-3")], 30, 60).unwrap().is_empty());
}
