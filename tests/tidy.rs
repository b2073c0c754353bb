//! The shape of the repository: who may use what, and how large a file may get.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each crate may use of ours (normal and build dependencies). What is not here may not exist.
const EDGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("stage", &[]),
    ("datapath-abi", &[]),
    ("datapath-engine", &["datapath-abi"]),
    ("columns", &["model"]),
    ("wire", &["model"]),
    ("datapath-policy", &["model", "datapath-engine", "datapath-abi"]),
    ("datapath-loader", &["datapath-abi"]),
    ("flowstore", &["model", "stage", "columns"]),
    (
        "datapath-agent",
        &[
            "model",
            "stage",
            "columns",
            "wire",
            "datapath-abi",
            "datapath-engine",
            "datapath-loader",
            "datapath-policy",
        ],
    ),
    ("datapath-cni", &["wire", "model"]),
    ("relay", &["flowstore", "columns", "wire", "stage", "model"]),
    ("ui", &["flowstore", "columns", "stage", "model"]),
    // Also builds the cluster of `weir demo`.
    ("harness", &[]),
    (
        "weir",
        &[
            "model",
            "stage",
            "columns",
            "wire",
            "datapath-abi",
            "datapath-engine",
            "datapath-loader",
            "datapath-policy",
            "datapath-agent",
            "datapath-cni",
            "flowstore",
            "relay",
            "ui",
            "harness",
        ],
    ),
];

/// The one door of each heavy dependency: the crates that may use it directly.
const DOORS: &[(&str, &[&str])] = &[
    ("aya", &["datapath-loader"]),
    ("aya-obj", &["datapath-loader"]),
    ("datafusion", &["flowstore"]),
    ("parquet", &["flowstore"]),
    ("object_store", &["flowstore"]),
    ("arrow", &["flowstore", "ui"]),
    ("axum", &["ui", "weir"]),
    ("rust-embed", &["ui"]),
    ("tonic", &["wire", "datapath-agent", "relay", "weir"]),
    ("prost", &["wire", "datapath-agent", "relay"]),
    ("clap", &["weir"]),
    ("rustyline", &["weir"]),
    ("anyhow", &["weir"]),
    ("tracing-subscriber", &["weir"]),
    ("opentelemetry", &["weir"]),
    ("opentelemetry_sdk", &["weir"]),
    ("opentelemetry-otlp", &["weir"]),
    ("opentelemetry-proto", &["weir"]),
];

/// Longest file, in lines before its tests.
const LINES: usize = 600;
/// Files that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// Longest README of a folder, in lines.
const README_LINES: usize = 30;

/// Places where a queue is made without `stage`, and why.
const QUEUES: &[(&str, &str)] = &[
    ("proto/stage/src/queue.rs", "it is `stage`"),
    ("flowstore/src/tail.rs", "tails come and go: all of them share one ledger of `stage`"),
    ("flowstore/src/query/engine.rs", "one answer's rows, with back-pressure: whole or an error"),
];

#[test]
fn crates_use_only_what_stands_above_them() {
    let packages = packages();
    let ours: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for (package, dependencies) in &packages {
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| name == package) else {
            wrong.push(format!("{package} is not in the table"));
            continue;
        };
        let bad = dependencies.iter().filter(|d| ours.contains(d.as_str()));
        wrong.extend(
            bad.filter(|d| !allowed.contains(&d.as_str())).map(|d| format!("{package} → {d}")),
        );
    }
    assert!(wrong.is_empty(), "not allowed by the table:\n{}", wrong.join("\n"));
    assert_eq!(packages.len(), EDGES.len(), "a crate of the table is gone");
}

