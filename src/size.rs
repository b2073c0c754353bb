//! Sizes and spans of time on the command line.

use std::str::FromStr;
use std::time::Duration;

/// Bytes, or no limit: `4096`, `256MiB`, `20GB`, `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub Option<u64>);

/// A span of time, or none: `500ms`, `10s`, `5m`, `12h`, `30d`, `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Option<Duration>);

/// A number with a unit that is not understood.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not understood; examples: {1}")]
pub struct UnitError(String, &'static str);

const SIZES: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kb", 1000),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

const SPANS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];

// === impl ByteSize ===

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "off" {
            return Ok(Self(None));
        }
        scaled(text, SIZES)
            .map(|bytes| Self(Some(bytes)))
            .ok_or_else(|| UnitError(text.to_owned(), "1048576, 256MiB, 20GiB, off"))
    }
}

// === impl Span ===

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "off" {
            return Ok(Self(None));
        }
        scaled(text, SPANS)
            .map(|millis| Self(Some(Duration::from_millis(millis))))
            .ok_or_else(|| UnitError(text.to_owned(), "500ms, 10s, 5m, 12h, 30d, off"))
    }
}

/// A duration that must be given.
///
/// # Errors
/// When the text is not understood, or is `off`.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    match text.parse::<Span>()?.0 {
        Some(duration) => Ok(duration),
        None => Err(UnitError(text.to_owned(), "500ms, 10s, 5m, 12h, 30d")),
    }
}

/// A number of bytes that must be given.
///
/// # Errors
/// When the text is not understood, or is `off`.
pub fn bytes(text: &str) -> Result<u64, UnitError> {
    match text.parse::<ByteSize>()?.0 {
        Some(bytes) => Ok(bytes),
        None => Err(UnitError(text.to_owned(), "1048576, 256MiB, 20GiB")),
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().ok()?;
    let unit = text[split..].trim().to_ascii_lowercase();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans() {
        assert_eq!("256MiB".parse::<ByteSize>().unwrap().0, Some(256 << 20));
        assert_eq!("7".parse::<ByteSize>().unwrap().0, Some(7));
        assert_eq!("off".parse::<ByteSize>().unwrap().0, None);
        assert!("7 parsecs".parse::<ByteSize>().is_err());
        assert!("99999999999999999999".parse::<ByteSize>().is_err());
        assert!("99999999999999TiB".parse::<ByteSize>().is_err());
        assert_eq!(duration("30d").unwrap(), Duration::from_secs(30 * 86400));
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert!(duration("10").is_err(), "a span needs a unit");
        assert!(duration("off").is_err());
    }
}
