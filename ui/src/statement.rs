//! The SQL behind the API, the page and `weir observe`.
//!
//! A connection has a row for each interface that it passes and each interval that it lasts.
//! Where connections are listed or added up, one interface speaks for each: one that did not let
//! it through if there is one, else that of the source, else that of the destination, else one
//! that it passed on the way. So no byte is counted twice, and no drop is hidden. Where dropped
//! flows are asked for, kernel drops stand among them ([`crate::drops`]).

use crate::drops::WITH_DROPS;
use crate::filter::{Filters, literal};
use crate::time::{self, Range};

/// Orders the interfaces that report a connection; the smallest speaks for it. The first letter
/// ranks the row, the rest names the interface.
const RANK: &str = "concat(CASE WHEN verdict = 'FORWARDED' THEN '1' ELSE '0' END, \
    CASE reporter WHEN 'SOURCE' THEN '0' WHEN 'DESTINATION' THEN '1' WHEN 'HOST' THEN '2' ELSE '3' END, \
    node, '/', interface)";

/// Packets or tries that policy dropped.
const DENIED: &str = "sum(CASE WHEN verdict = 'DROPPED' THEN coalesce(attempts, CAST(1 AS BIGINT UNSIGNED)) END) AS denied";

/// What policy and kernel dropped.
const DROPPED: &str =
    "CAST(coalesce(sum(denied), 0) + coalesce(sum(kernel_drops), 0) AS BIGINT UNSIGNED) AS dropped";

/// So many rows are looked at for each that is wanted: interfaces that report one connection.
const REPORTERS: usize = 8;

/// Which end of the time comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The newest rows, newest first.
    Newest,
    /// The oldest rows, oldest first.
    Oldest,
}

/// What the ends of the map's edges are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapBy {
    /// Workloads.
    Workload,
    /// Pods.
    Pod,
    /// Namespaces.
    Namespace,
}

/// Rows of flows that pass; `None` for all of them.
pub fn flows(filters: &Filters, range: Range, limit: Option<usize>, order: Order) -> String {
    let direction = match order {
        Order::Newest => "DESC",
        Order::Oldest => "ASC",
    };
    let condition = conditions(filters, range);
    let by = format!("ORDER BY end_time {direction}, flow_id, seq");
    let limited = |limit: Option<usize>| limit.map(|n| format!("\nLIMIT {n}")).unwrap_or_default();
    if !one_speaks(filters) {
        return format!("SELECT *\nFROM {}{condition}\n{by}{}", relation(filters), limited(limit));
    }
    let candidates = limited(limit.map(|n| n.saturating_mul(REPORTERS)));
    let candidates = if limit.is_some() { format!("\n{by}{candidates}") } else { String::new() };
    format!(
        "SELECT * EXCEPT (ranked, best)\n\
         FROM (SELECT *, min(ranked) OVER (PARTITION BY flow_id) AS best\n\
         FROM (SELECT *, {RANK} AS ranked\nFROM flows{condition}{candidates}))\n\
         WHERE substr(ranked, 2) = substr(best, 2)\n{by}{}",
        limited(limit)
    )
}

/// Every row of one connection.
pub(crate) fn one_flow(flow_id: &str) -> String {
    let id = literal(flow_id);
    format!(
        "SELECT * FROM flows WHERE flow_id = {id} ORDER BY start_time, seq, node, interface LIMIT 5000"
    )
}

/// What the kernel dropped of one connection.
pub(crate) fn drops_of(flow_id: &str) -> String {
    format!(
        "SELECT node, interface, kernel_reason, drop_reason, drop_location, sum(packets) AS packets\n\
         FROM drops WHERE flow_id = {}\n\
         GROUP BY node, interface, kernel_reason, drop_reason, drop_location\n\
         ORDER BY packets DESC LIMIT 20",
        literal(flow_id)
    )
}

