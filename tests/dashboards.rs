//! Every metric that a dashboard or an alert names is one that the code registers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What our metrics' names begin with.
const PREFIXES: [&str; 3] = ["weir_", "hubble_", "cilium_"];

#[test]
fn dashboards_name_metrics_that_exist() {
    let known = registered();
    assert!(known.contains("weir_stage_lost_total"), "the sources were not found: {known:?}");
    let mut wrong = Vec::new();
    let mut expressions = 0;
    for (file, text) in files("json") {
        let dashboard: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(dashboard["uid"].is_string() && dashboard["title"].is_string(), "{file}");
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(panel["description"].is_string(), "{file}: {} says nothing", panel["title"]);
            for target in panel["targets"].as_array().unwrap() {
                let expression = target["expr"].as_str().unwrap();
                expressions += 1;
                wrong.extend(unknown(expression, &known).map(|name| format!("{file}: {name}")));
            }
        }
    }
    assert!(expressions > 0);
    assert!(wrong.is_empty(), "no such metric:\n{}", wrong.join("\n"));
}

#[test]
fn alerts_name_metrics_that_exist() {
    let known = registered();
    let (_, text) = files("yaml").remove(0);
    let rules: Value = serde_norway::from_str(&text).unwrap();
    let mut alerts = BTreeSet::new();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(alerts.insert(name), "{name} is there twice");
        let expression = rule["expr"].as_str().unwrap();
        let wrong: Vec<_> = unknown(expression, &known).collect();
        assert!(wrong.is_empty(), "{name}: no such metric: {wrong:?}");
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].is_string(), "{name} has no {annotation}");
        }
        assert!(rule["labels"]["severity"].is_string(), "{name}");
    }
    assert!(!alerts.is_empty());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files of `dashboards/` with that ending: name and text.
fn files(ending: &str) -> Vec<(String, String)> {
    let list = fs::read_dir(root().join("dashboards")).unwrap();
    let paths = list.flatten().map(|entry| entry.path());
    let wanted = paths.filter(|path| path.extension().is_some_and(|found| found == ending));
    wanted.map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap())).collect()
}

/// Names of our metrics in an expression that are not registered; parentheses must match.
fn unknown<'a>(expression: &'a str, known: &'a BTreeSet<String>) -> impl Iterator<Item = &'a str> {
    let count = |c| expression.matches(c).count();
    assert_eq!(count('('), count(')'), "{expression}");
    names(expression).filter(|name| {
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        !known.contains(*name) && !bare.is_some_and(|bare| known.contains(bare))
    })
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
}

/// Names of metrics in string literals of the crates' sources.
fn registered() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for folder in ["proto", "datapath", "relay", "flowstore", "ui", "src"] {
        for path in sources(&root().join(folder)) {
            let text = fs::read_to_string(path).unwrap();
            // Odd pieces between quotes are literals; that a quote in one misleads this is no harm.
            let literals = text.split('"').skip(1).step_by(2);
            known.extend(
                literals.filter(|literal| names(literal).eq([*literal])).map(str::to_owned),
            );
        }
    }
    known
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "web", "tests"].contains(&name.as_str()) {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found
}
