//! Wrong files: what `weir` says of them, and that nothing is begun with them.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use weir_tests::{Scratch, Site, weir_binary};

fn weir(args: &[&str], files: &[&Path]) -> Result<Output> {
    let mut command = Command::new(weir_binary()?);
    command.args(args).args(files).output().context("cannot run weir")
}

/// Whether the command failed for the files' sake: with 1, the place, a hint where one is due, and nothing done.
fn refused(output: &Output, place: &str, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    for word in [place].iter().chain(words) {
        ensure!(said.contains(word), "no {word:?} in what it says:\n{said}");
    }
    ensure!(!said.contains("weir ready"), "it began: {said}");
    Ok(())
}

#[test]
fn a_wrong_topology_is_refused_by_all_before_anything_begins() {
    Scratch::run("wrong-topology", |scratch| {
        let (site, files) = Site::files(scratch)?;
        let edge = site.node_file("edge-1", "edge", "forward = \"127.0.0.1:0\"")?;
        let sink = site.node_file("files-1", "sink", "")?;
        let right = std::fs::read_to_string(site.topology())?;
        ensure!(weir(&["check"], &[site.topology(), &edge, &sink])?.status.success(), "the files are right");
        std::fs::remove_dir(&files)?;

        // What is changed, into what, and what is said: place and hint.
        let cases = [
            ("path = ", "paht = ", "12:1", "did you mean \"path\"?"),
            ("version = 1", "version = = 1", "1:11", "extra `=`"),
            ("groups = [\"files\"]", "groups = [\"flies\"]", "17:11", "did you mean \"files\"?"),
            ("300ms", "300 moments", "14:7", "200ms"),
            ("match = \"**\"", "match = \"{a,b\"", "16:10", "}"),
        ];
        for (from, to, place, hint) in cases {
            ensure!(right.contains(from), "{from:?} is not in the file that is changed");
            scratch.write("topology.toml", right.replace(from, to))?;
            let place = format!("topology.toml:{place}: error: ");
            let data = scratch.path().join("data-standalone");
            let standalone =
                ["standalone", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data-dir"];
            for output in [
                weir(&["check"], &[site.topology()])?,
                weir(&["topology", "show"], &[site.topology()])?,
                weir(&["edge", "--config"], &[&edge])?,
                weir(&["sink", "--config"], &[&sink])?,
                weir(&standalone, &[&data, Path::new("--config"), site.topology()])?,
            ] {
                refused(&output, &place, &[hint])?;
            }
            for begun in
                [&data, &files, &scratch.path().join("data-edge-1"), &scratch.path().join("data-files-1")]
            {
                ensure!(!begun.exists(), "{} was made", begun.display());
            }
        }
        Ok(())
    });
}

#[test]
fn a_wrong_node_file_is_refused_before_anything_begins() {
    Scratch::run("wrong-node", |scratch| {
        let (site, _) = Site::files(scratch)?;
        let edge = site.node_file("edge-1", "edge", "forward = \"127.0.0.1:0\"")?;
        let right = std::fs::read_to_string(&edge)?;
        let cases = [
            ("rack = ", "rakc = ", "edge-1.toml:3:1: error: ", "did you mean \"rack\"?"),
            ("role = \"edge\"", "role = \"egde\"", "edge-1.toml:2:8: error: ", "edge"),
            // Right by themselves, and not what is there.
            ("name = \"edge-1\"", "name = \"edge-9\"", "edge-9 is not an [[edge]]", "add it there"),
            ("topology.toml", "nowhere.toml", "nowhere.toml", "cannot read"),
            ("tls/edge-1.key", "tls/nowhere.key", "nowhere.key", "No such file"),
            ("tls/edge-1.crt", "tls/files-1.crt", "files-1", ""),
        ];
        for (from, to, place, hint) in cases {
            ensure!(right.contains(from), "{from:?} is not in the file that is changed");
            std::fs::write(&edge, right.replace(from, to))?;
            refused(&weir(&["edge", "--config"], &[&edge])?, place, &[hint])
                .with_context(|| to.to_owned())?;
            ensure!(!scratch.path().join("data-edge-1").exists(), "{to}: a data directory was made");
        }
        Ok(())
    });
}

#[test]
fn wrong_use_is_told_from_wrong_files() {
    for args in [&["edge"][..], &["frobnicate"], &["standalone", "--bogus"], &["check"], &[]] {
        let output = weir(args, &[]).expect("weir runs");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
