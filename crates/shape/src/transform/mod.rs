//! Steps that change a record, or drop its event, on the way to the store.
//!
//! Start at [`transform`]. A step looks at one record alone, knows no time but the event's and does no I/O. What no step
//! touches keeps its bytes, whatever type it has; a record that no step changes is copied whole.
//! Left out on purpose: other tags, other times, and anything that takes several events.

mod field;
mod value;

use std::fmt;

use bytes::Bytes;
use regex::bytes::{NoExpand, Regex};
use weir_forward::Tally;
use weir_forward::scan::{EventTime, ScanError, entries};
use weir_forward::unpack::{UnpackError, unpack};
use weir_model::{BatchHeader, Encoding};
use xxhash_rust::xxh3::xxh3_64;

use crate::events::{UNPACKED_BYTES_MAX, nanoseconds};
use crate::msgpack::{Input, Piece};
use crate::time::Clock;
use field::{Members, text};
use value::plain;

pub use field::{Field, FieldError};
pub use value::{TimeFormat, Value, ValueError};

/// A regular expression; two are the same that are written the same.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles it. Searching takes time in proportion to the text, whatever the expression.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn parse(written: &str) -> Result<Self, String> {
        // The library's message shows the expression above the reason.
        let reason = |error: regex::Error| {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        };
        Regex::new(written).map(Self).map_err(reason)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transform {
    /// Gives fields values; those that are there get others.
    Add(Vec<(Field, Value)>),
    /// Moves fields, from the first name to the second.
    Rename(Vec<(Field, Field)>),
    /// Takes fields out.
    Remove(Vec<Field>),
    /// Leaves nothing but these fields.
    Keep(Vec<Field>),
    /// Hides values.
    Redact {
        /// Whose.
        fields: Vec<Field>,
        /// Only what matches this, in text and in all text within maps and arrays; the whole value if none.
        pattern: Option<Pattern>,
        /// What stands there instead.
        with: String,
    },
    /// Drops events by a field's text: of a missing field, and of nil, that is empty.
    Filter {
        /// Whose text.
        field: Field,
        /// What it is searched for.
        pattern: Pattern,
        /// Whether events that match are dropped, or those that do not.
        drop: bool,
    },
    /// Puts what is known of the event beside the record into it.
    Inject {
        /// Field for the time, and how that is written.
        time: Option<(Field, TimeFormat)>,
        /// Field for the tag.
        tag: Option<Field>,
        /// Field for the name of the host.
        hostname: Option<Field>,
    },
}

/// A batch after its transforms.
#[derive(Debug)]
pub struct Transformed {
    /// Counted anew, [`Encoding::Plain`] and without chunks, for these are not the sender's bytes any more.
    pub header: BatchHeader,
    /// What is left of the entries; empty when all were dropped.
    pub payload: Bytes,
    /// Events that a step dropped.
    pub dropped: u64,
    /// Why the rest of the batch could not be read, and how many events that are.
    pub damage: Option<(u64, DamageError)>,
}

/// What is wrong with a batch that cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum DamageError {
    /// The payload is damaged or too large.
    #[error("the payload cannot be unpacked")]
    Unpack(#[source] UnpackError),
    /// The payload holds something else than entries.
    #[error("an entry of the batch cannot be read")]
    Entry(#[source] ScanError),
}

/// What a step may know beside the record.
struct Surroundings<'a> {
    tag: &'a str,
    hostname: &'a str,
    moment: Moment,
}

/// The time of an event, and texts of times before.
struct Moment {
    ns: i64,
    clock: Clock,
    formatted: Option<(i64, String, String)>,
}

/// Takes each event of a batch through all steps, in their order. `hostname` is what placeholders and `inject` call so.
#[must_use]
pub fn transform(steps: &[Transform], hostname: &str, header: &BatchHeader, payload: &[u8]) -> Transformed {
    let moment = Moment { ns: 0, clock: Clock::new(), formatted: None };
    let mut around = Surroundings { tag: &header.tag, hostname, moment };
    let mut tally = Tally::new(header.received_ns);
    let (mut out, mut dropped, mut kept, mut damage) = (Vec::new(), 0, 0, None);
    match unpack(header.encoding, payload, UNPACKED_BYTES_MAX) {
        Err(error) => damage = Some(DamageError::Unpack(error)),
        Ok(plain) => {
            out.reserve(plain.len());
            for entry in entries(&plain) {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        damage = Some(DamageError::Entry(error));
                        break;
                    }
                };
                around.moment.ns = match entry.time {
                    EventTime::Received => header.received_ns,
                    EventTime::At { secs, nanos } => nanoseconds(secs, nanos),
                };
                let start = out.len();
                // An entry's record is a map.
                let Some(mut record) = Members::read(entry.record) else { continue };
                match apply(steps, &mut record, &mut around) {
                    Outcome::Dropped => {
                        dropped += 1;
                        continue;
                    }
                    Outcome::Kept { changed: false } => out.extend_from_slice(entry.bytes),
                    Outcome::Kept { changed: true } => {
                        let at = entry.record.as_ptr() as usize - entry.bytes.as_ptr() as usize;
                        out.extend_from_slice(&entry.bytes[..at]);
                        record.write(&mut out);
                        out.extend_from_slice(&entry.bytes[at + entry.record.len()..]);
                    }
                }
                kept += 1;
                tally.add(entry.time, out.len() - start, xxh3_64(&out[start..]));
            }
        }
    }
    let lost = header.events().saturating_sub(kept + dropped);
    let header = BatchHeader {
        tag: header.tag.clone(),
        encoding: Encoding::Plain,
        received_ns: header.received_ns,
        chunks: Vec::new(),
        unpacked_bytes: out.len() as u64,
        // There are no more minutes than before, which were few enough.
        minutes: tally.finish().unwrap_or_default(),
    };
    Transformed { header, payload: out.into(), dropped, damage: damage.map(|error| (lost, error)) }
}

