//! News of a folder, by inotify(7): a change is in force at once, and not at the next look.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Watches folders. Where that is not possible, it never has news, and looks at intervals remain.
#[derive(Debug)]
pub(super) struct Watch {
    events: Option<AsyncFd<OwnedFd>>,
    followed: BTreeSet<PathBuf>,
}

// === impl Watch ===

impl Watch {
    #[expect(
        deprecated,
        reason = "the descriptor is owned; its successor is unsafe, and this crate has none"
    )]
    pub(super) fn new() -> Self {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(std::io::Error::from)
            .and_then(AsyncFd::new)
            .map_err(|error| tracing::warn!(%error, "manifests are looked at once a second"))
            .ok();
        Self { events, followed: BTreeSet::new() }
    }

    /// Watches folders and those in them; again for one that is watched already does no harm.
    pub(super) fn follow(&mut self, roots: &[PathBuf]) {
        let Some(events) = &self.events else { return };
        let mut found = BTreeSet::new();
        roots.iter().for_each(|root| folders(root, &mut found));
        for folder in found.difference(&self.followed) {
            let what = WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::ONLYDIR;
            // One that went meanwhile, or one too many for the user's limit, is looked at.
            let _ = inotify::add_watch(events.get_ref(), folder, what);
        }
        self.followed = found;
    }

    /// Until something has changed.
    pub(super) async fn changed(&mut self) {
        let Some(events) = &self.events else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = events.readable().await else {
                return std::future::pending().await;
            };
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut any = false;
            let mut reader = Reader::new(events.get_ref(), &mut buffer);
            while reader.next().is_ok() {
                any = true;
            }
            ready.clear_ready();
            if any {
                return;
            }
        }
    }
}

fn folders(path: &Path, found: &mut BTreeSet<PathBuf>) {
    if path.is_dir() && found.insert(path.to_owned()) {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().is_dir())
            .for_each(|entry| folders(&entry.path(), found));
    }
}
