//! CPUs.

use std::io;

/// Number of CPUs that may ever come up: the length of per-CPU values, and of the row of rings.
pub(crate) fn possible() -> io::Result<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    last(&text)
        .map(|last| last + 1)
        .ok_or_else(|| io::Error::other(format!("/sys/devices/system/cpu/possible: {text:?}")))
}

/// CPUs that are up now.
pub(crate) fn online() -> io::Result<Vec<u32>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    Ok(text.trim().split(',').filter_map(range).flatten().collect())
}

fn last(text: &str) -> Option<u32> {
    text.trim().split(',').filter_map(range).map(|range| *range.end()).max()
}

/// `3` or `0-7`.
fn range(text: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to && to < 1 << 16).then_some(from..=to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(last("0-1\n"), Some(1));
        assert_eq!(last("0,2-3\n"), Some(3));
        assert_eq!(last("0\n"), Some(0));
        assert_eq!(last("\n"), None);
        assert_eq!(range("5-2"), None);
        assert!(possible().unwrap() as usize >= online().unwrap().len());
    }
}
