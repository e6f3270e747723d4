//! How fast a link is on this machine's loopback, and what it costs: GB/s and CPU seconds per GB, both ends
//! together, one thread each, for payloads of 256 KiB. `cargo run --release -p weir-link --example link_rate`

use std::error::Error;
use std::time::Instant;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use weir_link::ca::Authority;
use weir_link::{Dialer, Identity, Listener, Settings};
use weir_model::NodeId;

const PAYLOAD: usize = 256 << 10;
const TOTAL: usize = 2 << 30;
const LANES: u32 = 4;

fn main() -> Result<(), Box<dyn Error>> {
    for mtu_max in [1452, 6500] {
        for _ in 0..3 {
            measure(mtu_max)?;
        }
    }
    Ok(())
}

fn measure(mtu_max: u16) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::create(dir.path())?;
    let identity = |name: &str| -> Result<Identity, Box<dyn Error>> {
        let issued = authority.issue(&NodeId::new(name)?, &[], 1)?;
        Ok(Identity::load(&issued.ca, &issued.cert, &issued.key)?)
    };
    let settings = Settings { mtu_max, dial_sockets: 1, ..Settings::default() };
    let (edge_side, sink_side) = (runtime()?, runtime()?);

    let sink_identity = identity("sink-1")?;
    let sink_settings = settings.clone();
    let listener = sink_side.block_on(async {
        Listener::bind("127.0.0.1:0".parse()?, &sink_identity, sink_settings).map_err(Box::<dyn Error>::from)
    })?;
    let addr = listener.local_addr().to_string();
    let received = sink_side.spawn(async move {
        let Some(Ok(connection)) = listener.accept().await else { return 0 };
        let mut lanes = Vec::new();
        for _ in 0..LANES {
            let Ok(mut lane) = connection.accept_lane().await else { return 0 };
            lanes.push(tokio::spawn(async move {
                let mut bytes = 0;
                while let Ok(Some((head, payload))) = lane.recv(PAYLOAD).await {
                    bytes += head.len() + payload.len();
                }
                bytes
            }));
        }
        let mut bytes = 0;
        for lane in lanes {
            bytes += lane.await.unwrap_or(0);
        }
        bytes
    });

    let dialer = edge_side
        .block_on(async { Dialer::new(&identity("edge-1")?, settings).map_err(Box::<dyn Error>::from) })?;
    let peer = NodeId::new("sink-1")?;
    let connection = edge_side
        .block_on(edge_side.spawn(async move { dialer.dial(&addr, &peer).await.map(|c| (c, dialer)) }))??;
    let (connection, _dialer) = connection;
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let head = Bytes::from(vec![1; 200]);
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    let sending: Vec<_> = (0..LANES)
        .map(|number| {
            let (connection, head, payload) = (connection.clone(), head.clone(), payload.clone());
            edge_side.spawn(async move {
                let mut lane = connection.open_lane(number).await?;
                for _ in 0..TOTAL / PAYLOAD / LANES as usize {
                    lane.send(head.clone(), payload.clone()).await?;
                }
                lane.finish().await
            })
        })
        .collect();
    for lane in sending {
        edge_side.block_on(lane)??;
    }
    let bytes = sink_side.block_on(received)? as f64 / 1e9;
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let stats = connection.stats();
    eprintln!(
        "mtu_max {mtu_max} (path {}): {:.2} GB/s, {:.2} CPU-s/GB, rtt {:?}, lost {}",
        stats.mtu,
        bytes / took,
        cpu / bytes,
        stats.rtt,
        stats.lost_packets
    );
    Ok(())
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).enable_all().build()
}

/// User and system time of this process: fields 14 and 15 of proc(5) stat, in ticks of 10 ms.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().ok_or("no fields")?;
    let ticks = |field: usize| -> Result<f64, Box<dyn Error>> {
        Ok(after_name.split_whitespace().nth(field - 3).ok_or("no field")?.parse()?)
    };
    Ok((ticks(14)? + ticks(15)?) / 100.0)
}
