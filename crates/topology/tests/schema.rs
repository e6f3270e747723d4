//! The schemas take every file that the project shows, and no key that the readers do not know.

use std::path::{Path, PathBuf};

use serde_json::Value;
use weir_topology::{node_schema, topology_schema};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topology")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Judges a value by the part of JSON schema that ours use; an error is a path.
fn judge(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let fail = |what: &str| Err(format!("{at}: {what}"));
    if let Some(constant) = schema.get("const")
        && constant != value
    {
        return fail("another value");
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return fail("not one of the words");
    }
    for (key, least) in [("anyOf", 1), ("oneOf", 1)] {
        let Some(choices) = schema[key].as_array() else { continue };
        let taken = choices.iter().filter(|choice| judge(choice, value, at).is_ok()).count();
        if taken < least || (key == "oneOf" && taken > 1) {
            return fail(&format!("{taken} of {key} take it"));
        }
    }
    match schema["type"].as_str() {
        Some("string") if !value.is_string() => return fail("no text"),
        Some("integer") if !value.is_i64() => return fail("no number"),
        Some("boolean") if !value.is_boolean() => return fail("no true or false"),
        Some("array") if !value.is_array() => return fail("no list"),
        Some("object") if !value.is_object() => return fail("no table"),
        _ => {}
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        judge(&schema["items"], item, &format!("{at}[{index}]"))?;
    }
    let Some(table) = value.as_object() else { return Ok(()) };
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !table.contains_key(key) {
            return fail(&format!("no `{key}`"));
        }
    }
    for (key, value) in table {
        let of_key = schema["properties"].get(key).or(schema.get("additionalProperties"));
        match of_key {
            Some(Value::Bool(false)) => return fail(&format!("unknown key `{key}`")),
            Some(of_key) => judge(of_key, value, &format!("{at}.{key}"))?,
            None => {}
        }
    }
    Ok(())
}

#[test]
fn every_example_is_taken() {
    let (topology, node) = (topology_schema(), node_schema());
    let mut seen = 0;
    for file in ["local.toml", "three-racks.toml"] {
        judge(&topology, &read(&directory().join(file)), file).unwrap();
    }
    for entry in std::fs::read_dir(directory().join("local")).unwrap() {
        let path = entry.unwrap().path();
        // The schemas are those of topologies and nodes.
        if !path.ends_with("controller.toml") {
            judge(&node, &read(&path), "node").unwrap();
            seen += 1;
        }
    }
    assert_eq!(seen, 7);
    let text = std::fs::read_to_string(directory().join("README.md")).unwrap();
    for block in text.split("```toml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let value: Value = toml::from_str(block).unwrap();
        let is_node = block.starts_with("# node file");
        if is_node || value.get("cluster").is_some() {
            judge(if is_node { &node } else { &topology }, &value, "README.md").unwrap();
        }
    }
}

#[test]
fn what_the_readers_refuse_is_refused() {
    let topology = topology_schema();
    let text = std::fs::read_to_string(directory().join("three-racks.toml")).unwrap();
    for (from, to) in [
        ("quota =", "qouta ="),
        ("name = \"kafka-a\", ", ""),
        ("affinity = \"rack\"", "affinity = \"room\""),
        ("kind = \"kafka\"", "kind = \"tape\""),
        ("kind = \"kafka\"\n", ""),
        ("match = \"", "matches = \""),
        ("[cluster]\nname", "[cluster]\ncalled"),
        ("replication = 3", "replication = \"three\""),
        ("compression = \"zstd\"", "shared = true"),
        ("version = 1", "version = 2"),
    ] {
        assert!(text.contains(from), "{from}");
        let broken: Value = toml::from_str(&text.replacen(from, to, 1)).unwrap();
        assert!(judge(&topology, &broken, "").is_err(), "{to} is taken");
    }
}

#[test]
fn forms_are_those_of_the_values() {
    let group = &topology_schema()["properties"]["group"]["items"];
    assert_eq!(group["properties"]["affinity"]["enum"], serde_json::json!(["none", "rack"]));
    let required = group["required"].as_array().unwrap();
    for key in ["id", "sink", "store"] {
        assert!(required.iter().any(|name| name == key), "{key}: {required:?}");
    }
    assert!(!required.iter().any(|name| name == "quota"));
    assert!(group["properties"]["quota"].to_string().contains("GiB"));
}

#[test]
fn each_transform_has_its_form() {
    let schema = topology_schema();
    let group = &schema["properties"]["group"]["items"]["properties"];
    assert!(group["repeats"]["properties"]["window"].is_object());
    let steps = &group["transform"];
    for (text, taken) in [
        ("remove = 'a'", true),
        ("keep = ['a', 'b.c']", true),
        ("add = { env = 'prod', shard = 3 }", true),
        ("redact = ['a']", true),
        ("redact = { fields = ['a'], match = '[0-9]+', with = '-' }", true),
        ("drop = { field = 'level', match = 'debug' }", true),
        ("only = { field = 'level' }", false),
        ("inject = { time_key = 'time', time_format = 'float' }", true),
        ("inject = { time = 'time' }", false),
        ("keep = ['a']\nremove = 'b'", false),
        ("kepe = ['a']", false),
    ] {
        let value: Value = toml::from_str(&format!("[[transform]]\n{text}")).unwrap();
        assert_eq!(judge(steps, &value["transform"], "").is_ok(), taken, "{text}");
    }
}
