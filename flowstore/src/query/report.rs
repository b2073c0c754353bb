//! `completeness('flows', from, until)`: what is known to be missing, as rows.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, ListArray, RecordBatch, StringArray, StructArray,
    TimestampNanosecondArray, UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use columns::Table;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{DFSchema, plan_err};
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use model::Completeness;

use super::range::nanoseconds;
use crate::completeness::{self, Covered};
use crate::hot::now;
use crate::shared::{Shared, Snapshot};

/// The table function.
#[derive(Debug)]
pub(super) struct CompletenessFunction {
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
}

// === impl CompletenessFunction ===

impl CompletenessFunction {
    pub(super) fn new(shared: Arc<Shared>, snapshot: Arc<Snapshot>) -> Self {
        Self { shared, snapshot }
    }
}

impl TableFunctionImpl for CompletenessFunction {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        let exprs = args.exprs();
        let Some(name) = exprs.first().and_then(text) else {
            return plan_err!("completeness(table, from, until) takes the name of a table first");
        };
        if Table::by_name(&name).is_none() {
            return plan_err!("table '{name}' not found");
        }
        let covered = Covered {
            from: exprs.get(1).map(time).transpose()?.flatten(),
            until: exprs.get(2).map(time).transpose()?.flatten(),
        };
        let live = Arc::clone(&self.shared.nodes.read());
        let dimensions = &self.shared.dimensions;
        let result = completeness::assess(&self.snapshot, dimensions, &live, covered, now())
            .map_err(|error| DataFusionError::External(error.into()))?;
        let batch = row(&result)?;
        Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
    }
}

fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    }
}

/// A time, `now() - interval '1 hour'`, or a text that is one; NULL is no bound.
fn time(expr: &Expr) -> Result<Option<i64>> {
    let wanted = DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, Some("UTC".into()));
    let schema = Arc::new(DFSchema::empty());
    let context =
        SimplifyContext::builder().with_schema(Arc::clone(&schema)).with_current_time().build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.coerce(expr.clone(), &schema)?;
    let expr = simplifier.simplify(expr.cast_to(&wanted, &schema)?)?;
    match expr {
        Expr::Literal(value, _) if value.is_null() => Ok(None),
        Expr::Literal(value, _) => match nanoseconds(&value) {
            Some(time) => Ok(Some(time)),
            None => plan_err!("{value} is no time"),
        },
        other => plan_err!("{other} is no constant time"),
    }
}

fn row(result: &Completeness) -> Result<RecordBatch> {
    let time = |time: Option<i64>| -> ArrayRef {
        Arc::new(TimestampNanosecondArray::from(vec![time]).with_timezone("UTC"))
    };
    let number = |value: u64| -> ArrayRef { Arc::new(UInt64Array::from(vec![value])) };
    let count = |value: u32| -> ArrayRef { Arc::new(UInt32Array::from(vec![value])) };
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("from", time(result.from), true),
        ("until", time(result.until), true),
        ("nodes_expected", count(result.nodes_expected), false),
        ("nodes_reporting", count(result.nodes_reporting), false),
        ("lost_events", number(result.lost_events), false),
        ("lost_flows", number(result.lost_flows), false),
        ("unattributed_bytes", number(result.unattributed_bytes), false),
        ("late_ms", number(result.late_ms), false),
        ("complete", Arc::new(BooleanArray::from(vec![result.complete])) as _, false),
        ("causes", causes(result)?, false),
    ])?)
}

fn causes(result: &Completeness) -> Result<ArrayRef> {
    let causes = &result.causes;
    let texts = |get: fn(&model::CompletenessCause) -> &String| -> ArrayRef {
        Arc::new(causes.iter().map(|cause| Some(get(cause))).collect::<StringArray>())
    };
    let numbers = |get: fn(&model::CompletenessCause) -> u64| -> ArrayRef {
        Arc::new(causes.iter().map(get).collect::<UInt64Array>())
    };
    let field = |name: &str, data_type| Field::new(name, data_type, false);
    let fields: Fields = vec![
        field("stage", DataType::Utf8),
        field("cause", DataType::Utf8),
        field("node", DataType::Utf8),
        field("events", DataType::UInt64),
        field("flows", DataType::UInt64),
        field("bytes", DataType::UInt64),
    ]
    .into();
    let columns = vec![
        texts(|cause| &cause.stage),
        texts(|cause| &cause.cause),
        texts(|cause| &cause.node),
        numbers(|cause| cause.events),
        numbers(|cause| cause.flows),
        numbers(|cause| cause.bytes),
    ];
    let values = StructArray::try_new_with_length(fields.clone(), columns, None, causes.len())?;
    let item = Arc::new(Field::new("item", DataType::Struct(fields), false));
    let offsets = OffsetBuffer::from_lengths([causes.len()]);
    Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(values), None)?))
}
