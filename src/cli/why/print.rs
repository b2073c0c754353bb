//! The answer, for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::Report;
use crate::cli::explain;
use crate::cli::text::harmless;

/// What was recorded first, then what holds now.
pub(super) fn report(report: &Report) -> String {
    let mut out = String::new();
    if let Some(flow) = &report.recorded {
        recorded(&mut out, flow);
    }
    report.drops.iter().for_each(|drop| kernel(&mut out, drop));
    if let Some((_, now)) = &report.now {
        if report.recorded.is_some() || !report.drops.is_empty() {
            out.push_str("\nBy the policy in force now:\n");
        }
        out.push_str(&explain::text(now));
    }
    if report.is_empty() {
        out.push_str("nothing is known of it\n");
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn recorded(out: &mut String, flow: &Value) {
    let Some(row) = flow["intervals"].as_array().and_then(|rows| rows.last()) else { return };
    let word = |column: &str| row[column].as_str().unwrap_or_default();
    let _ = writeln!(
        out,
        "Recorded: flow {}, {} → {} {}, {} until {}",
        flow["flow_id"].as_str().unwrap_or_default(),
        end(row, "source"),
        end(row, "destination"),
        word("protocol"),
        word("verdict"),
        word("end_time"),
    );
    let totals = &flow["totals"];
    let count = |column: &str| totals[column].as_u64().unwrap_or(0);
    let _ = writeln!(
        out,
        "  {} packets out, {} in, {} refused attempts",
        count("packets_out"),
        count("packets_in"),
        count("attempts")
    );
    if let Some(reason) = flow["reason"].as_str() {
        let _ = writeln!(out, "  {}", harmless(reason));
    }
    if let Some(revision) = row["policy_revision"].as_u64() {
        let _ = writeln!(out, "  policy revision {revision}");
    }
}

fn end(row: &Value, side: &str) -> String {
    let word = |column: &str| row[format!("{side}_{column}")].as_str().unwrap_or_default();
    let address = word("ip");
    let port = row[format!("{side}_port")].as_u64();
    let at = match port {
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
        None => address.to_owned(),
    };
    match word("pod") {
        "" => at,
        pod => harmless(&format!("{}/{pod} ({at})", word("namespace"))),
    }
}

fn kernel(out: &mut String, drop: &Value) {
    let word = |column: &str| drop[column].as_str().unwrap_or_default();
    let reason = match word("kernel_reason") {
        "" => word("drop_reason"),
        reason => reason,
    };
    let _ = writeln!(
        out,
        "Kernel of {}: dropped {} packets, {} → {}, reason {reason} in {}",
        harmless(word("node")),
        drop["packets"].as_u64().unwrap_or(0),
        word("source_ip"),
        word("destination_ip"),
        harmless(word("drop_location")),
    );
    if let Some(help) = drop["help"].as_str() {
        let _ = writeln!(out, "  {help}");
    }
}
