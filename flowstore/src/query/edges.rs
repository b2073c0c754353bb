//! `edges_1m`: who talked to whom, by minute.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::view::ViewTable;
use datafusion::error::Result;
use datafusion::functions::expr_fn::date_trunc;
use datafusion::functions_aggregate::expr_fn::{count, count_distinct, max, sum};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use datafusion::prelude::{col, lit};

/// Its name.
pub(super) const NAME: &str = "edges_1m";

/// What makes an edge.
const EDGE: &[&str] = &[
    "cluster",
    "node",
    "reporter",
    "direction",
    "source_namespace",
    "source_workload",
    "destination_namespace",
    "destination_workload",
    "destination_service",
    "destination_port",
    "protocol",
    "verdict",
];

/// What is added up over it.
const SUMS: &[&str] =
    &["packets_out", "bytes_out", "packets_in", "bytes_in", "attempts", "retransmits"];

/// The view over `flows`.
pub(super) fn view(flows: Arc<dyn TableProvider>) -> Result<Arc<dyn TableProvider>> {
    let minute = date_trunc(lit("minute"), col("start_time")).alias("time");
    let mut by: Vec<Expr> = vec![minute];
    by.extend(EDGE.iter().map(|name| col(*name)));
    let mut totals: Vec<Expr> =
        SUMS.iter().map(|name| sum(col(*name)).alias(format!("total_{name}"))).collect();
    totals.push(count(lit(1_i64)).alias("intervals"));
    totals.push(count_distinct(col("flow_id")).alias("flows"));
    totals.push(max(col("rtt_us")).alias("max_rtt_us"));
    let mut shown: Vec<Expr> = vec![col("time")];
    shown.extend(EDGE.iter().map(|name| col(*name)));
    shown.extend(SUMS.iter().map(|name| col(format!("total_{name}")).alias(*name)));
    shown.extend(["intervals", "flows", "max_rtt_us"].map(col));
    let plan = LogicalPlanBuilder::scan("flows", provider_as_source(flows), None)?
        .aggregate(by, totals)?
        .project(shown)?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}
