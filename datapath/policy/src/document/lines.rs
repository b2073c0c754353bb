//! Where in a document each rule stands: a light scan of block-style YAML, good enough to print the
//! lines; what it does not understand has no lines.

use std::ops::RangeInclusive;

use crate::rule::Section;

/// Gives each rule its lines, where as many elements are found as were parsed.
pub(super) fn attach(text: &str, sections: &mut [Section]) {
    let lines: Vec<Line<'_>> = text.lines().enumerate().filter_map(Line::of).collect();
    let mut specs: Vec<&[Line<'_>]> = Vec::new();
    if let Some(block) = child(&lines, "spec") {
        specs.push(block);
    }
    if let Some(block) = child(&lines, "specs") {
        specs.extend(items(block));
    }
    if specs.len() != sections.len() {
        return;
    }
    for (block, section) in specs.into_iter().zip(sections) {
        for (name, deny, egress) in [
            ("ingress", false, false),
            ("ingressDeny", true, false),
            ("egress", false, true),
            ("egressDeny", true, true),
        ] {
            let Some(list) = child(block, name) else { continue };
            let rules = if egress { &mut section.egress } else { &mut section.ingress };
            let mut rules: Vec<_> = rules.iter_mut().filter(|rule| rule.deny == deny).collect();
            let found = items(list);
            if found.len() == rules.len() {
                for (rule, item) in rules.iter_mut().zip(found) {
                    rule.lines = span(item);
                }
            } else {
                // In flow style, or unusual: at least where the list is.
                for rule in rules {
                    rule.lines = span(list);
                }
            }
        }
    }
}

/// A line that is neither blank nor a comment.
#[derive(Clone, Copy)]
struct Line<'a> {
    number: usize,
    indent: usize,
    /// Without indentation.
    text: &'a str,
}

impl<'a> Line<'a> {
    fn of((index, line): (usize, &'a str)) -> Option<Self> {
        let text = line.trim_start_matches(' ');
        let blank = text.trim().is_empty() || text.starts_with('#') || text.starts_with("---");
        (!blank).then_some(Self { number: index + 1, indent: line.len() - text.len(), text })
    }
}

/// The lines below `key:`, and the key's own where the value stands on it.
fn child<'l, 'a>(block: &'l [Line<'a>], key: &str) -> Option<&'l [Line<'a>]> {
    let indent = block.first()?.indent + dash(block.first()?.text);
    let at = block.iter().enumerate().position(|(i, line)| {
        let (column, text) = if i == 0 {
            (indent, &line.text[dash(line.text).min(line.text.len())..])
        } else {
            (line.indent, line.text)
        };
        let bare = text.trim_start_matches(['"', '\'']);
        let rest = bare.strip_prefix(key).map(|rest| rest.trim_start_matches(['"', '\'']));
        column == indent && rest.is_some_and(|rest| rest.starts_with(':'))
    })?;
    let after = &block[at + 1..];
    // A list may begin in the key's own column.
    let end = after
        .iter()
        .position(|line| line.indent < indent || (line.indent == indent && dash(line.text) == 0))
        .unwrap_or(after.len());
    let value = block[at].text.split_once(':').map_or("", |(_, value)| value.trim());
    if value.is_empty() || value.starts_with('#') {
        Some(&after[..end])
    } else {
        Some(&block[at..=at + end])
    }
}

/// The elements of a block-style list.
fn items<'l, 'a>(block: &'l [Line<'a>]) -> Vec<&'l [Line<'a>]> {
    let Some(first) = block.first() else { return Vec::new() };
    let is_start = |line: &Line<'_>| line.indent == first.indent && dash(line.text) > 0;
    if !is_start(first) {
        return Vec::new();
    }
    let starts: Vec<usize> = (0..block.len()).filter(|i| is_start(&block[*i])).collect();
    let ends = starts.iter().skip(1).copied().chain([block.len()]);
    starts.iter().zip(ends).map(|(start, end)| &block[*start..end]).collect()
}

/// Width of a list's dash and the blanks behind it; 0 where there is none.
fn dash(text: &str) -> usize {
    match text.strip_prefix('-') {
        Some(rest) if rest.is_empty() || rest.starts_with(' ') => {
            1 + rest.len() - rest.trim_start_matches(' ').len()
        }
        _ => 0,
    }
}

fn span(block: &[Line<'_>]) -> Option<RangeInclusive<usize>> {
    Some(block.first()?.number..=block.last()?.number)
}
