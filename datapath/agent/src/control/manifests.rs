//! A watched folder of Kubernetes manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stage::StopToken;
use tokio::sync::watch;

use super::document::{self, Parsed};
use super::{ControlSource, Problem, Snapshot};

mod notify;

use notify::Watch;

/// How often the folder is looked at in any case, because that works on every file system and through
/// every kind of replacement (Kubernetes swaps symbolic links), and costs a few `stat`s.
const POLL: Duration = Duration::from_secs(1);
/// Files that are written together come together.
const SETTLE: Duration = Duration::from_millis(2);
/// Largest file that is read, bytes.
const MAX_FILE: u64 = 64 << 20;

/// The `*.yaml`, `*.yml` and `*.json` files under folders (or single files), folders within included.
///
/// When a file has a broken document, the last good version of that file stays in force, the other
/// files are not affected, and [`Snapshot::problems`] says what is wrong and where. Of a file that
/// never was good, its good documents count.
#[derive(Debug)]
pub struct Manifests {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
    /// Why folders could not be read at the last look.
    unreadable: Vec<Problem>,
    revision: u64,
}

#[derive(Debug, Default)]
struct File {
    /// Size and time of change: what is looked at every second.
    stamp: (u64, Option<SystemTime>),
    /// Checksum of the content, so that a touched file is no change.
    crc: u32,
    /// In force.
    objects: Arc<Snapshot>,
    /// Whether it ever was without a problem.
    good: bool,
    problems: Vec<Problem>,
}

// === impl Manifests ===

impl Manifests {
    /// Manifests in `root`, a folder or a file; it may come into being later.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::of(vec![root.into()])
    }

    /// Manifests in several such places.
    pub fn of(roots: Vec<PathBuf>) -> Self {
        Self { roots, files: BTreeMap::new(), unreadable: Vec::new(), revision: 0 }
    }

    /// Looks at the folders; a snapshot if something is different from the last look, or this is
    /// the first.
    pub fn poll(&mut self) -> Option<Snapshot> {
        let mut found = Vec::new();
        let mut unreadable = Vec::new();
        let mut away = Vec::new();
        for root in &self.roots {
            if let Err(error) = list(root, &mut found) {
                unreadable.push(problem(root, &error));
                away.push(root);
            }
        }
        let mut changed = self.revision == 0 || unreadable != self.unreadable;
        let before = self.files.len();
        // A folder that cannot be read for a moment takes nothing away.
        self.files.retain(|path, _| {
            found.contains(path) || away.iter().any(|root| path.starts_with(root))
        });
        changed |= self.files.len() != before;
        self.unreadable = unreadable;
        for path in found {
            changed |= self.files.entry(path.clone()).or_default().look(&path);
        }
        changed.then(|| self.snapshot())
    }

    fn snapshot(&mut self) -> Snapshot {
        self.revision += 1;
        let mut all = Snapshot { revision: self.revision, ..Snapshot::default() };
        for file in self.files.values() {
            let objects = &file.objects;
            all.pods.extend(objects.pods.iter().cloned());
            all.namespaces.extend(objects.namespaces.clone());
            all.nodes.extend(objects.nodes.iter().cloned());
            all.services.extend(objects.services.iter().cloned());
            all.slices.extend(objects.slices.iter().cloned());
            all.redirects.extend(objects.redirects.iter().cloned());
            all.policies.extend(objects.policies.iter().cloned());
            all.groups.extend(objects.groups.iter().cloned());
            all.problems.extend(file.problems.iter().cloned());
        }
        all.problems.extend(self.unreadable.iter().cloned());
        once(&mut all);
        all
    }
}

#[async_trait::async_trait]
impl ControlSource for Manifests {
    async fn run(mut self: Box<Self>, publish: watch::Sender<Arc<Snapshot>>, stop: StopToken) {
        let mut watch = Watch::new();
        let mut first = true;
        loop {
            if !std::mem::take(&mut first) {
                tokio::select! {
                    () = stop.stopped() => return,
                    () = tokio::time::sleep(POLL) => {}
                    () = watch.changed() => tokio::time::sleep(SETTLE).await,
                }
            }
            watch.follow(&self.roots);
            // Reading and parsing block; a large folder must not hold up the export streams.
            let looked = tokio::task::spawn_blocking(move || {
                let snapshot = self.poll();
                (self, snapshot)
            });
            let Ok((manifests, snapshot)) = looked.await else { return };
            self = manifests;
            if let Some(snapshot) = snapshot {
                for problem in &snapshot.problems {
                    tracing::warn!(%problem, "manifest left out");
                }
                publish.send_replace(Arc::new(snapshot));
            }
        }
    }
}

// === impl File ===

impl File {
    /// Reads the file if it looks different; returns whether its objects or problems changed.
    fn look(&mut self, path: &Path) -> bool {
        let stamp = std::fs::metadata(path).map(|meta| (meta.len(), meta.modified().ok()));
        let name = path.display().to_string();
        let text = match stamp {
            Ok(stamp) if stamp == self.stamp && self.problems.iter().all(|p| p.document != 0) => {
                return false;
            }
            Ok((length, _)) if length > MAX_FILE => {
                Err(io::Error::other(format!("larger than {MAX_FILE} bytes")))
            }
            Ok(stamp) => {
                self.stamp = stamp;
                std::fs::read_to_string(path)
            }
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => self.take(&name, &text),
            Err(error) => {
                let problem =
                    Problem { file: name, document: 0, line: 0, message: error.to_string() };
                let changed = self.problems.as_slice() != std::slice::from_ref(&problem);
                self.problems = vec![problem];
                changed
            }
        }
    }

    fn take(&mut self, name: &str, text: &str) -> bool {
        let crc = crc32c::crc32c(text.as_bytes());
        let reread = self.problems.iter().any(|problem| problem.document == 0);
        if crc == self.crc && !reread && (self.good || !self.problems.is_empty()) {
            return false;
        }
        self.crc = crc;
        let Parsed { objects, problems } = document::parse(name, text);
        if problems.is_empty() || !self.good {
            self.objects = Arc::new(objects);
        }
        self.good |= problems.is_empty();
        self.problems = problems;
        true
    }
}

/// Of policies that are defined more than once, the last counts.
fn once(all: &mut Snapshot) {
    let mut seen = BTreeSet::new();
    let mut again = BTreeSet::new();
    all.policies.reverse();
    all.policies.retain(|policy| {
        let key = policy.key();
        let new = seen.insert(key.clone());
        if !new {
            again.insert(key);
        }
        new
    });
    all.policies.reverse();
    all.problems.extend(again.into_iter().map(|key| Problem {
        file: format!("{} {key}", key.kind.name()),
        document: 0,
        line: 0,
        message: "is defined more than once; the last definition counts".to_owned(),
    }));
}

fn problem(root: &Path, error: &io::Error) -> Problem {
    Problem { file: root.display().to_string(), document: 0, line: 0, message: error.to_string() }
}

fn list(path: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    let mut entries = std::fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_unstable_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Hidden entries are editors' and Kubernetes' own (`..data`).
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let ending = path.extension().and_then(|ending| ending.to_str());
        // A file that went meanwhile is no error of the folder.
        let is_dir = std::fs::metadata(&path).is_ok_and(|meta| meta.is_dir());
        if is_dir {
            list(&path, found)?;
        } else if matches!(ending, Some("yaml" | "yml" | "json")) {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
