//! Amounts with a unit: bytes and durations.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What each unit of bytes is worth, the largest first: printing takes the first that fits.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a whole number with a unit of bytes.
    #[error("{0:?} is not a size")]
    Bytes(String),
    /// Not a whole number with a unit of time.
    #[error("{0:?} is not a duration")]
    Time(String),
    /// More than 2^63 - 1 bytes, or milliseconds.
    #[error("{0:?} is too large")]
    Large(String),
}

impl SizeError {
    /// How to write it instead.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Bytes(_) => "a whole number and B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, such as \"64MiB\"",
            Self::Time(_) => "a whole number and ms, s, min or h, such as \"200ms\"",
            Self::Large(_) => "the limit is 2^63 - 1 bytes or milliseconds",
        }
    }
}

/// A number of bytes. It parses from `64MiB`, `1MB` or `4096`, and prints in the largest unit that holds it
/// exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `count` times 2^20 bytes.
    pub(crate) const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let wrong = || SizeError::Bytes(text.to_owned());
        let (count, unit) = split(text).ok_or_else(wrong)?;
        let worth = match unit {
            "" => 1,
            _ => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1,
        };
        scale(text, count, worth).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, worth) = UNITS
            .iter()
            .find(|(_, worth)| self.0 >= *worth && self.0.is_multiple_of(*worth))
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / worth)
    }
}

/// Parses `200ms`, `1s`, `5min`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, SizeError> {
    let wrong = || SizeError::Time(text.to_owned());
    let (count, unit) = split(text).ok_or_else(wrong)?;
    let worth = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" | "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    scale(text, count, worth).map(Duration::from_millis)
}

/// The digits in front, and the unit behind them.
fn split(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| (&text[..end], text[end..].trim()))
}

fn scale(text: &str, count: &str, worth: u64) -> Result<u64, SizeError> {
    let product = count.parse::<u64>().ok().and_then(|count| count.checked_mul(worth));
    product.filter(|amount| i64::try_from(*amount).is_ok()).ok_or_else(|| SizeError::Large(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_print() {
        for (text, bytes, printed) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("1024 MiB", 1 << 30, "1GiB"),
            ("1MB", 1_000_000, "1MB"),
            ("4096", 4096, "4KiB"),
            ("1500", 1500, "1500B"),
            ("0", 0, "0B"),
            ("2gib", 2 << 30, "2GiB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed), "{text}");
            assert_eq!(printed.parse(), Ok(size), "{text}");
        }
        for bad in ["", "MiB", "1.5GiB", "-1", "64 pounds", "9000000000000GiB", "99999999999999999999"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn durations_parse() {
        for (text, ms) in [("200ms", 200), ("1s", 1_000), ("5min", 300_000), ("2h", 7_200_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "1", "s", "1.5s", "1 week", "9999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad:?} must be refused");
        }
    }
}
