//! `weir log export`: the batches of a group log as Forward messages, or as lines of JSON. Read-only.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;

use weir_edge::Progress;
use weir_model::{BatchHeader, Encoding, Incarnation, Seq};
use weir_shape::{Format, each_event_of};
use weir_spool::inspect::{self, Item, SegmentInfo};

/// How long an edge may take to acknowledge one message.
const ACK_MAX: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// The edge's data directory.
    #[arg(value_name = "DATA_DIR")]
    dir: PathBuf,
    /// The group.
    group: String,
    /// The first sequence number.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The last sequence number.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,
    /// Lines of JSON, as file stores write them, instead of Forward messages.
    #[arg(long)]
    json: bool,
    /// Also the batches that need nothing more: the store has them, or a policy dropped them.
    #[arg(long)]
    all: bool,
    /// From the segments that were set aside as damaged (`*.damaged`), what of them is sound.
    #[arg(long)]
    set_aside: bool,
    /// The bytes of damaged places, as they lie on the disk, and nothing else.
    #[arg(long, conflicts_with = "json")]
    damaged: bool,
    /// Into this file, instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// To the Forward port of another edge (no TLS): each message is acknowledged before the next is sent.
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["output", "json", "damaged"])]
    send: Option<String>,
}

/// Where messages go.
enum Out {
    Stream(Box<dyn Write>),
    Edge(BufReader<TcpStream>),
}

