//! Values that are made for a record: as given, copied from a field, or text with placeholders.

use std::fmt;
use std::io::Write as _;

use crate::json::write_json;
use crate::msgpack::{Input, Piece};
use crate::transform::field::{Field, FieldError, Members, text};
use crate::transform::{Moment, Surroundings};

/// Why a text is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// `${` without `}`.
    #[error("\"${{\" without \"}}\"")]
    Open(usize),
    /// Something unknown in braces.
    #[error("${{{name}}} is not known")]
    Unknown {
        /// The offset of `${`.
        at: usize,
        /// What stands in the braces.
        name: String,
    },
    /// What follows `record.`.
    #[error("in ${{record.…}}: {source}")]
    Field {
        /// The offset of the path.
        at: usize,
        /// What is wrong with it.
        #[source]
        source: FieldError,
    },
}

impl ValueError {
    /// The byte of the text that is wrong.
    #[must_use]
    pub fn at(&self) -> usize {
        match self {
            Self::Open(at) | Self::Unknown { at, .. } => *at,
            Self::Field { at, source: FieldError::Empty(within) | FieldError::Escape(within) } => at + within,
        }
    }
}

/// A value for a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// As it was written.
    shown: String,
    made: Made,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Made {
    /// MessagePack.
    Given(Vec<u8>),
    /// The value of another field, of whatever type.
    Copied(Field),
    Text(Vec<Part>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Tag,
    /// Counted from the front, or from the end where negative.
    Piece(i64),
    Time,
    Hostname,
    Record(Field),
}

impl Value {
    /// Reads a text with placeholders; `$${` stands for `${` itself.
    ///
    /// # Errors
    /// [`ValueError`], with the offset of what is wrong.
    pub fn parse(written: &str) -> Result<Self, ValueError> {
        let (mut parts, mut literal, mut at) = (Vec::new(), String::new(), 0);
        while let Some(rest) = written.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(next) = rest.find("${") else {
                literal.push_str(rest);
                break;
            };
            if rest[..next].ends_with('$') {
                literal.push_str(&rest[..next - 1]);
                literal.push_str("${");
                at += next + 2;
                continue;
            }
            literal.push_str(&rest[..next]);
            at += next;
            let len = written[at..].find('}').ok_or(ValueError::Open(at))?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Self::placeholder(&written[at + 2..at + len], at)?);
            at += len + 1;
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        let made = match parts.as_slice() {
            [Part::Record(field)] => Made::Copied(field.clone()),
            [Part::Literal(only)] => Made::Given(text(only)),
            _ => Made::Text(parts),
        };
        Ok(Self { shown: format!("{written:?}"), made })
    }

    fn placeholder(name: &str, at: usize) -> Result<Part, ValueError> {
        let tag_part = || name.strip_prefix("tag_parts[")?.strip_suffix(']')?.parse().ok();
        match name {
            "tag" => Ok(Part::Tag),
            "time" => Ok(Part::Time),
            "hostname" => Ok(Part::Hostname),
            _ => match (name.strip_prefix("record."), tag_part()) {
                (Some(path), _) => Field::parse(path)
                    .map(Part::Record)
                    .map_err(|source| ValueError::Field { at: at + "${record.".len(), source }),
                (None, Some(index)) => Ok(Part::Piece(index)),
                (None, None) => Err(ValueError::Unknown { at, name: name.to_owned() }),
            },
        }
    }

    /// An integer.
    #[must_use]
    pub fn integer(value: i64) -> Self {
        let mut made = Vec::new();
        let _ = rmp::encode::write_sint(&mut made, value); // a Vec takes every write
        Self { shown: value.to_string(), made: Made::Given(made) }
    }

    /// A float of 64 bits.
    #[must_use]
    pub fn float(value: f64) -> Self {
        let mut made = Vec::new();
        let _ = rmp::encode::write_f64(&mut made, value);
        Self { shown: format!("{value:?}"), made: Made::Given(made) }
    }

    /// True or false.
    #[must_use]
    pub fn bool(value: bool) -> Self {
        Self { shown: value.to_string(), made: Made::Given(vec![0xc2 + u8::from(value)]) }
    }

    /// The value as MessagePack; none where it is a copy of a field that is not there.
    pub(super) fn make(&self, record: &Members<'_>, around: &mut Surroundings<'_>) -> Option<Vec<u8>> {
        match &self.made {
            Made::Given(value) => Some(value.clone()),
            Made::Copied(field) => record.get(field).map(<[u8]>::to_vec),
            Made::Text(parts) => {
                let mut made = Vec::new();
                for part in parts {
                    match part {
                        Part::Literal(literal) => made.extend_from_slice(literal.as_bytes()),
                        Part::Tag => made.extend_from_slice(around.tag.as_bytes()),
                        Part::Piece(index) => {
                            made.extend_from_slice(tag_part(around.tag, *index).as_bytes());
                        }
                        Part::Time => around.moment.rfc3339(&mut made),
                        Part::Hostname => made.extend_from_slice(around.hostname.as_bytes()),
                        Part::Record(field) => {
                            record.get(field).into_iter().for_each(|value| plain(value, &mut made));
                        }
                    }
                }
                // What a record holds may be no UTF-8; it stays what it is.
                let mut out = Vec::with_capacity(made.len() + 5);
                let _ = rmp::encode::write_str_len(&mut out, u32::try_from(made.len()).unwrap_or(u32::MAX));
                out.extend_from_slice(&made);
                Some(out)
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

fn tag_part(tag: &str, index: i64) -> &str {
    let part = match usize::try_from(index) {
        Ok(n) => tag.split('.').nth(n),
        Err(_) => usize::try_from(index.unsigned_abs() - 1).ok().and_then(|n| tag.rsplit('.').nth(n)),
    };
    part.unwrap_or_default()
}

/// Appends a value as people read it: text as it is, nil as nothing, everything else as JSON.
pub(super) fn plain(value: &[u8], out: &mut Vec<u8>) {
    match Input::new(value).next() {
        Ok(Piece::Str(bytes) | Piece::Bin(bytes)) => out.extend_from_slice(bytes),
        Ok(Piece::Nil) | Err(_) => {}
        Ok(piece) => {
            let start = out.len();
            // It was read before, so it has a form.
            let _ = write_json(out, value);
            // A time is quoted in JSON.
            if matches!(piece, Piece::Ext(..)) && out.get(start) == Some(&b'"') {
                out.pop();
                out.remove(start);
            }
        }
    }
}

impl Moment {
    fn rfc3339(&mut self, out: &mut Vec<u8>) {
        let nanos = self.ns.rem_euclid(crate::time::SECOND_NS) as u32;
        self.clock.write(self.ns.div_euclid(crate::time::SECOND_NS), nanos, out);
    }

    /// Appends the time as MessagePack.
    pub(super) fn write(&mut self, format: &TimeFormat, out: &mut Vec<u8>) {
        let seconds = self.ns.div_euclid(crate::time::SECOND_NS);
        // A Vec takes every write.
        match format {
            TimeFormat::Rfc3339 => {
                let mut made = Vec::with_capacity(30);
                self.rfc3339(&mut made);
                let _ = rmp::encode::write_str_len(out, made.len() as u32);
                out.extend_from_slice(&made);
            }
            TimeFormat::Unix => drop(rmp::encode::write_sint(out, seconds)),
            TimeFormat::UnixMillis => drop(rmp::encode::write_sint(out, self.ns.div_euclid(1_000_000))),
            TimeFormat::Float => drop(rmp::encode::write_f64(out, self.ns as f64 / 1e9)),
            TimeFormat::Strftime(format) => {
                // Second and text of the event before: neighbours mostly share them.
                let fine = format.contains("%N") || format.contains("%f") || format.contains("%L");
                let moment = if fine { self.ns } else { seconds };
                if self.formatted.as_ref().is_none_or(|(of, form, _)| *of != moment || form != format) {
                    self.formatted = Some((moment, format.clone(), strftime(self.ns, format)));
                }
                if let Some((_, _, made)) = &self.formatted {
                    let _ = rmp::encode::write_str(out, made);
                }
            }
        }
    }
}

/// How a time is written into a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeFormat {
    /// `2026-01-02T03:04:05.678901234Z`
    Rfc3339,
    /// Seconds since 1970, an integer.
    Unix,
    /// Milliseconds since 1970, an integer.
    UnixMillis,
    /// Seconds since 1970, a float, as Fluentd's `inject` does by itself.
    Float,
    /// As `strftime` writes it, in UTC.
    Strftime(String),
}

impl TimeFormat {
    /// Reads a word or a `strftime` format.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(written: &str) -> Result<Self, String> {
        match written {
            "rfc3339" => Ok(Self::Rfc3339),
            "unixtime" => Ok(Self::Unix),
            "unixtime_millis" => Ok(Self::UnixMillis),
            "float" => Ok(Self::Float),
            _ if written.contains('%') => {
                let mut out = Vec::new();
                let zoned = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
                match jiff::fmt::strtime::format(written, &zoned) {
                    Ok(made) => write!(out, "{made}").map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                }?;
                Ok(Self::Strftime(written.to_owned()))
            }
            _ => Err(format!("{written:?} is no format of a time")),
        }
    }
}

fn strftime(ns: i64, format: &str) -> String {
    let moment = jiff::Timestamp::from_nanosecond(ns.into()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    // It was tried when it was read.
    jiff::fmt::strtime::format(format, &moment.to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default()
}

impl fmt::Display for TimeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rfc3339 => "rfc3339",
            Self::Unix => "unixtime",
            Self::UnixMillis => "unixtime_millis",
            Self::Float => "float",
            Self::Strftime(format) => format,
        })
    }
}
