//! From TOML to raw values that know their place, without stopping at the first problem.
//!
//! serde stops at the first thing that it cannot read. Three habits here let a user see all of them at once:
//! each block of a file is read alone ([`Reader::block`]), an unknown key is reported and taken out before the
//! block is read again, and a value in a wrong form is a value that says so ([`Checked`]).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::PathBuf;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use weir_model::{GroupId, Network, NodeId};

use crate::problem::{Problem, Severity, did_you_mean};
use crate::size::{ByteSize, SizeError, duration};

/// Why a value is wrong, and what to write instead.
pub(crate) type Wrong = (String, Option<String>);

/// A table with the place of its head.
pub(crate) type Block<'a> = Spanned<DeTable<'a>>;

/// Collects the problems of one file.
pub(crate) struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// Parses the whole file; a file that is no TOML is an empty table with problems.
    pub(crate) fn open(file: &'a str, text: &'a str) -> (Self, Block<'a>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut reader = Self { file, text, problems: Vec::new() };
        for error in &errors {
            reader.error(error.span().unwrap_or(0..0), error.message().replace('\n', ", "), None);
        }
        // What follows the first mistake of a line is mostly its echo.
        reader.problems.dedup_by_key(|problem| problem.line);
        (reader, root)
    }

    /// Adds a problem for which the file is refused.
    pub(crate) fn error(&mut self, span: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        self.add(span, Severity::Error, message.into(), hint);
    }

    /// Adds a problem that the file may have.
    pub(crate) fn warn(&mut self, span: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        self.add(span, Severity::Warning, message.into(), hint);
    }

    fn add(&mut self, span: Range<usize>, severity: Severity, message: String, hint: Option<String>) {
        self.problems.push(Problem { hint, ..Problem::at(self.file, self.text, span, severity, message) });
    }

    /// Whether the file is already refused.
    pub(crate) fn failed(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Everything found, in the order of the file.
    pub(crate) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        // What several tables inherit is read, and found wrong, once for each of them.
        self.problems.dedup();
        self.problems
    }

    /// The line that a byte of the file is in.
    pub(crate) fn line(&self, span: Range<usize>) -> usize {
        Problem::at(self.file, self.text, span, Severity::Error, String::new()).line
    }

    /// The place of a byte of a text that was written at `span`; all of it where the file spells it otherwise, with
    /// escapes.
    pub(crate) fn within(&self, span: Range<usize>, text: &str, byte: usize) -> Range<usize> {
        let written = self.text.get(span.clone()).and_then(|source| source.find(text));
        written.map_or(span.clone(), |quotes| span.start + quotes + byte..span.end)
    }

    /// Takes the table under `key` out of `parent`; none if it is not there or no table.
    pub(crate) fn take_table<'t>(&mut self, parent: &mut Block<'t>, key: &str) -> Option<Block<'t>> {
        let value = parent.get_mut().remove(key)?;
        self.as_table(key, value)
    }

    /// Takes the list of tables under `key` out of `parent`.
    pub(crate) fn take_tables<'t>(&mut self, parent: &mut Block<'t>, key: &str) -> Vec<Block<'t>> {
        let Some(value) = parent.get_mut().remove(key) else { return Vec::new() };
        let span = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            self.error(span, format!("`{key}` is a list of tables"), Some(format!("write [[{key}]]")));
            return Vec::new();
        };
        items.into_iter().filter_map(|item| self.as_table(key, item)).collect()
    }

    fn as_table<'t>(&mut self, key: &str, value: Spanned<DeValue<'t>>) -> Option<Block<'t>> {
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            self.error(span, format!("`{key}` is a table"), None);
            return None;
        };
        Some(Spanned::new(span, table))
    }

    /// Reads a block. `elsewhere` are the keys that were taken out of it before, for the hints.
    pub(crate) fn block<T: DeserializeOwned>(&mut self, block: &Block<'_>, elsewhere: &[&str]) -> Option<T> {
        let mut table = block.get_ref().clone();
        loop {
            let value = Spanned::new(block.span(), DeValue::Table(table.clone()));
            let error = match T::deserialize(ValueDeserializer::from(value)) {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_else(|| block.span());
            // serde's words for `deny_unknown_fields`, which carry the names that it knows.
            let Some(names) = error.message().strip_prefix("unknown field ") else {
                self.error(span, error.message(), form_hint(error.message()));
                return None;
            };
            let mut names = names.split('`').skip(1).step_by(2);
            let wrong = names.next().unwrap_or_default();
            let hint = did_you_mean(wrong, names.chain(elsewhere.iter().copied()));
            self.error(span, format!("unknown key `{wrong}`"), hint);
            table.remove(wrong)?;
        }
    }

    /// The value, or `instead` with a problem if it is wrong.
    pub(crate) fn value<T>(&mut self, read: Spanned<Checked<T>>, instead: T) -> T {
        let span = read.span();
        read.into_inner().0.unwrap_or_else(|(message, hint)| {
            self.error(span, message, hint);
            instead
        })
    }

    /// The value, or `default` if there is none.
    pub(crate) fn value_or<T>(&mut self, read: Option<Spanned<Checked<T>>>, default: T) -> T {
        match read {
            Some(read) => self.value(read, default),
            None => default,
        }
    }

    /// The value, or nothing with a problem if it is wrong.
    pub(crate) fn required<T>(&mut self, read: Spanned<Checked<T>>) -> Option<T> {
        let span = read.span();
        read.into_inner().0.map_err(|(message, hint)| self.error(span, message, hint)).ok()
    }
}