#[test]
fn heavy_dependencies_have_one_door() {
    let mut wrong = Vec::new();
    for (package, dependencies) in packages() {
        for (heavy, doors) in DOORS {
            if dependencies.contains(*heavy) && !doors.contains(&package.as_str()) {
                wrong.push(format!("{package} uses {heavy}; its door: {}", doors.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short() {
    let mut sizes: Vec<(usize, String)> = sources()
        .into_iter()
        .filter(|path| !path.contains("/generated/"))
        .map(|path| (production_lines(&text(&path)), path))
        .collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    println!("the ten longest files (lines before tests):");
    for (lines, path) in sizes.iter().take(10) {
        println!("{lines:>6} {path}");
    }
    let listed = |path: &str| LONG_FILES.iter().any(|(known, _)| *known == path);
    let long: Vec<_> =
        sizes.iter().filter(|(lines, path)| *lines > LINES && !listed(path)).collect();
    assert!(long.is_empty(), "longer than {LINES} lines, without a reason: {long:?}");
    let stale: Vec<_> = LONG_FILES
        .iter()
        .filter(|(path, _)| !sizes.iter().any(|(lines, known)| known == path && *lines > LINES))
        .collect();
    assert!(stale.is_empty(), "listed as long, but not: {stale:?}");
}

#[test]
fn folders_say_what_they_are() {
    let mut folders: BTreeSet<PathBuf> = tracked()
        .iter()
        .filter(|path| path.ends_with("/Cargo.toml") && !path.contains("/fuzz/"))
        .filter_map(|path| Some(Path::new(path).parent()?.to_owned()))
        .collect();
    let others = ["src", "proto", "datapath", "relay", "ui/web", "dashboards", "deploy", "tests"];
    folders.extend(others.map(PathBuf::from));
    let mut wrong = Vec::new();
    for folder in folders {
        let readme = folder.join("README.md");
        match fs::read_to_string(root().join(&readme)) {
            Ok(text) if text.lines().count() > README_LINES => {
                wrong.push(format!("{} is longer than {README_LINES} lines", readme.display()));
            }
            Ok(_) => {}
            Err(_) => wrong.push(format!("{} is missing", readme.display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_names_a_machine() {
    // Put together here, so that this file does not name them.
    let places = ["work", "root", "home"].map(|name| format!("/{name}/"));
    let mut wrong = Vec::new();
    for path in tracked() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if places.iter().any(|place| names_place(line, place)) {
                wrong.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "paths of a machine:\n{}", wrong.join("\n"));
}

#[test]
fn queues_are_made_by_stage() {
    let ways = ["mpsc::channel", "mpsc::unbounded_channel", "mpsc::sync_channel"];
    let mut wrong = Vec::new();
    for path in sources() {
        let listed = QUEUES.iter().any(|(known, _)| *known == path);
        if !path.ends_with(".rs") || listed || path == "tests/tidy.rs" {
            continue;
        }
        let text = text(&path);
        let lines = text.lines().take(production_lines(&text));
        let made = lines.filter(|line| {
            ways.iter().any(|way| line.contains(way)) && !line.trim_start().starts_with("//")
        });
        wrong.extend(made.map(|line| format!("{path}: {}", line.trim())));
    }
    assert!(wrong.is_empty(), "queues that nobody counts:\n{}", wrong.join("\n"));
}

#[test]
fn the_contracts_files_are_there() {
    let files = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        ".ci/run",
        "rust-toolchain.toml",
        "deploy/helm/weir/Chart.yaml",
        "deploy/systemd/weir.service",
        "dashboards/rules.yaml",
        "proto/export.proto",
    ];
    let missing: Vec<_> = files.iter().filter(|file| !root().join(file).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whether `line` holds `place` as the beginning of a path.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.}*~/".contains(c))
    })
}

fn production_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    tests.unwrap_or(lines.len())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

/// Files that are tracked, or would be.
fn tracked() -> Vec<String> {
    let listed = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is installed");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect()
}

fn sources() -> Vec<String> {
    let kinds = [".rs", ".ts", ".tsx", ".css", ".mjs", ".sh"];
    tracked().into_iter().filter(|path| kinds.iter().any(|kind| path.ends_with(kind))).collect()
}

/// Every workspace member, with its direct dependencies other than those of tests.
fn packages() -> Vec<(String, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs this test");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            let names = dependencies
                .filter(|dependency| dependency["kind"] != "dev")
                .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned));
            (package["name"].as_str().unwrap_or_default().to_owned(), names.collect())
        })
        .collect()
}
