//! The columnar form of what Weir records.
//!
//! One Arrow schema per table ([`Table::schema`]), one builder per table from plain rows to a
//! [`RecordBatch`](arrow_array::RecordBatch) (`FlowBuilder`, …), and the IPC form in which batches
//! travel and rest ([`ipc`]). The agent builds batches here, the store keeps them; neither defines
//! a column of its own. Names and meaning of the columns: `docs/tables.md`.
//!
//! Only the light parts of Arrow are used (arrays, schema, IPC): this crate is part of the agent.

#![forbid(unsafe_code)]

pub mod ipc;
pub mod rows;
pub mod table;

pub use table::{ColumnKind, Table};
