//! How complete an answer is: what is known to be missing from the time that it covers.

mod tally;

pub(crate) use tally::{SEGMENT_DETAIL, Tally};

use std::collections::BTreeSet;
use std::sync::Arc;

use columns::Table;
use model::{Completeness, CompletenessCause, LossCause, LossStage};

use crate::dimension::Dimensions;
use crate::error::Result;
use crate::hot::Span;
use crate::segment;
use crate::shared::{Snapshot, TableState};

/// The live state of nodes, as the relay knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodesView {
    /// Nodes that should report.
    pub expected: Vec<String>,
    /// Nodes that are known.
    pub nodes: Vec<NodeLive>,
}

/// One node now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLive {
    /// Its name.
    pub name: String,
    /// The latest time that its rows are complete up to, nanoseconds since the epoch.
    pub last_time: Option<i64>,
    /// Whether its stream stands.
    pub connected: bool,
    /// How far it lags behind, milliseconds.
    pub lag_ms: u64,
}

/// The time that an answer covers, both ends included; nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Covered {
    /// `None`: from the beginning.
    pub from: Option<i64>,
    /// `None`: until now.
    pub until: Option<i64>,
}

/// A range that ends this close to now counts as one that ends now: nodes report in intervals, and
/// what is younger than that is under way, not missing.
const NOW: i64 = 30_000_000_000;

/// Adds up what `snapshot` and `live` say about `covered`.
pub(crate) fn assess(
    snapshot: &Snapshot,
    dimensions: &Dimensions,
    live: &NodesView,
    covered: Covered,
    now: i64,
) -> Result<Completeness> {
    let mut tally = Tally::default();
    for table in [Table::Losses, Table::Counters] {
        tally.merge(&of_table(table, snapshot.table(table), covered)?);
    }
    add_quarantined(&mut tally, snapshot, covered);
    let removed = retention(snapshot, covered);

    let until = covered.until.unwrap_or(now);
    let mut expected: BTreeSet<String> = live.expected.iter().cloned().collect();
    expected.extend(known_nodes(snapshot, dimensions, covered, now)?);
    let mut reporting = tally.nodes.clone();
    for batch in &snapshot.table(Table::Flows).hot {
        if batch.span.overlaps(covered.from, covered.until) {
            reporting.extend(batch.nodes.iter().cloned());
        }
    }
    for segment in &snapshot.table(Table::Flows).cold {
        if segment.meta.span().overlaps(covered.from, covered.until) {
            reporting.extend(segment.meta.nodes.iter().cloned());
        }
    }
    let ends_now = until >= now - NOW;
    let mut late_ms = 0;
    for node in &live.nodes {
        if node.last_time.is_some_and(|time| covered.from.is_none_or(|from| time >= from)) {
            reporting.insert(node.name.clone());
        }
        if !ends_now || !expected.contains(&node.name) {
            continue;
        }
        late_ms = late_ms.max(node.lag_ms);
        // A node that is gone is missing from now on; one that is merely behind is late.
        let caught_up = node.last_time.is_some_and(|time| time >= until.min(now) - NOW);
        if !node.connected && !caught_up {
            reporting.remove(&node.name);
        }
    }
    let nodes_expected = expected.len() as u32;
    let nodes_reporting = expected.intersection(&reporting).count() as u32;

    let causes = tally.causes();
    let complete = nodes_reporting == nodes_expected
        && !causes.iter().any(hurts)
        && !(covered.from.is_some() && removed.is_some());
    let mut result = Completeness {
        from: covered.from,
        until: covered.until,
        nodes_expected,
        nodes_reporting,
        lost_events: causes.iter().map(|cause| cause.events).sum(),
        lost_flows: causes.iter().filter(|c| !is_tail(c)).map(|cause| cause.flows).sum(),
        unattributed_bytes: tally.unattributed_bytes,
        late_ms,
        complete,
        causes,
    };
    result.causes.extend(removed);
    Ok(result)
}

/// Whether a loss leaves rows or bytes out. Events are news, their loss delays; but where whole
/// batches travel or rest, a lost event is a batch of rows whose number nobody knows.
fn hurts(cause: &CompletenessCause) -> bool {
    let batches = [LossStage::Spool, LossStage::Network, LossStage::Relay, LossStage::Disk];
    let batches = batches.iter().any(|stage| stage.name() == cause.stage);
    !is_tail(cause) && (cause.flows > 0 || cause.bytes > 0 || (batches && cause.events > 0))
}

/// What a live tail lost is in the store all the same.
fn is_tail(cause: &CompletenessCause) -> bool {
    cause.stage == LossStage::Tail.name()
}

/// What a table says about the range. Whole segments are added up once and remembered; only those
/// at the ends of the range are read.
fn of_table(table: Table, state: &TableState, covered: Covered) -> Result<Tally> {
    let Covered { from, until } = covered;
    let mut tally = Tally::default();
    for batch in state.hot.iter().filter(|batch| batch.span.overlaps(from, until)) {
        tally.add(table, &batch.rows, covered);
    }
    for segment in &state.cold {
        let span = segment.meta.span();
        if !span.overlaps(from, until) {
            continue;
        }
        if span.within(from, until) {
            let whole = match segment.tally.get() {
                Some(whole) => Arc::clone(whole),
                None => {
                    let whole = Arc::new(of_segment(table, &segment.path, Covered::default())?);
                    Arc::clone(segment.tally.get_or_init(|| whole))
                }
            };
            tally.merge(&whole);
        } else {
            tally.merge(&of_segment(table, &segment.path, covered)?);
        }
    }
    Ok(tally)
}

fn of_segment(table: Table, path: &std::path::Path, covered: Covered) -> Result<Tally> {
    let mut tally = Tally::default();
    for batch in segment::read(path, table, Some(Tally::columns(table)))? {
        tally.add(table, &batch, covered);
    }
    Ok(tally)
}

fn add_quarantined(tally: &mut Tally, snapshot: &Snapshot, covered: Covered) {
    for lost in snapshot.quarantined.iter() {
        let span = Span { min: lost.min_time, max: lost.max_time };
        if span.overlaps(covered.from, covered.until) {
            let flows = if lost.table == Table::Flows { lost.rows } else { 0 };
            let (stage, cause) = (LossStage::Disk.name(), LossCause::Corrupt.name());
            // A segment is at least one batch.
            tally.lose(stage, cause, "", [lost.rows.max(1), flows, 0]);
        }
    }
}

/// Flows of the range that retention took. An answer "from the beginning" means: of what is kept.
fn retention(snapshot: &Snapshot, covered: Covered) -> Option<CompletenessCause> {
    let removed = snapshot.removed.iter().find(|removed| removed.table == Table::Flows)?;
    if covered.from.is_some_and(|from| from > removed.until) {
        return None;
    }
    Some(CompletenessCause {
        stage: LossStage::Disk.name().to_owned(),
        cause: LossCause::Retention.name().to_owned(),
        flows: removed.rows,
        ..CompletenessCause::default()
    })
}

/// Nodes that were part of the cluster in the range.
fn known_nodes(
    snapshot: &Snapshot,
    dimensions: &Dimensions,
    covered: Covered,
    now: i64,
) -> Result<BTreeSet<String>> {
    let rows = dimensions.current(Table::Nodes, snapshot.table(Table::Nodes))?;
    Ok(tally::nodes_between(&rows, covered.from, covered.until.unwrap_or(now)))
}
