//! Truth tables as they stand in `datapath/policy/tests/conformance`; see the README there.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

/// What changes, and the whole table after it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// All policies from now on; absent: as before.
    pub(crate) policies: Option<Vec<serde_json::Value>>,
    #[serde(default)]
    pub(crate) pods: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    expect: Vec<Line>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    verdict: Word,
    #[serde(default)]
    from: Vec<String>,
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    ports: Vec<String>,
}

/// A cell.
#[derive(Debug, Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Word {
    Allow,
    Deny,
}

// === impl Case ===

impl Case {
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

// === impl Step ===

impl Step {
    /// The last line that fits decides; where none does, it is allowed.
    pub(crate) fn expected(&self, from: &str, to: &str, port: &str) -> Word {
        let fits =
            |line: &&Line| fits(&line.from, from) && fits(&line.to, to) && fits(&line.ports, port);
        self.expect.iter().rfind(fits).map_or(Word::Allow, |line| line.verdict)
    }
}

fn fits(patterns: &[String], name: &str) -> bool {
    patterns.is_empty()
        || patterns.iter().any(|pattern| {
            let whole = pattern.strip_suffix('*').is_some_and(|start| name.starts_with(start));
            pattern == name || whole
        })
}
