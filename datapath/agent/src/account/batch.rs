//! A batch under way: rows of every table, and what they bring the report to.

use bytes::Bytes;
use columns::Table;
use columns::ipc::{self, Compression, IpcError};
use columns::rows::BatchBuilder;
use datapath_abi::conn::ConnKey;
use datapath_abi::reported::{Reported, ReportedKey, TOTALS};

use super::book::Memory;
use crate::spool::Part;

/// Rows of `flows` after which a batch is closed. The columnar form has paid for its schema and
/// dictionaries by then, and an encoded batch stays well below gRPC's usual 4 MiB.
pub(super) const FULL: usize = 4096;

/// Rows and their bookkeeping, until they are committed together.
#[derive(Debug)]
pub(super) struct Batch {
    builders: Vec<BatchBuilder>,
    /// In the order of staging; `batch` is filled in at the commit.
    pub(super) reported: Vec<(ReportedKey, Reported)>,
    pub(super) conns: Vec<StagedConn>,
    pub(super) totals: Vec<(ReportedKey, [u64; TOTALS])>,
    /// The batch carries what waited in [`Pending`](super::pending::Pending).
    pub(super) pending: bool,
    /// The batch carries what the spool gave up.
    pub(super) spool_losses: bool,
    /// Number within this process: tells a connection that is staged in this batch already.
    pub(super) number: u64,
}

/// What a connection's account becomes when the batch is committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct StagedConn {
    pub(super) key: ConnKey,
    pub(super) totals: [u64; TOTALS],
    pub(super) id: u64,
    pub(super) seq: u32,
    /// When it was read, nanoseconds since the epoch.
    pub(super) observed: i64,
    pub(super) memory: Memory,
    /// It is retired, and these are its last rows.
    pub(super) last: bool,
}

// === impl Batch ===

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            builders: Vec::new(),
            reported: Vec::new(),
            conns: Vec::new(),
            totals: Vec::new(),
            pending: false,
            spool_losses: false,
            number: 1,
        }
    }

    /// The builder of a table.
    pub(super) fn table(&mut self, table: Table) -> &mut BatchBuilder {
        let found = self.builders.iter().position(|builder| builder.table() == table);
        let at = found.unwrap_or_else(|| {
            self.builders.push(BatchBuilder::new(table));
            self.builders.len() - 1
        });
        &mut self.builders[at]
    }

    /// Whether it is time to commit.
    pub(super) fn is_full(&self) -> bool {
        self.reported.len() >= FULL
    }

    /// Whether there is nothing to commit.
    pub(super) fn is_empty(&self) -> bool {
        self.reported.is_empty() && self.builders.iter().all(BatchBuilder::is_empty)
    }

    /// Rows by table, so far.
    pub(super) fn rows(&self) -> impl Iterator<Item = (Table, u64)> {
        self.builders.iter().map(|builder| (builder.table(), builder.len() as u64))
    }

    /// Takes the rows out, encoded.
    pub(super) fn encode(&mut self) -> Result<Vec<Part>, IpcError> {
        let mut parts = Vec::new();
        for builder in &mut self.builders {
            if builder.is_empty() {
                continue;
            }
            let (table, rows) = (builder.table().name().to_owned(), builder.len() as u64);
            let encoded = ipc::encode(&builder.finish(), Compression::default())?;
            parts.push(Part { table, rows, ipc: Bytes::from(encoded) });
        }
        Ok(parts)
    }

    /// Starts anew; rows that were not taken out are discarded.
    pub(super) fn clear(&mut self) {
        // Builders of tables that are rarely written would only hold memory.
        self.builders.clear();
        self.reported.clear();
        self.conns.clear();
        self.totals.clear();
        self.pending = false;
        self.spool_losses = false;
        self.number += 1;
    }
}
