//! Time in microseconds, and its ISO 8601 text.
//!
//! The calendar arithmetic is Howard Hinnant's `days_from_civil` and its inverse.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// Error: the text is not an ISO 8601 date and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTimestampError;

impl fmt::Display for ParseTimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an ISO 8601 date and time")
    }
}

impl std::error::Error for ParseTimestampError {}

/// Bounds of the four-digit text: 0000-01-01 and 9999-12-31.
const SECONDS_MIN: i64 = -62_167_219_200;
const SECONDS_MAX: i64 = 253_402_300_799;

impl Timestamp {
    /// Returns the time of the system clock. Times before 1970 are 1970.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Returns the milliseconds since 1970-01-01T00:00:00Z, rounded down.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// Returns the date of a day that is counted from 0000-01-01.
fn date_of_day(days: u32) -> (u32, u32, u32) {
    // Counted from the March 400 years before: in these years a leap day is the last one.
    let z = days + 146_097 - 60;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u32::from(month <= 2) - 400, month, day)
}

fn day_of_date(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = i64::from(month);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Text of a timestamp.
pub(crate) struct TimestampText([u8; 27]);

impl TimestampText {
    pub(crate) fn as_str(&self) -> &str {
        // The bytes are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Timestamp {
    /// Returns the text `2026-01-27T10:21:33.123456Z`: always UTC, always six decimals.
    pub(crate) fn text(self) -> TimestampText {
        // From 0000-01-01 on there are no negative numbers. Every frame has a timestamp, so the numbers have no more
        // bits than they need, and two digits are written at a time.
        let seconds = self.0.div_euclid(1_000_000).clamp(SECONDS_MIN, SECONDS_MAX);
        let micros = self.0.rem_euclid(1_000_000) as u32;
        let seconds = (seconds - SECONDS_MIN) as u64;
        let (year, month, day) = date_of_day((seconds / 86_400) as u32);
        let second = (seconds % 86_400) as u32;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |at: usize, value: u32| {
            text[at] = b'0' + (value / 10 % 10) as u8;
            text[at + 1] = b'0' + (value % 10) as u8;
        };
        put(0, year / 100);
        put(2, year % 100);
        put(5, month);
        put(8, day);
        put(11, second / 3600);
        put(14, second / 60 % 60);
        put(17, second % 60);
        put(20, micros / 10_000);
        put(22, micros / 100 % 100);
        put(24, micros % 100);
        TimestampText(text)
    }
}

impl fmt::Display for Timestamp {
    /// Writes `2026-01-27T10:21:33.123456Z`: always UTC, always six decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Parses `YYYY-MM-DD`, `T` or a space, `HH:MM:SS`, any decimals, and `Z`, an offset, or nothing (UTC).
    ///
    /// # Errors
    ///
    /// [`ParseTimestampError`] for other text, and for a date that does not exist. Decimals beyond microseconds are
    /// dropped.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.as_bytes()).ok_or(ParseTimestampError)
    }
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<i64> {
    let digits = bytes.get(at..at + width)?;
    digits.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let is = |at: usize, any: &[u8]| text.get(at).is_some_and(|b| any.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(text, 0, 4)?, number(text, 5, 2)?, number(text, 8, 2)?);
    let (hour, minute, second) = (number(text, 11, 2)?, number(text, 14, 2)?, number(text, 17, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    // Second 60 is a leap second. It is taken as the first second of the next minute.
    if day < 1 || day > month_days || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut micros = 0;
    if is(at, b".,") {
        at += 1;
        let start = at;
        while text.get(at).is_some_and(u8::is_ascii_digit) {
            if at - start < 6 {
                micros = micros * 10 + i64::from(text[at] - b'0');
            }
            at += 1;
        }
        if at == start {
            return None;
        }
        micros *= 10_i64.pow(6_u32.saturating_sub((at - start) as u32));
    }
    let offset_minutes = match text.get(at..)? {
        [] | [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), zone @ ..] => {
            let (hours, minutes) = match zone {
                [_, _, b':', _, _] => (number(zone, 0, 2)?, number(zone, 3, 2)?),
                [_, _, _, _] => (number(zone, 0, 2)?, number(zone, 2, 2)?),
                [_, _] => (number(zone, 0, 2)?, 0),
                _ => return None,
            };
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = day_of_date(year, month as u32, day as u32) * 86_400 + hour * 3600 + minute * 60 + second
        - offset_minutes * 60;
    (SECONDS_MIN..=SECONDS_MAX).contains(&seconds).then_some(Timestamp(seconds * 1_000_000 + micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (1_769_509_293_123_456, "2026-01-27T10:21:33.123456Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
        ] {
            assert_eq!(Timestamp(micros).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(micros)));
        }
    }

    #[test]
    fn every_day_has_its_date() {
        let first = SECONDS_MIN / 86_400;
        for day in first..=SECONDS_MAX / 86_400 {
            let (year, month, date) = date_of_day((day - first) as u32);
            assert_eq!(day_of_date(i64::from(year), month, date), day);
        }
    }

    #[test]
    fn offsets_short_decimals_and_naive_times_are_taken() {
        let want = Ok(Timestamp(1_769_509_293_500_000));
        for text in [
            "2026-01-27T10:21:33.5Z",
            "2026-01-27T11:21:33.5+01:00",
            "2026-01-27T02:51:33.500-0730",
            "2026-01-27 10:21:33.5000009",
        ] {
            assert_eq!(text.parse(), want, "{text}");
        }
    }

    #[test]
    fn impossible_times_are_refused() {
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1",
            "2026-01-01T00:00:00Zx",
            "+026-01-01T00:00:00Z",
            "0000-01-01T00:00:00+23:00",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(ParseTimestampError), "{text}");
        }
    }

    #[test]
    fn numbers_beyond_the_calendar_still_print() {
        assert_eq!(Timestamp(i64::MAX).to_string().len(), 27);
        assert_eq!(Timestamp(i64::MIN).to_string().len(), 27);
    }
}
