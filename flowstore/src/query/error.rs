//! Why a query was not answered, and what to do about it.

use std::time::Duration;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

/// An error of a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The text is no SQL, or names what is not there.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// What may have been meant.
        hint: Option<String>,
    },
    /// The statement would do more than read.
    #[error("{0} is not allowed: queries only read")]
    NotAllowed(String),
    /// The text is too long, too deeply nested, or stands for too large a plan.
    #[error("the query is too large: {0}")]
    TooLarge(String),
    /// It took too long.
    #[error("the query ran into its time limit of {0:?}")]
    Timeout(Duration),
    /// It needed too much memory, or room to spill.
    #[error("the query needs more memory than its limit: {0}")]
    Memory(String),
    /// Too many others are running.
    #[error("too many queries are running")]
    Busy,
    /// It failed while it ran.
    #[error("{0}")]
    Failed(String),
    /// The store closed under it.
    #[error("the store is closed")]
    Closed,
}

// === impl QueryError ===

impl QueryError {
    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "bad_sql",
            Self::NotAllowed(_) => "not_allowed",
            Self::TooLarge(_) => "too_large",
            Self::Timeout(_) => "timeout",
            Self::Memory(_) => "memory_limit",
            Self::Busy => "busy",
            Self::Failed(_) => "failed",
            Self::Closed => "closed",
        }
    }

    /// What to do about it, for people.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Invalid { hint, .. } => hint.clone(),
            Self::NotAllowed(_) => {
                Some("use one SELECT, VALUES, EXPLAIN, SHOW or DESCRIBE statement".to_owned())
            }
            Self::TooLarge(_) => {
                Some("use IN (…) or a join with VALUES instead of long chains".to_owned())
            }
            Self::Timeout(_) => {
                Some("narrow the time range (start_time >= now() - interval '1 hour')".to_owned())
            }
            Self::Memory(_) => {
                Some("narrow the time range, group by fewer columns, or add a LIMIT".to_owned())
            }
            Self::Busy => Some("try again in a moment".to_owned()),
            Self::Failed(_) | Self::Closed => None,
        }
    }

    /// An error of planning or running; `names` are those of the tables.
    pub(super) fn from_engine(error: &DataFusionError, names: &[String]) -> Self {
        let root = error.find_root();
        let message = tidy(&root.to_string());
        match root {
            DataFusionError::ResourcesExhausted(why) => Self::Memory(tidy(why)),
            DataFusionError::SchemaError(schema, _) => {
                Self::Invalid { hint: hint_for_column(schema), message }
            }
            DataFusionError::SQL(..) => Self::Invalid { hint: hint_for_syntax(&message), message },
            DataFusionError::Plan(_) | DataFusionError::NotImplemented(_) => {
                Self::Invalid { hint: hint_for_table(&message, names), message }
            }
            _ => Self::Failed(message),
        }
    }
}

/// The message without what is of use to the engine's developers only.
fn tidy(message: &str) -> String {
    let end = message.find("\n\nbacktrace:").unwrap_or(message.len());
    let end = end.min(message.find("This issue was likely caused by").unwrap_or(end));
    let message = message[..end].trim();
    let message = message.strip_prefix("Error during planning: ").unwrap_or(message);
    message.strip_prefix("SQL error: ").unwrap_or(message).to_owned()
}

fn hint_for_column(error: &SchemaError) -> Option<String> {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        return Some("name its table: table.column".to_owned());
    };
    let names: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
    match nearest(&field.name, &names) {
        Some(name) => Some(format!("did you mean {name}?")),
        None => Some("SHOW COLUMNS FROM the table lists what there is".to_owned()),
    }
}

fn hint_for_table(message: &str, names: &[String]) -> Option<String> {
    if let Some(at) = message.find("Did you mean") {
        return Some(message[at..].replacen('D', "d", 1));
    }
    if !message.contains("not found") {
        return None;
    }
    let named = message.split('\'').nth(1)?;
    let named = named.rsplit('.').next()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Some(match nearest(named, &names) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("there are: {}", names.join(", ")),
    })
}

fn hint_for_syntax(message: &str) -> Option<String> {
    message
        .contains("RecursionLimitExceeded")
        .then(|| "nest less deeply: use IN (…) or WITH".to_owned())
}

/// The name nearest to `word`, if one is near enough to have been meant.
fn nearest<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near = names.iter().map(|name| {
        // The middle of a longer name is as good a guess as a slip of the finger.
        let part = word.len() >= 3 && name.contains(&word);
        let steps = distance(&word, &name.to_lowercase());
        (if part { steps.min(2) } else { steps }, name.len(), *name)
    });
    let (steps, _, name) = near.min()?;
    (steps <= 1 + word.len() / 4).then_some(name)
}

/// Steps of editing from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let step = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = step;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_guesses_well_or_not_at_all() {
        let names = ["source_pod", "source_ip", "bytes_out", "destination_port"];
        assert_eq!(nearest("sourc_pod", &names), Some("source_pod"));
        assert_eq!(nearest("Bytes_Out", &names), Some("bytes_out"));
        assert_eq!(nearest("bytes", &names), Some("bytes_out"));
        assert_eq!(nearest("weather", &names), None);
    }
}
