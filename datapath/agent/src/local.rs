//! What the agent answers to its own node: the service `weir.agent.v1.Agent` on a unix socket of its own,
//! which only root may open. Questions never change anything; [`apply`](Local::apply) does.
//!
//! Answers are JSON of these types: [`datapath_policy::explain::Explanation`] (`Why`), [`policies::Policies`],
//! [`endpoints::Endpoints`], [`identities::Identities`], [`tables::PolicyTables`], [`services::Services`],
//! [`services::Tables`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath_loader::ServiceTables;
use datapath_policy::Compiler;
use tokio::sync::watch;
use tonic::{Request, Response, Status as GrpcStatus};
use wire::agent::agent_server::Agent;
use wire::agent::{
    Answer, ApplyRequest, ApplyResponse, ConfirmRequest, ConfirmResponse, EndpointsRequest,
    IdentitiesRequest, PoliciesRequest, PolicyTablesRequest, ServiceTablesRequest, ServicesRequest,
    WhyRequest,
};

use crate::control::Snapshot;
use crate::control::applied::{Applied, Change};
use crate::enforce::Compiled;
use crate::services::Programmed;
use crate::status::Status;

pub mod endpoints;
pub mod identities;
pub mod policies;
pub mod question;
pub(crate) mod serve;
pub mod services;
pub mod tables;

/// How long a change may take to be in force before the caller is told so.
const IN_FORCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(2);

/// The service.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) control: watch::Receiver<Arc<Snapshot>>,
    pub(crate) compiled: Compiled,
    pub(crate) programmed: Programmed,
    pub(crate) applied: Arc<Applied>,
    pub(crate) status: Status,
}

// === impl Local ===

impl Local {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.control.borrow())
    }

    /// Asks the compiler away from the runtime's thread: explaining tries many changes.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Compiler) -> T + Send + 'static,
    ) -> Result<T, GrpcStatus> {
        let compiled = self.compiled.clone();
        let asked = tokio::task::spawn_blocking(move || compiled.ask(question)).await;
        asked.map_err(|error| GrpcStatus::internal(error.to_string()))?.ok_or_else(|| {
            GrpcStatus::failed_precondition(
                "this agent only observes: it enforces policies when started with --mode enforce",
            )
        })
    }

    fn served(&self) -> Result<ServiceTables, GrpcStatus> {
        self.programmed.kernel().ok_or_else(|| {
            GrpcStatus::failed_precondition(
                "this agent serves no services: it does when started with --mode enforce, unless told --services off",
            )
        })
    }

    /// Until the kernel decides by a change.
    async fn in_force(&self, change: &Change) -> Result<(), GrpcStatus> {
        let end = Instant::now() + IN_FORCE;
        let mut revision = None;
        while Instant::now() < end {
            if revision.is_none() {
                let snapshot = self.snapshot();
                revision = change.is_in(&snapshot).then_some(snapshot.revision);
            }
            if revision.is_some_and(|revision| self.compiled.in_force() >= revision) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        let warnings = self.status.update(|report| report.warnings.get("enforcement").cloned());
        Err(GrpcStatus::deadline_exceeded(format!(
            "the change is stored, but not in force after {} s: {}",
            IN_FORCE.as_secs(),
            warnings.unwrap_or_default().join("; ")
        )))
    }
}

#[tonic::async_trait]
impl Agent for Local {
    async fn why(&self, request: Request<WhyRequest>) -> Result<Response<Answer>, GrpcStatus> {
        let request = request.into_inner();
        let question = question::parse(&self.snapshot(), &request.source, &request.destination);
        let question = question.map_err(GrpcStatus::invalid_argument)?;
        let explain = move |compiler: &Compiler| {
            if request.verdict_only {
                compiler.explain_only(&question)
            } else {
                compiler.explain(&question)
            }
        };
        json(&self.ask(explain).await?)
    }

