//! The engine's settings: what a query finds, and what it does not.

use std::sync::Arc;

use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList};
use datafusion::catalog::{CatalogProviderList, TableFunction};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SessionState, SessionStateDefaults};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionConfig;
use object_store::local::LocalFileSystem;

use super::catalog::{PublicSchema, SystemSchema};
use super::hold::HoldWindows;
use super::log::QueryLog;
use super::provider::Cold;
use super::report::CompletenessFunction;
use super::yielding::YieldAboveJoins;
use super::{QueryError, functions, system};
use crate::error::{Error, Result};
use crate::shared::{Shared, Snapshot};

/// Name of the catalogue.
const CATALOG: &str = "weir";

/// Where segments are, for the engine. Nothing else is registered with it, so no path or address
/// leads anywhere else.
const SEGMENTS: &str = "segments://store";

/// Bytes of segments' footers that are kept.
const FOOTER_CACHE: usize = 128 << 20;

/// Functions whose result can be as large as a number says, outside of any memory limit.
const UNBOUNDED: &[&str] = &[
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "range",
    "generate_series",
    "gen_series",
];

/// Makes sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    shared: Arc<Shared>,
    base: SessionState,
    runtime: Arc<RuntimeEnv>,
    cold: Cold,
    system: system::Sources,
}

// === impl Sessions ===

impl Sessions {
    pub(super) fn new(
        shared: Arc<Shared>,
        metrics: prometheus::Registry,
        stages: stage::Registry,
        log: Arc<QueryLog>,
    ) -> Result<Self> {
        let internal =
            |error: datafusion::error::DataFusionError| Error::Internal(format!("engine: {error}"));
        let limits = &shared.config.query;
        let disk = if limits.spill_bytes == 0 {
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled)
        } else {
            DiskManagerBuilder::default()
                .with_mode(DiskManagerMode::Directories(vec![shared.dirs.tmp.clone()]))
                .with_max_temp_directory_size(limits.spill_bytes)
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_disk_manager_builder(disk)
            .with_metadata_cache_limit(FOOTER_CACHE)
            .build()
            .map_err(internal)?;
        // The engine knows the whole file system by default.
        let files = ObjectStoreUrl::local_filesystem();
        let _ = runtime.deregister_object_store(files.as_ref());
        let store = Arc::new(
            LocalFileSystem::new_with_prefix(&shared.dirs.segments)
                .map_err(|error| Error::Internal(error.to_string()))?,
        );
        let url = ObjectStoreUrl::parse(SEGMENTS).map_err(internal)?;
        runtime.register_object_store(url.as_ref(), Arc::clone(&store) as _);
        let cache = runtime.cache_manager.get_file_metadata_cache();
        let cold = Cold::new(url, store, cache);
        let runtime = Arc::new(runtime);
        let base = base(limits.threads, Arc::clone(&runtime));
        let system = system::Sources { metrics, stages, log };
        Ok(Self { shared, base, runtime, cold, system })
    }

    /// A session that sees one snapshot, within a memory limit of its own.
    pub(super) fn session(&self, snapshot: &Arc<Snapshot>, memory: usize) -> SessionState {
        let largest = std::num::NonZeroUsize::MIN.saturating_add(2);
        let pool = TrackConsumersPool::new(FairSpillPool::new(memory), largest);
        let runtime = RuntimeEnv { memory_pool: Arc::new(pool), ..(*self.runtime).clone() };
        let catalog = MemoryCatalogProvider::new();
        let public =
            PublicSchema::new(Arc::clone(&self.shared), Arc::clone(snapshot), self.cold.clone());
        let system = SystemSchema::new(self.system.clone(), Arc::clone(snapshot));
        // Registering fails only where a schema is not wanted at all; this catalogue wants any.
        let _ = catalog.register_schema("public", Arc::new(public));
        let _ = catalog.register_schema("system", Arc::new(system));
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
        let mut session = SessionStateBuilder::new_from_existing(self.base.clone())
            .with_runtime_env(Arc::new(runtime))
            .with_catalog_list(Arc::new(catalogs))
            .build();
        let function = CompletenessFunction::new(Arc::clone(&self.shared), Arc::clone(snapshot));
        session.register_udtf("completeness", Arc::new(function));
        session
    }

    /// Names of all tables, for hints.
    pub(super) fn table_names() -> Vec<String> {
        let mut names = PublicSchema::names();
        names.extend(SystemSchema::names().iter().map(|name| format!("system.{name}")));
        names
    }
}

fn base(threads: usize, runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, "public")
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true)
        .with_target_partitions(threads.max(1));
    let options = config.options_mut();
    options.execution.time_zone = Some("+00:00".to_owned());
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    let mut scalars = SessionStateDefaults::default_scalar_functions();
    scalars.retain(|function| !UNBOUNDED.contains(&function.name()));
    functions::bound(&mut scalars);
    scalars.extend(functions::all());
    let tables: Vec<Arc<TableFunction>> = SessionStateDefaults::default_table_functions();
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(scalars)
        .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_function_list(tables)
        .with_physical_optimizer_rule(Arc::new(HoldWindows))
        .with_physical_optimizer_rule(Arc::new(YieldAboveJoins))
        .build()
}

/// The second wall behind `guard`: the plan itself only reads.
pub(super) fn only_reads(plan: &LogicalPlan) -> Result<(), QueryError> {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(plan)
        .map_err(|error| QueryError::NotAllowed(error.strip_backtrace()))
}
