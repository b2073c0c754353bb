//! Live flows as server-sent events.
//!
//! Events are `flow` (with an id to resume from), `gap` (so many rows are left out here, and why)
//! and, every second, `status`. A stream that cannot keep up, or would be too much to look at, is
//! thinned out evenly and says so; history has every row.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use arrow::array::{Array, AsArray as _, RecordBatch};
use arrow::datatypes::Int32Type;
use axum::http::HeaderMap;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream::{self, Stream};
use model::Completeness;
use stage::StopToken;
use tokio::time::Instant;

use crate::app::App;
use crate::completeness::Report;
use crate::error::ApiError;
use crate::filter::{Filters, Matcher};
use crate::hub::{Chunk, Guest, Hub};
use crate::{json, time};

/// Rows are sent together, this often.
const PERIOD: Duration = Duration::from_millis(100);

/// The status is also the heartbeat.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// Connections whose reporting interface a stream remembers, in each of two generations.
const REMEMBERED: usize = 32 * 1024;

/// One live stream.
#[derive(Debug)]
struct Live {
    app: App,
    hub: Hub,
    stop: StopToken,
    matcher: Matcher,
    /// Whether kernel drops are asked for.
    drops: bool,
    /// Which interface speaks for each connection; `None` when every one does.
    speakers: Option<Speakers>,
    /// Number of the next row.
    next: u64,
    /// Rows that passed since the last status.
    passed: u64,
    status_at: Instant,
    ready: std::vec::IntoIter<Event>,
    changed: tokio::sync::watch::Receiver<u64>,
    _guest: Guest,
}

/// The interface that speaks for each connection: the one that ranks best of those seen.
#[derive(Debug, Default)]
struct Speakers {
    young: HashMap<String, String>,
    old: HashMap<String, String>,
}

/// Starts a stream; `Last-Event-ID` resumes one.
pub(crate) fn start(
    app: &App,
    filters: &Filters,
    headers: &HeaderMap,
    stop: StopToken,
) -> Result<Response, ApiError> {
    let hub = app.hub().clone();
    let next = match headers.get("last-event-id") {
        None => hub.next(),
        Some(id) => id
            .to_str()
            .ok()
            .and_then(|id| id.parse::<u64>().ok())
            .map(|id| id + 1)
            .ok_or_else(|| ApiError::bad_request("Last-Event-ID is none of this server's"))?,
    };
    app.metrics().live_streams.inc();
    let live = Live {
        matcher: filters.matcher(),
        drops: filters.asks_for_drops(),
        speakers: filters.one_per_connection().then(Speakers::default),
        next: next.min(hub.next()),
        passed: 0,
        status_at: Instant::now(),
        ready: Vec::new().into_iter(),
        changed: hub.watch(),
        _guest: hub.enter(),
        app: app.clone(),
        hub,
        stop,
    };
    Ok(Sse::new(live.events()).into_response())
}

// === impl Live ===

impl Live {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> + Send {
        stream::unfold(self, |mut live| async {
            loop {
                if let Some(event) = live.ready.next() {
                    return Some((Ok(event), live));
                }
                if live.stop.is_stopped() {
                    return None;
                }
                live.fill().await;
            }
        })
    }

    /// Waits for rows or for the time of the next status.
    async fn fill(&mut self) {
        let (stop, from) = (self.stop.clone(), self.next);
        let rows = tokio::select! {
            biased;
            () = stop.stopped() => return,
            () = tokio::time::sleep_until(self.status_at) => false,
            changed = self.changed.wait_for(|next| *next > from) => changed.is_ok(),
        };
        if !rows {
            self.ready = vec![self.status()].into_iter();
            self.status_at = Instant::now() + STATUS_PERIOD;
            return;
        }
        self.ready = self.rows().into_iter();
        // Whatever comes meanwhile goes together.
        tokio::time::sleep(PERIOD).await;
    }

