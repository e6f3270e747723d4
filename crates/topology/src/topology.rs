//! The topology file: reads it block by block, and checks what the blocks say of each other. Its routes are
//! read in `routes.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::DeValue;
use weir_model::{GroupId, NodeId};

use crate::forward::read_forward;
use crate::model::{
    Ack, Affinity, EdgeNode, Group, Overflow, PartLimits, Repeats, Route, SinkNode, Stage, StoreConfig,
    Topology,
};
use crate::problem::{Problem, did_you_mean};
use crate::read::{Address, Block, Checked, Reader, Value, words};
use crate::routes::read_routes;
use crate::service::split;
use crate::size::ByteSize;
use crate::store::{part_limits, shown, store};
use crate::transform::transforms;

type Required<T> = Spanned<Checked<T>>;
type Optional<T> = Option<Required<T>>;

words!(Ack { "edge" => Self::Edge, "store" => Self::Store });
words!(Affinity { "none" => Self::None, "rack" => Self::Rack });

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoot {
    version: Spanned<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCluster {
    name: Required<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEdge {
    name: Required<NodeId>,
    rack: Required<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    id: Required<GroupId>,
    quota: Optional<ByteSize>,
    ack: Optional<Ack>,
    affinity: Optional<Affinity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSink {
    name: Required<NodeId>,
    rack: Required<String>,
    address: Required<Address<false>>,
    weight: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStage {
    memory: Optional<ByteSize>,
    disk: Optional<ByteSize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRepeats {
    window: Optional<std::time::Duration>,
    chunks: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPart {
    bytes: Optional<ByteSize>,
    age: Optional<std::time::Duration>,
}

/// Reads a topology file. `file` is the name that problems carry. Paths come back as written; see
/// [`Topology::rebase`].
///
/// With the topology come the warnings.
///
/// # Errors
/// All problems of the file, warnings among them, in the order of the file.
pub fn parse_topology(text: &str, file: &str) -> Result<(Topology, Vec<Problem>), Vec<Problem>> {
    let (mut reader, mut root) = Reader::open(file, text);
    if reader.failed() {
        return Err(reader.into_problems());
    }
    let topology = read(&mut reader, &mut root);
    match topology {
        Some(topology) if !reader.failed() => Ok((topology, reader.into_problems())),
        _ => Err(reader.into_problems()),
    }
}

fn read(reader: &mut Reader<'_>, root: &mut Block<'_>) -> Option<Topology> {
    let cluster = reader.take_table(root, "cluster");
    let edges = reader.take_tables(root, "edge");
    let mut groups = reader.take_tables(root, "group");
    let mut routes = Vec::new();
    // What a service takes is its own before any route is asked.
    for service in reader.take_tables(root, "service") {
        let (group, route) = split(reader, service);
        groups.push(group);
        routes.extend(route);
    }
    routes.extend(reader.take_tables(root, "route"));
    let forward = reader.take_table(root, "forward");
    let listeners = reader.take_tables(root, "listener");
    version(reader, root);

    if cluster.is_none() {
        let hint = "write [cluster] and below it name = \"…\"".to_owned();
        reader.error(0..0, "the file names no cluster", Some(hint));
    }
    let cluster: Option<RawCluster> = cluster.and_then(|block| reader.block(&block, &[]));
    let cluster = cluster.and_then(|raw| reader.required(raw.name));

    // Taken before the groups are read: a group with a problem of its own is still known to routes.
    let id = |group: &Block<'_>| Some(group.get_ref().get("id")?.get_ref().as_str()?.to_owned());
    let mut seen = Seen {
        nodes: Names::new("node"),
        ids: Names::new("group"),
        addresses: BTreeMap::new(),
        known: groups.iter().filter_map(id).collect(),
    };
    let edges: Vec<EdgeNode> = edges.iter().filter_map(|block| edge(reader, block, &mut seen)).collect();
    let names: Vec<String> = edges.iter().map(|edge| edge.name.to_string()).collect();
    let acks = AckPlaces::new(&groups, &routes, &listeners, forward.as_ref());
    let forward = read_forward(reader, forward, listeners, &names);
    let places: Vec<Range<usize>> = groups.iter().map(Spanned::span).collect();
    let groups: Vec<Option<Group>> =
        groups.into_iter().map(|block| group(reader, block, &mut seen)).collect();
    let routes = read_routes(reader, &routes, &seen.known);
    // A group that seems idle may be what a wrong name in a route meant.
    if let Some(routes) = routes.as_ref().filter(|_| !reader.failed()) {
        idle_groups(reader, &groups, &places, routes);
        copies_beside_a_divert(reader, &groups, &places, routes);
    }
    let sound = !reader.failed();
    let groups = groups.into_iter().flatten().collect();
    let topology =
        Topology { cluster: cluster?, edges, groups, routes: routes.unwrap_or_default(), forward: forward? };
    if sound {
        parts_older_than_answers(reader, &topology, &acks);
    }
    Some(topology)
}

/// Warns of groups that no event gets to. Without any route there is one warning already.
fn idle_groups(reader: &mut Reader<'_>, groups: &[Option<Group>], places: &[Range<usize>], routes: &[Route]) {
    for (group, place) in groups.iter().zip(places) {
        let Some(group) = group else { continue };
        let diverted = groups.iter().flatten().any(|other| diverts_to(other) == Some(&group.id));
        if !routes.is_empty() && !diverted && !routes.iter().any(|route| route.groups.contains(&group.id)) {
            let hint =
                "name it in a route, or delete it; what edges have in its log is delivered first".to_owned();
            reader.warn(
                place.clone(),
                format!("no route leads to group {:?}", group.id.as_str()),
                Some(hint),
            );
        }
    }
}

fn diverts_to(group: &Group) -> Option<&GroupId> {
    match &group.overflow {
        Overflow::Divert(to) => Some(to),
        _ => None,
    }
}

/// Refuses a route that sends to a group and to where that diverts: what is diverted would be there twice.
fn copies_beside_a_divert(
    reader: &mut Reader<'_>,
    groups: &[Option<Group>],
    places: &[Range<usize>],
    routes: &[Route],
) {
    for (group, place) in groups.iter().zip(places) {
        let Some((group, to)) = group.as_ref().and_then(|group| Some((group, diverts_to(group)?))) else {
            continue;
        };
        for route in routes.iter().filter(|r| r.groups.contains(&group.id) && r.groups.contains(to)) {
            let (id, to, tags) = (group.id.as_str(), to.as_str(), &route.patterns);
            let message = format!("group {id:?} diverts to {to:?}, which gets a copy of {tags:?} anyway");
            let hint = "leave one of them out of the route, or give the group another overflow".to_owned();
            reader.error(place.clone(), message, Some(hint));
        }
    }
}

/// Where each block says `ack`, or where it stands if it does not.
struct AckPlaces {
    groups: Vec<Range<usize>>,
    routes: Vec<Range<usize>>,
    listeners: Vec<Range<usize>>,
}

impl AckPlaces {
    fn new(
        groups: &[Block<'_>],
        routes: &[Block<'_>],
        listeners: &[Block<'_>],
        forward: Option<&Block<'_>>,
    ) -> Self {
        let said = |block: &Block<'_>| block.get_ref().get("ack").map(Spanned::span);
        let all = |blocks: &[Block<'_>]| -> Vec<Range<usize>> {
            blocks.iter().map(|block| said(block).unwrap_or_else(|| block.span())).collect()
        };
        let common = forward.and_then(said);
        let of_listener = |block| said(block).or(common.clone()).unwrap_or_else(|| block.span());
        let mut of_listeners: Vec<Range<usize>> = listeners.iter().map(of_listener).collect();
        if listeners.is_empty() {
            of_listeners.extend(common.clone().or(Some(0..0)));
        }
        Self { groups: all(groups), routes: all(routes), listeners: of_listeners }
    }
}

/// Refuses groups whose parts stay open for so long that a sender that waits for its store would never hear: one problem
/// for each place that says `ack = "store"`.
fn parts_older_than_answers(reader: &mut Reader<'_>, topology: &Topology, places: &AckPlaces) {
    let mut told = BTreeSet::new();
    for (route, of_route) in topology.routes.iter().zip(&places.routes) {
        for (listener, of_listener) in topology.forward.listeners.iter().zip(&places.listeners) {
            for (group, of_group) in topology.groups.iter().zip(&places.groups) {
                let (settings, age) = (&listener.settings, group.part.age);
                let waits = Ack::of(route.ack, settings.ack, group.ack) == Ack::Store;
                if !route.groups.contains(&group.id) || !waits || age < settings.ack_deadline {
                    continue;
                }
                let place = match (route.ack, settings.ack) {
                    (Some(_), _) => of_route,
                    (None, Some(_)) => of_listener,
                    (None, None) => of_group,
                };
                if told.insert((place.start, &group.id)) {
                    let (id, age, most) = (&group.id, age.as_secs(), settings.ack_deadline.as_secs());
                    let message = format!(
                        "a part of group {:?} is closed after {age} s, and no sender is told later than {most} s",
                        id.as_str()
                    );
                    let hint =
                        "set the group's part.age to a few seconds, or `ack_deadline` of [forward] higher";
                    reader.error(place.clone(), message, Some(hint.to_owned()));
                }
            }
        }
    }
}

fn version(reader: &mut Reader<'_>, root: &Block<'_>) {
    let raw: Option<RawRoot> =
        reader.block(root, &["cluster", "edge", "group", "service", "route", "forward", "listener"]);
    if let Some(version) = raw.map(|raw| raw.version).filter(|version| *version.get_ref() != 1) {
        let message = format!("version {} of the file format is not known", version.get_ref());
        reader.error(version.span(), message, Some("write version = 1".to_owned()));
    }
}

fn edge(reader: &mut Reader<'_>, block: &Block<'_>, seen: &mut Seen) -> Option<EdgeNode> {
    let raw: RawEdge = reader.block(block, &[])?;
    let name = seen.nodes.required(reader, raw.name);
    let rack = reader.required(raw.rack);
    Some(EdgeNode { name: name?, rack: rack? })
}

fn group(reader: &mut Reader<'_>, mut block: Block<'_>, seen: &mut Seen) -> Option<Group> {
    let sinks = reader.take_tables(&mut block, "sink");
    let stage = reader.take_table(&mut block, "stage");
    let repeats = reader.take_table(&mut block, "repeats");
    let part = reader.take_table(&mut block, "part");
    let steps = reader.take_tables(&mut block, "transform");
    let store_block = reader.take_table(&mut block, "store");
    let overflow = block.get_mut().remove("overflow");

    if sinks.is_empty() {
        let hint = "write sink = [{ name = \"…\", rack = \"…\", address = \"host:port\" }]".to_owned();
        reader.error(block.span(), "the group has no sinks", Some(hint));
    }
    let sinks: Vec<SinkNode> = sinks.iter().filter_map(|block| sink(reader, block, seen)).collect();
    let stage = self::stage(reader, stage);
    let repeats = self::repeats(reader, repeats);
    let transforms = transforms(reader, steps);
    let raw: Option<RawGroup> =
        reader.block(&block, &["sink", "stage", "repeats", "part", "transform", "store", "overflow"]);
    let raw = raw?;
    let id = seen.ids.required(reader, raw.id)?;
    let quota = reader.value_or(raw.quota, ByteSize::mebibytes(10 << 10));
    let affinity = reader.value_or(raw.affinity, Affinity::None);
    let overflow = self::overflow(reader, overflow, &id, &seen.known);
    let ack = reader.value_or(raw.ack, Ack::Edge);
    let Some(store_block) = store_block else {
        let hint =
            "write [group.store] and below it kind = \"file\", \"kafka\", \"hdfs\" or \"forward\"".to_owned();
        reader.error(block.span(), "the group has no store", Some(hint));
        return None;
    };
    let store = store(reader, store_block, &id)?;
    let part = self::part(reader, part, &store);
    Some(Group { id, quota, overflow, ack, affinity, sinks, stage, repeats, part, transforms, store })
}

fn sink(reader: &mut Reader<'_>, block: &Block<'_>, seen: &mut Seen) -> Option<SinkNode> {
    let raw: RawSink = reader.block(block, &[])?;
    let name = seen.nodes.required(reader, raw.name);
    let rack = reader.required(raw.rack);
    let place = raw.address.span();
    let address = reader.required(raw.address)?.0;
    let line = reader.line(place.clone());
    if let Some(earlier) = seen.addresses.insert(address.clone(), line) {
        let hint = format!("each sink is a process of its own; the other is in line {earlier}");
        reader.warn(place, format!("two sinks have the address {address:?}"), Some(hint));
    }
    if let Some(weight) = raw.weight.as_ref().filter(|weight| *weight.get_ref() == 0) {
        let hint =
            "a weight is 1 or more; leave the sink out of the file to take it out of service".to_owned();
        reader.error(weight.span(), "a sink of weight 0 would get no work", Some(hint));
    }
    let weight = raw.weight.map_or(1, Spanned::into_inner);
    Some(SinkNode { name: name?, rack: rack?, address, weight })
}

fn overflow(
    reader: &mut Reader<'_>,
    value: Option<Spanned<DeValue<'_>>>,
    group: &GroupId,
    known: &[String],
) -> Overflow {
    const DIVERT: &str = "divert";
    let Some(value) = value else { return Overflow::Block };
    let span = value.span();
    match value.get_ref() {
        DeValue::String(text) if text == "block" => return Overflow::Block,
        DeValue::String(text) if text == "drop_newest" => return Overflow::DropNewest,
        DeValue::String(text) if text == "drop_oldest" => return Overflow::DropOldest,
        DeValue::Table(table) if table.len() == 1 && table.contains_key(DIVERT) => {
            let to = &table[DIVERT];
            let (at, name) = (to.span(), to.get_ref().as_str().unwrap_or_default());
            if name == group.as_str() {
                reader.error(at, "a group cannot divert to itself", None);
            } else if !known.iter().any(|id| id == name) {
                let hint = did_you_mean(name, known.iter().map(String::as_str));
                reader.error(at, format!("there is no group {}", shown(to)), hint);
            } else if let Ok(to) = GroupId::new(name) {
                return Overflow::Divert(to);
            }
        }
        other => {
            let hint =
                did_you_mean(other.as_str().unwrap_or_default(), ["block", "drop_newest", "drop_oldest"]);
            reader.error(span, format!("{} is not known here", shown(&value)), hint);
        }
    }
    Overflow::Block
}

fn stage(reader: &mut Reader<'_>, block: Option<Block<'_>>) -> Stage {
    let raw: Option<RawStage> = block.and_then(|block| reader.block(&block, &[]));
    let (memory, disk) = raw.map_or((None, None), |raw| (raw.memory, raw.disk));
    Stage {
        memory: reader.value_or(memory, ByteSize::mebibytes(48)),
        disk: reader.value_or(disk, ByteSize::mebibytes(4 << 10)),
    }
}

fn repeats(reader: &mut Reader<'_>, block: Option<Block<'_>>) -> Repeats {
    const CHUNKS_MAX: u64 = 100_000_000;
    let raw: Option<RawRepeats> = block.and_then(|block| reader.block(&block, &[]));
    let (window, chunks) = raw.map_or((None, None), |raw| (raw.window, raw.chunks));
    if let Some(chunks) = chunks.as_ref().filter(|chunks| *chunks.get_ref() > CHUNKS_MAX) {
        let hint = format!("up to {CHUNKS_MAX}; each takes about 45 bytes of memory");
        reader.error(chunks.span(), "too many chunks to be remembered", Some(hint));
    }
    Repeats {
        window: reader.value_or(window, std::time::Duration::from_secs(600)),
        chunks: chunks.map_or(500_000, Spanned::into_inner),
    }
}

fn part(reader: &mut Reader<'_>, block: Option<Block<'_>>, store: &StoreConfig) -> PartLimits {
    let default = part_limits(store);
    let raw: Option<RawPart> = block.and_then(|block| reader.block(&block, &[]));
    let (bytes, age) = raw.map_or((None, None), |raw| (raw.bytes, raw.age));
    PartLimits { bytes: positive(reader, bytes, default.bytes), age: positive(reader, age, default.age) }
}

/// A limit that may not be zero: a part would be closed before it holds anything.
fn positive<T: Value + Default + PartialEq>(reader: &mut Reader<'_>, value: Optional<T>, default: T) -> T {
    let span = value.as_ref().map(Spanned::span);
    let value = reader.value_or(value, default);
    if let Some(span) = span.filter(|_| value == T::default()) {
        reader.error(span, "a part needs a limit above 0", None);
    }
    value
}

/// What the blocks before said.
struct Seen {
    nodes: Names,
    ids: Names,
    /// Address of a sink → its line.
    addresses: BTreeMap<String, usize>,
    /// The ids of all groups of the file, those that come later too.
    known: Vec<String>,
}

/// Names of one kind that were seen, and the line of each.
struct Names {
    what: &'static str,
    lines: BTreeMap<String, usize>,
}

impl Names {
    fn new(what: &'static str) -> Self {
        Self { what, lines: BTreeMap::new() }
    }

    /// Reads a name, and reports one that was seen before.
    fn required<T: ToString>(&mut self, reader: &mut Reader<'_>, read: Required<T>) -> Option<T> {
        let span = read.span();
        let name = reader.required(read)?;
        let line = reader.line(span.clone());
        if let Some(earlier) = self.lines.insert(name.to_string(), line) {
            let (what, name) = (self.what, name.to_string());
            let hint = format!("the other is in line {earlier}; a name belongs to one {what} of the cluster");
            reader.error(span, format!("there are two {what}s {name:?}"), Some(hint));
        }
        Some(name)
    }
}

/// The schemas of this file's tables.
pub(crate) mod schema {
    use serde_json::{Value, json};

    use super::{RawCluster, RawEdge, RawGroup, RawPart, RawRepeats, RawRoot, RawSink, RawStage};
    use crate::schema::{add, list};
    use crate::trace::table;
    use crate::{store, transform};

    pub(crate) fn root() -> Value {
        table::<RawRoot>()
    }

    pub(crate) fn cluster() -> Value {
        table::<RawCluster>()
    }

    pub(crate) fn edge() -> Value {
        table::<RawEdge>()
    }

    pub(crate) fn group() -> Value {
        let mut group = table::<RawGroup>();
        add(&mut group, "sink", list(&table::<RawSink>()), true);
        add(&mut group, "stage", table::<RawStage>(), false);
        add(&mut group, "part", table::<RawPart>(), false);
        add(&mut group, "repeats", table::<RawRepeats>(), false);
        add(&mut group, "transform", list(&transform::schema()), false);
        add(&mut group, "store", store::schema(), true);
        let divert = json!({
            "type": "object", "properties": { "divert": { "type": "string" } },
            "required": ["divert"], "additionalProperties": false,
        });
        let words = json!({ "enum": ["block", "drop_oldest", "drop_newest"] });
        add(&mut group, "overflow", json!({ "anyOf": [words, divert] }), false);
        group
    }
}
