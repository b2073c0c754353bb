//! Filters over flows: from query parameters to a condition, in SQL and over live batches.
//!
//! Values of one name are OR, different names are AND, a name with a leading `-` is negated. A
//! filter becomes a [`Condition`] once; SQL text and the test of live rows are two readings of
//! it, so that the live view and history agree.

use columns::Table;
use model::{Direction, Protocol, Reporter, Verdict};

use crate::filter::condition::Condition;

mod condition;
mod matcher;
mod value;

pub use condition::literal;
pub(crate) use matcher::Matcher;

/// Names that a filter may have, with what they mean; also the list in the API's description.
pub const NAMES: &[(&str, &str)] = &[
    ("namespace", "namespace of either end"),
    ("source_namespace", "namespace of the client"),
    ("destination_namespace", "namespace of the server"),
    ("pod", "either end: namespace/name or a prefix of the name"),
    ("source_pod", "client: namespace/name or a prefix of the name"),
    ("destination_pod", "server: namespace/name or a prefix of the name"),
    ("workload", "either end: name, namespace/name or Kind/name"),
    ("source_workload", "client: name, namespace/name or Kind/name"),
    ("destination_workload", "server: name, namespace/name or Kind/name"),
    ("ip", "either end: address or CIDR"),
    ("source_ip", "client: address or CIDR"),
    ("destination_ip", "server: address or CIDR"),
    ("port", "either end"),
    ("source_port", "port of the client"),
    ("destination_port", "port of the server"),
    ("name", "DNS name of either end; * stands for anything"),
    ("source_name", "DNS name of the client"),
    ("destination_name", "DNS name of the server"),
    ("label", "either end: a Kubernetes label selector (key=value, key, !key, key in (a,b), …)"),
    ("source_label", "client: a label selector"),
    ("destination_label", "server: a label selector"),
    ("identity", "either end: a number or a reserved name (host, world, …)"),
    ("source_identity", "identity of the client"),
    ("destination_identity", "identity of the server"),
    ("service", "service that was called: name or namespace/name; * stands for anything"),
    ("protocol", "TCP, UDP, SCTP, ICMPv4, ICMPv6, icmp (either) or a number"),
    ("ip_version", "4 or 6"),
    ("direction", "INGRESS or EGRESS"),
    ("verdict", "FORWARDED, DROPPED, AUDIT, REDIRECTED or ERROR"),
    ("drop_reason", "why it was dropped"),
    ("tcp_flags", "flags that were seen, all of them: SYN,ACK"),
    ("node", "node that saw it; * stands for anything"),
    ("interface", "interface that saw it"),
    ("process", "name of the local process; * stands for anything"),
    ("cluster", "cluster that the node belongs to"),
    ("flow_id", "one connection"),
    ("reporter", "SOURCE, DESTINATION, HOST, EXTERNAL; all shows every interface's row"),
];

/// Filters over flows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filters {
    groups: Vec<Group>,
    reporters: Vec<Reporter>,
    every_row: bool,
}

/// Values of one name.
#[derive(Debug, Clone, PartialEq)]
struct Group {
    name: &'static str,
    not: bool,
    any: Vec<Condition>,
}

/// Why a filter cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// There is no filter of that name.
    #[error("there is no filter {0:?}")]
    Name(String),
    /// The value does not fit.
    #[error("{name}={value:?}: {why}")]
    Value {
        /// Name of the filter.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Which end of a connection a filter is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Either,
    Source,
    Destination,
}

// === impl Filters ===

impl Filters {
    /// No filter: everything passes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads those of `parameters` that are filters; `others` are names that are none.
    ///
    /// # Errors
    /// When a name is unknown or a value does not fit.
    pub fn parse<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
        others: &[&str],
    ) -> Result<Self, FilterError> {
        let mut filters = Self::new();
        for (name, value) in parameters {
            if !others.contains(&name) {
                filters.add(name, value)?;
            }
        }
        Ok(filters)
    }

    /// Adds one; `name` with a leading `-` negates.
    ///
    /// # Errors
    /// When the name is unknown or the value does not fit.
    pub fn add(&mut self, name: &str, value: &str) -> Result<(), FilterError> {
        let (not, bare) = match name.strip_prefix('-') {
            Some(bare) => (true, bare),
            None => (false, name),
        };
        let (name, _) = *NAMES
            .iter()
            .find(|(known, _)| *known == bare)
            .ok_or_else(|| FilterError::Name(bare.to_owned()))?;
        if name == "reporter" && !not {
            return self.add_reporter(value);
        }
        let condition = condition_of(name, value).map_err(|why| FilterError::Value {
            name,
            value: value.to_owned(),
            why,
        })?;
        match self.groups.iter_mut().find(|group| group.name == name && group.not == not) {
            Some(group) => group.any.push(condition),
            None => self.groups.push(Group { name, not, any: vec![condition] }),
        }
        Ok(())
    }

    fn add_reporter(&mut self, value: &str) -> Result<(), FilterError> {
        if value.eq_ignore_ascii_case("all") {
            self.every_row = true;
        } else {
            let reporter =
                value::one_of(value, Reporter::parse, Reporter::ALL, Reporter::name).map_err(
                    |why| FilterError::Value { name: "reporter", value: value.to_owned(), why },
                )?;
            self.reporters.push(reporter);
        }
        Ok(())
    }

    /// Whether nothing is filtered.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.reporters.is_empty()
    }

    /// Whether one row per connection is wanted, not every interface's.
    pub fn one_per_connection(&self) -> bool {
        !self.every_row && self.reporters.is_empty()
    }

    /// Whether what was dropped is asked for: then kernel drops belong to the answer too.
    pub fn asks_for_drops(&self) -> bool {
        let dropped = Condition::equal("verdict", Verdict::Dropped.name());
        self.groups.iter().any(|group| {
            !group.not
                && (group.name == "drop_reason"
                    || (group.name == "verdict" && group.any.contains(&dropped)))
        })
    }

    /// The condition as SQL over `flows`; `None` when everything passes.
    pub fn sql(&self) -> Option<String> {
        let parts: Vec<String> = self.conditions().iter().map(Condition::sql).collect();
        (!parts.is_empty()).then(|| parts.join("\n  AND "))
    }

    /// The condition, to test live rows with.
    pub(crate) fn matcher(&self) -> Matcher {
        Matcher::new(Condition::And(self.conditions()))
    }

    fn conditions(&self) -> Vec<Condition> {
        let mut all: Vec<Condition> = self
            .groups
            .iter()
            .map(|group| {
                let any = Condition::any(group.any.clone());
                if group.not { Condition::not(any) } else { any }
            })
            .collect();
        if !self.reporters.is_empty() {
            let any = self.reporters.iter();
            let any = any.map(|one| Condition::equal("reporter", one.name())).collect();
            all.push(Condition::any(any));
        }
        all
    }
}

