//! What the object is made of.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A file of the object's sources.
pub(crate) struct Source {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Relative to `datapath`, with `/`.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Manifests, lock file and sources of abi, engine and ebpf, in the order of their names.
pub(crate) fn find(datapath: &Path) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for name in ["abi/Cargo.toml", "engine/Cargo.toml", "ebpf/Cargo.toml", "ebpf/Cargo.lock"] {
        add(datapath, Path::new(name), &mut sources)?;
    }
    for name in ["abi/src", "engine/src", "ebpf/src"] {
        walk(datapath, Path::new(name), &mut sources)?;
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sources)
}

/// Hash of names and contents, in hexadecimal.
pub(crate) fn hash(sources: &[Source]) -> String {
    let mut hasher = Sha256::new();
    for source in sources {
        for part in [source.name.as_bytes(), &source.bytes] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn walk(datapath: &Path, name: &Path, sources: &mut Vec<Source>) -> Result<(), String> {
    let directory = datapath.join(name);
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    for entry in std::fs::read_dir(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = name.join(entry.file_name());
        if entry.path().is_dir() {
            walk(datapath, &name, sources)?;
        } else if name.extension().is_some_and(|extension| extension == "rs") {
            add(datapath, &name, sources)?;
        }
    }
    Ok(())
}

fn add(datapath: &Path, name: &Path, sources: &mut Vec<Source>) -> Result<(), String> {
    let path = datapath.join(name);
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let name = name.to_string_lossy().replace('\\', "/");
    sources.push(Source { path, name, bytes });
    Ok(())
}
