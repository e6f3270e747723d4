//! The times that entries carry: every form that some sender is known to use (R23 to R26).

/// When an event happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTime {
    /// The sender did not say (0 or nil): the time of receipt counts, [`weir_model::BatchHeader::received_ns`].
    Received,
    /// Seconds since 1970 and nanoseconds below 10⁹ into that second. Seconds may be negative or far off.
    At {
        /// Seconds since 1970-01-01T00:00Z; what exceeds 64 bits is cut to the nearest that does not.
        secs: i64,
        /// 0 to 999 999 999.
        nanos: u32,
    },
}

impl EventTime {
    /// Nanoseconds of 10⁹ and more carry into the seconds (R26); second 0 means the time of receipt (R23).
    fn at(secs: i64, nanos: u32) -> Self {
        match secs {
            0 => Self::Received,
            _ => Self::At {
                secs: secs.saturating_add(i64::from(nanos / 1_000_000_000)),
                nanos: nanos % 1_000_000_000,
            },
        }
    }

    /// To the nanosecond as far as the float holds it; no guess whether somebody meant milliseconds.
    fn of_float(seconds: f64) -> Option<Self> {
        if !seconds.is_finite() {
            return None;
        }
        if seconds == 0.0 {
            return Some(Self::Received);
        }
        let whole = seconds.floor();
        // Rounding may give a full second, which then carries. `as` cuts to the range of the target.
        let nanos = ((seconds - whole) * 1e9).round() as u32;
        let secs = (whole as i64).saturating_add(i64::from(nanos / 1_000_000_000));
        Some(Self::At { secs, nanos: nanos % 1_000_000_000 })
    }
}

/// The time that `value` starts with and the bytes it takes; `None` where this is no time or it is cut short.
#[inline]
pub(crate) fn time(value: &[u8]) -> Option<(EventTime, usize)> {
    match *value {
        [0xd7, 0x00, a, b, c, d, e, f, g, h, ..] => Some((event_time([a, b, c, d, e, f, g, h]), 10)),
        [0xce, a, b, c, d, ..] => Some((EventTime::at(i64::from(u32::from_be_bytes([a, b, c, d])), 0), 5)),
        _ => rare(value),
    }
}

fn rare(value: &[u8]) -> Option<(EventTime, usize)> {
    let whole = |secs: i64, size: usize| Some((EventTime::at(secs, 0), size));
    match *value {
        [0xc0, ..] => Some((EventTime::Received, 1)),
        [n @ (0x00..=0x7f | 0xe0..=0xff), ..] => whole(i64::from(n as i8), 1),
        [0xcc, n, ..] => whole(i64::from(n), 2),
        [0xcd, a, b, ..] => whole(i64::from(u16::from_be_bytes([a, b])), 3),
        [0xcf, a, b, c, d, e, f, g, h, ..] => {
            let secs = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            whole(i64::try_from(secs).unwrap_or(i64::MAX), 9)
        }
        [0xd0, n, ..] => whole(i64::from(n as i8), 2),
        [0xd1, a, b, ..] => whole(i64::from(i16::from_be_bytes([a, b])), 3),
        [0xd2, a, b, c, d, ..] => whole(i64::from(i32::from_be_bytes([a, b, c, d])), 5),
        [0xd3, a, b, c, d, e, f, g, h, ..] => whole(i64::from_be_bytes([a, b, c, d, e, f, g, h]), 9),
        [0xca, a, b, c, d, ..] => {
            Some((EventTime::of_float(f64::from(f32::from_be_bytes([a, b, c, d])))?, 5))
        }
        [0xcb, a, b, c, d, e, f, g, h, ..] => {
            Some((EventTime::of_float(f64::from_be_bytes([a, b, c, d, e, f, g, h]))?, 9))
        }
        _ => {
            let (kind, data, size) = ext(value)?;
            let time = match (kind, data) {
                (0x00, _) => event_time(data.try_into().ok()?),
                (0xff, _) => timestamp(data)?,
                _ => return None,
            };
            Some((time, size))
        }
    }
}

/// Fluentd's own extension type 0: unsigned seconds and nanoseconds, 32 bits each.
fn event_time([a, b, c, d, e, f, g, h]: [u8; 8]) -> EventTime {
    EventTime::at(i64::from(u32::from_be_bytes([a, b, c, d])), u32::from_be_bytes([e, f, g, h]))
}

/// MessagePack's extension type −1 ("Timestamp extension type"), in its 32, 64 and 96 bit forms.
fn timestamp(data: &[u8]) -> Option<EventTime> {
    match *data {
        [a, b, c, d] => Some(EventTime::at(i64::from(u32::from_be_bytes([a, b, c, d])), 0)),
        [a, b, c, d, e, f, g, h] => {
            let both = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            // 30 bits of nanoseconds above 34 bits of seconds: neither cast loses anything.
            Some(EventTime::at((both & 0x3_ffff_ffff) as i64, (both >> 34) as u32))
        }
        [n0, n1, n2, n3, a, b, c, d, e, f, g, h] => Some(EventTime::at(
            i64::from_be_bytes([a, b, c, d, e, f, g, h]),
            u32::from_be_bytes([n0, n1, n2, n3]),
        )),
        _ => None,
    }
}

