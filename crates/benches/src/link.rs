//! The link as a hot part: both ends in one thread, batches over lanes, as an edge and a sink exchange them.

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use tokio::runtime::Builder;
use weir_link::ca::Authority;
use weir_link::{Dialer, Identity, Listener, MTU_MAX, Settings};
use weir_model::{NodeId, Seq};
use weir_transit::BatchHead;

use crate::parts::{Work, batch_header};

/// Payload of one batch.
const PAYLOAD_BYTES: usize = 250_000;
/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Batches in one round.
const BATCHES: u64 = 16;

/// Connects an edge and a sink; a round carries [`BATCHES`] batches over one lane.
pub(crate) fn carry() -> anyhow::Result<Work> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let dir = tempfile::tempdir()?;
    let authority = Authority::create(dir.path())?;
    let identity = |name: &str| -> anyhow::Result<(NodeId, Identity)> {
        let name = NodeId::new(name)?;
        let issued = authority.issue(&name, &[], 1)?;
        Ok((name, Identity::load(&issued.ca, &issued.cert, &issued.key)?))
    };
    // Under valgrind on a busy machine everything takes long, and nothing is wrong with it.
    let (handshake_timeout, idle_timeout) = (PATIENCE, 2 * PATIENCE);
    let settings = Settings {
        dial_sockets: 1,
        mtu_max: MTU_MAX,
        handshake_timeout,
        idle_timeout,
        ..Settings::default()
    };
    let ((_, edge), (sink, sink_identity)) = (identity("edge-1")?, identity("sink-1")?);
    let (listener, dialer, ours, theirs) = runtime.block_on(async {
        let listener = Listener::bind("127.0.0.1:0".parse()?, &sink_identity, settings.clone())?;
        let dialer = Dialer::new(&edge, settings)?;
        let address = listener.local_addr().to_string();
        let theirs = async { anyhow::Ok(listener.accept().await.context("nobody came")??) };
        let ours = async { dialer.dial(&address, &sink).await.context("dialling") };
        let (theirs, ours) = tokio::try_join!(theirs, ours)?;
        anyhow::Ok((listener, dialer, ours, theirs))
    })?;
    let (mut sender, mut receiver) = runtime.block_on(async {
        let (sender, receiver) = tokio::join!(ours.open_lane(0), theirs.accept_lane());
        Ok::<_, anyhow::Error>((sender?, receiver?))
    })?;
    let (header, payload) = (Bytes::from(batch_header().encode()), Bytes::from(vec![7; PAYLOAD_BYTES]));
    Ok(Box::new(move || {
        let _alive = (&listener, &dialer, &ours, &theirs);
        let sending = async {
            for seq in 0..BATCHES {
                let head =
                    BatchHead { seq: Seq(seq), done: Vec::new(), recall: false, header: header.clone() };
                sender.send(head.encode(), payload.clone()).await?;
            }
            anyhow::Ok(())
        };
        let receiving = async {
            for _ in 0..BATCHES {
                let (head, payload) =
                    receiver.recv(PAYLOAD_BYTES).await?.ok_or_else(|| anyhow!("the lane ended"))?;
                ensure!(BatchHead::decode(&head).is_ok() && payload.len() == PAYLOAD_BYTES, "altered");
            }
            anyhow::Ok(())
        };
        let done = runtime.block_on(async { tokio::try_join!(sending, receiving) });
        assert!(done.is_ok(), "{done:?}");
    }))
}
