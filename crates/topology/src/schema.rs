//! JSON schemas of the two kinds of file, for editors. Each table's keys and forms come from the type that it is read into;
//! here stands only which table lies within which, as the readers take them out.

use serde_json::{Map, Value, json};

use crate::{forward, node, routes, topology};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The JSON schema of topology files.
#[must_use]
pub fn topology_schema() -> Value {
    let group = topology::schema::group();
    // A service is a group, and the route to it.
    let mut service = group.clone();
    let route = routes::schema();
    add(&mut service, "match", route["properties"]["match"].clone(), true);
    add(&mut service, "copy_to", route["properties"]["groups"].clone(), false);
    let mut root = topology::schema::root();
    add(&mut root, "version", json!({ "const": 1 }), true);
    add(&mut root, "cluster", topology::schema::cluster(), true);
    let (forward, listener) = forward::schema();
    add(&mut root, "forward", forward, false);
    for (name, items) in [
        ("edge", topology::schema::edge()),
        ("group", group),
        ("service", service),
        ("route", route),
        ("listener", listener),
    ] {
        add(&mut root, name, list(&items), false);
    }
    titled("Weir: the topology of a cluster", root)
}

/// The JSON schema of node files.
#[must_use]
pub fn node_schema() -> Value {
    titled("Weir: one node of a cluster", node::schema())
}

/// A list of tables.
pub(crate) fn list(items: &Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// Adds a key to the schema of a table.
pub(crate) fn add(table: &mut Value, key: &str, schema: Value, required: bool) {
    table["properties"][key] = schema;
    if let Some(keys) =
        table["required"].as_array_mut().filter(|keys| required && !keys.contains(&json!(key)))
    {
        keys.push(json!(key));
    }
}

/// One of several tables, told apart by `kind`.
pub(crate) fn by_kind(tables: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let of_kind = |(kind, mut table): (&str, Value)| {
        add(&mut table, "kind", json!({ "const": kind }), true);
        table
    };
    json!({ "oneOf": tables.into_iter().map(of_kind).collect::<Vec<_>>() })
}

fn titled(title: &str, schema: Value) -> Value {
    let mut titled =
        Map::from_iter([("$schema".to_owned(), json!(DRAFT)), ("title".to_owned(), json!(title))]);
    if let Value::Object(schema) = schema {
        titled.extend(schema);
    }
    Value::Object(titled)
}
