//! One YAML file: its documents, and what they are.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::objects::{
    NamespaceObject, NodeObject, PodObject, RedirectObject, ServiceObject, SliceObject,
};
use super::{Problem, Snapshot};

/// What a file holds, and what of it could not be taken.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub objects: Snapshot,
    pub problems: Vec<Problem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<serde_norway::Value>,
}

/// What is wrong with a document, and at which of its lines.
struct Wrong {
    line: usize,
    message: String,
}

/// Parses a file; a broken document does not keep the others from being taken.
pub(super) fn parse(file: &str, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (number, (first_line, document)) in documents(text).enumerate() {
        if let Err(wrong) = take(document, &mut parsed.objects) {
            parsed.problems.push(Problem {
                file: file.to_owned(),
                document: number + 1,
                line: first_line + wrong.line.max(1) - 1,
                message: wrong.message,
            });
        }
    }
    parsed
}

/// The documents of a stream and the line that each begins at, from 1. Split here and not by the
/// parser, so that a document which is no YAML at all does not end the stream. (A line `---` inside
/// a block scalar at column 0 is a marker by YAML 1.2, 9.1.2, too.)
pub(super) fn documents(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            found.push((start_line, &text[start..offset]));
            // What follows on the marker's own line belongs to the document.
            (start, start_line) = (offset + 3, i + 1);
        }
        offset += line.len();
    }
    found.push((start_line, &text[start..]));
    found.into_iter().filter(|(_, document)| !is_blank(document))
}

fn is_blank(document: &str) -> bool {
    document.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "..."
    })
}

fn take(document: &str, into: &mut Snapshot) -> Result<(), Wrong> {
    let head: Head = read(document)?;
    let kind = head.kind.unwrap_or_default();
    if kind.is_empty() || head.api_version.is_none() {
        return Err(Wrong::of("not a Kubernetes object: apiVersion or kind is missing"));
    }
    if kind == "List" || kind.ends_with("List") {
        let list: List = read(document)?;
        for (i, item) in list.items.iter().enumerate() {
            // Back to text, so that items and documents take one way.
            let text = serde_norway::to_string(item).map_err(Wrong::of)?;
            take(&text, into)
                .map_err(|wrong| Wrong::of(format!("items[{i}]: {}", wrong.message)))?;
        }
        return Ok(());
    }
    take_one(&kind, document, into)
}

fn take_one(kind: &str, document: &str, into: &mut Snapshot) -> Result<(), Wrong> {
    match kind {
        "Pod" => into.pods.push(read::<PodObject>(document)?.pod().map_err(Wrong::of)?),
        "Node" => into.nodes.push(read::<NodeObject>(document)?.node().map_err(Wrong::of)?),
        "Service" => {
            into.services.push(read::<ServiceObject>(document)?.service().map_err(Wrong::of)?);
        }
        "EndpointSlice" => {
            into.slices.push(read::<SliceObject>(document)?.slice().map_err(Wrong::of)?);
        }
        "CiliumLocalRedirectPolicy" => {
            let redirect = read::<RedirectObject>(document)?.redirect().map_err(Wrong::of)?;
            into.redirects.push(redirect);
        }
        "Namespace" => {
            let namespace = read::<NamespaceObject>(document)?;
            let (name, labels) = namespace.named_labels().map_err(Wrong::of)?;
            into.namespaces.insert(name, labels);
        }
        kind if datapath_policy::PolicyKind::is_policy(kind) => {
            let policy = datapath_policy::parse(document)
                .map_err(|error| Wrong { line: error.line.unwrap_or(1), message: error.message })?;
            into.policies.push(policy);
        }
        "CiliumCIDRGroup" => {
            let group = datapath_policy::CidrGroup::parse(document)
                .map_err(|error| Wrong { line: error.line.unwrap_or(1), message: error.message })?;
            into.groups.push(group);
        }
        // A folder of manifests holds much that is of no interest here.
        _ => {}
    }
    Ok(())
}

fn read<T: DeserializeOwned>(document: &str) -> Result<T, Wrong> {
    serde_norway::from_str(document).map_err(|error| Wrong {
        line: error.location().map_or(1, |location| location.line()),
        message: error.to_string(),
    })
}

// === impl Wrong ===

impl Wrong {
    fn of(message: impl std::fmt::Display) -> Self {
        Self { line: 1, message: message.to_string() }
    }
}
