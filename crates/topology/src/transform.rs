//! `[[group.transform]]`: steps that change records, or drop events, on the way to the store.

use serde::Deserialize;
use serde_json::json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use weir_shape::transform::{Field, FieldError, Pattern, TimeFormat, Transform, Value as Made};

use crate::problem::did_you_mean;
use crate::read::{Block, Checked, Reader, Value, Wrong};
use crate::store::shown;
use crate::trace::table;

const STEPS: [&str; 8] = ["add", "rename", "remove", "keep", "redact", "drop", "only", "inject"];
const PLACEHOLDERS: &str = "known here: ${tag}, ${tag_parts[0]}, ${tag_parts[-1]}, ${time}, ${hostname}, ${record.field}, \
                            ${record.map.field}; $${ stands for ${ itself";

type Required<T> = Spanned<Checked<T>>;
type Optional<T> = Option<Required<T>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRedact {
    fields: Vec<Required<Field>>,
    #[serde(rename = "match")]
    pattern: Optional<Pattern>,
    with: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFilter {
    field: Required<Field>,
    #[serde(rename = "match")]
    pattern: Required<Pattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInject {
    time_key: Optional<Field>,
    time_format: Optional<TimeFormat>,
    tag_key: Optional<Field>,
    hostname_key: Optional<Field>,
}

impl Value for Field {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let hint = |error: &FieldError| match error {
            FieldError::Empty(_) => {
                "write the names of nested maps with one dot between them, such as user.name"
            }
            FieldError::Escape(_) => "write it twice for the character itself",
        };
        Self::parse(text).map_err(|error| (format!("{text:?}: {error}"), Some(hint(&error).to_owned())))
    }
}

impl Value for Pattern {
    const FORM: &str = r#"{"type": "string", "format": "regex"}"#;
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let hint = "as the `regex` crate has it: no look-around, no back-references; write it as '…', where a backslash is itself";
        Self::parse(text)
            .map_err(|error| (format!("{text:?} is no regular expression: {error}"), Some(hint.to_owned())))
    }
}

impl Value for TimeFormat {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let hint = "write \"rfc3339\", \"unixtime\", \"unixtime_millis\", \"float\" or a format such as \"%Y-%m-%d %H:%M:%S\"";
        Self::parse(text).map_err(|error| (error, Some(hint.to_owned())))
    }
}

/// Reads the steps; those that are wrong are reported and left out.
pub(crate) fn transforms(reader: &mut Reader<'_>, blocks: Vec<Block<'_>>) -> Vec<Transform> {
    blocks.into_iter().filter_map(|block| step(reader, block)).collect()
}

fn step(reader: &mut Reader<'_>, block: Block<'_>) -> Option<Transform> {
    let place = block.span();
    let mut keys = block.into_inner().into_iter();
    let (Some((name, value)), None) = (keys.next(), keys.next()) else {
        let hint = format!("write one [[group.transform]] for each step, in their order; {}", known());
        reader.error(place, "a transform is one step", Some(hint));
        return None;
    };
    let step = match name.get_ref().as_ref() {
        "add" => Transform::Add(pairs(reader, &value, "write add = { env = \"prod\" }", &made)?),
        "rename" => {
            let to = |reader: &mut Reader<'_>, from: &Field, value: &Spanned<DeValue<'_>>| {
                let to = field(reader, value)?;
                if from.holds(&to) {
                    reader.error(value.span(), format!("{from} cannot move into itself"), None);
                    return None;
                }
                Some(to)
            };
            Transform::Rename(pairs(reader, &value, "write rename = { msg = \"message\" }", &to)?)
        }
        "remove" => Transform::Remove(fields(reader, &value, "remove")?),
        "keep" => Transform::Keep(fields(reader, &value, "keep")?),
        "redact" => redact(reader, value)?,
        "drop" => filter(reader, value, true)?,
        "only" => filter(reader, value, false)?,
        "inject" => inject(reader, value)?,
        other => {
            reader.error(
                name.span(),
                format!("no transform is called {other:?}"),
                did_you_mean(other, STEPS),
            );
            return None;
        }
    };
    Some(step)
}

fn known() -> String {
    format!("known here: {}", STEPS.join(", "))
}

