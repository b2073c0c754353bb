//! Functions of Weir's own, and bounds on some of the engine's.

mod address;
mod bounded;
mod label;
mod rate;

pub(super) use bounded::bound;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Int32Type};
use datafusion::error::Result;
use datafusion::logical_expr::ScalarUDF;

/// All of them.
pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::from(address::Ip::new())),
        Arc::new(ScalarUDF::from(address::CidrContains::new())),
        Arc::new(ScalarUDF::from(label::NamespaceOf::new())),
        Arc::new(ScalarUDF::from(rate::Rate::new())),
    ]
}

/// The type that texts of this type are worked on in: dictionaries stay, for then each word is
/// looked at once, not once per row.
fn text_type(given: &DataType) -> DataType {
    match given {
        DataType::Dictionary(key, value)
            if **key == DataType::Int32 && **value == DataType::Utf8 =>
        {
            given.clone()
        }
        _ => DataType::Utf8,
    }
}

/// Applies `work` to the texts of a column of a type that [`text_type`] gave.
fn on_texts(column: &ArrayRef, work: impl Fn(&StringArray) -> ArrayRef) -> Result<ArrayRef> {
    if let Some(words) = column.as_dictionary_opt::<Int32Type>() {
        let values = cast(words.values(), &DataType::Utf8)?;
        let results = work(values.as_string::<i32>());
        return Ok(take(&results, words.keys(), None)?);
    }
    let texts = cast(column, &DataType::Utf8)?;
    Ok(work(texts.as_string::<i32>()))
}
