//! The time that filters leave.

use arrow::array::types::IntervalMonthDayNano;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, LogicalPlan, Operator, TryCast};

use columns::Table;

use crate::completeness::Covered;
use crate::dimension::is_dimension;

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;

/// The time that all of the filters leave; it may be wider than need be, never narrower.
pub(super) fn of_filters(filters: &[Expr]) -> Covered {
    filters.iter().map(of_filter).fold(Covered::default(), narrow)
}

/// The time that a plan reads; `None` if it reads no table of events.
pub(super) fn of_plan(plan: &LogicalPlan) -> Option<Covered> {
    let mut all: Option<Covered> = None;
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && scan.table_name.schema().is_none_or(|schema| schema == "public")
            && Table::by_name(scan.table_name.table()).is_some_and(|table| !is_dimension(table))
        {
            let one = of_filters(&scan.filters);
            all = Some(all.map_or(one, |all| widen(all, one)));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    all
}

fn of_filter(filter: &Expr) -> Covered {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            narrow(of_filter(left), of_filter(right))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            widen(of_filter(left), of_filter(right))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if let (Some(slack), Some(time)) = (slack_of(left), literal(right)) {
                compare(*op, time, slack)
            } else if let (Some(time), Some(slack)) = (literal(left), slack_of(right)) {
                op.swap().map_or_else(Covered::default, |op| compare(op, time, slack))
            } else {
                Covered::default()
            }
        }
        Expr::Between(between) if !between.negated => {
            match (slack_of(&between.expr), literal(&between.low), literal(&between.high)) {
                (Some(slack), Some(low), Some(high)) => {
                    Covered { from: Some(low), until: Some(high.saturating_add(slack)) }
                }
                _ => Covered::default(),
            }
        }
        Expr::Alias(alias) => of_filter(&alias.expr),
        _ => Covered::default(),
    }
}

fn compare(op: Operator, time: i64, slack: i64) -> Covered {
    let upper = Some(time.saturating_add(slack));
    match op {
        Operator::Gt | Operator::GtEq => Covered { from: Some(time), until: None },
        Operator::Lt | Operator::LtEq => Covered { from: None, until: upper },
        Operator::Eq => Covered { from: Some(time), until: upper },
        _ => Covered::default(),
    }
}

/// Whether an expression is a time of the row, and by how much it may be less than that.
fn slack_of(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Column(column) => {
            matches!(column.name.as_str(), "start_time" | "end_time" | "time").then_some(0)
        }
        // A coarser type cuts off at most a day.
        Expr::Cast(Cast { expr, .. }) | Expr::TryCast(TryCast { expr, .. }) => {
            slack_of(expr).map(|slack| slack + DAY)
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            let [by, column, ..] = args.as_slice() else { return None };
            let cut = match (func.name(), by) {
                ("date_trunc", Expr::Literal(unit, _)) => unit_of(unit.try_as_str()??)?,
                ("date_bin", Expr::Literal(width, _)) => width_of(width)?,
                _ => return None,
            };
            slack_of(column).map(|slack| slack + cut)
        }
        _ => None,
    }
}

fn unit_of(unit: &str) -> Option<i64> {
    Some(match unit.to_lowercase().as_str() {
        "microsecond" | "millisecond" | "second" => SECOND,
        "minute" => 60 * SECOND,
        "hour" => 3600 * SECOND,
        "day" => DAY,
        "week" => 7 * DAY,
        "month" => 31 * DAY,
        "quarter" => 92 * DAY,
        "year" => 366 * DAY,
        _ => return None,
    })
}

fn width_of(width: &ScalarValue) -> Option<i64> {
    match width {
        ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano {
            months,
            days,
            nanoseconds,
        })) => Some(i64::from(*months) * 31 * DAY + i64::from(*days) * DAY + nanoseconds),
        ScalarValue::DurationNanosecond(Some(width)) => Some(*width),
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(value, _) => nanoseconds(value),
        Expr::Cast(Cast { expr, .. }) => literal(expr),
        _ => None,
    }
}

/// A time as nanoseconds since the epoch.
pub(super) fn nanoseconds(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::TimestampSecond(Some(time), _) => time.checked_mul(SECOND),
        ScalarValue::TimestampMillisecond(Some(time), _) => time.checked_mul(1_000_000),
        ScalarValue::TimestampMicrosecond(Some(time), _) => time.checked_mul(1000),
        ScalarValue::TimestampNanosecond(Some(time), _) => Some(*time),
        ScalarValue::Date32(Some(days)) => i64::from(*days).checked_mul(DAY),
        ScalarValue::Date64(Some(time)) => time.checked_mul(1_000_000),
        _ => None,
    }
}

/// What is in both.
fn narrow(a: Covered, b: Covered) -> Covered {
    Covered { from: a.from.max(b.from), until: a.until.into_iter().chain(b.until).min() }
}

/// What is in either, and between.
fn widen(a: Covered, b: Covered) -> Covered {
    Covered {
        from: a.from.zip(b.from).map(|(a, b)| a.min(b)),
        until: a.until.zip(b.until).map(|(a, b)| a.max(b)),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{Expr, col, lit};

    use super::*;

    fn at(time: i64) -> Expr {
        lit(ScalarValue::TimestampNanosecond(Some(time), Some("UTC".into())))
    }

    #[test]
    fn reads_comparisons_either_way_round() {
        let both = of_filters(&[col("start_time").gt_eq(at(5)), at(9).gt(col("end_time"))]);
        assert_eq!(both, Covered { from: Some(5), until: Some(9) });
        let between = of_filter(&col("time").between(at(1), at(2)));
        assert_eq!(between, Covered { from: Some(1), until: Some(2) });
        let either = of_filter(&col("time").eq(at(1)).or(col("time").eq(at(7))));
        assert_eq!(either, Covered { from: Some(1), until: Some(7) });
        let other = of_filter(&col("time").eq(at(1)).or(col("node").eq(lit("a"))));
        assert_eq!(other, Covered::default());
        assert_eq!(of_filter(&!col("time").gt(at(1))), Covered::default());
    }
}
