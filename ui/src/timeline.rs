//! `/timeline`: connections, bytes and losses over time.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::answer;
use crate::app::App;
use crate::ask::{number, text};
use crate::completeness::Report;
use crate::error::ApiError;
use crate::flows::DEFAULT_SPAN;
use crate::params::Params;
use crate::time::Range;
use crate::{statement, time};

#[derive(Serialize)]
struct Timeline<'a> {
    bucket_ms: f64,
    buckets: Vec<Bucket>,
    completeness: Report<'a>,
}

#[derive(Serialize, Default, Clone)]
struct Bucket {
    time: String,
    forwarded: u64,
    dropped: u64,
    audit: u64,
    error: u64,
    bytes: u64,
    lost: u64,
}

/// Answers with buckets of equal width that cover the range.
pub(crate) async fn get(State(app): State<App>, params: Params) -> Result<Response, ApiError> {
    let filters = params.filters(&["since", "until", "buckets"])?;
    let now = time::now();
    let range = params.range(now, DEFAULT_SPAN)?;
    let count = params.number("buckets", 60, 1..=1000)?;
    let (from, until) = (range.since.unwrap_or(0), range.until.unwrap_or(now));
    let width = ((until - from) / count as i64).max(1);
    let range = Range { since: Some(from), until: Some(until) };

    let mut buckets: Vec<Bucket> = (0..count as i64)
        .map(|at| Bucket { time: time::format(from + at * width), ..Bucket::default() })
        .collect();
    let last = count - 1;
    // A row that ends after the range belongs to its last bucket.
    let place = |bucket: u64| usize::try_from(bucket).unwrap_or(last).min(last);
    let found = app.ask(statement::timeline(&filters, range, from, width)).await?;
    found.each(|batch, row| {
        let Some(bucket) = number(batch, "bucket", row) else { return };
        let bucket = &mut buckets[place(bucket)];
        let flows = number(batch, "flows", row).unwrap_or(0);
        match text(batch, "verdict", row).as_deref() {
            Some("DROPPED") => bucket.dropped += flows,
            Some("AUDIT") => bucket.audit += flows,
            Some("ERROR") => bucket.error += flows,
            _ => bucket.forwarded += flows,
        }
        bucket.bytes += number(batch, "bytes", row).unwrap_or(0);
    });
    if let Some(sql) = statement::dropped_timeline(&filters, range, from, width) {
        let dropped = app.ask(sql).await?;
        dropped.each(|batch, row| {
            let Some(bucket) = number(batch, "bucket", row) else { return };
            buckets[place(bucket)].dropped += number(batch, "flows", row).unwrap_or(0);
        });
    }
    let lost = app.ask(statement::lost_timeline(range, from, width)).await?;
    lost.each(|batch, row| {
        let Some(bucket) = number(batch, "bucket", row) else { return };
        buckets[place(bucket)].lost += number(batch, "lost", row).unwrap_or(0);
    });
    Ok(answer::json(&Timeline {
        bucket_ms: width as f64 / 1e6,
        buckets,
        completeness: Report(&found.completeness),
    }))
}