/// Connections added up by columns of `flows`.
pub fn aggregate(filters: &Filters, range: Range, by: &[&str], limit: Option<usize>) -> String {
    // Some names are words of SQL.
    let by: Vec<String> = by.iter().map(|name| format!("\"{name}\"")).collect();
    let keys = by.join(", ");
    let limit = limit.map(|n| format!("\nLIMIT {n}")).unwrap_or_default();
    let per_connection = per_connection(
        filters,
        range,
        &keys,
        &format!(
            "sum(bytes_out + bytes_in) AS bytes, sum(packets_out + packets_in) AS packets, {DENIED}"
        ),
    );
    format!(
        "SELECT {keys}, count(DISTINCT flow_id) AS flows, sum(bytes) AS bytes, sum(packets) AS packets, \
         {DROPPED}\n\
         FROM {}\nGROUP BY {keys}\nORDER BY bytes DESC{limit}",
        with_kernel_drops(&per_connection, filters, range)
    )
}

/// Who talks to whom: a row for each pair of ends and each port.
pub fn map(filters: &Filters, range: Range, by: MapBy) -> String {
    let (source, destination) = (end("source", by), end("destination", by));
    let keys = "source_kind, source_space, source_name, \
                destination_kind, destination_space, destination_name, protocol, destination_port";
    let inner = format!("{source}, {destination}, protocol, destination_port");
    let rows = per_connection_as(
        filters,
        range,
        &inner,
        keys,
        &format!(
            "sum(bytes_out + bytes_in) AS bytes, sum(packets_out + packets_in) AS packets, \
             {DENIED}, sum(rtt_us) AS rtt_sum, count(rtt_us) AS rtt_count"
        ),
    );
    format!(
        "SELECT {keys}, sum(bytes) AS bytes, sum(packets) AS packets, count(DISTINCT flow_id) AS flows, \
         {DROPPED}, sum(rtt_sum) AS rtt_sum, sum(rtt_count) AS rtt_count\n\
         FROM {}\nGROUP BY {keys}\nORDER BY bytes DESC\nLIMIT 20000",
        with_kernel_drops(&rows, filters, range)
    )
}

/// Connections and bytes over time: a row for each bucket and verdict. Times in nanoseconds.
pub(crate) fn timeline(filters: &Filters, range: Range, from: i64, width: i64) -> String {
    let bucket = format!("{} AS bucket, verdict", bucket_of("end_time", from, width));
    let rows = per_connection_as(
        filters,
        range,
        &bucket,
        "bucket, verdict",
        "sum(bytes_out + bytes_in) AS bytes",
    );
    format!(
        "SELECT bucket, verdict, count(DISTINCT flow_id) AS flows, sum(bytes) AS bytes\n\
         FROM {rows}\nGROUP BY bucket, verdict"
    )
}

/// Connections of which the kernel dropped something, over time; for filters that leave them out
/// of [`timeline`].
pub(crate) fn dropped_timeline(
    filters: &Filters,
    range: Range,
    from: i64,
    width: i64,
) -> Option<String> {
    if filters.asks_for_drops() {
        return None;
    }
    let mut conditions = times("end_time", "start_time", range);
    conditions.extend(filters.sql());
    // Every row of flows has one.
    conditions.push("reporter IS NULL".to_owned());
    Some(format!(
        "SELECT bucket, count(DISTINCT connection) AS flows\n\
         FROM (SELECT {} AS bucket,\n\
         coalesce(flow_id, concat(protocol, ' ', source_ip, ' ', destination_ip, ' ', CAST(destination_port AS VARCHAR))) AS connection\n\
         FROM {}{})\nGROUP BY bucket",
        bucket_of("end_time", from, width),
        &*WITH_DROPS,
        clause(conditions),
    ))
}

/// What was lost over time: a row for each bucket.
pub(crate) fn lost_timeline(range: Range, from: i64, width: i64) -> String {
    format!(
        "SELECT bucket, sum(lost) AS lost\n\
         FROM (SELECT {} AS bucket, events + flows AS lost FROM losses{})\nGROUP BY bucket",
        bucket_of("time", from, width),
        clause(times("time", "time", range)),
    )
}

/// Rows of `losses`, newest first.
pub(crate) fn losses(range: Range) -> String {
    let condition = clause(times("time", "time", range));
    format!(
        "SELECT time, node, stage, cause, events, flows, bytes, detail\n\
         FROM losses{condition}\nORDER BY time DESC LIMIT 1000"
    )
}

