//! `weir log export`: the batches of a group log as Forward messages, or as lines of JSON. Read-only.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;

use weir_edge::Progress;
use weir_model::{BatchHeader, Encoding, Incarnation, Seq};
use weir_shape::{Format, each_event_of};
use weir_spool::inspect::{self, Item, SegmentInfo};
use weir_store_forward::{Client, ForwardSettings, Security, Server, Tls};
use weir_topology::Secret;

/// How long an edge may take to let us in.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long an edge may take to acknowledge one message.
const ACK_MAX: Duration = Duration::from_secs(60);
/// Our name in the handshake; no edge has it.
const OURSELVES: &str = "weir log export";

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
    /// To the Forward port of another edge: each message is acknowledged before the next is sent.
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["output", "json", "damaged"])]
    send: Option<String>,
    #[command(flatten)]
    door: Door,
}

/// What the listener of `--send` asks for.
#[derive(Args)]
struct Door {
    /// TLS: the authorities of the listener's certificate, as PEM.
    #[arg(long, value_name = "FILE", requires = "send")]
    tls_ca: Option<PathBuf>,
    /// The name in its certificate, if that is not the host of `--send`.
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    tls_name: Option<String>,
    /// A certificate to show, where the listener wants one (`tls.client_ca`).
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A file that holds the shared key, where the listener has `security`.
    #[arg(long, value_name = "FILE", requires = "send")]
    shared_key_file: Option<PathBuf>,
    /// The user to log in as, where it asks for one.
    #[arg(long, value_name = "NAME", requires_all = ["shared_key_file", "password_file"])]
    username: Option<String>,
    /// A file that holds the user's password.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
}

/// Where messages go.
enum Out {
    Stream(Box<dyn Write>),
    Edge(tokio::runtime::Runtime, Client),
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
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let server = Server { address: edge.clone(), weight: 1, standby: false };
            let client = runtime.block_on(Client::connect(&args.door.settings()?, &server));
            let asked =
                "does the listener speak TLS (--tls-ca), does it want a shared key (--shared-key-file)?";
            return Ok(Self::Edge(runtime, client.context(asked)?));
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
        let Self::Edge(runtime, client) = self else { return self.write(&mut &message[..]) };
        // {"ack": chunk}
        let mut answer = vec![0; 5 + chunk.len()];
        let asked = runtime.block_on(client.ask(message, &mut answer));
        asked.context(
            "the edge did not acknowledge; its log says why. Perhaps the listener wants TLS (--tls-ca) or a shared key (--shared-key-file)",
        )?;
        if answer.windows(4).any(|word| word == b"HELO") {
            bail!("the listener wants a shared key: give it one with --shared-key-file");
        }
        ensure!(
            answer[..5] == *b"\x81\xa3ack" && answer[5..] == *chunk,
            "the answer is no acknowledgement: {answer:x?}"
        );
        Ok(())
    }
}

impl Door {
    fn settings(&self) -> anyhow::Result<ForwardSettings> {
        let secret = |file: &PathBuf| Secret::File(file.clone()).read();
        let user = self.username.clone().zip(self.password_file.as_ref().map(secret).transpose()?);
        let shared_key = self.shared_key_file.as_ref().map(secret).transpose()?;
        Ok(ForwardSettings {
            servers: Vec::new(),
            tls: self.tls_ca.clone().map(|ca| Tls {
                ca,
                identity: self.tls_cert.clone().zip(self.tls_key.clone()),
                name: self.tls_name.clone(),
            }),
            security: shared_key.map(|shared_key| Security {
                self_hostname: OURSELVES.to_owned(),
                shared_key,
                user,
            }),
            connect_timeout: CONNECT_MAX,
            ack_timeout: ACK_MAX,
            zstd: true,
            // Nothing is tried again here.
            recover_every: CONNECT_MAX,
        })
    }
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create_new(path).with_context(|| format!("cannot create {}", path.display()))
}
