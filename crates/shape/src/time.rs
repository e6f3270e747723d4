//! Civil dates, and times as RFC 3339 text.
//!
//! Left out on purpose: zones (all is UTC), parsing, and years outside of 0 to 9999.

/// Nanoseconds in a second.
pub(crate) const SECOND_NS: i64 = 1_000_000_000;

/// Date and time of day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: i64,
    pub(crate) month: u8,
    pub(crate) day: u8,
    pub(crate) hour: u8,
    pub(crate) minute: u8,
    pub(crate) second: u8,
}

impl Civil {
    /// Of seconds since 1970, by the proleptic Gregorian calendar and without leap seconds.
    ///
    /// The calendar is that of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`:
    /// years begin in March, so that the day which comes and goes is the last one.
    pub(crate) fn of(secs: i64) -> Self {
        let (days, second_of_day) = (secs.div_euclid(86_400) + 719_468, secs.rem_euclid(86_400));
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            // The casts lose nothing: each number is below 60.
            month: month as u8,
            day: (day_of_year - (153 * from_march + 2) / 5 + 1) as u8,
            hour: (second_of_day / 3_600) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            second: (second_of_day % 60) as u8,
        }
    }
}

/// Writes times as `2026-01-02T03:04:05.678901234Z`. Neighbours mostly share their second, so its text is kept.
pub(crate) struct Clock {
    secs: i64,
    text: [u8; 20],
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { secs: 0, text: *b"1970-01-01T00:00:00." }
    }

    /// Appends the time `secs` since 1970 and `nanos` (below 10⁹) later.
    #[inline]
    pub(crate) fn write(&mut self, secs: i64, nanos: u32, out: &mut Vec<u8>) {
        if secs != self.secs {
            self.turn_to(secs);
        }
        out.extend_from_slice(&self.text);
        let mut digits = *b"000000000Z";
        let mut rest = nanos;
        for digit in digits[..9].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        out.extend_from_slice(&digits);
    }

    #[cold]
    fn turn_to(&mut self, secs: i64) {
        let civil = Civil::of(secs);
        let mut put = |at: usize, two: u8| self.text[at..at + 2].copy_from_slice(&two_digits(two));
        put(0, (civil.year / 100 % 100) as u8);
        put(2, (civil.year % 100) as u8);
        put(5, civil.month);
        put(8, civil.day);
        put(11, civil.hour);
        put(14, civil.minute);
        put(17, civil.second);
        self.secs = secs;
    }
}

/// A number below 100, with a leading zero.
pub(crate) fn two_digits(n: u8) -> [u8; 2] {
    [b'0' + n / 10, b'0' + n % 10]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(secs: i64, nanos: u32, expected: &str) {
        let mut out = Vec::new();
        Clock::new().write(secs, nanos, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{secs} s");
    }

    // The expected texts are those of `date -u -d @SECS`.
    #[test]
    fn times_are_written() {
        check(0, 0, "1970-01-01T00:00:00.000000000Z");
        check(-1, 999_999_999, "1969-12-31T23:59:59.999999999Z");
        check(951_782_400, 5, "2000-02-29T00:00:00.000000005Z");
        check(951_868_800, 0, "2000-03-01T00:00:00.000000000Z");
        check(1_767_323_045, 678_901_234, "2026-01-02T03:04:05.678901234Z");
        check(4_107_542_399, 0, "2100-02-28T23:59:59.000000000Z");
        check(4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z");
        check(9_223_372_036, 0, "2262-04-11T23:47:16.000000000Z");
        check(-9_223_372_037, 0, "1677-09-21T00:12:43.000000000Z");
    }

    #[test]
    fn the_kept_second_is_dropped_when_it_ends() {
        let (mut clock, mut out) = (Clock::new(), Vec::new());
        for (secs, nanos) in [(59, 1), (59, 2), (60, 3)] {
            clock.write(secs, nanos, &mut out);
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "1970-01-01T00:00:59.000000001Z1970-01-01T00:00:59.000000002Z1970-01-01T00:01:00.000000003Z"
        );
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = Civil::of(-106_752 * 86_400);
        for day in -106_751..=106_751 {
            let today = Civil::of(day * 86_400);
            let next_day = (today.year, today.month) == (last.year, last.month) && today.day == last.day + 1;
            let next_month =
                (today.year, today.month, today.day) == (last.year, last.month + 1, 1) && last.day >= 28;
            let next_year = (today.year, today.month, today.day) == (last.year + 1, 1, 1)
                && (last.month, last.day) == (12, 31);
            assert!(next_day || next_month || next_year, "{last:?} then {today:?}");
            last = today;
        }
    }
}