    fn rows(&mut self) -> Vec<Event> {
        let from = self.next;
        let read = self.hub.read(from);
        self.next = read.next;
        let mut events = Vec::new();
        if read.lost > 0 {
            events.push(self.gap(
                read.lost,
                "behind",
                "came while this stream was away; see history",
            ));
        }
        let mut rows = Vec::new();
        for chunk in &read.chunks {
            match &chunk.rows {
                None => events.push(self.gap(
                    chunk.count,
                    "tail",
                    "the live tail could not follow; see history",
                )),
                Some(_) if chunk.drops && !self.drops => {}
                Some(batch) => self.pick(chunk, batch, from, &mut rows),
            }
        }
        self.passed += rows.len() as u64;
        let share = self.app.config().live_rows / (1000 / PERIOD.as_millis() as usize);
        let stride = rows.len().div_ceil(share.max(1)).max(1);
        let total = rows.len();
        events.extend(
            rows.into_iter()
                .step_by(stride)
                .map(|(id, text)| Event::default().event("flow").id(id.to_string()).data(text)),
        );
        let sent = total.div_ceil(stride);
        self.app.metrics().live_rows.inc_by(sent as u64);
        if stride > 1 {
            let why = format!("too many to show: 1 of {stride} is; see history");
            events.push(self.gap((total - sent) as u64, "sampled", &why));
        }
        events
    }

    /// Takes those rows of a chunk that pass, with their numbers.
    fn pick(
        &mut self,
        chunk: &Chunk,
        batch: &RecordBatch,
        from: u64,
        out: &mut Vec<(u64, String)>,
    ) {
        let mut passes = self.matcher.test(batch);
        if let Some(speakers) = self.speakers.as_mut().filter(|_| !chunk.drops) {
            speakers.silence(batch, &mut passes);
        }
        for (row, _) in passes.iter().enumerate().filter(|(_, passes)| **passes) {
            let number = chunk.first + row as u64;
            if number >= from {
                let mut text = String::with_capacity(700);
                json::object(&mut text, batch, row, false);
                out.push((number, text));
            }
        }
    }

    fn gap(&self, lost: u64, cause: &str, text: &str) -> Event {
        self.app.metrics().live_lost.with_label_values(&[cause]).inc_by(lost);
        let mut data = format!("{{\"lost\":{lost},\"cause\":");
        json::string(&mut data, text);
        data.push('}');
        Event::default().event("gap").data(data)
    }

    fn status(&mut self) -> Event {
        let unknown = Completeness::default();
        let completeness = self.hub.completeness();
        let completeness = match &completeness {
            Some(known) => Report(known).json(),
            // The first second of the first stream.
            None => Report(&unknown).json(),
        };
        let rate = std::mem::take(&mut self.passed);
        let now = time::format(time::now());
        let data =
            format!("{{\"time\":\"{now}\",\"rate\":{rate},\"completeness\":{completeness}}}");
        Event::default().event("status").data(data)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.app.metrics().live_streams.dec();
    }
}

// === impl Speakers ===

impl Speakers {
    /// Strikes out rows of interfaces that do not speak for their connection.
    fn silence(&mut self, batch: &RecordBatch, passes: &mut [bool]) {
        let rows: Vec<usize> = (0..passes.len()).filter(|row| passes[*row]).collect();
        // An agent sends what all of its interfaces saw together: look at all before choosing.
        for row in &rows {
            let (flow, rank) = (word(batch, "flow_id", *row), rank(batch, *row));
            match self.get(flow) {
                Some(best) if *best <= rank => {}
                _ => self.put(flow, rank),
            }
        }
        for row in rows {
            let speaks = self
                .get(word(batch, "flow_id", row))
                .is_none_or(|best| best[1..] == rank(batch, row)[1..]);
            passes[row] = speaks;
        }
    }

    fn get(&self, flow: &str) -> Option<&String> {
        self.young.get(flow).or_else(|| self.old.get(flow))
    }

    fn put(&mut self, flow: &str, rank: String) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(flow.to_owned(), rank);
    }
}

/// As `statement::RANK` has it.
fn rank(batch: &RecordBatch, row: usize) -> String {
    let verdict = if word(batch, "verdict", row) == "FORWARDED" { '1' } else { '0' };
    let reporter = match word(batch, "reporter", row) {
        "SOURCE" => '0',
        "DESTINATION" => '1',
        "HOST" => '2',
        _ => '3',
    };
    format!("{verdict}{reporter}{}/{}", word(batch, "node", row), word(batch, "interface", row))
}

/// A word or text of a row; empty when it is unknown.
fn word<'a>(batch: &'a RecordBatch, column: &str, row: usize) -> &'a str {
    let Some(column) = batch.column_by_name(column) else { return "" };
    if column.is_null(row) {
        return "";
    }
    if let Some(words) = column.as_dictionary_opt::<Int32Type>() {
        let values = words.values().as_string_opt::<i32>();
        return values.zip(words.key(row)).map_or("", |(values, key)| values.value(key));
    }
    column.as_string_opt::<i32>().map_or("", |texts| texts.value(row))
}