/// Losses by stage, cause and node.
pub(crate) fn losses_by_cause(range: Range) -> String {
    format!(
        "SELECT stage, cause, node, sum(events) AS events, sum(flows) AS flows, sum(bytes) AS bytes\n\
         FROM losses{}\nGROUP BY stage, cause, node ORDER BY stage, cause, node",
        clause(times("time", "time", range))
    )
}

/// Things as they were at a moment: rows of `services` or `policies`. Nodes of one cluster know
/// the same ones; one row for each is enough.
pub(crate) fn things(table: &str, columns: &str, key: &str, at: i64) -> String {
    let at = literal(&time::format(at));
    format!(
        "SELECT {columns}\n\
         FROM (SELECT *, row_number() OVER (PARTITION BY {key} ORDER BY valid_from DESC, node) AS place\n\
         FROM {table} WHERE valid_from <= {at} AND (valid_to IS NULL OR valid_to > {at}))\n\
         WHERE place = 1 ORDER BY {key} LIMIT 10000"
    )
}

/// Values of a filter that occur, the most frequent first; `None` for a filter without a list.
pub(crate) fn values(field: &str, part: &str, range: Range) -> Option<String> {
    let of = |column: &str| match column {
        "pod" => "concat({side}namespace, '/', {side}pod)".to_owned(),
        "name" => "unnest({side}names)".to_owned(),
        "label" => "unnest({side}labels)".to_owned(),
        "port" => "CAST({side}port AS VARCHAR)".to_owned(),
        "identity" => "CAST({side}identity AS VARCHAR)".to_owned(),
        column => format!("{{side}}{column}"),
    };
    let (sides, bare): (&[&str], &str) = if let Some(bare) = field.strip_prefix("source_") {
        (&["source_"], bare)
    } else if let Some(bare) = field.strip_prefix("destination_") {
        (&["destination_"], bare)
    } else {
        (&["source_", "destination_"], field)
    };
    let expressions: Vec<String> = match bare {
        "namespace" | "pod" | "workload" | "ip" | "name" | "label" | "port" | "identity" => {
            sides.iter().map(|side| of(bare).replace("{side}", side)).collect()
        }
        _ if sides.len() == 1 => return None,
        "service" => {
            vec!["concat(destination_service_namespace, '/', destination_service)".to_owned()]
        }
        "process" => vec!["process_name".to_owned()],
        "protocol" | "verdict" | "drop_reason" | "node" | "interface" | "cluster" | "direction"
        | "reporter" => vec![bare.to_owned()],
        _ => return None,
    };
    let condition = clause(times("end_time", "start_time", range));
    // Where one half of a joined name is missing, there is no value.
    let present = |expression: &str| match expression.split_once("concat(") {
        Some((_, inner)) => {
            let last = inner.trim_end_matches(')').rsplit(", ").next().unwrap_or_default();
            let word = if condition.is_empty() { "WHERE" } else { "AND" };
            format!("\n{word} {last} IS NOT NULL")
        }
        None => String::new(),
    };
    let rows: Vec<String> = expressions
        .iter()
        .map(|one| format!("SELECT {one} AS value FROM flows{condition}{}", present(one)))
        .collect();
    let part = if part.is_empty() {
        String::new()
    } else {
        format!(" AND strpos(lower(value), {}) > 0", literal(&part.to_lowercase()))
    };
    Some(format!(
        "SELECT value, count(*) AS times\nFROM ({})\nWHERE value IS NOT NULL{part}\n\
         GROUP BY value ORDER BY times DESC, value LIMIT 50",
        rows.join("\nUNION ALL ")
    ))
}

/// The condition on time, for a row that begins at `start` and ends at `end`.
fn times(end: &str, start: &str, range: Range) -> Vec<String> {
    let since = range.since.map(|at| format!("{end} >= {}", literal(&time::format(at))));
    let until = range.until.map(|at| format!("{start} < {}", literal(&time::format(at))));
    since.into_iter().chain(until).collect()
}

fn conditions(filters: &Filters, range: Range) -> String {
    let mut all = times("end_time", "start_time", range);
    all.extend(filters.sql());
    clause(all)
}