#[derive(Default)]
struct Count {
    batches: u64,
    events: u64,
    done: u64,
    in_doubt: u64,
    half_done: u64,
    damaged: u64,
}

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let log = args.dir.join("logs").join(&args.group);
    let cannot_read = || format!("cannot read {}", log.display());
    let segments = if args.set_aside { inspect::set_aside(&log) } else { inspect::segments(&log) };
    let segments = segments.with_context(cannot_read)?;
    let progress = Progress::read(&log).with_context(cannot_read)?;
    let (mut out, mut count) = (Out::open(args)?, Count::default());
    let mut failed = Ok(());
    inspect::visit_segments(&segments, Seq(args.from), |segment, item| {
        if matches!(&item, Item::Record { record, .. } if record.seq.0 > args.to) {
            return ControlFlow::Break(());
        }
        failed = export(args, &progress, &mut out, &mut count, segment, item);
        if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .with_context(cannot_read)?;
    if let Out::Stream(stream) = &mut out {
        failed = failed.and_then(|()| stream.flush().context("cannot write"));
    }
    let Count { batches, events, done, in_doubt, half_done, damaged } = count;
    eprintln!(
        "{batches} batches, {events} events; left out as done: {done} batches; damaged places: {damaged}"
    );
    if in_doubt + half_done > 0 {
        eprintln!(
            "of these batches {in_doubt} are promised to a part that the store may have, and {half_done} are stored in part: \
             a replay may store them twice"
        );
    }
    failed?;
    Ok(ExitCode::SUCCESS)
}

fn export(
    args: &ExportArgs,
    progress: &Progress,
    out: &mut Out,
    count: &mut Count,
    segment: &SegmentInfo,
    item: Item,
) -> anyhow::Result<()> {
    let (seq, stored) = match item {
        Item::Record { record, .. } => (record.seq, record),
        Item::Damage { at, .. } | Item::Unfinished { at } => {
            count.damaged += 1;
            eprintln!("{}: bytes {} to {} are no sound record", segment.path.display(), at.start, at.end);
            if args.damaged {
                let mut file = File::open(&segment.path)?;
                file.seek(SeekFrom::Start(at.start))?;
                out.write(&mut file.take(at.end - at.start))?;
            }
            return Ok(());
        }
    };
    if args.damaged {
        return Ok(());
    }
    if progress.done.contains(seq) && !args.all {
        count.done += 1;
        return Ok(());
    }
    let header = match BatchHeader::decode(&stored.header) {
        Ok(header) => header,
        Err(error) => {
            count.damaged += 1;
            eprintln!("batch {seq}: {error}");
            return Ok(());
        }
    };
    if args.json {
        let mut lines = Vec::new();
        each_event_of(&header, &stored.payload, Format::Envelope, |event| {
            lines.write_all(event.json)?;
            lines.write_all(b"\n")
        })
        .with_context(|| format!("batch {seq} cannot be read"))?;
        out.write(&mut &lines[..])?;
    } else {
        let chunk = chunk(&header, segment.incarnation, seq);
        out.message(&message(&header, &stored.payload, &chunk), &chunk)
            .with_context(|| format!("batch {seq}; to go on with it: --from {seq}"))?;
    }
    count.batches += 1;
    count.events += header.events();
    count.in_doubt += u64::from(progress.in_doubt.contains(seq));
    count.half_done += u64::from(progress.half_done.contains(seq));
    Ok(())
}

/// The chunk id of a batch's message, as a MessagePack value. That of its sender where the batch is one chunk, so that the
/// sender's retry and the replay are known for the same; otherwise one that is the same at each export.
fn chunk(header: &BatchHeader, incarnation: Option<Incarnation>, seq: Seq) -> Vec<u8> {
    if let [only] = &header.chunks[..] {
        return only.id.to_vec();
    }
    let mut out = Vec::new();
    text(&mut out, &format!("weir-{:x}-{seq}", incarnation.map_or(0, |incarnation| incarnation.0)));
    out
}

/// A PackedForward message (Forward specification v1): `[tag, bin, {"chunk": …, "size": …, "compressed": …}]`.
fn message(header: &BatchHeader, payload: &[u8], chunk: &[u8]) -> Vec<u8> {
    let packing = match header.encoding {
        Encoding::Plain => None,
        Encoding::Gzip => Some("gzip"),
        Encoding::Zstd => Some("zstd"),
    };
    let mut out = Vec::with_capacity(payload.len() + header.tag.len() + chunk.len() + 64);
    out.push(0x93);
    text(&mut out, &header.tag);
    out.push(0xc6);
    // A record of the log is shorter than 4 GiB.
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(0x82 + u8::from(packing.is_some()));
    text(&mut out, "chunk");
    out.extend_from_slice(chunk);
    text(&mut out, "size");
    out.push(0xcf);
    out.extend_from_slice(&header.events().to_be_bytes());
    if let Some(packing) = packing {
        text(&mut out, "compressed");
        text(&mut out, packing);
    }
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(0xdb);
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

impl Out {
    fn open(args: &ExportArgs) -> anyhow::Result<Self> {
        if let Some(edge) = &args.send {
            let stream = TcpStream::connect(edge).with_context(|| format!("no edge at {edge}"))?;
            stream.set_read_timeout(Some(ACK_MAX))?;
            stream.set_nodelay(true)?;
            return Ok(Self::Edge(BufReader::new(stream)));
        }
        Ok(Self::Stream(match args.output.as_deref() {
            Some(path) => Box::new(BufWriter::new(create(path)?)),
            None => Box::new(BufWriter::new(io::stdout().lock())),
        }))
    }

    fn write(&mut self, from: &mut dyn Read) -> anyhow::Result<()> {
        if let Self::Stream(stream) = self {
            io::copy(from, stream).context("cannot write")?;
        }
        Ok(())
    }

    fn message(&mut self, message: &[u8], chunk: &[u8]) -> anyhow::Result<()> {
        let Self::Edge(edge) = self else { return self.write(&mut &message[..]) };
        edge.get_mut().write_all(message).context("the edge closed the connection")?;
        // {"ack": chunk}
        let mut answer = vec![0; 5 + chunk.len()];
        edge.read_exact(&mut answer).context("the edge did not acknowledge; its log says why")?;
        ensure!(
            answer[..5] == *b"\x81\xa3ack" && answer[5..] == *chunk,
            "the answer is no acknowledgement: {answer:x?}"
        );
        Ok(())
    }
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create_new(path).with_context(|| format!("cannot create {}", path.display()))
}
