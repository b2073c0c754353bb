//! Conditions tested on the rows of a batch of `flows`.

use std::net::IpAddr;

use arrow::array::AsArray as _;
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use arrow::datatypes::{Int32Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};

use crate::filter::condition::Condition;

/// A condition that batches are tested with.
#[derive(Debug, Clone)]
pub(crate) struct Matcher(Condition);

// === impl Matcher ===

impl Matcher {
    pub(super) fn new(condition: Condition) -> Self {
        Self(condition)
    }

    /// Whether each row passes.
    pub(crate) fn test(&self, batch: &RecordBatch) -> Vec<bool> {
        test(&self.0, batch)
    }
}

fn test(condition: &Condition, batch: &RecordBatch) -> Vec<bool> {
    let rows = batch.num_rows();
    let column = |name: &str| batch.column_by_name(name);
    match condition {
        Condition::Equal(name, text) => words(column(name), rows, |word| word == text),
        Condition::Prefix(name, text) => words(column(name), rows, |word| word.starts_with(text)),
        Condition::Like(name, glob) => words(column(name), rows, |word| glob.matches(word)),
        Condition::Within(name, net) => words(column(name), rows, |word| {
            word.parse::<IpAddr>().is_ok_and(|address| net.contains(address))
        }),
        Condition::Number(name, number) => numbers(column(name), rows, *number),
        Condition::Has(name, text) => lists(column(name), rows, |list| list.contains(&&**text)),
        Condition::HasPrefix(name, text) => {
            lists(column(name), rows, |list| list.iter().any(|one| one.starts_with(text)))
        }
        Condition::HasLike(name, glob) => {
            lists(column(name), rows, |list| list.iter().any(|one| glob.matches(one)))
        }
        Condition::HasAll(name, all) => {
            lists(column(name), rows, |list| all.iter().all(|one| list.contains(&&**one)))
        }
        Condition::Not(inner) => test(inner, batch).into_iter().map(|passes| !passes).collect(),
        Condition::And(all) => fold(all, batch, true, |a, b| a && b),
        Condition::Or(any) => fold(any, batch, false, |a, b| a || b),
    }
}

fn fold(
    conditions: &[Condition],
    batch: &RecordBatch,
    first: bool,
    join: fn(bool, bool) -> bool,
) -> Vec<bool> {
    let mut result = vec![first; batch.num_rows()];
    for condition in conditions {
        for (passes, other) in result.iter_mut().zip(test(condition, batch)) {
            *passes = join(*passes, other);
        }
    }
    result
}

/// Tests a column of words or text; dictionaries are tested once per distinct word.
fn words(column: Option<&ArrayRef>, rows: usize, passes: impl Fn(&str) -> bool) -> Vec<bool> {
    let Some(column) = column else { return vec![false; rows] };
    if let Some(words) = column.as_dictionary_opt::<Int32Type>() {
        let Some(values) = words.values().as_string_opt::<i32>() else { return vec![false; rows] };
        let verdicts: Vec<bool> = values.iter().map(|word| word.is_some_and(&passes)).collect();
        return words
            .keys()
            .iter()
            .map(|key| {
                key.and_then(|key| usize::try_from(key).ok())
                    .and_then(|key| verdicts.get(key).copied())
                    .unwrap_or(false)
            })
            .collect();
    }
    match column.as_string_opt::<i32>() {
        Some(texts) => texts.iter().map(|text| text.is_some_and(&passes)).collect(),
        None => vec![false; rows],
    }
}

fn numbers(column: Option<&ArrayRef>, rows: usize, number: u64) -> Vec<bool> {
    macro_rules! equal {
        ($column:expr, $type:ty) => {
            $column
                .as_primitive::<$type>()
                .iter()
                .map(|value| value.is_some_and(|value| u64::from(value) == number))
                .collect()
        };
    }
    let Some(column) = column else { return vec![false; rows] };
    match column.data_type() {
        DataType::UInt8 => equal!(column, UInt8Type),
        DataType::UInt16 => equal!(column, UInt16Type),
        DataType::UInt32 => equal!(column, UInt32Type),
        DataType::UInt64 => equal!(column, UInt64Type),
        _ => vec![false; rows],
    }
}

fn lists(column: Option<&ArrayRef>, rows: usize, passes: impl Fn(&[&str]) -> bool) -> Vec<bool> {
    let Some(lists) = column.and_then(|column| column.as_list_opt::<i32>()) else {
        return vec![false; rows];
    };
    (0..rows)
        .map(|row| {
            if lists.is_null(row) {
                return false;
            }
            let list = lists.value(row);
            let Some(texts) = list.as_string_opt::<i32>() else { return false };
            let texts: Vec<&str> = texts.iter().flatten().collect();
            passes(&texts)
        })
        .collect()
}