// === impl Side ===

impl Side {
    /// The side that a filter's name begins with, and the rest of the name.
    fn split(name: &str) -> (Self, &str) {
        if let Some(rest) = name.strip_prefix("source_") {
            (Self::Source, rest)
        } else if let Some(rest) = name.strip_prefix("destination_") {
            (Self::Destination, rest)
        } else {
            (Self::Either, name)
        }
    }

    /// `make` of the columns' prefix, for one side or for both.
    fn apply(self, make: impl Fn(&'static str) -> Condition) -> Condition {
        match self {
            Self::Source => make("source"),
            Self::Destination => make("destination"),
            Self::Either => Condition::Or(vec![make("source"), make("destination")]),
        }
    }
}

/// The condition of one value; the error says what is wrong with it.
fn condition_of(name: &str, text: &str) -> Result<Condition, String> {
    if text.is_empty() {
        return Err("a value is needed".to_owned());
    }
    let (side, what) = Side::split(name);
    let column = |prefix: &str, rest: &str| column(&format!("{prefix}_{rest}"));
    Ok(match what {
        "namespace" => side.apply(|end| Condition::equal(column(end, "namespace"), text)),
        "pod" => side.apply(|end| {
            value::name_in_namespace(column(end, "namespace"), column(end, "pod"), text)
        }),
        "workload" => side.apply(|end| {
            value::workload(
                column(end, "namespace"),
                column(end, "workload"),
                column(end, "workload_kind"),
                text,
            )
        }),
        "ip" => {
            let net = value::net(text)?;
            side.apply(|end| Condition::Within(column(end, "ip"), net))
        }
        "port" => {
            let port: u16 = text.parse().map_err(|_| "expected 0 to 65535".to_owned())?;
            side.apply(|end| Condition::Number(column(end, "port"), port.into()))
        }
        "name" => {
            let glob = value::dns_name(text)?;
            side.apply(|end| Condition::HasLike(column(end, "names"), glob.clone()))
        }
        "label" => {
            let selector = value::selector(text)?;
            side.apply(|end| selector.condition(column(end, "labels"), column(end, "identity")))
        }
        "identity" => {
            let identity = value::identity(text)?;
            side.apply(|end| Condition::Number(column(end, "identity"), identity.into()))
        }
        "service" => value::service(text)?,
        "protocol" => value::protocol(text, Protocol::parse)?,
        "ip_version" => {
            let digit = text.trim_start_matches(['v', 'V']);
            let version: u8 = digit.parse().map_err(|_| "expected 4 or 6".to_owned())?;
            Condition::Number("ip_version", version.into())
        }
        "direction" => {
            let one = value::one_of(text, Direction::parse, Direction::ALL, Direction::name)?;
            Condition::equal("direction", one.name())
        }
        "verdict" => {
            let one = value::one_of(text, Verdict::parse, Verdict::ALL, Verdict::name)?;
            Condition::equal("verdict", one.name())
        }
        "drop_reason" => Condition::equal("drop_reason", &text.to_ascii_uppercase()),
        "reporter" => {
            let one = value::one_of(text, Reporter::parse, Reporter::ALL, Reporter::name)?;
            Condition::equal("reporter", one.name())
        }
        "tcp_flags" => Condition::HasAll("tcp_flags", value::tcp_flags(text)?),
        "node" => value::node(text)?,
        "interface" => value::glob("interface", text)?,
        "process" => value::glob("process_name", text)?,
        "cluster" => Condition::equal("cluster", text),
        "flow_id" => Condition::equal("flow_id", &value::flow_id(text)?),
        other => return Err(format!("no such filter: {other}")),
    })
}

/// The column of `flows` by its name: what a condition names exists.
fn column(name: &str) -> &'static str {
    Table::Flows
        .columns()
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(known, _)| *known)
        .expect("filters are built from the names of columns")
}

#[cfg(test)]
mod tests;
