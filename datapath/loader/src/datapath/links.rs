//! Links that belong to no interface: the tracepoint and the cgroup.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aya_obj::generated::bpf_link_info;

use crate::object::{Loaded, SOCKETS as SOCKET_PROGRAMS};
use crate::pins::{Pin, Pins, repin, unpin};
use crate::sys::{self, info, link};

const DROPS: &str = "kfree_skb";
const SOCKETS: &str = "sock_create";

/// How long an old link may take to be gone.
const GONE: Duration = Duration::from_secs(2);

/// Attaches the drop program. The kernel can't replace the program of a raw tracepoint link, and
/// two at once would count twice: so the old one goes first, for good.
pub(super) fn drops(pins: &Pins, loaded: &mut Loaded) {
    let path = pins.link(DROPS);
    let attached = release(&path).and_then(|()| {
        let Some(program) = loaded.programs.get(DROPS) else {
            return Ok(());
        };
        let link = link::raw_tracepoint(program.as_fd(), c"kfree_skb").map_err(text)?;
        repin(&link, &path).map_err(|error| error.to_string())
    });
    settle(loaded, DROPS, attached);
}

/// Attaches the socket program to a cgroup, or replaces it there.
pub(super) fn sockets(pins: &Pins, loaded: &mut Loaded, cgroup: Option<&Path>) {
    let path = pins.link(SOCKETS);
    let program = loaded.programs.get(SOCKETS);
    let attached = match (program, cgroup) {
        (Some(program), Some(cgroup)) => {
            attach_socket(&path, program, cgroup, link::CGROUP_SOCK_CREATE)
        }
        _ => pins.undo(&path, &Pin::Other).map_err(|error| error.to_string()),
    };
    settle(loaded, SOCKETS, attached);
}

/// Attaches the programs that balance sockets to a cgroup, or replaces them there: all or none.
pub(super) fn balance(pins: &Pins, loaded: &mut Loaded, cgroup: Option<&Path>) {
    let all = SOCKET_PROGRAMS.iter().all(|name| loaded.programs.contains_key(name));
    let attach = |cgroup: &Path| {
        SOCKET_PROGRAMS.iter().zip(link::CGROUP_SOCKETS).try_for_each(|(name, kind)| {
            match loaded.programs.get(name) {
                Some(program) => attach_socket(&pins.link(name), program, cgroup, kind),
                None => Err(format!("program {name} is missing")),
            }
        })
    };
    let attached = match cgroup {
        Some(cgroup) if all => attach(cgroup),
        _ => Err(String::new()),
    };
    let Err(why) = attached else {
        return;
    };
    for name in SOCKET_PROGRAMS {
        if let Err(error) = pins.undo(&pins.link(name), &Pin::Other) {
            tracing::warn!(program = name, %error, "not detached");
        }
        loaded.programs.remove(name);
        if !why.is_empty() {
            loaded.refused.insert(name, why.clone());
        }
    }
}

fn attach_socket(path: &Path, program: &OwnedFd, cgroup: &Path, kind: u32) -> Result<(), String> {
    let directory =
        std::fs::File::open(cgroup).map_err(|error| format!("{}: {error}", cgroup.display()))?;
    if let Ok(link) = sys::open_pin(path) {
        // A cgroup's id is its inode number.
        let wanted = directory.metadata().map_err(text)?.ino();
        if cgroup_of(&link) == Some(wanted) {
            return link::update(link.as_fd(), program.as_fd()).map_err(text);
        }
        let _ = link::detach(link.as_fd());
    }
    let target = directory.as_raw_fd() as u32;
    let link = link::create(program.as_fd(), target, kind, 0)
        .map_err(|error| format!("{}: {error}", cgroup.display()))?;
    repin(&link, path).map_err(|error| error.to_string())
}

fn cgroup_of(link: &OwnedFd) -> Option<u64> {
    let found: bpf_link_info = info::info(link.as_fd()).ok()?;
    // SAFETY: every member of the union is integers, and the kernel has filled this one for a
    // cgroup link.
    Some(unsafe { found.__bindgen_anon_1.cgroup.cgroup_id })
}

/// Unpins a link and waits until the kernel has let go of it.
fn release(path: &Path) -> Result<(), String> {
    let Ok(link) = sys::open_pin(path) else {
        return unpin(path).map_err(|error| error.to_string());
    };
    let id = info::info::<bpf_link_info>(link.as_fd()).map_err(text)?.id;
    unpin(path).map_err(|error| error.to_string())?;
    drop(link);
    let start = Instant::now();
    while sys::link_of_id(id).is_ok() {
        if start.elapsed() > GONE {
            return Err(format!("link {id} of an earlier process stays: is that still running?"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A program that could not be attached is one that we don't have.
fn settle(loaded: &mut Loaded, name: &'static str, attached: Result<(), String>) {
    if let Err(why) = attached {
        tracing::warn!(program = name, why, "not attached");
        loaded.programs.remove(name);
        loaded.refused.insert(name, why);
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}
