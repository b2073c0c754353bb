//! Runs queries on threads of their own.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::StreamExt;
use model::{Completeness, CompletenessCause, LossCause, LossStage};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout_at;

use super::log::{QueryLog, Running};
use super::plain::{plain_batch, plain_schema};
use super::session::Sessions;
use super::stream::{Item, QueryStream, Task};
use super::{Described, QueryError, QueryRequest, guard, range};
use crate::completeness::{self, Covered};
use crate::error::{Error, Result};
use crate::hot::now;
use crate::shared::{Shared, Snapshot};

/// The engine works through plans by recursion; the texts that `guard` lets pass need less than
/// half of this even without optimisation. Only what is touched takes memory.
const STACK: usize = 256 << 20;

/// What a store answers queries with.
#[derive(Debug)]
pub(crate) struct Engine {
    core: Arc<Core>,
    runtime: Option<Runtime>,
    handle: Handle,
}

#[derive(Debug)]
struct Core {
    shared: Arc<Shared>,
    sessions: Sessions,
    permits: Arc<Semaphore>,
    log: Arc<QueryLog>,
}

/// A query within its limits.
struct Job {
    request: QueryRequest,
    timeout: Duration,
    deadline: tokio::time::Instant,
    max_rows: usize,
    memory: usize,
}

/// A query that is ready to run.
struct Planned {
    session: SessionState,
    plan: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    completeness: Completeness,
}

type Ready = (SchemaRef, Completeness);

// === impl Engine ===