/// What to do about serde's words for the two other things that go wrong with the form of a block.
fn form_hint(message: &str) -> Option<String> {
    if let Some(key) = message.strip_prefix("missing field ") {
        return Some(format!("add the key {key} to this table"));
    }
    message.ends_with("expected a string").then(|| "write it in quotes".to_owned())
}

/// A value that can be written as text, and some as a number.
pub(crate) trait Value: Sized {
    /// What may be written, as JSON schema.
    const FORM: &str = r#"{"type": "string"}"#;
    /// Reads text.
    fn from_text(text: &str) -> Result<Self, Wrong>;
    /// Reads a number.
    fn from_number(number: i64) -> Result<Self, Wrong> {
        Err((format!("{number} stands where text belongs"), Some(format!("write \"{number}\""))))
    }
    /// Reads a table of text.
    fn from_table(_table: &BTreeMap<String, String>) -> Result<Self, Wrong> {
        Err(("a table stands where text belongs".to_owned(), None))
    }
}

/// What was read of a value: never an error to serde, so that what follows it is read too.
pub(crate) struct Checked<T>(pub(crate) Result<T, Wrong>);

impl<'de, T: Value> Deserialize<'de> for Checked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading<T>(PhantomData<T>);
        impl<'de, T: Value> Visitor<'de> for Reading<T> {
            type Value = Checked<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // The schema asks in this way; to people the plain words go.
                f.write_str(if f.alternate() { T::FORM } else { "text or a whole number" })
            }
            fn visit_str<E>(self, text: &str) -> Result<Checked<T>, E> {
                Ok(Checked(T::from_text(text)))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Checked<T>, E> {
                Ok(Checked(T::from_number(number)))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Checked<T>, A::Error> {
                let mut table = BTreeMap::new();
                while let Some((key, value)) = pairs.next_entry()? {
                    table.insert(key, value);
                }
                Ok(Checked(T::from_table(&table)))
            }
        }
        deserializer.deserialize_any(Reading(PhantomData))
    }
}

pub(crate) fn filled(text: &str) -> Result<&str, Wrong> {
    if text.trim().is_empty() { Err(("empty text".to_owned(), None)) } else { Ok(text) }
}

impl Value for String {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        filled(text).map(Into::into)
    }
}

impl Value for PathBuf {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        filled(text).map(Into::into)
    }
}

impl Value for NodeId {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        Self::new(text).map_err(|error| (error.to_string(), None))
    }
}

impl Value for GroupId {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        Self::new(text).map_err(|error| (error.to_string(), None))
    }
}

impl Value for Network {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let hint = || Some("such as \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"".to_owned());
        text.parse().map_err(|error: weir_model::NetworkError| (error.to_string(), hint()))
    }
}

fn amount(error: &SizeError) -> Wrong {
    (error.to_string(), Some(error.hint().to_owned()))
}

impl Value for ByteSize {
    const FORM: &str = r#"{"anyOf": [
        {"type": "string", "pattern": "^[0-9]+ *(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)?$"}, {"type": "integer", "minimum": 0}
    ]}"#;
    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse().map_err(|error| amount(&error))
    }
    fn from_number(number: i64) -> Result<Self, Wrong> {
        Self::from_text(&number.to_string())
    }
}

impl Value for std::time::Duration {
    const FORM: &str = r#"{"type": "string", "pattern": "^[0-9]+ *(ms|s|min|h)$"}"#;
    fn from_text(text: &str) -> Result<Self, Wrong> {
        duration(text).map_err(|error| amount(&error))
    }
    fn from_number(number: i64) -> Result<Self, Wrong> {
        Self::from_text(&number.to_string())
    }
}

/// `host:port`, with or without a free choice of port.
pub(crate) struct Address<const ANY_PORT: bool>(pub(crate) String);

impl<const ANY_PORT: bool> Value for Address<ANY_PORT> {
    const FORM: &str = r#"{"type": "string", "pattern": "^.+:[0-9]+$"}"#;
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let hint =
            || Some("write host:port, such as \"sink-1.example.org:24400\" or \"[::1]:24400\"".to_owned());
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        match port.parse::<u16>() {
            _ if host.is_empty() || bare_v6 => Err((format!("{text:?} is not an address"), hint())),
            Ok(0) if !ANY_PORT => Err((format!("{text:?}: nobody can reach port 0"), hint())),
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err((format!("{text:?} has no port"), hint())),
        }
    }
}

/// Gives an enum the words that stand for its cases in a file.
macro_rules! words {
    ($type:ty { $first:literal => $first_case:expr $(, $word:literal => $case:expr)* $(,)? }) => {
        impl $crate::read::Value for $type {
            const FORM: &str = concat!("{\"enum\": [\"", $first, "\"" $(, ", \"", $word, "\"")*, "]}");
            fn from_text(text: &str) -> Result<Self, $crate::read::Wrong> {
                match text {
                    $first => Ok($first_case),
                    $($word => Ok($case),)*
                    _ => Err((
                        format!("{text:?} is not known here"),
                        $crate::problem::did_you_mean(text, [$first $(, $word)*]),
                    )),
                }
            }
        }
    };
}
pub(crate) use words;
