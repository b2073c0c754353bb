//! `/flows` and `/flows/{flow_id}`.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use stage::StopToken;

use crate::answer;
use crate::app::App;
use crate::ask::{Answer, number, text};
use crate::error::ApiError;
use crate::filter::Filters;
use crate::params::Params;
use crate::statement::{self, Order};
use crate::{follow, json, time};

/// Parameters that are no filters.
const OTHERS: &[&str] = &["since", "until", "limit", "follow", "order"];

/// What a list looks back on when it does not say, nanoseconds: an hour.
pub(crate) const DEFAULT_SPAN: i64 = 3_600_000_000_000;

const COUNTERS: &[&str] =
    &["packets_out", "bytes_out", "packets_in", "bytes_in", "attempts", "retransmits"];

/// Flows of history, or a stream of them.
pub(crate) async fn list(
    State(app): State<App>,
    Extension(stop): Extension<StopToken>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let filters = params.filters(OTHERS)?;
    if params.flag("follow")? {
        return follow::start(&app, &filters, &headers, stop);
    }
    let range = params.range(time::now(), DEFAULT_SPAN)?;
    let limit = params.number("limit", 200, 1..=10_000)?;
    let order = match params.get("order") {
        None | Some("newest") => Order::Newest,
        Some("oldest") => Order::Oldest,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "order={other:?}: expected newest or oldest"
            )));
        }
    };
    let found = app.ask(statement::flows(&filters, range, Some(limit), order)).await?;
    let mut body = String::with_capacity(700 * found.rows() + 1024);
    body.push_str("{\"flows\":");
    objects(&mut body, &found);
    Ok(answer::with_completeness(body, &found.completeness))
}

/// One connection: all that was reported of it, by whom, and why it ended as it did.
pub(crate) async fn one(
    State(app): State<App>,
    Path(flow_id): Path<String>,
) -> Result<Response, ApiError> {
    let flow_id = flow_id.to_ascii_lowercase();
    // The filter knows what a flow's name looks like.
    Filters::new().add("flow_id", &flow_id)?;
    let found = app.ask(statement::one_flow(&flow_id)).await?;
    if found.rows() == 0 {
        return Err(ApiError::not_found(format!("there is no flow {flow_id}"))
            .hint("it may be older than what is kept; see /api/v1/status"));
    }
    let drops = app.ask(statement::drops_of(&flow_id)).await?;
    let mut body = format!("{{\"flow_id\":\"{flow_id}\",\"intervals\":");
    objects(&mut body, &found);
    body.push_str(",\"ends\":");
    ends(&mut body, &found);
    body.push_str(",\"totals\":");
    totals(&mut body, &found);
    body.push_str(",\"drops\":");
    objects(&mut body, &drops);
    body.push_str(",\"reason\":");
    match reason(&found, &drops) {
        Some(reason) => json::string(&mut body, &reason),
        None => body.push_str("null"),
    }
    Ok(answer::with_completeness(body, &found.completeness))
}

fn objects(out: &mut String, answer: &Answer) {
    out.push('[');
    let mut first = true;
    for batch in &answer.batches {
        for row in 0..batch.num_rows() {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            json::object(out, batch, row, false);
        }
    }
    out.push(']');
}

/// Node, interface and reporter of a row.
type End = (String, String, String);

fn end_of(batch: &arrow::array::RecordBatch, row: usize) -> End {
    let word = |column| text(batch, column, row).unwrap_or_default();
    (word("node"), word("interface"), word("reporter"))
}

fn ends(out: &mut String, answer: &Answer) {
    let mut ends: Vec<End> = Vec::new();
    answer.each(|batch, row| {
        let end = end_of(batch, row);
        if !ends.contains(&end) {
            ends.push(end);
        }
    });
    out.push('[');
    for (at, (node, interface, reporter)) in ends.iter().enumerate() {
        out.push_str(if at > 0 { ",{\"node\":" } else { "{\"node\":" });
        json::string(out, node);
        out.push_str(",\"interface\":");
        json::string(out, interface);
        out.push_str(",\"reporter\":");
        json::string(out, reporter);
        out.push('}');
    }
    out.push(']');
}

/// Counters over all intervals, of the interface that speaks for the connection.
fn totals(out: &mut String, answer: &Answer) {
    let rank = |end: &End| match end.2.as_str() {
        "SOURCE" => 0,
        "DESTINATION" => 1,
        "HOST" => 2,
        _ => 3,
    };
    let mut sums: BTreeMap<(u8, End), [Option<u64>; COUNTERS.len()]> = BTreeMap::new();
    answer.each(|batch, row| {
        let end = end_of(batch, row);
        let sum = sums.entry((rank(&end), end)).or_default();
        for (sum, counter) in sum.iter_mut().zip(COUNTERS) {
            if let Some(value) = number(batch, counter, row) {
                *sum = Some(sum.unwrap_or(0).saturating_add(value));
            }
        }
    });
    let sum = sums.into_values().next().unwrap_or_default();
    out.push('{');
    let mut first = true;
    for (counter, value) in COUNTERS.iter().zip(sum) {
        if let Some(value) = value {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            out.push_str(&format!("\"{counter}\":{value}"));
        }
    }
    out.push('}');
}

/// A list of names, `["a","b"]`, as text.
fn names(list: &str) -> String {
    serde_json::from_str::<Vec<String>>(list).map_or_else(|_| list.to_owned(), |all| all.join(", "))
}

/// Why it was let through or not, in a sentence.
fn reason(flows: &Answer, drops: &Answer) -> Option<String> {
    let mut reason = None;
    flows.each(|batch, row| {
        let word = |column| text(batch, column, row);
        let (Some(verdict), None) = (word("verdict"), &reason) else { return };
        let rule = match (word("policy_kind"), word("policy_namespace"), word("policy_name")) {
            (Some(kind), Some(space), Some(name)) => {
                let rule = number(batch, "policy_rule", row);
                let rule = rule.map(|rule| format!("rule {rule} of ")).unwrap_or_default();
                Some(format!("{rule}{kind} {space}/{name}"))
            }
            _ => None,
        };
        reason = match (verdict.as_str(), rule) {
            ("FORWARDED", Some(rule)) => Some(format!("{rule} allows it")),
            ("FORWARDED", None) => None,
            (_, Some(rule)) => Some(format!("{verdict}: {rule} decides it")),
            (_, None) => {
                let why = word("drop_reason").unwrap_or_else(|| "no reason is known".to_owned());
                let selecting = word("policies_selecting");
                let by = selecting.map(|list| format!("; no rule of {} allows it", names(&list)));
                Some(format!("{verdict}: {why}{}", by.unwrap_or_default()))
            }
        };
    });
    let mut kernel = Vec::new();
    drops.each(|batch, row| {
        let word = |column| text(batch, column, row).unwrap_or_else(|| "?".to_owned());
        let packets = number(batch, "packets", row).unwrap_or(0);
        let reason = text(batch, "kernel_reason", row).unwrap_or_else(|| word("drop_reason"));
        let place = text(batch, "drop_location", row).map(|at| format!(" in {at}"));
        kernel.push(format!(
            "the kernel of {} dropped {packets} packets: {reason}{}",
            word("node"),
            place.unwrap_or_default()
        ));
    });
    if !kernel.is_empty() {
        kernel.extend(reason);
        return Some(kernel.join("; "));
    }
    reason
}
