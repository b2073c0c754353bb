//! `--config FILE`: a YAML mapping from flag names to values, put before the flags that were given.
//!
//! Precedence: flag, then environment variable, then file, then default. A key that is no flag is
//! refused by the same parser that refuses a wrong flag.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_norway::Value;

/// Flags that have an environment variable; where that is set, the file's value is left out.
const BY_ENVIRONMENT: &[(&str, &str)] = &[
    ("node", "WEIR_NODE"),
    ("log", "WEIR_LOG"),
    ("log-json", "WEIR_LOG_JSON"),
    ("otlp-endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
];

/// The arguments with those of a config file put in after the subcommand.
///
/// # Errors
/// When the file cannot be read or is no mapping of flags to plain values.
pub fn expand(arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    let Some(file) = named(&arguments) else {
        return Ok(arguments);
    };
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("--config {}", Path::new(&file).display()))?;
    let flags = flags(&text, |name| std::env::var_os(name).is_some())
        .with_context(|| format!("--config {}", Path::new(&file).display()))?;
    // Program, subcommand, then the file's flags: later ones win.
    let at = arguments.len().min(2);
    let (head, tail) = arguments.split_at(at);
    Ok(head
        .iter()
        .cloned()
        .chain(flags.into_iter().map(OsString::from))
        .chain(tail.iter().cloned())
        .collect())
}

fn named(arguments: &[OsString]) -> Option<OsString> {
    let mut rest = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    while let Some(argument) = rest.next() {
        if argument == "--config" {
            return rest.next().cloned();
        }
        if let Some(file) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(file.into());
        }
    }
    None
}

fn flags(text: &str, is_set: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let root: Value = serde_norway::from_str(text)?;
    let mapping = match root {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(mapping) => mapping,
        _ => bail!("expected a mapping of flag names to values"),
    };
    let mut out = Vec::new();
    for (key, value) in mapping {
        let Value::String(key) = key else { bail!("a key is not a name") };
        if key == "config" || BY_ENVIRONMENT.iter().any(|(flag, name)| *flag == key && is_set(name))
        {
            continue;
        }
        match value {
            Value::Bool(true) => out.push(format!("--{key}")),
            Value::Bool(false) | Value::Null => {}
            Value::Sequence(items) => {
                for item in items {
                    out.push(format!("--{key}={}", scalar(&key, &item)?));
                }
            }
            other => out.push(format!("--{key}={}", scalar(&key, &other)?)),
        }
    }
    Ok(out)
}

fn scalar(key: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        _ => bail!("{key}: expected a plain value or a list of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_flags_and_the_environment_wins() {
        let text = "node: from-file\ninterfaces: [eth0, veth*]\nno-dns: true\nkeep: false\nmax-connections: 1000\n";
        let flags = |set: bool| flags(text, |_| set).unwrap();
        assert_eq!(
            flags(false),
            [
                "--node=from-file",
                "--interfaces=eth0",
                "--interfaces=veth*",
                "--no-dns",
                "--max-connections=1000"
            ]
        );
        assert!(!flags(true).iter().any(|flag| flag.starts_with("--node")));
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        assert!(flags("- a\n- b\n", |_| false).is_err());
        assert!(flags("a: {b: c}\n", |_| false).is_err());
        assert!(flags("", |_| false).unwrap().is_empty());
    }
}
