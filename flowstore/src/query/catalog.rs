//! Which tables there are.

use std::sync::Arc;

use async_trait::async_trait;
use columns::Table;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::Result;

use super::edges;
use super::provider::{Cold, StoredTable};
use super::system::{self, Sources};
use crate::shared::{Shared, Snapshot};

/// `weir.public`.
#[derive(Debug)]
pub(super) struct PublicSchema {
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    cold: Cold,
}

/// `weir.system`.
#[derive(Debug)]
pub(super) struct SystemSchema {
    sources: Sources,
    snapshot: Arc<Snapshot>,
}

// === impl PublicSchema ===

impl PublicSchema {
    pub(super) fn new(shared: Arc<Shared>, snapshot: Arc<Snapshot>, cold: Cold) -> Self {
        Self { shared, snapshot, cold }
    }

    pub(super) fn names() -> Vec<String> {
        let tables = Table::ALL.iter().map(|table| table.name());
        tables.chain([edges::NAME]).map(str::to_owned).collect()
    }

    fn stored(&self, table: Table) -> Arc<dyn TableProvider> {
        Arc::new(StoredTable::new(
            table,
            Arc::clone(&self.shared),
            Arc::clone(&self.snapshot),
            self.cold.clone(),
        ))
    }
}

#[async_trait]
impl SchemaProvider for PublicSchema {
    fn table_names(&self) -> Vec<String> {
        Self::names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if name == edges::NAME {
            return edges::view(self.stored(Table::Flows)).map(Some);
        }
        Ok(Table::by_name(name).map(|table| self.stored(table)))
    }

    fn table_exist(&self, name: &str) -> bool {
        name == edges::NAME || Table::by_name(name).is_some()
    }
}

// === impl SystemSchema ===

impl SystemSchema {
    pub(super) fn new(sources: Sources, snapshot: Arc<Snapshot>) -> Self {
        Self { sources, snapshot }
    }

    pub(super) fn names() -> &'static [&'static str] {
        system::NAMES
    }
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        Self::names().iter().map(|name| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        self.sources.table(name, &self.snapshot)
    }

    fn table_exist(&self, name: &str) -> bool {
        Self::names().contains(&name)
    }
}