impl Engine {
    pub(crate) fn new(
        shared: Arc<Shared>,
        metrics: prometheus::Registry,
        stages: stage::Registry,
    ) -> Result<Self> {
        let limits = &shared.config.query;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits.threads.max(1))
            .thread_name("store-query")
            .thread_stack_size(STACK)
            .enable_time()
            .build()
            .map_err(Error::io("start threads", &shared.dirs.root))?;
        let permits = Arc::new(Semaphore::new(limits.concurrent.max(1)));
        let log = Arc::new(QueryLog::new(shared.metrics.clone()));
        let sessions = Sessions::new(Arc::clone(&shared), metrics, stages, Arc::clone(&log))?;
        let handle = runtime.handle().clone();
        let core = Arc::new(Core { shared, sessions, permits, log });
        Ok(Self { core, runtime: Some(runtime), handle })
    }

    /// Does work that blocks, off the caller's threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let done = self.handle.spawn_blocking(work).await;
        done.map_err(|error| Error::Internal(error.to_string()))
    }

    pub(crate) async fn query(&self, request: QueryRequest) -> Result<QueryStream> {
        let started = Instant::now();
        let limits = &self.core.shared.config.query;
        let timeout = request.timeout.unwrap_or(limits.timeout).min(limits.timeout);
        let deadline = tokio::time::Instant::now() + timeout;
        let job = Job {
            max_rows: request.max_rows.unwrap_or(limits.max_rows).min(limits.max_rows),
            memory: request.memory.unwrap_or(limits.memory).min(limits.memory),
            request,
            timeout,
            deadline,
        };
        let (ready, is_ready) = oneshot::channel();
        let (items, receiver) = mpsc::channel(2);
        let core = Arc::clone(&self.core);
        let mut task = Task(self.handle.spawn(async move { core.run(job, ready, items).await }));
        let (schema, completeness) = match timeout_at(deadline, is_ready).await {
            Ok(Ok(ready)) => ready?,
            Ok(Err(_)) => {
                return Err(match (&mut task.0).await {
                    Err(error) if error.is_panic() => {
                        QueryError::Failed("the query hit a defect of the engine".to_owned())
                    }
                    _ => QueryError::Closed,
                }
                .into());
            }
            Err(_) => return Err(QueryError::Timeout(timeout).into()),
        };
        Ok(QueryStream {
            schema,
            completeness,
            items: receiver,
            task,
            started,
            timeout,
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
            rows: 0,
            truncated: false,
            ended: None,
        })
    }

    pub(crate) async fn describe(&self, sql: &str) -> Result<Described> {
        let core = Arc::clone(&self.core);
        let sql = sql.to_owned();
        // Aborted with the caller; what it holds is small.
        let mut task = self.handle.spawn(async move { core.describe(&sql).await });
        let described = (&mut task).await;
        Ok(described.map_err(|error| Error::Internal(error.to_string()))??)
    }

    /// Cancels what runs.
    pub(crate) fn close(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

// === impl Core ===

impl Core {
    async fn run(
        &self,
        job: Job,
        ready: oneshot::Sender<Result<Ready, QueryError>>,
        items: mpsc::Sender<Item>,
    ) {
        let mut running = self.log.start(&job.request.sql);
        let Ok(permit) = timeout_at(job.deadline, self.permits.acquire()).await else {
            let _ = ready.send(Err(QueryError::Busy));
            return running.end(Err(&QueryError::Busy));
        };
        let planned = match within(&job, self.plan(&job)).await {
            Ok(planned) => planned,
            Err(error) => {
                running.end(Err(&error));
                let _ = ready.send(Err(error));
                return;
            }
        };
        if ready.send(Ok((Arc::clone(&planned.schema), planned.completeness.clone()))).is_err() {
            return;
        }
        let result = self.stream(&job, planned, &items, &mut running).await;
        drop(permit);
        running.end(result.as_ref().map(|_| ()));
        let last = match result {
            Ok(truncated) => Item::End { truncated },
            Err(error) => Item::Error(error),
        };
        let _ = items.send(last).await;
    }

    async fn plan(&self, job: &Job) -> Result<Planned, QueryError> {
        let snapshot = self.shared.snapshot();
        let (session, plan) = self.logical(&job.request, &snapshot, job.memory).await?;
        let failed = |error| QueryError::from_engine(&error, &Sessions::table_names());
        let plan = session.optimize(&plan).map_err(failed)?;
        let completeness = self.completeness(&snapshot, range::of_plan(&plan));
        let planner = Arc::clone(session.query_planner());
        let plan = planner.create_physical_plan(&plan, &session).await.map_err(failed)?;
        let schema = plan.schema();
        let schema = if job.request.plain { plain_schema(&schema) } else { schema };
        Ok(Planned { session, plan, schema, completeness })
    }

    async fn logical(
        &self,
        request: &QueryRequest,
        snapshot: &Arc<Snapshot>,
        memory: usize,
    ) -> Result<(SessionState, LogicalPlan), QueryError> {
        let failed = |error| QueryError::from_engine(&error, &Sessions::table_names());
        let statement = guard::parse(&request.sql, self.shared.config.query.sql_bytes)?;
        let mut session = self.sessions.session(snapshot, memory);
        // What `now()` is.
        session.mark_start_execution();
        let plan = session.statement_to_plan(statement).await.map_err(failed)?;
        guard::check_plan(&plan)?;
        super::session::only_reads(&plan)?;
        if request.params.is_empty() {
            return Ok((session, plan));
        }
        let params: Vec<_> = request.params.iter().cloned().map(|p| p.into_scalar()).collect();
        let plan = plan.with_param_values(params).map_err(failed)?;
        Ok((session, plan))
    }

    async fn describe(&self, sql: &str) -> Result<Described, QueryError> {
        let snapshot = self.shared.snapshot();
        let request = QueryRequest::new(sql);
        let (_, plan) = self.logical(&request, &snapshot, self.shared.config.query.memory).await?;
        let types = plan
            .get_parameter_types()
            .map_err(|error| QueryError::from_engine(&error, &Sessions::table_names()))?;
        let highest =
            types.keys().filter_map(|name| name.trim_start_matches('$').parse().ok()).max();
        let params = (1..=highest.unwrap_or(0_usize))
            .map(|number| types.get(&format!("${number}")).cloned().flatten())
            .collect();
        Ok(Described { schema: plain_schema(plan.schema().as_arrow()), params })
    }

    fn completeness(&self, snapshot: &Snapshot, covered: Option<Covered>) -> Completeness {
        let Some(covered) = covered else {
            // Nothing of what flows is asked for, so none of it can be missing.
            return Completeness { complete: true, ..Completeness::default() };
        };
        let live = Arc::clone(&self.shared.nodes.read());
        let dimensions = &self.shared.dimensions;
        completeness::assess(snapshot, dimensions, &live, covered, now()).unwrap_or_else(|error| {
            tracing::warn!(%error, "completeness is not known");
            let cause = CompletenessCause {
                stage: LossStage::Disk.name().to_owned(),
                cause: LossCause::Corrupt.name().to_owned(),
                events: 1,
                ..CompletenessCause::default()
            };
            Completeness {
                from: covered.from,
                until: covered.until,
                causes: vec![cause],
                ..Completeness::default()
            }
        })
    }

    /// Runs a plan; whether rows were cut off.
    async fn stream(
        &self,
        job: &Job,
        planned: Planned,
        items: &mpsc::Sender<Item>,
        running: &mut Running,
    ) -> Result<bool, QueryError> {
        let failed = |error: DataFusionError| {
            if is_of_file(&error) {
                self.shared.suspect.store(true, Ordering::Relaxed);
                self.shared.wake.wake();
            }
            QueryError::from_engine(&error, &Sessions::table_names())
        };
        let mut rows = execute_stream(planned.plan, planned.session.task_ctx()).map_err(failed)?;
        let mut left = job.max_rows;
        loop {
            let next = within(job, async { Ok(rows.next().await) }).await?;
            let Some(batch) = next else { return Ok(false) };
            let batch = batch.map_err(failed)?;
            if batch.num_rows() == 0 {
                continue;
            }
            let truncated = batch.num_rows() > left;
            let batch = batch.slice(0, batch.num_rows().min(left));
            let batch = if job.request.plain {
                plain_batch(&planned.schema, &batch)
                    .map_err(|error| QueryError::Failed(error.to_string()))?
            } else {
                batch
            };
            left -= batch.num_rows();
            running.count(batch.num_rows());
            if batch.num_rows() > 0 {
                // A slow reader uses up the query's time, so that none holds a turn for ever.
                let sent = within(job, async { Ok(items.send(Item::Rows(batch)).await) }).await?;
                if sent.is_err() {
                    return Ok(false);
                }
            }
            if truncated {
                return Ok(true);
            }
        }
    }
}

/// Whether an error may come from a damaged segment.
fn is_of_file(error: &DataFusionError) -> bool {
    matches!(
        error.find_root(),
        DataFusionError::ParquetError(_)
            | DataFusionError::ArrowError(..)
            | DataFusionError::ObjectStore(_)
            | DataFusionError::IoError(_)
    )
}

async fn within<T>(
    job: &Job,
    work: impl Future<Output = Result<T, QueryError>>,
) -> Result<T, QueryError> {
    timeout_at(job.deadline, work).await.unwrap_or(Err(QueryError::Timeout(job.timeout)))
}