fn clause(conditions: Vec<String>) -> String {
    if conditions.is_empty() {
        String::new()
    } else {
        format!("\nWHERE {}", conditions.join("\n  AND "))
    }
}

/// What rows are taken from.
fn relation(filters: &Filters) -> &'static str {
    if filters.asks_for_drops() { &WITH_DROPS } else { "flows" }
}

/// Whether one interface speaks for each connection. A kernel drop speaks for itself.
fn one_speaks(filters: &Filters) -> bool {
    filters.one_per_connection() && !filters.asks_for_drops()
}

fn bucket_of(column: &str, from: i64, width: i64) -> String {
    format!("(CAST({column} AS BIGINT) - {from}) / {width}")
}

fn per_connection(filters: &Filters, range: Range, keys: &str, sums: &str) -> String {
    per_connection_as(filters, range, keys, keys, sums)
}

/// Adds to each connection of a table of them what the kernel dropped of it.
fn with_kernel_drops(connections: &str, filters: &Filters, range: Range) -> String {
    if filters.asks_for_drops() {
        // They are among the rows.
        return format!("(SELECT *, 0 AS kernel_drops FROM {connections})");
    }
    let condition = clause(times("time", "time", range));
    format!(
        "(SELECT * FROM {connections})\nLEFT JOIN (SELECT flow_id AS dropped_id, sum(packets) AS kernel_drops \
         FROM drops{condition} GROUP BY flow_id)\nON flow_id = dropped_id AND speaks"
    )
}

/// A table of connections: the rows of the interface that speaks for each, added up by `keys`
/// (`expressions` define them) and `flow_id`.
fn per_connection_as(
    filters: &Filters,
    range: Range,
    expressions: &str,
    keys: &str,
    sums: &str,
) -> String {
    let condition = conditions(filters, range);
    let rows = format!(
        "SELECT flow_id, {RANK} AS ranked, {expressions}, {sums}\n\
         FROM {}{condition}\nGROUP BY flow_id, ranked, {keys}",
        relation(filters)
    );
    if !one_speaks(filters) {
        return format!("(SELECT *, true AS speaks FROM ({rows}))");
    }
    format!(
        "(SELECT *, ranked = best AS speaks FROM\n\
         (SELECT *, min(ranked) OVER (PARTITION BY flow_id) AS best\nFROM ({rows})))\n\
         WHERE substr(ranked, 2) = substr(best, 2)"
    )
}

/// Kind, namespace and name of one end of an edge.
fn end(side: &str, by: MapBy) -> String {
    let (kind, name) = match by {
        MapBy::Workload => {
            ("workload", format!("coalesce({side}_workload, {side}_pod, {side}_ip)"))
        }
        MapBy::Pod => ("pod", format!("coalesce({side}_pod, {side}_workload, {side}_ip)")),
        MapBy::Namespace => ("workload", format!("{side}_namespace")),
    };
    let service = |then: &str| match side {
        "destination" => format!("WHEN destination_service IS NOT NULL THEN {then} "),
        _ => String::new(),
    };
    // 1 and 6 are the reserved identities host and remote-node.
    let choose = |pod: &str, service: String, host: &str, named: &str, world: &str| {
        format!(
            "CASE WHEN {side}_namespace IS NOT NULL THEN {pod} {service}\
             WHEN {side}_identity IN (1, 6) THEN {host} \
             WHEN array_length({side}_names) > 0 THEN {named} ELSE {world} END"
        )
    };
    let kinds = choose(&literal(kind), service("'service'"), "'host'", "'name'", "'world'");
    let names = choose(
        &name,
        service("destination_service"),
        &format!("coalesce({side}_node, {side}_ip)"),
        &format!("{side}_names[1]"),
        &format!("{side}_ip"),
    );
    let spaces = match side {
        "destination" => {
            "coalesce(destination_namespace, destination_service_namespace)".to_owned()
        }
        _ => format!("{side}_namespace"),
    };
    // Words are dictionaries of different keys; as plain text they can be branches of one CASE.
    format!(
        "{kinds} AS {side}_kind, CAST({spaces} AS VARCHAR) AS {side}_space, CAST({names} AS VARCHAR) AS {side}_name"
    )
}
