//! The collectors that Weir is compared with, where they are installed: their configurations, made here.
//!
//! Each gets the job that Weir does: Forward in, a buffer on disk, and out. What a collector lacks (none syncs
//! before it acknowledges) is not made up for.

use std::{
    fmt::Write,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::process::Process;

/// How long one may take until its port is open.
const READY_MAX: Duration = Duration::from_secs(30);

/// A collector that may be on the PATH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collector {
    FluentBit,
    Vector,
    Fluentd,
}

/// Who sends to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A sender of Forward.
    Forward,
    /// One of its kind, through [`Output::Peer`].
    Peer,
}

/// Where its events go.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Output {
    Null,
    /// JSON lines below this directory.
    File(PathBuf),
    /// Another of its kind: over Forward, but Vector has no output for that and takes its own protocol.
    Peer(SocketAddr),
}

impl Collector {
    pub(super) const ALL: [Self; 3] = [Self::FluentBit, Self::Vector, Self::Fluentd];

    /// The program's name, as looked for on the PATH.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::FluentBit => "fluent-bit",
            Self::Vector => "vector",
            Self::Fluentd => "fluentd",
        }
    }

    /// Whether the program is on the PATH.
    pub(super) fn is_here(self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(self.program()).is_file())
    }

    /// Starts it with its files in `dir`, under `name`; gives the address that takes its input.
    pub(super) fn start(
        self,
        name: &str,
        dir: &Path,
        input: Input,
        output: &Output,
    ) -> anyhow::Result<(Process, SocketAddr)> {
        if let Output::File(path) = output {
            fs::create_dir_all(path)?;
        }
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let data = dir.join(format!("{name}-data"));
        fs::create_dir_all(&data)?;
        let (file, text) = match self {
            Self::FluentBit => ("conf", fluent_bit(listen, &data, output)),
            Self::Vector => ("yaml", vector(listen, &data, input, output)),
            Self::Fluentd => ("conf", fluentd(listen, &data, output)),
        };
        let config = dir.join(format!("{name}.{file}"));
        fs::write(&config, text)?;
        let mut command = Command::new(self.program());
        match self {
            Self::FluentBit => command.arg("-q").arg("-c").arg(&config),
            Self::Vector => command.arg("--quiet").arg("--config").arg(&config),
            Self::Fluentd => command.arg("-q").arg("-c").arg(&config),
        };
        let process = Process::start(name, command, dir)?;
        let begun = Instant::now();
        while TcpStream::connect(listen).is_err() {
            ensure!(begun.elapsed() < READY_MAX, "{name} does not listen after {READY_MAX:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok((process, listen))
    }
}

fn fluent_bit(listen: SocketAddr, data: &Path, output: &Output) -> String {
    let (data, ip, port) = (data.display(), listen.ip(), listen.port());
    let mut text = format!(
        "[SERVICE]\n  flush 1\n  log_level error\n  storage.path {data}\n  storage.sync full\n\
         [INPUT]\n  name forward\n  listen {ip}\n  port {port}\n  buffer_chunk_size 1M\n  buffer_max_size 64M\n  \
         storage.type filesystem\n[OUTPUT]\n  match *\n"
    );
    let _ = match output {
        Output::Null => writeln!(text, "  name null"),
        Output::File(path) => {
            writeln!(text, "  name file\n  path {}\n  file out.jsonl\n  format plain", path.display())
        }
        Output::Peer(to) => writeln!(
            text,
            "  name forward\n  host {}\n  port {}\n  require_ack_response true\n  workers 2",
            to.ip(),
            to.port()
        ),
    };
    text
}

fn vector(listen: SocketAddr, data: &Path, input: Input, output: &Output) -> String {
    let source = match input {
        Input::Forward => "fluent",
        Input::Peer => "vector",
    };
    let sink = match output {
        Output::Null => "    type: blackhole\n".to_owned(),
        Output::File(path) => {
            format!("    type: file\n    path: {}/out.jsonl\n    encoding: {{codec: json}}\n", path.display())
        }
        Output::Peer(to) => format!("    type: vector\n    address: {to}\n"),
    };
    format!(
        "data_dir: {}\nacknowledgements: {{enabled: true}}\nsources:\n  in:\n    type: {source}\n    address: {listen}\n\
         sinks:\n  out:\n    inputs: [in]\n{sink}    buffer: {{type: disk, max_size: 4294967296, when_full: block}}\n",
        data.display()
    )
}

fn fluentd(listen: SocketAddr, data: &Path, output: &Output) -> String {
    let buffer = format!(
        "  <buffer>\n    @type file\n    path {}/buffer\n    flush_mode interval\n    flush_interval 1s\n    \
         flush_thread_count 2\n    overflow_action block\n  </buffer>\n",
        data.display()
    );
    let (ip, port) = (listen.ip(), listen.port());
    let out = match output {
        Output::Null => format!("  @type null\n  never_flush false\n{buffer}"),
        Output::File(path) => {
            format!(
                "  @type file\n  path {}/out\n  append true\n  <format>\n    @type json\n  </format>\n{buffer}",
                path.display()
            )
        }
        Output::Peer(to) => format!(
            "  @type forward\n  require_ack_response true\n  <server>\n    host {}\n    port {}\n  </server>\n{buffer}",
            to.ip(),
            to.port()
        ),
    };
    format!("<source>\n  @type forward\n  bind {ip}\n  port {port}\n</source>\n<match **>\n{out}</match>\n")
}
