//! Truth tables as they stand in `datapath/policy/tests/conformance`; see the README there.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    pub steps: Vec<Step>,
}

/// What changes, and the whole table after it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// All policies from now on; absent: as before.
    pub policies: Option<Vec<serde_json::Value>>,
    #[serde(default)]
    pub pods: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
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
pub enum Word {
    Allow,
    Deny,
}

// === impl Case ===

impl Case {
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

// === impl Step ===

impl Step {
    /// The last line that fits decides; where none does, it is allowed.
    pub fn expected(&self, from: &str, to: &str, port: &str) -> Word {
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
