//! Policies that were handed to the agent (`weir policy apply`), beside those of the control source.
//!
//! They live in one file of the agent's folder, `policies/applied.yaml`, replaced by renaming, and are
//! read from there like any other manifest. A change that waits for confirmation has what was there before
//! in `policies/.before.yaml` and its time in `policies/.pending.json`, both written first: so it is taken back
//! in time whatever becomes of the agent meanwhile, as long as it is started again, and on a full disk too:
//! that takes a renaming only. (While no agent runs, the kernel goes on deciding by the change.)

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datapath_policy::Policy;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use stage::StopToken;

use super::document;
use super::{Problem, Snapshot};

/// How often it is looked whether a change is to be taken back.
const LOOK: Duration = Duration::from_millis(100);
/// Largest set of documents, bytes.
const MAX_BYTES: usize = 16 << 20;

/// The folder.
#[derive(Debug)]
pub(crate) struct Applied {
    folder: PathBuf,
    boot: String,
    /// The change that waits, as it is on disk. Locked while there is a change: one at a time.
    pending: Mutex<Option<Pending>>,
}

/// A change that waits for confirmation.
#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    /// The kernel's boot id; after another boot the time is over.
    boot: String,
    /// `CLOCK_BOOTTIME` at which it is taken back, milliseconds.
    until_ms: u64,
}

/// What a change changed; objects as `Kind/namespace/name`.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) added: Vec<String>,
    pub(crate) replaced: Vec<String>,
    pub(crate) removed: Vec<String>,
    /// What was handed in, parsed.
    objects: Snapshot,
}

/// Why a change was not made. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Documents(Vec<Problem>),
    #[error("{0}: not among what was applied (see weir policy get)")]
    Unknown(String),
    #[error("{0} is defined by the control source (--manifests): change it there")]
    Foreign(String),
    #[error("nothing to apply: no document, and nothing to remove")]
    Nothing,
    #[error("larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error(
        "an earlier change is taken back in {} s unless confirmed: confirm it or revert it first",
        .0.as_secs()
    )]
    Waiting(Duration),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

// === impl Applied ===

impl Applied {
    /// In the agent's folder; takes back what should have been taken back meanwhile.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub(crate) fn open(data_dir: &Path, boot: &str) -> Result<Arc<Self>, Error> {
        let folder = data_dir.join("policies");
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        let applied = Self { folder, boot: boot.to_owned(), pending: Mutex::default() };
        *applied.pending.lock() = applied.stored();
        applied.expire()?;
        Ok(Arc::new(applied))
    }

    /// Where the control source finds them.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// `Kind/namespace/name` of all that is applied.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        let text = self.text().unwrap_or_default();
        objects(&text).map(|objects| objects.into_keys().collect()).unwrap_or_default()
    }

    /// Applies documents and removes objects, all or nothing.
    pub(crate) fn apply(
        &self,
        snapshot: &Snapshot,
        documents: &str,
        remove: &[String],
        within: Option<Duration>,
    ) -> Result<Change, Error> {
        if documents.len() > MAX_BYTES {
            return Err(Error::TooLarge);
        }
        let mut waiting = self.pending.lock();
        if let Some(pending) = &*waiting {
            return Err(Error::Waiting(self.left(pending)));
        }
        let before = self.text()?;
        let mut all = objects(&before).map_err(Error::Documents)?;
        let mut change = Change::default();
        for key in remove {
            all.remove(key).ok_or_else(|| Error::Unknown(key.clone()))?;
            change.removed.push(key.clone());
        }
        for (key, text) in objects(documents).map_err(Error::Documents)? {
            match all.insert(key.clone(), text) {
                Some(_) => change.replaced.push(key),
                None if is_known(snapshot, &key) && !remove.contains(&key) => {
                    return Err(Error::Foreign(key));
                }
                None => change.added.push(key),
            }
        }
        if change.added.is_empty() && change.replaced.is_empty() && change.removed.is_empty() {
            return Err(Error::Nothing);
        }
        change.objects = document::parse("", documents).objects;
        if let Some(within) = within {
            let until_ms = now_ms().saturating_add(within.as_millis() as u64);
            let pending = Pending { boot: self.boot.clone(), until_ms };
            let json = serde_json::to_string(&pending).unwrap_or_default();
            replace(&self.before_path(), &before)?;
            replace(&self.pending_path(), &json)?;
            *waiting = Some(pending);
        }
        let text = all.into_values().collect::<Vec<_>>().join("---\n");
        if let Err(error) = replace(&self.path(), &text) {
            // Then nothing waits either.
            let _ = self.forget(&mut waiting);
            return Err(error);
        }
        tracing::info!(?change.added, ?change.replaced, ?change.removed, "policies applied");
        Ok(change)
    }

    /// Keeps a change that waits; whether one did.
    pub(crate) fn confirm(&self) -> Result<bool, Error> {
        let mut waiting = self.pending.lock();
        if waiting.is_none() {
            return Ok(false);
        }
        self.forget(&mut waiting)?;
        tracing::info!("the change of policies is confirmed");
        Ok(true)
    }

    /// Takes back a change that waits; whether one did.
    pub(crate) fn revert(&self, why: &str) -> Result<bool, Error> {
        let mut waiting = self.pending.lock();
        if waiting.is_none() {
            return Ok(false);
        }
        let (before, path) = (self.before_path(), self.path());
        match fs::rename(&before, &path).and_then(|()| sync_folder(&path)) {
            // It was taken back, and then the agent was killed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(io_error(&path))?,
        }
        self.forget(&mut waiting)?;
        tracing::warn!(why, "the change of policies is taken back");
        Ok(true)
    }

    /// Time until a change that waits is taken back.
    pub(crate) fn reverts_in(&self) -> Option<Duration> {
        self.pending.lock().as_ref().map(|pending| self.left(pending))
    }

    fn left(&self, pending: &Pending) -> Duration {
        let same = pending.boot == self.boot;
        Duration::from_millis(if same { pending.until_ms.saturating_sub(now_ms()) } else { 0 })
    }

    /// Takes changes back when it is time, until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, stop: StopToken) {
        loop {
            tokio::select! {
                () = stop.stopped() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Err(error) = self.expire() {
                tracing::error!(%error, "a change of policies could not be taken back");
            }
        }
    }

    fn expire(&self) -> Result<(), Error> {
        match self.reverts_in() {
            Some(Duration::ZERO) => self.revert("it was not confirmed in time").map(drop),
            _ => Ok(()),
        }
    }

    fn stored(&self) -> Option<Pending> {
        let text = fs::read_to_string(self.pending_path()).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn forget(&self, waiting: &mut Option<Pending>) -> Result<(), Error> {
        // In this order: what was there before means nothing without a time.
        for path in [self.pending_path(), self.before_path()] {
            match fs::remove_file(&path).and_then(|()| sync_folder(&path)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(io_error(&path))?,
            }
            // Without its time, a change waits no more.
            *waiting = None;
        }
        Ok(())
    }

    fn text(&self) -> Result<String, Error> {
        let path = self.path();
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            text => text.map_err(io_error(&path)),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("applied.yaml")
    }

    fn before_path(&self) -> PathBuf {
        self.folder.join(".before.yaml")
    }

    fn pending_path(&self) -> PathBuf {
        self.folder.join(".pending.json")
    }
}

