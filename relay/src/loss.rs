//! Rows of `losses` for what never came or could not be read.
//!
//! They travel in the batch that they were found by, so that they are durable exactly when it is.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use columns::Table;
use columns::ipc::{self, Compression};
use columns::rows::{BatchBuilder, LossRow};
use model::{LossCause, LossStage};

/// The node that lost something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) node: &'a str,
}

/// `missed` batches up to number `before` of `boot_id` never came.
pub(crate) fn gap(at: At<'_>, boot_id: &str, before: u64, missed: u64) -> (Table, Bytes) {
    let detail = match missed {
        1 => format!("batch {} of boot {boot_id} never came", before - 1),
        _ => format!("batches {} to {} of boot {boot_id} never came", before - missed, before - 1),
    };
    row(LossRow {
        stage: LossStage::Network.name(),
        cause: LossCause::Gap.name(),
        events: missed,
        detail: &detail,
        ..base(at)
    })
}

/// A part of a batch that is no batch of its table; `rows` as the agent said.
pub(crate) fn corrupt(at: At<'_>, table: &str, rows: u64, why: &str) -> (Table, Bytes) {
    let of_flows = table == Table::Flows.name();
    let detail = format!("{rows} rows of {table}: {why}");
    row(LossRow {
        stage: LossStage::Relay.name(),
        cause: LossCause::Corrupt.name(),
        events: if of_flows { 0 } else { rows },
        flows: if of_flows { rows } else { 0 },
        detail: &detail,
        ..base(at)
    })
}

fn base(at: At<'_>) -> LossRow<'_> {
    LossRow { time: now(), cluster: at.cluster, node: at.node, ..LossRow::default() }
}

fn row(loss: LossRow<'_>) -> (Table, Bytes) {
    let mut builder = BatchBuilder::new(Table::Losses);
    loss.push(&mut builder);
    let encoded = ipc::encode(&builder.finish(), Compression::None)
        .expect("one row of the table's own schema can be written to memory");
    (Table::Losses, encoded.into())
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
