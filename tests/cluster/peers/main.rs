//! The other collectors themselves, as senders and as receivers. Skipped where the program is not on the PATH: how to get
//! it is in tests/README.md.

mod fluent_bit;
mod fluentd;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use weir_tests::{Node, Scratch, Site, port, run, weir_binary};

#[expect(clippy::print_stdout, reason = "who reads the run must see what was skipped")]
fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok();
    if !here {
        println!("SKIPPED: there is no {program} on the PATH");
    }
    here
}

/// An edge whose events are stored in files and mirrored to another collector. Both doors want TLS, a key and a user.
struct MirroredSite<'a> {
    site: Site<'a>,
    files: PathBuf,
    /// Where the other collector puts what it receives.
    received: PathBuf,
    door: u16,
    receiver: u16,
}

struct Nodes {
    edge: Node,
    sinks: [Node; 2],
}

impl<'a> MirroredSite<'a> {
    fn new(scratch: &'a Scratch, name: &str) -> Result<Self> {
        let (files_link, pass_link, door, receiver) = (port()?, port()?, port()?, port()?);
        let (files, received) = (scratch.dir("files")?, scratch.dir("received")?);
        let topology = format!(
            r#"version = 1
cluster.name = "{name}"
edge = [{{ name = "edge-1", rack = "r1" }}]
route = [{{ match = "**", groups = ["files", "mirror"] }}]
[[listener]]
name = "door"
address = "127.0.0.1:{door}"
tls = {{ cert = "tls/door.crt", key = "tls/door.key" }}
[listener.security]
shared_key = "open sesame"
user = [{{ username = "ada", password = "hush" }}]
[[group]]
id = "files"
sink = [{{ name = "files-1", rack = "r1", address = "127.0.0.1:{files_link}" }}]
store = {{ kind = "file", path = "{}" }}
part = {{ age = "300ms" }}
[[group]]
id = "mirror"
sink = [{{ name = "mirror-1", rack = "r1", address = "127.0.0.1:{pass_link}" }}]
[group.store]
kind = "forward"
server = [{{ address = "127.0.0.1:{receiver}" }}]
tls = {{ ca = "tls/ca.crt", name = "localhost" }}
security = {{ self_hostname = "weir", shared_key = "open sesame", username = "ada", password = "hush" }}
"#,
            files.display()
        );
        let site = Site::new(scratch, &topology, &["edge-1", "files-1", "mirror-1"])?;
        run(Command::new(weir_binary()?).args(["ca", "issue"]).arg(scratch.path().join("tls")).args([
            "door",
            "--san",
            "localhost",
        ]))?;
        Ok(Self { site, files, received, door, receiver })
    }

    fn start(&self) -> Result<Nodes> {
        let sinks = [self.site.sink("files-1")?, self.site.sink("mirror-1")?];
        Ok(Nodes { edge: self.site.edge("edge-1")?, sinks })
    }
}

/// The streams and numbers in the lines below `dir`, and how many lines there are; `record` finds the record in a line.
fn numbers(
    dir: &Path,
    record: fn(&serde_json::Value) -> &serde_json::Value,
) -> Result<(BTreeSet<(String, u64)>, usize)> {
    let (mut found, mut lines, mut open) = (BTreeSet::new(), 0, vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|kind| kind == "jsonl" || kind == "log") {
                for line in std::fs::read_to_string(&path)?.lines() {
                    // A line that is being written comes with the next look.
                    let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
                    let record = record(&event);
                    let stream = record["stream"].as_str().context("a stream")?.to_owned();
                    found.insert((stream, record["seq"].as_u64().context("a number")?));
                    lines += 1;
                }
            }
        }
    }
    Ok((found, lines))
}
