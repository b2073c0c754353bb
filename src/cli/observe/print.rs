//! Flows as text: the formats of `hubble observe`.

use ui::time::civil;

use super::hubble::{self, Response};
use super::reasons;
use super::row::{End, Row};
use super::{Output, TimeFormat};
use crate::cli::text::{self, Table, harmless};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// Reserved identities that have a name of their own.
const RESERVED: [&str; 11] = [
    "unknown",
    "host",
    "world",
    "unmanaged",
    "health",
    "init",
    "remote-node",
    "kube-apiserver",
    "ingress",
    "world-ipv4",
    "world-ipv6",
];

/// Prints flows.
#[derive(Debug)]
pub(super) struct Printer {
    pub(super) output: Output,
    pub(super) time: TimeFormat,
    pub(super) node_name: bool,
    pub(super) policy_names: bool,
    /// Addresses, not names.
    pub(super) numeric: bool,
    pub(super) colour: bool,
    table: Table,
    first: bool,
}

// Escape sequences (ECMA-48, SGR).
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const MAGENTA: &str = "35";
const CYAN: &str = "36";

// === impl Printer ===

impl Printer {
    pub(super) fn new(
        output: Output,
        time: TimeFormat,
        node_name: bool,
        policy_names: bool,
        numeric: bool,
        colour: bool,
    ) -> Self {
        let headings: &[&str] = if node_name {
            &["TIMESTAMP", "NODE", "SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"]
        } else {
            &["TIMESTAMP", "SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"]
        };
        let table = Table::new(headings);
        Self { output, time, node_name, policy_names, numeric, colour, table, first: true }
    }

    /// The text of a flow; empty while a table is gathered.
    pub(super) fn flow(&mut self, row: &Row) -> String {
        match self.output {
            Output::Compact => self.compact(row),
            Output::Dict => self.dict(row),
            Output::Json | Output::Jsonpb => Response::of(row).line() + "\n",
            Output::Table | Output::Tab => {
                let mut cells = vec![self.time.text(&row.end_time)];
                if self.node_name {
                    cells.push(harmless(&row.node_name()));
                }
                cells.extend([
                    self.host(row.source()),
                    self.host(row.destination()),
                    kind(row),
                    harmless(row.verdict.as_deref().unwrap_or("VERDICT_UNKNOWN")),
                    row.summary(),
                ]);
                self.table.row(cells);
                String::new()
            }
        }
    }

    /// The text that says that flows are left out here.
    pub(super) fn lost(&mut self, lost: u64, cause: &str, now: &str) -> String {
        let time = self.time.text(now);
        match self.output {
            Output::Json | Output::Jsonpb => hubble::lost_line(lost, cause, now) + "\n",
            Output::Table | Output::Tab => {
                let mut cells = vec![time];
                if self.node_name {
                    cells.push(String::new());
                }
                cells.extend(["-", "-", "EVENTS LOST", "-"].map(str::to_owned));
                cells.push(format!("{lost}: {}", harmless(cause)));
                self.table.row(cells);
                String::new()
            }
            Output::Compact | Output::Dict => {
                format!("{time} EVENTS LOST: {lost} ({})\n", harmless(cause))
            }
        }
    }

    /// What was gathered.
    pub(super) fn end(&mut self) -> String {
        match self.output {
            Output::Table | Output::Tab if !self.table.is_empty() => self.table.text(3),
            _ => String::new(),
        }
    }

    fn compact(&self, row: &Row) -> String {
        let mut line = self.time.text(&row.end_time);
        if self.node_name {
            line.push_str(&format!(" [{}]", harmless(&row.node_name())));
        }
        let (source, destination) = (row.source(), row.destination());
        format!(
            "{line}: {} {} -> {} {} {} {} ({})\n",
            self.host(source),
            self.paint(MAGENTA, identity(source.identity)),
            self.host(destination),
            self.paint(MAGENTA, identity(destination.identity)),
            kind(row),
            self.verdict(row),
            row.summary(),
        )
    }

    fn dict(&mut self, row: &Row) -> String {
        let mut out = String::new();
        if !std::mem::take(&mut self.first) {
            out.push_str("------------\n");
        }
        out.push_str(&format!("  TIMESTAMP: {}\n", self.time.text(&row.end_time)));
        if self.node_name {
            out.push_str(&format!("       NODE: {}\n", harmless(&row.node_name())));
        }
        out.push_str(&format!("     SOURCE: {}\n", self.host(row.source())));
        out.push_str(&format!("DESTINATION: {}\n", self.host(row.destination())));
        out.push_str(&format!("       TYPE: {}\n", kind(row)));
        out.push_str(&format!("    VERDICT: {}\n", self.verdict(row)));
        out.push_str(&format!("    SUMMARY: {}\n", row.summary()));
        out
    }

