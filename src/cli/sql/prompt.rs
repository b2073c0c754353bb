//! The prompt of `weir sql`: history, editing, completion of tables, columns, functions and words.

use std::collections::BTreeSet;

use anyhow::Result;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::{CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter, Validator};

use crate::cli::client::Client;

/// Words of SQL worth completing.
const WORDS: &[&str] = &[
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "COUNT",
    "CROSS",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXPLAIN",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INTERVAL",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "RIGHT",
    "SELECT",
    "SHOW",
    "TABLES",
    "THEN",
    "UNION",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
];

/// What the server has: asked once; a server that does not tell has nothing to complete.
const NAMES: &str = "SELECT table_name AS n FROM information_schema.tables UNION \
    SELECT column_name FROM information_schema.columns UNION \
    SELECT routine_name FROM information_schema.routines";

/// Edits lines; on a terminal only.
pub(super) struct Prompt {
    editor: Editor<Words, rustyline::history::MemHistory>,
}

/// Completes the word before the cursor.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Words(BTreeSet<String>);

/// What the user has done.
pub(super) enum Line {
    Text(String),
    /// Ctrl-C: what was begun is dropped.
    Dropped,
    /// Ctrl-D.
    End,
}

// === impl Prompt ===

impl Prompt {
    /// Learns the server's names.
    pub(super) async fn new(client: &Client) -> Result<Self> {
        let config = Config::builder().completion_type(CompletionType::List).build();
        let mut editor = Editor::with_history(config, rustyline::history::MemHistory::new())?;
        let mut words: BTreeSet<String> = WORDS.iter().map(|&word| word.to_owned()).collect();
        if let Ok(answer) = client.sql(NAMES, "application/x-ndjson", None).await {
            let text = answer.text().await.unwrap_or_default();
            let rows =
                text.lines().filter_map(|row| serde_json::from_str::<serde_json::Value>(row).ok());
            words.extend(rows.filter_map(|row| Some(row["n"].as_str()?.to_owned())));
        }
        editor.set_helper(Some(Words(words)));
        Ok(Self { editor })
    }

    /// One line. Blocks.
    pub(super) fn read(&mut self, prompt: &str) -> Result<Line> {
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Line::Text(line)),
            Err(ReadlineError::Interrupted) => Ok(Line::Dropped),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(error.into()),
        }
    }

    /// Remembers a whole query.
    pub(super) fn remember(&mut self, query: &str) {
        // A history that is full forgets the oldest; nothing else can go wrong in memory.
        let _ = self.editor.add_history_entry(query);
    }
}

// === impl Words ===

impl Words {
    /// Where the word before `position` begins, and what it may become.
    fn candidates(&self, line: &str, position: usize) -> (usize, Vec<String>) {
        let before = &line[..position];
        let start = before
            .rfind(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let word = &before[start..];
        if word.is_empty() {
            return (start, Vec::new());
        }
        let lower = word.to_lowercase();
        let found = self.0.iter().filter(|name| name.to_lowercase().starts_with(&lower));
        (start, found.cloned().collect())
    }
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, found) = self.candidates(line, position);
        let pair = |name: String| Pair { display: name.clone(), replacement: name };
        Ok((start, found.into_iter().map(pair).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_at_the_cursor_is_completed() {
        let words = Words(["SELECT", "source_ip", "source_pod", "flows"].map(str::to_owned).into());
        assert_eq!(words.candidates("sel", 3), (0, vec!["SELECT".to_owned()]));
        let (start, found) = words.candidates("SELECT f.sour FROM", 13);
        assert_eq!((start, found.len()), (9, 2));
        assert_eq!(words.candidates("SELECT ", 7), (7, Vec::new()));
        assert_eq!(words.candidates("é→fl", "é→fl".len()), ("é→".len(), vec!["flows".to_owned()]));
    }
}
