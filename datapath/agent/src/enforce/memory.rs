//! Identities on disk: the same labels keep their number over a restart.

use std::fs;
use std::path::{Path, PathBuf};

use datapath_policy::identity::Identity;

/// The file `identities.json` in the agent's folder.
#[derive(Debug)]
pub(crate) struct Memory {
    path: PathBuf,
}

// === impl Memory ===

impl Memory {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join("identities.json") }
    }

    /// What was saved; nothing where there is nothing that can be read, and then numbers are given anew.
    pub(crate) fn load(&self) -> Vec<Identity> {
        let Ok(text) = fs::read(&self.path) else { return Vec::new() };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %self.path.display(), %error, "identities are numbered anew");
            Vec::new()
        })
    }

    /// Saves by renaming, so that a crash leaves the old or the new.
    pub(crate) fn save(&self, identities: &[Identity]) {
        let written = || -> std::io::Result<()> {
            let aside = self.path.with_extension("json.new");
            fs::write(&aside, serde_json::to_vec(identities)?)?;
            fs::rename(&aside, &self.path)
        };
        if let Err(error) = written() {
            tracing::warn!(path = %self.path.display(), %error, "identities could not be saved");
        }
    }
}
