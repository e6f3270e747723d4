//! `weir topology`: what a topology means, what a change of it does, and what follows from it for other tools.

mod diff;
mod draw;
mod explain;
mod inventory;
mod sample;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use weir_model::NodeId;
use weir_routing::{Member, Ring, Router};
use weir_topology::{Affinity, Group, StoreConfig, Topology};

use crate::configuration;

/// How something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How a topology is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for a terminal.
    Text,
    /// A graph for Graphviz.
    Dot,
    /// A picture for a browser.
    Svg,
}

#[derive(Subcommand)]
pub(crate) enum TopologyCommand {
    /// Validates topology files, like `weir check`.
    Check {
        /// Topology files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Draws racks, edges, groups, stores and routes.
    #[command(after_help = "Example:\n  weir topology show topology/local.toml --format svg > local.svg")]
    Show {
        /// The topology file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// As what.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Says what a change moves: routes, groups, nodes, and the share of tags that go to another node.
    #[command(
        after_help = "Example:\n  weir topology diff running.toml wanted.toml --tags tags.txt\n\nExit code 0 whether they differ or not."
    )]
    Diff {
        /// The topology that runs.
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The topology to be.
        #[arg(value_name = "NEW")]
        new: PathBuf,
        /// Tags to try, one a line; by default 10 000 that the routes of both would match.
        #[arg(long, value_name = "FILE")]
        tags: Option<PathBuf>,
        /// For people or programs.
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Says which route, groups, nodes and failover order a tag takes.
    Explain {
        /// The topology file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The tag.
        tag: String,
    },
    /// Prints the JSON schema of topology files, for editors.
    #[command(
        after_help = "Examples:\n  weir topology schema > topology.schema.json\n  weir topology schema --node > node.schema.json"
    )]
    Schema {
        /// That of node files instead.
        #[arg(long)]
        node: bool,
    },
    /// Prints an Ansible inventory: hosts by role, rack and group, with what a role must know of each.
    #[command(
        after_help = "Example, as an executable file in an inventory directory:\n  #!/bin/sh\n  exec weir topology inventory /etc/weir/topology.toml"
    )]
    Inventory {
        /// The topology file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Accepted, as Ansible gives it; all hosts are always listed.
        #[arg(long, hide = true)]
        list: bool,
    },
}

pub(crate) fn run(command: TopologyCommand) -> anyhow::Result<ExitCode> {
    match command {
        TopologyCommand::Check { files } => return Ok(configuration::check(&files)),
        TopologyCommand::Show { file, format } => {
            let topology = configuration::topology(&file)?;
            print!(
                "{}",
                match format {
                    Format::Text => show::text(&topology),
                    Format::Dot => draw::dot(&topology),
                    Format::Svg => draw::svg(&topology),
                }
            );
        }
        TopologyCommand::Diff { old, new, tags, output } => {
            let (old, new) = (configuration::topology(&old)?, configuration::topology(&new)?);
            let tags = match tags {
                Some(file) => configuration::read(&file)?.lines().map(str::to_owned).collect(),
                None => sample::tags(&[&old, &new]),
            };
            let diff = diff::Diff::new(&old, &new, &tags)?;
            match output {
                Output::Text => print!("{diff}"),
                Output::Json => println!("{}", serde_json::to_string_pretty(&diff)?),
            }
        }
        TopologyCommand::Explain { file, tag } => return explain::explain(&file, &tag),
        TopologyCommand::Schema { node } => {
            let schema = if node { weir_topology::node_schema() } else { weir_topology::topology_schema() };
            println!("{schema:#}");
        }
        TopologyCommand::Inventory { file, list: _ } => {
            println!("{:#}", inventory::json(&configuration::topology(&file)?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn router(topology: &Topology) -> Result<Router, weir_routing::RouterError> {
    Router::new(topology.routes.iter().map(|route| (route.patterns.clone(), route.groups.clone())).collect())
}

/// The ring of a group as an edge in `rack` has it.
fn ring(group: &Group, rack: &str) -> Ring {
    let members: Vec<Member> = group
        .sinks
        .iter()
        .map(|sink| Member { node: sink.name.clone(), weight: sink.weight, rack: sink.rack.clone() })
        .collect();
    Ring::new(&members, (group.affinity == Affinity::Rack).then_some(rack))
}

/// The racks that edges stand in, each once.
fn edge_racks(topology: &Topology) -> Vec<&str> {
    let mut racks: Vec<&str> = topology.edges.iter().map(|edge| edge.rack.as_str()).collect();
    racks.sort_unstable();
    racks.dedup();
    racks
}

// The owner, then who takes over as each before it is away: just what an edge does.
fn order(ring: &Ring, tag: &str) -> Vec<NodeId> {
    let mut names: Vec<NodeId> = Vec::new();
    while let Some(next) = ring.owner(tag, &|node| !names.contains(node)) {
        names.push(next);
    }
    names
}

fn store(group: &Group) -> String {
    match &group.store {
        StoreConfig::File(store) => format!("file {}", store.path.display()),
        StoreConfig::Kafka(store) => format!("kafka {} topic {}", store.brokers, store.topic),
        StoreConfig::Hdfs(store) => format!("hdfs {}{}", store.url, store.path),
        StoreConfig::Forward(store) => {
            let servers: Vec<&str> = store.servers.iter().map(|server| server.address.as_str()).collect();
            format!("forward {}", servers.join(" "))
        }
    }
}

/// The steps of a group, in short.
fn transforms(group: &Group) -> String {
    let steps: Vec<String> = group.transforms.iter().map(ToString::to_string).collect();
    if steps.is_empty() { "none".to_owned() } else { steps.join("; ") }
}

#[cfg(test)]
fn example(name: &str) -> Topology {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topology").join(name);
    configuration::topology(&path).unwrap_or_else(|error| panic!("{error:#}"))
}
