//! What a runtime says: parameters (from its environment) and a network configuration.

use serde::Deserialize;
use serde_json::Value;

use crate::Error;

/// Longest name of an interface (`IFNAMSIZ` without its NUL).
const MAX_NAME: usize = 15;

/// The parameters (specification, section 2, "Parameters"), as the environment has them.
#[derive(Debug, Clone, Default)]
pub struct Invocation {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub interface: String,
}

/// The network configuration, as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NetConf {
    /// Version of the specification; an absent one means 0.1.0 there.
    #[serde(default, rename = "cniVersion")]
    pub version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// What the plugin before this one answered.
    #[serde(default, rename = "prevResult")]
    pub previous: Option<Value>,
    /// The agent's socket; ours.
    #[serde(default)]
    pub socket: Option<String>,
}

// === impl Invocation ===

impl Invocation {
    /// Checks the parameters that a verb needs.
    pub(crate) fn check(&self, needs_netns: bool) -> Result<(), Error> {
        let fail = |name, why| Err(Error::Environment { name, why });
        let mut characters = self.container.chars();
        let first = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
        if !first || !characters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
            return fail("CNI_CONTAINERID", "is missing or not an identifier");
        }
        let name = &self.interface;
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if name.is_empty() || name.len() > MAX_NAME || name.contains(odd) {
            return fail("CNI_IFNAME", "is missing or no interface name");
        }
        if matches!(name.as_str(), "." | "..") {
            return fail("CNI_IFNAME", "is no interface name");
        }
        if needs_netns && self.netns.is_empty() {
            return fail("CNI_NETNS", "is missing");
        }
        Ok(())
    }
}

// === impl NetConf ===

impl NetConf {
    /// The interfaces that the plugin before this one made, with their sandbox.
    pub(crate) fn has_interface(&self, name: &str) -> bool {
        let interfaces = self.previous.as_ref().and_then(|previous| previous.get("interfaces"));
        let Some(interfaces) = interfaces.and_then(Value::as_array) else {
            // Results are not bound to list interfaces.
            return true;
        };
        interfaces.iter().any(|interface| interface.get("name").is_some_and(|n| n == name))
    }
}
