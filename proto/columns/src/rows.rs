//! Rows and their builders: plain structs in, record batches out.
//!
//! A builder appends column by column in the order of the table's list; nothing is allocated per
//! row once the buffers have grown.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BooleanBuilder, ListBuilder, StringBuilder, StringDictionaryBuilder,
    TimestampNanosecondBuilder, UInt8Builder, UInt16Builder, UInt32Builder, UInt64Builder,
};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, RecordBatch};

use crate::{ColumnKind, Table};

mod flow;
mod other;

pub use flow::{FlowEnd, FlowRow};
pub use other::{CounterRow, DropRow, EndpointRow, L7Row, LossRow, NodeRow, PolicyRow, ServiceRow};

/// Builds record batches of one table.
///
/// ```
/// use columns::rows::{BatchBuilder, LossRow};
/// let mut builder = BatchBuilder::new(columns::Table::Losses);
/// LossRow { time: 1, node: "a", stage: "ring", cause: "full", events: 3, ..LossRow::default() }
///     .push(&mut builder);
/// let batch = builder.finish();
/// assert_eq!(batch.num_rows(), 1);
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    table: Table,
    columns: Vec<Builder>,
    rows: usize,
}

/// One row under way; every column must be given, in order, before [`Row::end`].
#[derive(Debug)]
pub struct Row<'a> {
    table: Table,
    columns: std::slice::IterMut<'a, Builder>,
    rows: &'a mut usize,
}

enum Builder {
    Time(TimestampNanosecondBuilder),
    U64(UInt64Builder),
    U32(UInt32Builder),
    U16(UInt16Builder),
    U8(UInt8Builder),
    Bool(BooleanBuilder),
    Word(StringDictionaryBuilder<Int32Type>),
    Text(StringBuilder),
    Words(ListBuilder<StringBuilder>),
}

// === impl BatchBuilder ===

impl BatchBuilder {
    /// An empty builder for `table`.
    pub fn new(table: Table) -> Self {
        let columns = table.columns().iter().map(|(_, kind)| Builder::new(*kind)).collect();
        Self { table, columns, rows: 0 }
    }

    /// The table it builds for.
    pub fn table(&self) -> Table {
        self.table
    }

    /// Rows appended since the last [`finish`](Self::finish).
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row yet.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Starts a row.
    pub fn row(&mut self) -> Row<'_> {
        Row { table: self.table, columns: self.columns.iter_mut(), rows: &mut self.rows }
    }

    /// Takes the rows out as a batch and starts anew.
    pub fn finish(&mut self) -> RecordBatch {
        let columns: Vec<ArrayRef> = self.columns.iter_mut().map(Builder::finish).collect();
        self.rows = 0;
        RecordBatch::try_new(self.table.schema(), columns)
            .expect("builders follow the table's own list of columns")
    }
}

// === impl Row ===

macro_rules! column {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $type:ty) => {
        $(#[$doc])*
        pub fn $name(mut self, value: Option<$type>) -> Self {
            match self.columns.next() {
                Some(Builder::$variant(column)) => column.append_option(value),
                other => mismatch(self.table, stringify!($name), other.is_some()),
            }
            self
        }
    };
}

impl Row<'_> {
    column!(
        /// A time, nanoseconds since the epoch.
        time, Time, i64
    );
    column!(
        /// A counter.
        u64, U64, u64
    );
    column!(
        /// A number.
        u32, U32, u32
    );
    column!(
        /// A port.
        u16, U16, u16
    );
    column!(
        /// A small number.
        u8, U8, u8
    );
    column!(
        /// Yes or no.
        bool, Bool, bool
    );

    /// A word of few distinct values; an empty one is unknown, hence NULL.
    pub fn word(mut self, value: &str) -> Self {
        match self.columns.next() {
            Some(Builder::Word(column)) if value.is_empty() => column.append_null(),
            Some(Builder::Word(column)) => column.append_value(value),
            other => mismatch(self.table, "word", other.is_some()),
        }
        self
    }

    /// Text of many distinct values; an empty one is unknown, hence NULL.
    pub fn text(mut self, value: &str) -> Self {
        match self.columns.next() {
            Some(Builder::Text(column)) if value.is_empty() => column.append_null(),
            Some(Builder::Text(column)) => column.append_value(value),
            other => mismatch(self.table, "text", other.is_some()),
        }
        self
    }

    /// A list; an empty one is unknown, hence NULL.
    pub fn words<S: AsRef<str>>(mut self, values: &[S]) -> Self {
        match self.columns.next() {
            Some(Builder::Words(column)) if values.is_empty() => column.append_null(),
            Some(Builder::Words(column)) => {
                for value in values {
                    column.values().append_value(value.as_ref());
                }
                column.append(true);
            }
            other => mismatch(self.table, "words", other.is_some()),
        }
        self
    }

    /// Ends the row.
    ///
    /// # Panics
    /// When a column was left out: a defect of the row's `push`, found by its first test.
    pub fn end(mut self) {
        assert!(self.columns.next().is_none(), "{}: a column was left out", self.table.name());
        *self.rows += 1;
    }
}

#[cold]
fn mismatch(table: Table, given: &str, more: bool) -> ! {
    panic!(
        "{}: {given} given where the list of columns has {}",
        table.name(),
        if more { "another kind" } else { "no more" }
    )
}

// === impl Builder ===

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Builder")
    }
}

impl Builder {
    fn new(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Time => Self::Time(TimestampNanosecondBuilder::new().with_timezone("UTC")),
            ColumnKind::U64 => Self::U64(UInt64Builder::new()),
            ColumnKind::U32 => Self::U32(UInt32Builder::new()),
            ColumnKind::U16 => Self::U16(UInt16Builder::new()),
            ColumnKind::U8 => Self::U8(UInt8Builder::new()),
            ColumnKind::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnKind::Word => Self::Word(StringDictionaryBuilder::new()),
            ColumnKind::Text => Self::Text(StringBuilder::new()),
            ColumnKind::Words => Self::Words(ListBuilder::new(StringBuilder::new())),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Time(column) => Arc::new(column.finish()),
            Self::U64(column) => Arc::new(column.finish()),
            Self::U32(column) => Arc::new(column.finish()),
            Self::U16(column) => Arc::new(column.finish()),
            Self::U8(column) => Arc::new(column.finish()),
            Self::Bool(column) => Arc::new(column.finish()),
            Self::Word(column) => Arc::new(column.finish()),
            Self::Text(column) => Arc::new(column.finish()),
            Self::Words(column) => ArrayBuilder::finish(column),
        }
    }
}

#[cfg(test)]
mod tests;
