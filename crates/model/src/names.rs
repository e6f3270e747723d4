//! Names of nodes, groups, incarnations and parts, with how each prints and parses.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest node or group name, in bytes: one DNS label (RFC 1035, section 2.3.4), because node names end up
/// in certificates, file names, topic names and transactional ids.
const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than one DNS label.
    #[error("{0:?} has {len} bytes; a name has 1 to {NAME_BYTES_MAX}", len = .0.len())]
    Length(String),
    /// A character outside of `a-z A-Z 0-9 - _ .`, or a first character that is not a letter or a digit.
    #[error("{0:?} may hold only letters, digits, '-', '_' and '.', and starts with a letter or digit")]
    Character(String),
    /// Not of the form that a part id prints as.
    #[error("{0:?} is not a part id (<sink>~<incarnation>~<number>)")]
    Part(String),
    /// Not 32 hexadecimal digits.
    #[error("{0:?} is not an incarnation (32 hexadecimal digits)")]
    Incarnation(String),
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(NameError::Length(text.to_owned()));
    }
    let first = text.as_bytes()[0];
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !first.is_ascii_alphanumeric() || !text.bytes().all(legal) {
        return Err(NameError::Character(text.to_owned()));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and makes a name of it.
            ///
            /// # Errors
            /// [`NameError`] when the text is empty, too long, or holds a character that a DNS label,
            /// a file name and a topic name do not share.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name! {
    /// The name of one edge or sink, unique in the cluster; it is also the name in its certificate.
    NodeId
}
name! {
    /// The stable id of a sink group. It outlives renames: an edge's log directory carries it.
    GroupId
}

/// A random number made when a thing begins (an edge's group log is created, a sink starts), so that a wiped
/// or restarted one is never mistaken for its old self.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u128);

// As two 64-bit halves: MessagePack has no 128-bit integer.
impl Serialize for Incarnation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ((self.0 >> 64) as u64, self.0 as u64).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Incarnation {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (high, low) = <(u64, u64)>::deserialize(deserializer)?;
        Ok(Self((u128::from(high) << 64) | u128::from(low)))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Incarnation {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Incarnation(text.to_owned());
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| wrong())
    }
}

/// The place of a batch in its group log, counted from 0; never used twice within one log incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A version of who owns what, counted by one edge for one group. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The name of one part: one exact set of batches, for ever.
///
/// It prints as `<sink>~<incarnation>~<number>`, which is safe in a file name, an object key and a Kafka
/// record key, and parses back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartId {
    /// The sink that cut the part.
    pub sink: NodeId,
    /// That sink's life at the time.
    pub incarnation: Incarnation,
    /// Counted from 0 within that life.
    pub number: u64,
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}~{}", self.sink, self.incarnation, self.number)
    }
}

impl FromStr for PartId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Part(text.to_owned());
        let mut pieces = text.split('~');
        let (Some(sink), Some(incarnation), Some(number), None) =
            (pieces.next(), pieces.next(), pieces.next(), pieces.next())
        else {
            return Err(wrong());
        };
        Ok(Self {
            sink: sink.parse()?,
            incarnation: incarnation.parse()?,
            number: number.parse().map_err(|_| wrong())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "edge-1", "kafka_logs.r1", "9"] {
            assert_eq!(NodeId::new(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "-a", "a b", "a/b", "a~b", "é", &"x".repeat(64)] {
            assert!(NodeId::new(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_part_id_prints_and_parses() {
        let id = PartId {
            sink: NodeId::new("sink-1").unwrap(),
            incarnation: Incarnation(0xfeed_0000_0000_0000_0000_0000_0000_0001),
            number: 42,
        };
        let text = id.to_string();
        assert_eq!(text, "sink-1~feed0000000000000000000000000001~42");
        assert_eq!(text.parse::<PartId>(), Ok(id));
        for bad in ["", "a", "a~b~c", "sink-1~feed0000000000000000000000000001~x", "a~1~2~3"] {
            assert!(bad.parse::<PartId>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn an_incarnation_survives_messagepack() {
        let incarnation = Incarnation(u128::MAX - 5);
        let bytes = rmp_serde::to_vec(&incarnation).unwrap();
        assert_eq!(rmp_serde::from_slice::<Incarnation>(&bytes).unwrap(), incarnation);
    }
}
