//! Lets a query that is cancelled end soon.
//!
//! The engine's tasks give way where batches enter a plan. A join that makes a million batches of
//! one never goes back there: it gives way with each batch of its own.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::unnest::UnnestExec;

/// Puts a step that gives way above everything that makes more batches than it takes.
#[derive(Debug)]
pub(super) struct YieldAboveJoins;

// === impl YieldAboveJoins ===

impl PhysicalOptimizerRule for YieldAboveJoins {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let yielding = plan.transform_up(|node| {
            let multiplies = node.is::<CrossJoinExec>()
                || node.is::<NestedLoopJoinExec>()
                || node.is::<HashJoinExec>()
                || node.is::<UnnestExec>();
            if multiplies {
                Ok(Transformed::yes(Arc::new(CooperativeExec::new(node))))
            } else {
                Ok(Transformed::no(node))
            }
        })?;
        Ok(yielding.data)
    }

    fn name(&self) -> &'static str {
        "yield_above_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