/// A list of fields, or a single one.
fn fields(reader: &mut Reader<'_>, value: &Spanned<DeValue<'_>>, step: &str) -> Option<Vec<Field>> {
    let found: Option<Vec<Field>> = match value.get_ref() {
        // All of them are read, so that all that are wrong are reported.
        DeValue::Array(items) => {
            let read: Vec<_> = items.iter().map(|item| field(reader, item)).collect();
            read.into_iter().collect()
        }
        _ => field(reader, value).map(|field| vec![field]),
    };
    if found.as_ref().is_some_and(Vec::is_empty) {
        let hint = format!("write {step} = [\"field\", \"map.field\"]");
        reader.error(value.span(), "the step names no field", Some(hint));
        return None;
    }
    found
}

fn field(reader: &mut Reader<'_>, value: &Spanned<DeValue<'_>>) -> Option<Field> {
    let Some(text) = value.get_ref().as_str() else {
        let hint = "write the name of a field in quotes".to_owned();
        reader.error(value.span(), format!("{} is no field", shown(value)), Some(hint));
        return None;
    };
    match Field::parse(text) {
        Ok(field) => Some(field),
        Err(FieldError::Empty(at) | FieldError::Escape(at)) => {
            let (message, hint) = Field::from_text(text).err().unwrap_or_default();
            let place = reader.within(value.span(), text, at);
            reader.error(place, message, hint);
            None
        }
    }
}

/// Reads what a step gives to a field.
type Given<'r, T> = dyn Fn(&mut Reader<'_>, &Field, &Spanned<DeValue<'_>>) -> Option<T> + 'r;

/// What a step gives to each field; tables within each other are paths.
fn pairs<T>(
    reader: &mut Reader<'_>,
    value: &Spanned<DeValue<'_>>,
    hint: &str,
    read: &Given<'_, T>,
) -> Option<Vec<(Field, T)>> {
    fn walk<T>(
        reader: &mut Reader<'_>,
        table: &DeTable<'_>,
        parent: Option<&Field>,
        read: &Given<'_, T>,
        found: &mut Vec<Option<(Field, T)>>,
    ) {
        for (key, value) in table {
            let key = Spanned::new(key.span(), DeValue::String(key.get_ref().clone()));
            let Some(name) = field(reader, &key).map(|name| name.below(parent)) else {
                found.push(None);
                continue;
            };
            match value.get_ref() {
                DeValue::Table(inner) => walk(reader, inner, Some(&name), read, found),
                _ => {
                    let value = read(reader, &name, value);
                    found.push(value.map(|value| (name, value)));
                }
            }
        }
    }
    let DeValue::Table(table) = value.get_ref() else {
        let message = format!("{} stands where a table of fields belongs", shown(value));
        reader.error(value.span(), message, Some(hint.to_owned()));
        return None;
    };
    let mut found = Vec::new();
    walk(reader, table, None, read, &mut found);
    if found.is_empty() {
        reader.error(value.span(), "the step names no field", Some(hint.to_owned()));
        return None;
    }
    found.into_iter().collect()
}

/// A value for a new field.
fn made(reader: &mut Reader<'_>, _: &Field, value: &Spanned<DeValue<'_>>) -> Option<Made> {
    match value.get_ref() {
        DeValue::String(text) => match Made::parse(text) {
            Ok(value) => return Some(value),
            Err(error) => {
                let place = reader.within(value.span(), text, error.at());
                reader.error(place, error.to_string(), Some(PLACEHOLDERS.to_owned()));
            }
        },
        DeValue::Boolean(truth) => return Some(Made::bool(*truth)),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => return Some(Made::integer(number)),
            Err(_) => reader.error(value.span(), "the number needs more than 64 bits", None),
        },
        DeValue::Float(digits) => match digits.as_str().parse() {
            Ok(number) => return Some(Made::float(number)),
            Err(_) => reader.error(value.span(), "this is no number", None),
        },
        _ => {
            let hint = "a field gets text, a number, true or false; write a time in quotes".to_owned();
            reader.error(value.span(), format!("{} cannot be added", shown(value)), Some(hint));
        }
    }
    None
}