enum Outcome {
    Kept { changed: bool },
    Dropped,
}

fn apply(steps: &[Transform], record: &mut Members<'_>, around: &mut Surroundings<'_>) -> Outcome {
    let (mut changed, mut scratch) = (false, Vec::new());
    for step in steps {
        match step {
            Transform::Add(fields) => {
                for (field, value) in fields {
                    if let Some(value) = value.make(record, around) {
                        changed |= record.set(field, &value);
                    }
                }
            }
            Transform::Rename(pairs) => {
                pairs.iter().for_each(|(from, to)| changed |= record.rename(from, to));
            }
            Transform::Remove(fields) => fields.iter().for_each(|field| changed |= record.remove(field)),
            Transform::Keep(fields) => {
                let fields: Vec<&[String]> = fields.iter().map(Field::names).collect();
                changed |= record.keep(&fields);
            }
            Transform::Redact { fields, pattern, with } => {
                let mut hide = |value: &[u8]| match pattern {
                    None => Some(text(with)),
                    Some(pattern) => redacted(value, pattern, with),
                };
                fields.iter().for_each(|field| changed |= record.change(field, &mut hide));
            }
            Transform::Filter { field, pattern, drop } => {
                scratch.clear();
                record.get(field).into_iter().for_each(|value| plain(value, &mut scratch));
                if pattern.0.is_match(&scratch) == *drop {
                    return Outcome::Dropped;
                }
            }
            Transform::Inject { time, tag, hostname } => {
                if let Some((field, format)) = time {
                    scratch.clear();
                    around.moment.write(format, &mut scratch);
                    changed |= record.set(field, &scratch);
                }
                for (field, known) in [(tag, around.tag), (hostname, around.hostname)] {
                    if let Some(field) = field {
                        changed |= record.set(field, &text(known));
                    }
                }
            }
        }
    }
    Outcome::Kept { changed }
}

/// A value in which what matches is hidden; none if nothing does.
fn redacted(value: &[u8], pattern: &Pattern, with: &str) -> Option<Vec<u8>> {
    let mut input = Input::new(value);
    let items = match input.next() {
        Ok(Piece::Array(items)) => items,
        Ok(Piece::Map(members)) => members * 2,
        _ => {
            let mut shown = Vec::new();
            plain(value, &mut shown);
            let hidden = pattern.0.is_match(&shown).then(|| {
                let hidden = pattern.0.replace_all(&shown, NoExpand(with.as_bytes()));
                let mut out = Vec::with_capacity(hidden.len() + 5);
                // A Vec takes every write.
                let len = u32::try_from(hidden.len()).unwrap_or(u32::MAX);
                let _ = match value.first() {
                    Some(0xc4..=0xc6) => rmp::encode::write_bin_len(&mut out, len),
                    _ => rmp::encode::write_str_len(&mut out, len),
                };
                out.extend_from_slice(&hidden);
                out
            });
            return hidden;
        }
    };
    let (is_map, mut changed) = (matches!(value.first(), Some(0x80..=0x8f | 0xde | 0xdf)), false);
    let mut out = value[..input.pos()].to_vec();
    for item in 0..items {
        let inner = input.value_at(input.pos()).ok()?;
        // Keys stay: another name would be another field.
        let new = if is_map && item % 2 == 0 { None } else { redacted(inner, pattern, with) };
        changed |= new.is_some();
        out.extend_from_slice(new.as_deref().unwrap_or(inner));
    }
    changed.then_some(out)
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
            items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
        }
        match self {
            Self::Add(fields) => {
                write!(f, "add {}", list(fields.iter().map(|(field, value)| format!("{field} = {value}"))))
            }
            Self::Rename(pairs) => {
                write!(f, "rename {}", list(pairs.iter().map(|(from, to)| format!("{from} to {to}"))))
            }
            Self::Remove(fields) => write!(f, "remove {}", list(fields)),
            Self::Keep(fields) => write!(f, "keep {}", list(fields)),
            Self::Redact { fields, pattern, with } => {
                write!(f, "redact {}", list(fields))?;
                pattern.iter().try_for_each(|pattern| write!(f, " where /{}/", pattern.0))?;
                write!(f, " with {with:?}")
            }
            Self::Filter { field, pattern, drop } => {
                write!(f, "{} {field} like /{}/", if *drop { "drop" } else { "only" }, pattern.0)
            }
            Self::Inject { time, tag, hostname } => {
                let time = time.iter().map(|(field, format)| format!("time as {field} ({format})"));
                let tag = tag.iter().map(|field| format!("tag as {field}"));
                let hostname = hostname.iter().map(|field| format!("hostname as {field}"));
                write!(f, "inject {}", list(time.chain(tag).chain(hostname)))
            }
        }
    }
}
