//! Functions of the engine that make texts as long as a number says. What functions allocate is in
//! no query's memory limit, so the number is bounded.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::{cast, max};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// The largest number.
const MOST: i64 = 4096;

/// Names of such functions; the number is the second argument of each.
const NAMES: &[&str] = &["repeat", "lpad", "rpad"];

#[derive(Debug)]
struct Bounded(Arc<ScalarUDF>);

/// Puts bounds on those functions in a list.
pub(in crate::query) fn bound(functions: &mut [Arc<ScalarUDF>]) {
    for function in functions.iter_mut() {
        if NAMES.contains(&function.name()) {
            *function = Arc::new(ScalarUDF::from(Bounded(Arc::clone(function))));
        }
    }
}

// === impl Bounded ===

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        self.0.inner().coerce_types(given)
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        self.0.inner().return_type(given)
    }

    fn return_field_from_args(
        &self,
        args: ReturnFieldArgs<'_>,
    ) -> Result<arrow::datatypes::FieldRef> {
        self.0.inner().return_field_from_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, _context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        // Simplified by the wrapped function, the call could get around the bound.
        Ok(ExprSimplifyResult::Original(args))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Some(number) = args.args.get(1) {
            let numbers = cast(&number.to_array(1)?, &DataType::Int64)?;
            let most = max(numbers.as_primitive::<Int64Type>());
            if most.is_some_and(|most| most > MOST) {
                return exec_err!("{}: the length may be at most {MOST}", self.name());
            }
        }
        self.0.inner().invoke_with_args(args)
    }
}