/// Type, data and whole size of the ext that `value` starts with.
fn ext(value: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (kind_at, len) = match *value {
        [first @ 0xd4..=0xd8, ..] => (1, 1 << (first - 0xd4)),
        [0xc7, n, ..] => (2, usize::from(n)),
        [0xc8, a, b, ..] => (3, usize::from(u16::from_be_bytes([a, b]))),
        [0xc9, a, b, c, d, ..] => (5, u32::from_be_bytes([a, b, c, d]) as usize),
        _ => return None,
    };
    let data = value.get(kind_at + 1..)?.get(..len)?;
    Some((value[kind_at], data, kind_at + 1 + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64, nanos: u32) -> Option<EventTime> {
        Some(EventTime::At { secs, nanos })
    }

    fn check(name: &str, value: &[u8], expected: Option<EventTime>) {
        let mut followed = value.to_vec();
        followed.extend([0xc1; 20]);
        let seen = time(&followed);
        assert_eq!(seen.map(|(time, _)| time), expected, "{name}");
        if let Some((_, size)) = seen {
            assert_eq!(size, value.len(), "{name}: size");
        }
        for cut in 0..value.len() {
            assert_eq!(time(&value[..cut]), None, "{name} cut to {cut} bytes");
        }
    }

    #[test]
    fn every_form_of_time() {
        let received = Some(EventTime::Received);
        check("nil", &[0xc0], received);
        check("fixint 0", &[0x00], received);
        check("fixint", &[0x7f], at(127, 0));
        check("negative fixint", &[0xff], at(-1, 0));
        check("uint8", &[0xcc, 0xff], at(255, 0));
        check("uint16", &[0xcd, 1, 0], at(256, 0));
        check("uint32", &[0xce, 0xff, 0xff, 0xff, 0xff], at(0xffff_ffff, 0));
        check("uint64", &[0xcf, 0, 0, 0, 1, 0, 0, 0, 0], at(1 << 32, 0));
        check("uint64 above i64", &[0xcf, 255, 255, 255, 255, 255, 255, 255, 255], at(i64::MAX, 0));
        check("int8", &[0xd0, 0x80], at(-128, 0));
        check("int16", &[0xd1, 0xff, 0xfe], at(-2, 0));
        check("int32, as the Go client sends it", &[0xd2, 0x65, 0x53, 0xf1, 0x00], at(1_700_000_000, 0));
        check("int64", &[0xd3, 0, 0, 0, 0, 0x65, 0x53, 0xf1, 0x00], at(1_700_000_000, 0));
        check("float32", &[0xca, 0x3f, 0xc0, 0, 0], at(1, 500_000_000));
        check("float64", &[0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0], at(1, 500_000_000));
        check("float64 -0.25", &[0xcb, 0xbf, 0xd0, 0, 0, 0, 0, 0, 0], at(-1, 750_000_000));
        check("float64 0", &[0xcb, 0, 0, 0, 0, 0, 0, 0, 0], received);
        check("float64 infinite", &[0xcb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0], None);
        check("float64 just below 2", &[0xcb, 0x3f, 0xff, 255, 255, 255, 255, 255, 255], at(2, 0));
        check("EventTime", &[0xd7, 0, 0x65, 0x53, 0xf1, 0, 0, 0, 0, 5], at(1_700_000_000, 5));
        check("EventTime is unsigned", &[0xd7, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1], at(0xffff_ffff, 1));
        check("EventTime second 0", &[0xd7, 0, 0, 0, 0, 0, 0, 0, 0, 9], received);
        check("EventTime carry", &[0xd7, 0, 0, 0, 0, 1, 0xee, 0x6b, 0x28, 0x01], at(5, 1));
        check("EventTime ext8", &[0xc7, 8, 0, 0, 0, 0, 1, 0, 0, 0, 2], at(1, 2));
        check("EventTime ext16", &[0xc8, 0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 2], at(1, 2));
        check("EventTime ext32", &[0xc9, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 2], at(1, 2));
        check("timestamp 32", &[0xd6, 0xff, 0, 0, 0, 1], at(1, 0));
        check("timestamp 64", &[0xd7, 0xff, 0, 0, 0, 0x0c, 0, 0, 0, 1], at(1, 3));
        check(
            "timestamp 96",
            &[0xc7, 12, 0xff, 0, 0, 0, 3, 255, 255, 255, 255, 255, 255, 255, 254],
            at(-2, 3),
        );
        check("ext 0 with another length", &[0xd6, 0, 0, 0, 0, 1], None);
        check("unknown ext", &[0xd7, 1, 0, 0, 0, 1, 0, 0, 0, 0], None);
        check("str", &[0xa1, b'1'], None);
        check("true", &[0xc3], None);
    }
}
