//! From entries with ranges of ports to intervals with lists of rules.

use std::collections::{BTreeSet, HashSet};

use datapath_abi::policy::{
    ANYBODY, DENY_BIT, ICMPV4, ICMPV6, MAX_INTERVALS, MAX_RULES, OTHER, SCTP, SECTIONS, TCP, UDP,
};

/// A rule as the table has it: selector, origin with verdict.
pub(crate) type Row = (u32, u32);

/// One rule for one range of ports of one protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Index of the section.
    pub(crate) section: usize,
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) row: Row,
}

/// What did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overflow {
    Rules,
    Intervals,
}

/// Section and port of a protocol number; the number itself stands for a port where there is none.
pub(crate) const fn section(protocol: u8) -> (usize, Option<u16>) {
    match protocol {
        6 => (TCP, None),
        17 => (UDP, None),
        132 => (SCTP, None),
        1 => (ICMPV4, None),
        58 => (ICMPV6, None),
        other => (OTHER, Some(other as u16)),
    }
}

/// Every port of every protocol.
pub(crate) fn everywhere(row: Row) -> impl Iterator<Item = Entry> {
    (0..SECTIONS).map(move |section| Entry { section, first: 0, last: u16::MAX, row })
}

/// Intervals of one section: first port, and rules in order of precedence. `entries` are in that
/// order; `last` is what holds where none of them matches.
pub(crate) fn intervals(
    entries: &[Entry],
    section: usize,
    last: Row,
    overflow: &mut Vec<Overflow>,
) -> Vec<(u32, Vec<Row>)> {
    let mine: Vec<&Entry> = entries.iter().filter(|entry| entry.section == section).collect();
    let mut starts: Vec<(u32, usize)> =
        mine.iter().enumerate().map(|(i, entry)| (u32::from(entry.first), i)).collect();
    let mut ends: Vec<(u32, usize)> =
        mine.iter().enumerate().map(|(i, entry)| (u32::from(entry.last) + 1, i)).collect();
    starts.sort_unstable();
    ends.sort_unstable();
    let ports = starts.iter().chain(&ends).map(|(port, _)| *port);
    let boundaries: BTreeSet<u32> =
        ports.filter(|port| *port <= u32::from(u16::MAX)).chain([0]).collect();
    let (mut starts, mut ends) = (starts.into_iter().peekable(), ends.into_iter().peekable());
    let mut active = BTreeSet::new();
    let mut found: Vec<(u32, Vec<Row>)> = Vec::new();
    for port in boundaries {
        while let Some((_, i)) = ends.next_if(|(end, _)| *end <= port) {
            active.remove(&i);
        }
        while let Some((_, i)) = starts.next_if(|(start, _)| *start <= port) {
            active.insert(i);
        }
        let rules = list(active.iter().map(|i| mine[*i].row), last, overflow);
        if found.last().is_none_or(|(_, before)| *before != rules) {
            found.push((port, rules));
        }
    }
    if found.len() > MAX_INTERVALS as usize {
        overflow.push(Overflow::Intervals);
        return vec![(0, vec![(ANYBODY, last.1 | DENY_BIT)])];
    }
    found
}

/// Without what can never be reached, and ended by a rule for everybody.
fn list(rows: impl Iterator<Item = Row>, last: Row, overflow: &mut Vec<Overflow>) -> Vec<Row> {
    let mut seen = HashSet::new();
    let mut rules = Vec::new();
    for row in rows {
        if seen.insert(row.0) {
            rules.push(row);
        }
        if row.0 == ANYBODY {
            break;
        }
    }
    if rules.last().is_none_or(|row| row.0 != ANYBODY) {
        rules.push(last);
    }
    let most = MAX_RULES as usize;
    if rules.len() > most {
        overflow.push(Overflow::Rules);
        // Closed, not open: an allow that does not fit is left out, denies that do not fit deny all.
        let end = rules[rules.len() - 1];
        match rules[most - 1..].iter().find(|row| row.0 != ANYBODY && row.1 & DENY_BIT != 0) {
            Some(deny) => {
                let deny = (ANYBODY, deny.1);
                rules.truncate(most - 1);
                rules.push(deny);
            }
            None => {
                rules.truncate(most - 1);
                rules.push(end);
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first: u16, last: u16, row: Row) -> Entry {
        Entry { section: TCP, first, last, row }
    }

    #[test]
    fn ranges_are_cut_where_they_overlap() {
        let entries = [entry(80, 90, (1, 1)), entry(85, 65535, (2, 2)), entry(87, 87, (1, 3))];
        let last = (ANYBODY, 9);
        let expected = vec![
            (0, vec![last]),
            (80, vec![(1, 1), last]),
            (85, vec![(1, 1), (2, 2), last]),
            (91, vec![(2, 2), last]),
        ];
        assert_eq!(intervals(&entries, TCP, last, &mut Vec::new()), expected);
        assert_eq!(intervals(&entries, UDP, last, &mut Vec::new()), [(0, vec![last])]);
    }

    #[test]
    fn what_does_not_fit_is_denied() {
        let most = MAX_RULES;
        let last = (ANYBODY, 7 | DENY_BIT);
        let mut overflow = Vec::new();
        let allows = list((0..most).map(|i| (i, 1)), last, &mut overflow);
        assert_eq!((allows.len(), allows[most as usize - 1]), (most as usize, last));
        let denies =
            list((0..most + 1).map(|i| (i, (i + 1) | DENY_BIT)), (ANYBODY, 1), &mut overflow);
        assert_eq!(denies.len(), most as usize);
        assert_eq!(denies[most as usize - 1], (ANYBODY, most | DENY_BIT));
        assert_eq!(overflow, [Overflow::Rules, Overflow::Rules]);
    }
}
