//! The documents say what there is.

use std::path::Path;

use columns::Table;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_column_has_its_meaning() {
    let text = document("tables.md");
    for table in Table::ALL {
        let start = text.find(&format!("\n## {}\n", table.name()));
        let rest = &text[start.unwrap_or_else(|| panic!("{} is missing", table.name())) + 1..];
        let section = &rest[..rest[3..].find("\n## ").map_or(rest.len(), |end| end + 3)];
        let said: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let there: Vec<&str> = table.columns().iter().map(|(name, _)| *name).collect();
        assert_eq!(said, there, "{}", table.name());
    }
}

#[test]
fn every_filter_and_path_is_named() {
    let text = document("http-api.md");
    for (name, _) in ui::filter::NAMES {
        assert!(text.contains(&format!("`{name}`")), "filter {name}");
    }
    for path in [
        "/sql",
        "/flows",
        "/map",
        "/timeline",
        "/complete",
        "/nodes",
        "/losses",
        "/services",
        "/policies",
        "/status",
        "/openapi.json",
    ] {
        assert!(text.contains(path), "path {path}");
    }
}
