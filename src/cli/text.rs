//! Text for people: tables, quantities, colours.

use std::io::{IsTerminal as _, Write as _};

/// Rows in aligned columns.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    /// Columns of numbers stand to the right.
    right: Vec<bool>,
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

// === impl Table ===

impl Table {
    /// A table with a line of headings; those that end with `>` head numbers.
    pub fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.ends_with('>')).collect();
        let first = headings.iter().map(|heading| heading.trim_end_matches('>').to_owned());
        Self { rows: vec![first.collect()], right }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Whether there is no row but the headings.
    pub fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }

    /// The text: columns as wide as their widest cell, `gap` blanks apart.
    pub fn text(&self, gap: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| {
            self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                if at > 0 {
                    line.extend(std::iter::repeat_n(' ', gap));
                }
                let pad = widths[at].saturating_sub(cell.chars().count());
                let right = self.right.get(at).copied().unwrap_or(false);
                if right {
                    line.extend(std::iter::repeat_n(' ', pad));
                }
                line.push_str(cell);
                if !right {
                    line.extend(std::iter::repeat_n(' ', pad));
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

// === impl Colour ===

impl Colour {
    /// Whether standard output is coloured.
    pub fn on(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                std::io::stdout().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        }
    }
}

/// Text that cannot move the cursor or change colours: what comes from the network may try to.
pub fn harmless(text: &str) -> String {
    if !text.chars().any(|c| c.is_control()) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| match c {
            '\u{1b}' => "^[".chars().collect::<Vec<_>>(),
            '\r' => "\\r".chars().collect(),
            '\n' => "\\n".chars().collect(),
            c if c.is_control() => c.escape_unicode().collect(),
            c => vec![c],
        })
        .collect()
}

/// Writes to standard output. A reader that has gone (`| head`) ends the process in peace.
///
/// # Errors
/// When it cannot be written to for another reason.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        done => done,
    }
}

/// Writes a value to standard output, as JSON for people to read too.
///
/// # Errors
/// As [`print`].
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(print(&format!("{}\n", serde_json::to_string_pretty(value)?))?)
}

/// Bytes in binary units, three digits.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{bytes} B"),
        (_, value) if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        (_, value) if value < 100.0 => format!("{value:.1} {}", UNITS[unit]),
        (_, value) => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A number with its thousands apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds as the largest two units.
pub fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m{rest}s"),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let mut table = Table::new(&["NAME", "BYTES>"]);
        table.row(vec!["a".to_owned(), "1".to_owned()]);
        table.row(vec!["long".to_owned(), "1000".to_owned()]);
        assert_eq!(table.text(2), "NAME  BYTES\na         1\nlong   1000\n");
    }

    #[test]
    fn quantities() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(1 << 40)],
            ["0 B", "1023 B", "1.00 KiB", "1.00 TiB"]
        );
        assert_eq!([count(7), count(1234), count(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!([span(59), span(61), span(3700), span(90_000)], ["59s", "1m1s", "1h1m", "1d1h"]);
    }

    #[test]
    fn terminals_are_safe() {
        assert_eq!(harmless("a\u{1b}[2Jb\rc\u{7}"), "a^[[2Jb\\rc\\u{7}");
    }
}
