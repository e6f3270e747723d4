//! Real Forward senders: small programs around the client libraries that people use, in `tests/clients/`.
//!
//! They all take the same command line and send records `{"stream": NAME, "seq": 0.., "message": "..."}`, sequence
//! number n to tag `PREFIX.(n mod TAGS)`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::paths::{prepared, repository};
use crate::process::Process;

/// A client library, wrapped in a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its name for logs: the language.
    pub name: &'static str,
    /// The modes of the Forward protocol that it speaks.
    pub modes: &'static [Mode],
    /// Whether it can ask for acknowledgements and wait for them.
    pub acks: bool,
}

/// A mode of the Forward protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One event for each message.
    Message,
    /// A list of events.
    Forward,
    /// A list of events in one piece of bytes.
    Packed,
    /// The same, compressed with gzip.
    Compressed,
    /// One event for each message, and JSON instead of MessagePack.
    Json,
}

/// What a client is asked to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// The port of 127.0.0.1 that it connects to.
    pub port: u16,
    /// The beginning of its tags.
    pub tag_prefix: String,
    /// How many tags it spreads its records over.
    pub tags: u32,
    /// How many records it sends.
    pub count: u64,
    /// The name of the stream, in every record.
    pub stream: String,
    /// The protocol's mode.
    pub mode: Mode,
    /// Whether it waits for acknowledgements.
    pub ack: bool,
    /// Whether times are an EventTime with nanoseconds, or whole seconds.
    pub event_time: bool,
}

impl Client {
    /// Python's `fluent-logger`.
    #[must_use]
    pub const fn python() -> Client {
        Client { name: "python", modes: &[Mode::Message], acks: false }
    }

    /// Node's `@fluent-org/logger`.
    #[must_use]
    pub const fn node() -> Client {
        let modes = &[Mode::Message, Mode::Forward, Mode::Packed, Mode::Compressed];
        Client { name: "node", modes, acks: true }
    }

    /// Go's `fluent-logger-golang`.
    #[must_use]
    pub const fn go() -> Client {
        Client { name: "go", modes: &[Mode::Message, Mode::Json], acks: true }
    }

    /// Java's `fluency`.
    #[must_use]
    pub const fn java() -> Client {
        Client { name: "java", modes: &[Mode::Packed], acks: true }
    }

    /// All of them.
    #[must_use]
    pub const fn all() -> [Client; 4] {
        [Client::python(), Client::node(), Client::go(), Client::java()]
    }

    /// Starts sending; what the program says goes to `STREAM.log` in `logs`. It ends by itself, see [`Client::sent`].
    ///
    /// # Errors
    /// If the client has no such mode or no acknowledgements, or was not prepared.
    pub fn start(&self, load: &Load, logs: &Path) -> Result<Process> {
        self.start_with(load, &[], logs)
    }

    /// The same with variables in its environment, by which some clients are told of certificates and keys.
    ///
    /// # Errors
    /// As for [`Client::start`].
    pub fn start_with(&self, load: &Load, environment: &[(&str, &str)], logs: &Path) -> Result<Process> {
        ensure!(self.modes.contains(&load.mode), "{} does not speak {:?}", self.name, load.mode);
        ensure!(self.acks || !load.ack, "{} has no acknowledgements", self.name);
        let mut command = self.command()?;
        command.envs(environment.iter().copied());
        command.arg("--port").arg(load.port.to_string());
        command.arg("--tag-prefix").arg(&load.tag_prefix);
        command.arg("--tags").arg(load.tags.to_string());
        command.arg("--count").arg(load.count.to_string());
        command.arg("--stream").arg(&load.stream);
        command.arg("--mode").arg(load.mode.name());
        if load.ack {
            command.arg("--ack");
        }
        if load.event_time {
            command.arg("--event-time");
        }
        Process::start(&load.stream, command, logs)
    }

    /// Sends all and waits for the end.
    ///
    /// # Errors
    /// If the client fails, sends another number than asked, or has not ended after `timeout`.
    pub fn send(&self, load: &Load, logs: &Path, timeout: Duration) -> Result<()> {
        Client::sent(&mut self.start(load, logs)?, load, timeout)
    }

    /// Waits for the end of what [`Client::start`] began.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub fn sent(process: &mut Process, load: &Load, timeout: Duration) -> Result<()> {
        let status = process.wait_exit(timeout)?;
        let said = process.said()?;
        ensure!(status.success(), "{} failed ({status}):\n{said}", load.stream);
        // What a library complains of may lack its end of line.
        let sent = said.lines().rev().find_map(|line| line.rsplit_once("sent ")).map(|(_, number)| number);
        let sent: u64 = sent.context("the client did not say how many it sent")?.parse()?;
        ensure!(sent == load.count, "{} sent {sent} of {}", load.stream, load.count);
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let sources = repository().join("tests/clients");
        Ok(match self.name {
            "python" => {
                let mut command = Command::new(prepared("clients/python/bin/python")?);
                command.arg(sources.join("python/send.py"));
                command
            }
            "node" => {
                let mut command = Command::new("node");
                command.env("NODE_PATH", prepared("clients/node/node_modules")?);
                command.arg(sources.join("node/send.js"));
                command
            }
            "java" => {
                let dir = prepared("clients/java")?;
                let mut command = Command::new("java");
                command.args(["-XX:TieredStopAtLevel=1", "-Xmx128m", "-cp"]);
                command.arg(format!("{0}:{0}/lib/*", dir.display())).arg("Send");
                command
            }
            _ => Command::new(prepared("clients/go/send")?),
        })
    }
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Mode::Message => "message",
            Mode::Forward => "forward",
            Mode::Packed => "packed",
            Mode::Compressed => "compressed",
            Mode::Json => "json",
        }
    }
}