// === impl Change ===

impl Change {
    /// Whether a snapshot has it.
    pub(crate) fn is_in(&self, snapshot: &Snapshot) -> bool {
        let Self { objects, removed, .. } = self;
        // Not by the text: blank lines around a document come and go.
        let same =
            |a: &Policy, b: &Policy| (a.key(), &a.spec, a.audit) == (b.key(), &b.spec, b.audit);
        let known = |policy: &Policy| snapshot.policies.iter().any(|other| same(policy, other));
        objects.policies.iter().all(known)
            && objects.groups.iter().all(|group| snapshot.groups.contains(group))
            && !removed.iter().any(|key| is_known(snapshot, key) && !self.added.contains(key))
    }

    /// What of it is not enforced.
    pub(crate) fn notes(&self) -> Vec<String> {
        let parts = |policy: &Policy| {
            let key = policy.key().with_kind();
            let parts = policy.not_enforced().into_iter();
            parts.map(move |part| format!("{key}: not enforced yet: {part}")).collect::<Vec<_>>()
        };
        self.objects.policies.iter().flat_map(parts).collect()
    }
}

fn group_key(name: &str) -> String {
    format!("CiliumCIDRGroup//{name}")
}

fn is_known(snapshot: &Snapshot, key: &str) -> bool {
    snapshot.policies.iter().any(|policy| policy.key().with_kind() == key)
        || snapshot.groups.iter().any(|group| group_key(&group.name) == key)
}

/// The documents of a text by the object that each defines.
fn objects(text: &str) -> Result<BTreeMap<String, String>, Vec<Problem>> {
    let mut objects = BTreeMap::new();
    let mut problems = Vec::new();
    for (number, (line, text)) in (1..).zip(document::documents(text)) {
        let mut parsed = document::parse("", text);
        let problem = |line, message: &str| Problem {
            file: "documents".to_owned(),
            document: number,
            line,
            message: message.to_owned(),
        };
        if let Some(wrong) = parsed.problems.pop() {
            problems.push(problem(line + wrong.line - 1, &wrong.message));
            continue;
        }
        let policies = parsed.objects.policies.iter().map(|policy| policy.key().with_kind());
        let groups = parsed.objects.groups.iter().map(|group| group_key(&group.name));
        let keys: Vec<String> = policies.chain(groups).collect();
        let [key] = &keys[..] else {
            problems.push(problem(line, "exactly one policy or CiliumCIDRGroup is expected"));
            continue;
        };
        let mut text = text.trim_matches('\n').to_owned();
        text.push('\n');
        if objects.insert(key.clone(), text).is_some() {
            problems.push(problem(line, &format!("{key} is there twice")));
        }
    }
    if problems.is_empty() { Ok(objects) } else { Err(problems) }
}

/// Replaces a file by renaming, so that a reader and a crash see the old or the new.
fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let aside = path.with_extension("new");
    let written = || -> io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        sync_folder(path)
    };
    written().map_err(io_error(path))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Milliseconds of `CLOCK_BOOTTIME`, which nobody sets and which runs in suspend.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64) * 1000 + (now.tv_nsec as u64) / 1_000_000
}

#[cfg(test)]
mod tests;
