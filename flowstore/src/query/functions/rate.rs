//! `rate(bytes, interval)`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{
    DataType, DurationNanosecondType, Float64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

/// A quantity per second. The interval is one, a difference of times, or a number of seconds; over
/// an interval of nothing the rate is not known.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Rate(Signature);

// === impl Rate ===

impl Rate {
    pub(super) fn new() -> Self {
        Self(Signature::user_defined(Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Rate {
    fn name(&self) -> &'static str {
        "rate"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let [_, interval] = given else {
            return plan_err!("rate(quantity, interval) takes two arguments");
        };
        let interval = match interval {
            DataType::Duration(_) => DataType::Duration(TimeUnit::Nanosecond),
            interval if interval.is_numeric() => DataType::Float64,
            _ => DataType::Interval(IntervalUnit::MonthDayNano),
        };
        Ok(vec![DataType::Float64, interval])
    }

    fn return_type(&self, _given: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let quantities = args.args[0].to_array(args.number_rows)?;
        let seconds = seconds(&args.args[1].to_array(args.number_rows)?);
        let quantities = quantities.as_primitive::<Float64Type>();
        let rates = quantities.iter().zip(seconds).map(|(quantity, seconds)| {
            let seconds = seconds.filter(|seconds| *seconds > 0.0)?;
            Some(quantity? / seconds)
        });
        Ok(ColumnarValue::Array(Arc::new(rates.collect::<Float64Array>())))
    }
}

fn seconds(interval: &ArrayRef) -> Vec<Option<f64>> {
    if let Some(durations) = interval.as_primitive_opt::<DurationNanosecondType>() {
        return durations.iter().map(|duration| Some(duration? as f64 / 1e9)).collect();
    }
    if let Some(intervals) = interval.as_primitive_opt::<IntervalMonthDayNanoType>() {
        return intervals
            .iter()
            .map(|interval| {
                let interval = interval?;
                // A month is taken as 30 days, as everywhere where it has no start.
                let days = f64::from(interval.months) * 30.0 + f64::from(interval.days);
                Some(days * 86_400.0 + interval.nanoseconds as f64 / 1e9)
            })
            .collect();
    }
    match interval.as_primitive_opt::<Float64Type>() {
        Some(numbers) => numbers.iter().collect(),
        None => vec![None; interval.len()],
    }
}
