//! How fast the packed path is: framing, skip-scan, tally and digest of PackedForward messages of 250-byte events.
//!
//! `cargo run --release -p weir-forward --example scan_rate`

use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use weir_forward::{Event, Limits, Session};

const EVENTS: usize = 4000;
const RUN: Duration = Duration::from_secs(2);

fn event(n: usize) -> Vec<u8> {
    let mut entry = vec![0x92, 0xd7, 0x00];
    entry.extend((1_700_000_000 + n as u32 / 100).to_be_bytes());
    entry.extend((n as u32 % 1_000_000_000).to_be_bytes());
    entry.push(0x88);
    let mut text = |key: &str, value: &str| {
        entry.push(0xa0 | key.len() as u8);
        entry.extend(key.as_bytes());
        match value.len() {
            short @ 0..32 => entry.push(0xa0 | short as u8),
            long => entry.extend([0xd9, long as u8]),
        }
        entry.extend(value.as_bytes());
    };
    text("host", &format!("web-{:04}", n % 500));
    text("method", ["GET", "POST", "DELETE"][n % 3]);
    text("path", &format!("/api/v1/users/{n:08}/orders/{:06}/items", n * 7 % 999_999));
    text("referer", "https://shop.example.com/catalogue/page/4711");
    text("agent", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101");
    text("remote", &format!("10.{}.{}.{}", n % 250, n % 240, n % 230));
    entry.extend(b"\xa4code\xcd\x00\xc8");
    entry.extend(b"\xa4size\xce\x00\x01\x02\x03");
    entry
}

fn measure(name: &str, message: &[u8], bytes: usize, out: &mut impl Write) -> std::io::Result<()> {
    let mut session = Session::new(Limits::default());
    let (begun, mut rounds, mut events) = (Instant::now(), 0, 0);
    let mut spent = Duration::ZERO;
    while begun.elapsed() < RUN {
        session.buffer().extend_from_slice(message);
        let start = Instant::now();
        while let Ok(Some(Event::Batch(batch))) = session.next(1_700_000_000_000_000_000) {
            events += batch.header.events();
        }
        spent += start.elapsed();
        rounds += 1;
    }
    let seconds = spent.as_secs_f64();
    writeln!(
        out,
        "{name}: {:.2} M events/s, {:.2} GB/s, {:.0} ns/event",
        events as f64 / seconds / 1e6,
        (rounds * bytes) as f64 / seconds / 1e9,
        seconds * 1e9 / events as f64,
    )
}

fn main() -> std::io::Result<()> {
    let entries: Vec<Vec<u8>> = (0..EVENTS).map(event).collect();
    let plain = entries.concat();
    let out = &mut stdout().lock();
    writeln!(out, "{} bytes per event", plain.len() / EVENTS)?;

    let mut packed = b"\x92\xa7app.web\xc6".to_vec();
    packed.extend((plain.len() as u32).to_be_bytes());
    packed.extend(&plain);
    measure("PackedForward", &packed, plain.len(), out)?;

    let mut forward = b"\x92\xa7app.web\xdd".to_vec();
    forward.extend((EVENTS as u32).to_be_bytes());
    forward.extend(&plain);
    measure("Forward", &forward, plain.len(), out)?;

    let singles: Vec<u8> =
        entries.iter().flat_map(|entry| [b"\x93\xa7app.web", &entry[1..]].concat()).collect();
    measure("Message", &singles, plain.len(), out)?;

    let squeezed = zstd::bulk::compress(&plain, 1)?;
    let mut zstd = b"\x93\xa7app.web\xc6".to_vec();
    zstd.extend((squeezed.len() as u32).to_be_bytes());
    zstd.extend(squeezed);
    zstd.extend(b"\x81\xaacompressed\xa4zstd");
    measure("CompressedPackedForward, zstd", &zstd, plain.len(), out)
}
