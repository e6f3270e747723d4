//! A topology as a picture: a graph for Graphviz, or an SVG of four columns, in the order in which an event goes through
//! them: edges by rack, routes, groups with their sinks, stores.

use std::collections::BTreeMap;
use std::fmt::Write;

use weir_model::GroupId;
use weir_topology::{Affinity, Group, StoreConfig, Topology};

use super::store;

/// Height of a line of text.
const LINE: usize = 18;
/// Space around text in a box.
const PAD: usize = 10;
/// Space between two boxes.
const GAP: usize = 16;
const TOP: usize = 84;
/// Left side and width of each column.
const EDGES: (usize, usize) = (24, 150);
const ROUTES: (usize, usize) = (264, 260);
const GROUPS: (usize, usize) = (640, 290);
const STORES: (usize, usize) = (1000, 330);
const WIDTH: usize = STORES.0 + STORES.1 + 24;
/// Width of a character of this size of text, generously.
const PIXELS_PER_CHARACTER: usize = 8;
/// Colours of groups; they repeat.
const COLOURS: [&str; 8] =
    ["#1f77b4", "#d9730d", "#2a8a3e", "#b3262e", "#7b54a8", "#80563f", "#c2449b", "#5f6b76"];

/// A graph for Graphviz's `dot`.
pub(super) fn dot(topology: &Topology) -> String {
    let mut racks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for edge in &topology.edges {
        let node = format!("{} [shape=box, style=rounded]", quoted(edge.name.as_str()));
        racks.entry(&edge.rack).or_default().push(node);
    }
    let mut out =
        format!("digraph {} {{\n  rankdir=LR;\n  node [fontname=sans];\n", quoted(&topology.cluster));
    for (number, (rack, nodes)) in racks.iter().enumerate() {
        let _ =
            writeln!(out, "  subgraph cluster_rack_{number} {{ label={};", quoted(&format!("rack {rack}")));
        for node in nodes {
            let _ = writeln!(out, "    {node};");
        }
        out += "  }\n";
    }
    out += "  routes [shape=point];\n";
    for edge in &topology.edges {
        let _ = writeln!(out, "  {} -> routes [arrowhead=none];", quoted(edge.name.as_str()));
    }
    for (number, group) in topology.groups.iter().enumerate() {
        let id = group.id.as_str();
        let _ =
            writeln!(out, "  subgraph cluster_group_{number} {{ label={};", quoted(&format!("group {id}")));
        let entry = format!("group {id}");
        let _ = writeln!(out, "    {} [shape=point];", quoted(&entry));
        let target = format!("store {id}");
        for sink in &group.sinks {
            let name = quoted(sink.name.as_str());
            let label = quoted(&format!("{}\nrack {}", sink.name, sink.rack));
            let _ =
                writeln!(out, "    {name} [shape=box, label={label}];\n    {} -> {name};", quoted(&entry));
            let _ = writeln!(out, "    {name} -> {};", quoted(&target));
        }
        out += "  }\n";
        let _ = writeln!(out, "  {} [shape=cylinder, label={}];", quoted(&target), quoted(&store(group)));
    }
    for (number, route) in topology.routes.iter().enumerate() {
        for group in &route.groups {
            let label = quoted(&format!("{}. {}", number + 1, route.patterns));
            let _ = writeln!(out, "  routes -> {} [label={label}];", quoted(&format!("group {group}")));
        }
    }
    out + "}\n"
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// A picture.
pub(super) fn svg(topology: &Topology) -> String {
    let mut canvas = Canvas::default();
    let edges = edges(&mut canvas, topology);
    let groups = groups(&mut canvas, topology);
    let routes = routes(&mut canvas, topology, &groups);
    let height = edges.max(routes).max(groups.values().map(|place| place.bottom).max().unwrap_or(0)) + 24;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"24\" y=\"36\" font-size=\"20\" font-weight=\"bold\" fill=\"#222222\">cluster {}</text>\n",
        escaped(&topology.cluster)
    );
    for ((x, _), title) in [
        (EDGES, "edges, by rack"),
        (ROUTES, "routes, first match wins"),
        (GROUPS, "groups and sinks"),
        (STORES, "stores"),
    ] {
        let _ = writeln!(out, "<text x=\"{x}\" y=\"68\" fill=\"#777777\">{title}</text>");
    }
    // Lines first, so that boxes cover their ends.
    out + &canvas.lines + &canvas.boxes + "</svg>\n"
}

#[derive(Default)]
struct Canvas {
    lines: String,
    boxes: String,
}

/// Where a group was drawn.
struct Place {
    middle: usize,
    bottom: usize,
    colour: &'static str,
}