    fn verdict(&self, row: &Row) -> String {
        let verdict = row.verdict.as_deref().unwrap_or("VERDICT_UNKNOWN");
        let colour = match verdict {
            "FORWARDED" | "REDIRECTED" => GREEN,
            "DROPPED" | "ERROR" => RED,
            _ => YELLOW,
        };
        let mut text = self.paint(colour, harmless(verdict));
        if let (true, Some(name)) = (self.policy_names, &row.policy_name) {
            let kind = row.policy_kind.as_deref().map(|kind| format!(" ({kind})"));
            text.push_str(&format!(" BY {}{}", harmless(name), kind.unwrap_or_default()));
        }
        text
    }

    /// Name or address, and port.
    fn host(&self, end: End<'_>) -> String {
        let name = if self.numeric { None } else { name(end) };
        let named = name.is_some();
        let host = harmless(&name.unwrap_or_else(|| end.ip.unwrap_or_default().to_owned()));
        let bracketed = !named && host.contains(':');
        let host = match end.port.filter(|port| *port != 0) {
            None => return self.paint(CYAN, host),
            Some(port) => {
                let host = if bracketed { format!("[{host}]") } else { host };
                (self.paint(CYAN, host), port)
            }
        };
        format!("{}:{}", host.0, self.paint(YELLOW, host.1.to_string()))
    }

    fn paint(&self, colour: &str, text: String) -> String {
        if self.colour { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text }
    }
}

fn name(end: End<'_>) -> Option<String> {
    let inside = |space: &str, name: &str| {
        if space.is_empty() { name.to_owned() } else { format!("{space}/{name}") }
    };
    if let Some(pod) = end.pod {
        return Some(inside(end.namespace.unwrap_or_default(), pod));
    }
    if let Some((space, service)) = end.service {
        return Some(inside(space, service));
    }
    (!end.names.is_empty()).then(|| end.names.join(","))
}

fn identity(identity: Option<u32>) -> String {
    match identity {
        None => "(unknown)".to_owned(),
        Some(number) => match RESERVED.get(number as usize) {
            Some(name) => format!("({name})"),
            None => format!("(ID:{number})"),
        },
    }
}

fn kind(row: &Row) -> String {
    if let Some(point) = row.point() {
        return point.text.to_owned();
    }
    let reason = row.drop_reason.as_deref().unwrap_or("DROP_REASON_UNKNOWN");
    reasons::by_name(reason).map_or_else(|| text::harmless(reason), |(_, text)| text.to_owned())
}

// === impl TimeFormat ===

impl TimeFormat {
    /// A time of the API (`2026-11-24T22:24:05.123456789Z`) in this format.
    pub(super) fn text(self, time: &str) -> String {
        let Some(at) = Parts::of(time) else { return "N/A".to_owned() };
        let Parts { year, month, day, hour, minute, second, nanos, weekday } = at;
        let date = format!("{year:04}-{month:02}-{day:02}");
        let clock = format!("{hour:02}:{minute:02}:{second:02}");
        let fraction = |digits: u32| {
            format!(".{:0width$}", nanos / 10_u32.pow(9 - digits), width = digits as usize)
        };
        let month_name = MONTHS[month as usize - 1];
        match self {
            Self::StampMilli => format!("{month_name} {day:>2} {clock}{}", fraction(3)),
            Self::YearMonthDay => date,
            Self::YearMonthDayHour => format!("{date}T{hour:02}Z"),
            Self::YearMonthDayHourMinute => format!("{date}T{hour:02}:{minute:02}Z"),
            Self::Rfc3339 => format!("{date}T{clock}Z"),
            Self::Rfc3339Milli => format!("{date}T{clock}{}Z", fraction(3)),
            Self::Rfc3339Micro => format!("{date}T{clock}{}Z", fraction(6)),
            Self::Rfc3339Nano => format!("{date}T{clock}{}Z", fraction(9)),
            Self::Rfc1123Z => {
                format!("{weekday}, {day:02} {month_name} {year:04} {clock} +0000")
            }
        }
    }
}

struct Parts {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    nanos: u32,
    weekday: &'static str,
}

impl Parts {
    fn of(time: &str) -> Option<Self> {
        let at = ui::time::parse(time, 0).ok()?;
        let (seconds, nanos) = (at.div_euclid(1_000_000_000), at.rem_euclid(1_000_000_000));
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        Some(Self {
            year,
            month,
            day,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
            nanos: u32::try_from(nanos).ok()?,
            weekday: DAYS[usize::try_from(days.rem_euclid(7)).ok()?],
        })
    }
}

#[cfg(test)]
mod tests;