    async fn policies(&self, _: Request<PoliciesRequest>) -> Result<Response<Answer>, GrpcStatus> {
        json(&policies::list(&self.snapshot(), &self.compiled, &self.applied))
    }

    async fn endpoints(
        &self,
        _: Request<EndpointsRequest>,
    ) -> Result<Response<Answer>, GrpcStatus> {
        let interfaces = self.status.update(|report| report.interfaces.clone());
        json(&endpoints::list(&self.snapshot(), &self.compiled, &interfaces))
    }

    async fn identities(
        &self,
        _: Request<IdentitiesRequest>,
    ) -> Result<Response<Answer>, GrpcStatus> {
        json(&self.ask(identities::list).await?)
    }

    async fn policy_tables(
        &self,
        request: Request<PolicyTablesRequest>,
    ) -> Result<Response<Answer>, GrpcStatus> {
        let of = request.into_inner().of;
        let interfaces = self.status.update(|report| report.interfaces.clone());
        let Some(kernel) = self.compiled.kernel() else {
            self.ask(|_| ()).await?;
            return Err(GrpcStatus::unavailable("the policy tables are not open yet"));
        };
        let decode = move |compiler: &Compiler| tables::decode(&kernel, compiler, &interfaces, &of);
        json(&self.ask(decode).await?.map_err(GrpcStatus::not_found)?)
    }

    async fn services(&self, _: Request<ServicesRequest>) -> Result<Response<Answer>, GrpcStatus> {
        let kernel = self.served()?;
        json(&services::list(&self.programmed, &kernel).map_err(GrpcStatus::unavailable)?)
    }

    async fn service_tables(
        &self,
        request: Request<ServiceTablesRequest>,
    ) -> Result<Response<Answer>, GrpcStatus> {
        let kernel = self.served()?;
        let request = request.into_inner();
        let names = self.programmed.ask(services::names).unwrap_or_default();
        let read = move || services::tables(&kernel, &names, &request.what, request.limit as usize);
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|error| GrpcStatus::internal(error.to_string()))?;
        json(&read.map_err(GrpcStatus::invalid_argument)?)
    }

    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, GrpcStatus> {
        self.ask(|_| ()).await?;
        let request = request.into_inner();
        let within = request.confirm_within_ms;
        let within = (within > 0).then(|| Duration::from_millis(within));
        let (applied, snapshot) = (Arc::clone(&self.applied), self.snapshot());
        let changed = tokio::task::spawn_blocking(move || {
            applied.apply(&snapshot, &request.documents, &request.remove, within)
        });
        let change = changed.await.map_err(|error| GrpcStatus::internal(error.to_string()))?;
        let change = change.map_err(|error| GrpcStatus::invalid_argument(error.to_string()))?;
        self.in_force(&change).await?;
        Ok(Response::new(ApplyResponse {
            revision: self.ask(Compiler::revision).await?,
            notes: change.notes(),
            added: change.added,
            replaced: change.replaced,
            removed: change.removed,
        }))
    }

    async fn confirm(
        &self,
        request: Request<ConfirmRequest>,
    ) -> Result<Response<ConfirmResponse>, GrpcStatus> {
        let revert = request.into_inner().revert;
        let applied = Arc::clone(&self.applied);
        let work = move || if revert { applied.revert("on request") } else { applied.confirm() };
        let waited = tokio::task::spawn_blocking(work).await;
        let waited = waited.map_err(|error| GrpcStatus::internal(error.to_string()))?;
        let waited = waited.map_err(|error| GrpcStatus::unavailable(error.to_string()))?;
        Ok(Response::new(ConfirmResponse { waited }))
    }
}

fn json(answer: &impl serde::Serialize) -> Result<Response<Answer>, GrpcStatus> {
    let json = serde_json::to_string(answer);
    let json = json.map_err(|error| GrpcStatus::internal(error.to_string()))?;
    Ok(Response::new(Answer { json }))
}
