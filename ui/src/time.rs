//! Times as people and programs write them. A time is nanoseconds since the epoch, UTC.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;

/// A half-open range of time; `None` is unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// The first moment in it.
    pub since: Option<i64>,
    /// The first moment after it.
    pub until: Option<i64>,
}

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time; use 5m, 3d, now, 2026-01-31, 2026-01-31T15:04:05Z or unix seconds")]
pub struct TimeError(pub String);

/// The present.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Reads RFC 3339 (or the date alone), unix seconds, milliseconds or nanoseconds, a span before
/// `now` (`5m`, `1h30m`, `3d`), or `now`.
///
/// # Errors
/// When it is none of them.
pub fn parse(text: &str, now: i64) -> Result<i64, TimeError> {
    let text = text.trim();
    if text == "now" {
        return Ok(now);
    }
    if let Some(span) = span(text) {
        return Ok(now.saturating_sub(span));
    }
    number(text).or_else(|| calendar(text)).ok_or_else(|| TimeError(text.to_owned()))
}

/// Reads a span like `5m`, `1h30m`, `1.5s`, `-3d` (in the future): Go's units, days and weeks.
pub fn span(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            "d" => DAY,
            "w" => 7 * DAY,
            _ => return None,
        };
        total += value * unit as f64;
        rest = &rest[letters..];
    }
    let total = total as i64;
    Some(if negative { -total } else { total })
}

/// Unix time; the magnitude tells the unit, for every date between 1973 and 5138.
fn number(text: &str) -> Option<i64> {
    if let Some((whole, fraction)) = text.split_once('.') {
        let seconds = whole.parse::<i64>().ok()?.checked_mul(SECOND)?;
        return seconds.checked_add(nanoseconds(fraction)?);
    }
    let value: i64 = text.parse().ok()?;
    match value.unsigned_abs() {
        0..100_000_000_000 => value.checked_mul(SECOND),
        100_000_000_000..100_000_000_000_000 => value.checked_mul(1_000_000),
        100_000_000_000_000..100_000_000_000_000_000 => value.checked_mul(1_000),
        _ => Some(value),
    }
}

/// A date, with or without a time of day and an offset; UTC when there is no offset.
fn calendar(text: &str) -> Option<i64> {
    let date = text.get(..10)?;
    let mut parts = date.split('-');
    let (year, month, day) = (part(&mut parts, 4)?, part(&mut parts, 2)?, part(&mut parts, 2)?);
    if parts.next().is_some()
        || !(1..=12).contains(&month)
        || !(1..=days_in(year, month)).contains(&day)
    {
        return None;
    }
    let midnight = days(year, month, day).checked_mul(DAY)?;
    let rest = &text[10..];
    if rest.is_empty() {
        return Some(midnight);
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let zone = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    midnight.checked_add(time_of_day(&rest[..zone])?)?.checked_sub(offset(&rest[zone..])?)
}

fn part<'a>(parts: &mut impl Iterator<Item = &'a str>, digits: usize) -> Option<i64> {
    let text = parts.next()?;
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn time_of_day(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = clock.split(':');
    let hour = part(&mut parts, 2)?;
    let minute = if clock.len() > 2 { part(&mut parts, 2)? } else { 0 };
    let second = if clock.len() > 5 { part(&mut parts, 2)? } else { 0 };
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let nanoseconds = if fraction.is_empty() { 0 } else { nanoseconds(fraction)? };
    Some((hour * 3600 + minute * 60 + second) * SECOND + nanoseconds)
}

fn nanoseconds(fraction: &str) -> Option<i64> {
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{fraction:0<9}").parse().ok()
}

fn offset(text: &str) -> Option<i64> {
    let sign = match text.as_bytes() {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return None,
    };
    let mut parts = text[1..].split(':');
    let (hour, minute) = (part(&mut parts, 2)?, part(&mut parts, 2)?);
    (parts.next().is_none() && hour < 24 && minute < 60)
        .then_some(sign * (hour * 3600 + minute * 60) * SECOND)
}

/// Writes RFC 3339 with nanoseconds, UTC: always 30 bytes between the years 0 and 9999.
pub fn write(out: &mut String, time: i64) {
    let (days, rest) = (time.div_euclid(DAY), time.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    let (seconds, nanos) = (rest / SECOND, rest % SECOND);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
        .expect("writing to memory does not fail");
}

/// RFC 3339 with nanoseconds, UTC.
pub fn format(time: i64) -> String {
    let mut out = String::with_capacity(30);
    write(&mut out, time);
    out
}

/// Days since the epoch of a date of the proleptic Gregorian calendar (H. Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a number of days since the epoch; see [`days`].
pub fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted - era * 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_559_045_123_456_789;

    #[test]
    fn reads_what_people_write() {
        let check = |text, expected: &str| {
            assert_eq!(parse(text, NOW).map(format).as_deref(), Ok(expected), "{text}");
        };
        assert_eq!(format(NOW), "2026-11-24T22:24:05.123456789Z");
        check("now", "2026-11-24T22:24:05.123456789Z");
        check("5m", "2026-11-24T22:19:05.123456789Z");
        check("1h30m", "2026-11-24T20:54:05.123456789Z");
        check("3d", "2026-11-21T22:24:05.123456789Z");
        check("-1s", "2026-11-24T22:24:06.123456789Z");
        check("2024-02-29", "2024-02-29T00:00:00.000000000Z");
        check("2024-02-29T15:04Z", "2024-02-29T15:04:00.000000000Z");
        check("2024-02-29T15:04:05.25+02:00", "2024-02-29T13:04:05.250000000Z");
        check("1700000000", "2023-11-14T22:13:20.000000000Z");
        check("1700000000.5", "2023-11-14T22:13:20.500000000Z");
        check("1700000000123", "2023-11-14T22:13:20.123000000Z");
        check("1700000000123456789", "2023-11-14T22:13:20.123456789Z");
        check("1969-12-31T23:59:59Z", "1969-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "5",
            "m",
            "5 m",
            "2023-02-29",
            "2023-13-01",
            "2023-01-01T25:00Z",
            "-",
            "1.x",
            "x5m",
        ] {
            if text == "5" {
                // Five seconds after the epoch: odd, but a number is unix time.
                assert!(parse(text, NOW).is_ok());
            } else {
                assert!(parse(text, NOW).is_err(), "{text}");
            }
        }
    }

    #[test]
    fn dates_go_round() {
        for day in (-200_000..200_000).step_by(37) {
            let (year, month, d) = civil(day);
            assert_eq!(days(year, month, d), day);
        }
    }
}
