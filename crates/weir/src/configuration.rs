//! Reads node and topology files, and words their problems.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use weir_topology::{
    ControllerConfig, NodeConfig, Problem, Topology, is_controller, parse_controller, parse_node,
    parse_topology,
};

/// Reads a topology; its relative paths start at its own directory. Warnings go to standard error.
pub(crate) fn topology(path: &Path) -> anyhow::Result<Topology> {
    parse(&read(path)?, path, &|warning| eprintln!("{warning}"))
}

/// Reads the text of a topology that is, or might be, in the file `path`. Warnings go to `warn`.
pub(crate) fn parse(text: &str, path: &Path, warn: &dyn Fn(&Problem)) -> anyhow::Result<Topology> {
    match parse_topology(text, &path.display().to_string()) {
        Ok((mut topology, warnings)) => {
            warnings.iter().for_each(warn);
            topology.rebase(directory(path));
            Ok(topology)
        }
        Err(problems) => bail!("{}", worded(&problems)),
    }
}

/// Reads a node file; its relative paths start at its own directory.
pub(crate) fn node(path: &Path) -> anyhow::Result<NodeConfig> {
    let mut node = parse_node(&read(path)?, &path.display().to_string())
        .map_err(|problems| anyhow::anyhow!("{}", worded(&problems)))?;
    node.rebase(directory(path));
    Ok(node)
}

/// Reads the node file of a controller; its relative paths start at its own directory.
pub(crate) fn controller(path: &Path) -> anyhow::Result<ControllerConfig> {
    let mut config = parse_controller(&read(path)?, &path.display().to_string())
        .map_err(|problems| anyhow::anyhow!("{}", worded(&problems)))?;
    config.rebase(directory(path));
    Ok(config)
}

/// Checks files of all kinds; all of them, whatever is wrong with the first.
pub(crate) fn check(files: &[impl AsRef<Path>]) -> ExitCode {
    let mut sound = true;
    for file in files {
        let file = file.as_ref();
        match check_one(file) {
            Ok(kind) => println!("{}: ok ({kind})", file.display()),
            Err(error) => {
                sound = false;
                eprintln!("{error:#}");
            }
        }
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check_one(file: &Path) -> anyhow::Result<&'static str> {
    // Only a topology has tables of groups or a cluster; whatever else it is, it is judged as a node file.
    let text = read(file)?;
    let is_topology = text.lines().any(|line| {
        let line = line.trim_start();
        ["[cluster]", "[[group]]", "[[service]]", "[[route]]", "[[edge]]"]
            .iter()
            .any(|head| line.starts_with(head))
    });
    if is_topology {
        let topology = topology(file)?;
        for group in &topology.groups {
            weir_sink::check_backend(group).with_context(|| format!("{} is wrong", file.display()))?;
        }
        return Ok("topology");
    }
    if is_controller(&text) {
        controller(file)?;
        return Ok("controller");
    }
    let config = node(file)?;
    if config.controllers.is_empty() && config.topology.exists() {
        let topology = topology(&config.topology)?;
        crate::node::place(&config, &topology)?;
    }
    Ok("node")
}

/// Reads a file whole.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new(""))
}

fn worded(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
