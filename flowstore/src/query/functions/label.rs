//! `namespace_of(label…)`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

/// Keys of the label that names a namespace, in the order in which they are believed.
const KEYS: &[&str] = &["io.kubernetes.pod.namespace", "kubernetes.io/metadata.name", "namespace"];

/// The namespace that labels name, given one by one or as lists; NULL if none does.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct NamespaceOf(Signature);

// === impl NamespaceOf ===

impl NamespaceOf {
    pub(super) fn new() -> Self {
        Self(Signature::user_defined(Volatility::Immutable))
    }
}

impl ScalarUDFImpl for NamespaceOf {
    fn name(&self) -> &'static str {
        "namespace_of"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        if given.is_empty() {
            return plan_err!("namespace_of(label, …) takes labels or lists of labels");
        }
        let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let wanted = given.iter().map(|given| match given {
            DataType::List(_)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(..)
            | DataType::ListView(_) => list.clone(),
            _ => DataType::Utf8,
        });
        Ok(wanted.collect())
    }

    fn return_type(&self, _given: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns: Vec<ArrayRef> =
            args.args.iter().map(|arg| arg.to_array(args.number_rows)).collect::<Result<_>>()?;
        let mut result = Vec::with_capacity(args.number_rows);
        for row in 0..args.number_rows {
            let mut best: Option<(usize, String)> = None;
            for column in &columns {
                visit(column, row, &mut |label| {
                    if let Some((rank, name)) = namespace(label)
                        && best.as_ref().is_none_or(|(known, _)| rank < *known)
                    {
                        best = Some((rank, name.to_owned()));
                    }
                })?;
            }
            result.push(best.map(|(_, name)| name));
        }
        Ok(ColumnarValue::Array(Arc::new(StringArray::from(result))))
    }
}

fn visit(column: &ArrayRef, row: usize, each: &mut impl FnMut(&str)) -> Result<()> {
    if column.is_null(row) {
        return Ok(());
    }
    if let Some(lists) = column.as_list_opt::<i32>() {
        let labels = cast(&lists.value(row), &DataType::Utf8)?;
        labels.as_string::<i32>().iter().flatten().for_each(each);
    } else if let Some(texts) = column.as_string_opt::<i32>() {
        each(texts.value(row));
    }
    Ok(())
}

/// The namespace that a label `key=value` or `source:key=value` names.
fn namespace(label: &str) -> Option<(usize, &str)> {
    let (key, value) = label.split_once('=')?;
    let key = key.rsplit_once(':').map_or(key, |(_, key)| key);
    let rank = KEYS.iter().position(|known| *known == key)?;
    (!value.is_empty()).then_some((rank, value))
}

#[cfg(test)]
mod tests {
    use super::namespace;

    #[test]
    fn knows_the_usual_labels() {
        assert_eq!(namespace("k8s:io.kubernetes.pod.namespace=shop"), Some((0, "shop")));
        assert_eq!(namespace("namespace=a"), Some((2, "a")));
        assert_eq!(namespace("app=namespace"), None);
        assert_eq!(namespace("namespace"), None);
    }
}
