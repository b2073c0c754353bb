//! `cilium.io/v2` CiliumCIDRGroup: a named list of prefixes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::Cidr;
use crate::cilium::cidr_or_address;
use crate::document::{ParseError, Source};

/// A list of prefixes that policies name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidrGroup {
    /// Its name; groups belong to no namespace.
    pub name: String,
    /// Its labels, for `cidrGroupSelector`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its prefixes.
    pub cidrs: Vec<Cidr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    #[serde(rename = "externalCIDRs")]
    external_cidrs: Vec<String>,
}

// === impl CidrGroup ===

impl CidrGroup {
    /// The kind's name in a document.
    pub const KIND: &'static str = "CiliumCIDRGroup";

    /// Parses and validates one document.
    ///
    /// # Errors
    /// When it is no YAML, of another kind or version, or a prefix is none.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let document: Document = Source::open(text)?.read()?;
        if document.kind != Self::KIND {
            return Err(ParseError::of(format!("{:?} is no {}", document.kind, Self::KIND)));
        }
        if !matches!(document.api_version.as_str(), "cilium.io/v2" | "cilium.io/v2alpha1") {
            let message =
                format!("apiVersion {:?}, expected \"cilium.io/v2\"", document.api_version);
            return Err(ParseError::of(message));
        }
        let mut cidrs = Vec::with_capacity(document.spec.external_cidrs.len());
        for (i, text) in document.spec.external_cidrs.iter().enumerate() {
            let cidr = cidr_or_address(text);
            cidrs.push(
                cidr.map_err(|error| ParseError::of(format!("spec.externalCIDRs[{i}]: {error}")))?,
            );
        }
        let labels = document.metadata.labels.unwrap_or_default();
        Ok(Self { name: document.metadata.name, labels, cidrs })
    }
}