impl Canvas {
    /// A box with a head and lines below it; gives where the next one may begin.
    fn block(
        &mut self,
        column: (usize, usize),
        top: usize,
        colour: &str,
        head: &str,
        lines: &[String],
    ) -> usize {
        let (x, width) = column;
        let height = 2 * PAD + LINE * (1 + lines.len()) - 4;
        let _ = writeln!(
            self.boxes,
            "<rect x=\"{x}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"#fbfbfc\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        );
        let fits = (width - 2 * PAD) / PIXELS_PER_CHARACTER;
        let texts = std::iter::once((head, "font-weight=\"bold\" fill=\"#222222\""))
            .chain(lines.iter().map(|line| (line.as_str(), "fill=\"#555555\"")));
        for (number, (text, style)) in texts.enumerate() {
            let y = top + PAD + LINE * number + 12;
            let text = escaped(&shortened(text, fits));
            let _ = writeln!(self.boxes, "<text x=\"{}\" y=\"{y}\" {style}>{text}</text>", x + PAD);
        }
        top + height + GAP
    }

    fn line(&mut self, from: (usize, usize), to: (usize, usize), colour: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let bend = (x1 + x2) / 2;
        let _ = writeln!(
            self.lines,
            "<path d=\"M {x1} {y1} C {bend} {y1}, {bend} {y2}, {x2} {y2}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-opacity=\"0.8\"/>"
        );
    }
}

/// Draws the edges; gives where they end. Every edge has every route: one line for all of them.
fn edges(canvas: &mut Canvas, topology: &Topology) -> usize {
    let mut racks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for edge in &topology.edges {
        racks.entry(&edge.rack).or_default().push(edge.name.to_string());
    }
    let mut y = TOP;
    for (rack, names) in racks {
        let next = canvas.block(EDGES, y, "#444444", &format!("rack {rack}"), &names);
        let middle = (y + next - GAP) / 2;
        canvas.line((EDGES.0 + EDGES.1, middle), (ROUTES.0 - 24, TOP + 19), "#888888");
        y = next;
    }
    if !topology.routes.is_empty() {
        canvas.line((ROUTES.0 - 24, TOP + 19), (ROUTES.0, TOP + 19), "#888888");
    }
    y
}

/// Draws the groups and their stores.
fn groups<'a>(canvas: &mut Canvas, topology: &'a Topology) -> BTreeMap<&'a GroupId, Place> {
    let mut y = TOP;
    let mut places = BTreeMap::new();
    for (group, colour) in topology.groups.iter().zip(COLOURS.iter().cycle()) {
        let next = canvas.block(GROUPS, y, colour, group.id.as_str(), &group_lines(group));
        let middle = (y + next - GAP) / 2;
        let (kind, target) = store_lines(group);
        canvas.block(STORES, middle - 26, colour, kind, &[target]);
        canvas.line((GROUPS.0 + GROUPS.1, middle), (STORES.0, middle), colour);
        places.insert(&group.id, Place { middle, bottom: next.max(middle + 40), colour });
        y = next.max(middle + 26 + GAP);
    }
    places
}

fn store_lines(group: &Group) -> (&'static str, String) {
    match &group.store {
        StoreConfig::File(store) => ("file", store.path.display().to_string()),
        StoreConfig::Kafka(store) => {
            let (first, rest) = store.brokers.split_once(',').unwrap_or((&store.brokers, ""));
            ("kafka", format!("{} at {first}{}", store.topic, if rest.is_empty() { "" } else { ", …" }))
        }
        StoreConfig::Hdfs(store) => ("hdfs", format!("{}{}", store.url, store.path)),
        StoreConfig::Forward(store) => {
            let first = store.servers.first().map_or("", |server| server.address.as_str());
            ("forward", format!("{first}{}", if store.servers.len() > 1 { ", …" } else { "" }))
        }
    }
}

fn group_lines(group: &Group) -> Vec<String> {
    let affinity = if group.affinity == Affinity::Rack { ", own rack first" } else { "" };
    let mut lines = vec![format!("{} per edge{affinity}", group.quota)];
    lines.extend(group.sinks.iter().map(|sink| match sink.weight {
        1 => format!("{}  ·  rack {}", sink.name, sink.rack),
        weight => format!("{}  ·  rack {}  ·  weight {weight}", sink.name, sink.rack),
    }));
    lines
}

/// Draws the routes and where they lead; gives where they end.
fn routes(canvas: &mut Canvas, topology: &Topology, groups: &BTreeMap<&GroupId, Place>) -> usize {
    let mut y = TOP;
    for (number, route) in topology.routes.iter().enumerate() {
        let lines: Vec<String> = route.name.iter().cloned().collect();
        let next = canvas.block(ROUTES, y, "#444444", &format!("{}. {}", number + 1, route.patterns), &lines);
        let middle = (y + next - GAP) / 2;
        for place in route.groups.iter().filter_map(|id| groups.get(id)) {
            canvas.line((ROUTES.0 + ROUTES.1, middle), (GROUPS.0, place.middle), place.colour);
        }
        y = next;
    }
    y
}

fn shortened(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    text.chars().take(characters.saturating_sub(1)).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_names_everything_once_and_is_well_formed() {
        let mut topology = super::super::example("three-racks.toml");
        topology.cluster = "a <b> & \"c\"".to_owned();
        let picture = svg(&topology);
        assert!(picture.contains("a &lt;b&gt; &amp; &quot;c&quot;"));
        for edge in &topology.edges {
            assert_eq!(picture.matches(&format!(">{}<", edge.name)).count(), 1, "{}", edge.name);
        }
        for sink in topology.groups.iter().flat_map(|group| &group.sinks) {
            assert_eq!(picture.matches(&format!(">{}  ·", sink.name)).count(), 1, "{}", sink.name);
        }
        let leads: usize = topology.routes.iter().map(|route| route.groups.len()).sum();
        assert!(picture.matches("<path").count() >= leads + topology.groups.len());
        for tag in ["text", "svg"] {
            assert_eq!(
                picture.matches(&format!("<{tag} ")).count(),
                picture.matches(&format!("</{tag}>")).count()
            );
        }
    }

    #[test]
    fn a_graph_has_an_arrow_for_each_lead() {
        let topology = super::super::example("three-racks.toml");
        let graph = dot(&topology);
        let leads: usize = topology.routes.iter().map(|route| route.groups.len()).sum();
        assert_eq!(graph.matches("  routes -> ").count(), leads);
        assert_eq!(graph.matches('{').count(), graph.matches('}').count() + graph.matches("\\{").count());
        assert_eq!(quoted("a\"\\\nb"), "\"a\\\"\\\\\\nb\"");
    }
}