/// The table of a step.
fn settings<'t>(reader: &mut Reader<'_>, value: Spanned<DeValue<'t>>, hint: &str) -> Option<Block<'t>> {
    let (place, text) = (value.span(), shown(&value));
    match value.into_inner() {
        DeValue::Table(table) => Some(Spanned::new(place, table)),
        _ => {
            reader.error(place, format!("{text} stands where a table belongs"), Some(hint.to_owned()));
            None
        }
    }
}

fn redact(reader: &mut Reader<'_>, value: Spanned<DeValue<'_>>) -> Option<Transform> {
    const WITH: &str = "***";
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        let fields = fields(reader, &value, "redact")?;
        return Some(Transform::Redact { fields, pattern: None, with: WITH.to_owned() });
    }
    let block = settings(reader, value, "write redact = [\"password\"]")?;
    let raw: RawRedact = reader.block(&block, &[])?;
    let read: Vec<_> = raw.fields.into_iter().map(|field| reader.required(field)).collect();
    let pattern = raw.pattern.map(|pattern| reader.required(pattern));
    let fields: Vec<Field> = read.into_iter().collect::<Option<_>>()?;
    if fields.is_empty() {
        let hint = "write fields = [\"password\"]".to_owned();
        reader.error(block.span(), "the step names no field", Some(hint));
        return None;
    }
    let with = raw.with.unwrap_or_else(|| WITH.to_owned());
    Some(Transform::Redact {
        fields,
        pattern: pattern.map_or(Some(None), |pattern| pattern.map(Some))?,
        with,
    })
}

fn filter(reader: &mut Reader<'_>, value: Spanned<DeValue<'_>>, drop: bool) -> Option<Transform> {
    let hint = if drop {
        "write drop = { field = \"level\", match = \"^debug$\" }"
    } else {
        "write only = { field = \"level\", match = \"^(warn|error)$\" }"
    };
    let block = settings(reader, value, hint)?;
    let raw: RawFilter = reader.block(&block, &[])?;
    let (field, pattern) = (reader.required(raw.field), reader.required(raw.pattern));
    Some(Transform::Filter { field: field?, pattern: pattern?, drop })
}

fn inject(reader: &mut Reader<'_>, value: Spanned<DeValue<'_>>) -> Option<Transform> {
    let hint = "write inject = { time_key = \"time\", tag_key = \"tag\", hostname_key = \"hostname\" }";
    let block = settings(reader, value, hint)?;
    let raw: RawInject = reader.block(&block, &[])?;
    let mut key = |key: Optional<Field>| match key {
        Some(key) => reader.required(key).map(Some),
        None => Some(None),
    };
    let (time, tag, hostname) = (key(raw.time_key), key(raw.tag_key), key(raw.hostname_key));
    let format_at = raw.time_format.as_ref().map(Spanned::span);
    let format = reader.value_or(raw.time_format, TimeFormat::Rfc3339);
    let (time, tag, hostname) = (time?, tag?, hostname?);
    if let Some(place) = format_at.filter(|_| time.is_none()) {
        reader.error(
            place,
            "a format of a time that goes nowhere",
            Some("add time_key = \"time\"".to_owned()),
        );
    }
    if time.is_none() && tag.is_none() && hostname.is_none() {
        reader.error(block.span(), "the step names no field", Some(hint.to_owned()));
        return None;
    }
    Some(Transform::Inject { time: time.map(|field| (field, format)), tag, hostname })
}

/// The schema of a `[[group.transform]]`.
pub(crate) fn schema() -> serde_json::Value {
    let name = json!({ "type": "string" });
    let list = json!({ "type": "array", "items": name, "minItems": 1 });
    let names = json!({ "anyOf": [name, list] });
    let forms = [
        ("add", json!({ "type": "object", "minProperties": 1 })),
        ("rename", json!({ "type": "object", "minProperties": 1 })),
        ("remove", names.clone()),
        ("keep", names),
        ("redact", json!({ "anyOf": [name, list, table::<RawRedact>()] })),
        ("drop", table::<RawFilter>()),
        ("only", table::<RawFilter>()),
        ("inject", table::<RawInject>()),
    ];
    let step = |(name, form): (&str, serde_json::Value)| json!({ "type": "object", "properties": { name: form }, "required": [name], "additionalProperties": false });
    json!({ "oneOf": forms.map(step) })
}
