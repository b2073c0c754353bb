//! What is on, what is off, and why.

use std::collections::BTreeMap;

use crate::kernel;
use crate::kernel::types::Types;
use crate::object::SOCKETS;
use crate::{Options, Transport};

/// Something that a kernel may or may not offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// Whether it is used.
    pub on: bool,
    /// What for, or why not.
    pub why: String,
}

/// What was found out while loading.
pub(crate) struct Found<'a> {
    pub(crate) options: &'a Options,
    pub(crate) types: &'a Types,
    pub(crate) refused: &'a BTreeMap<&'static str, String>,
    pub(crate) tcx: Result<(), String>,
    pub(crate) cpus: u32,
    pub(crate) batches: bool,
}

// === impl Found ===

impl Found<'_> {
    pub(crate) fn features(&self) -> Vec<Feature> {
        let mut features = vec![
            Feature { name: "kernel", on: true, why: kernel::release() },
            Feature {
                name: "bpffs",
                on: true,
                why: format!("maps and links are pinned under {}", self.options.pin_dir.display()),
            },
        ];
        features.push(self.btf());
        features.extend(self.hooks());
        features.extend(self.transport());
        features.push(on_or(
            "batch_lookup",
            self.batches,
            "connections are read 1024 at a time",
            "kernel older than 5.6: connections are read one by one",
        ));
        features.push(self.optional("kfree_skb", "drops are counted and located"));
        let no_reason = match &self.types.offsets {
            Ok(_) => "kernel older than 5.17: drops have a location but no reason",
            Err(why) => why,
        };
        features.push(on_or(
            "kfree_skb_reason",
            self.types.has_reason,
            "drops have the kernel's reason",
            no_reason,
        ));
        features.push(self.optional("cgroup_sock_create", "sockets have a process"));
        features.push(self.socket_services());
        features.push(on_or(
            "membarrier",
            membarrier(),
            "retiring connections waits by membarrier(2)",
            "no MEMBARRIER_CMD_GLOBAL (nohz_full?): waits by updating a map of maps",
        ));
        features
    }

    fn btf(&self) -> Feature {
        match &self.types.offsets {
            Ok(_) => {
                Feature { name: "btf", on: true, why: "the kernel describes its types".to_owned() }
            }
            Err(why) => Feature { name: "btf", on: false, why: why.clone() },
        }
    }

    fn hooks(&self) -> [Feature; 2] {
        let (tcx, clsact) = match &self.tcx {
            Ok(()) => ("links, first on both hooks".to_owned(), "tcx is used".to_owned()),
            Err(why) => (why.clone(), "filters of priority 1 on both hooks".to_owned()),
        };
        let on = self.tcx.is_ok();
        [Feature { name: "tcx", on, why: tcx }, Feature { name: "clsact", on: !on, why: clsact }]
    }

    fn transport(&self) -> [Feature; 2] {
        let rings = self.options.transport == Transport::Ring;
        let used = format!("{} bytes for each of {} CPUs", self.options.ring_bytes, self.cpus);
        let unused = "not asked for".to_owned();
        let (ring, perf) = if rings { (used, unused) } else { (unused, used) };
        [
            Feature { name: "ring_buffer", on: rings, why: ring },
            Feature { name: "perf_event_array", on: !rings, why: perf },
        ]
    }

    fn socket_services(&self) -> Feature {
        let name = "socket_services";
        let refused = SOCKETS.iter().find_map(|program| self.refused.get(program));
        match (refused, &self.options.socket_services) {
            (None, Some(sockets)) => {
                let whose = if sockets.own_namespace { "the host's sockets" } else { "sockets" };
                let cgroup = sockets.cgroup.display();
                let why = format!("{whose} of {cgroup} go to a service's backend at once");
                Feature { name, on: true, why }
            }
            (Some(why), _) => Feature { name, on: false, why: why.clone() },
            (None, None) => Feature { name, on: false, why: "not asked for".to_owned() },
        }
    }

    fn optional(&self, name: &'static str, what: &str) -> Feature {
        let program = if name == "cgroup_sock_create" { "sock_create" } else { name };
        match self.refused.get(program) {
            Some(why) => Feature { name, on: false, why: why.clone() },
            None => Feature { name, on: true, why: what.to_owned() },
        }
    }
}

fn on_or(name: &'static str, on: bool, what: &str, why_not: &str) -> Feature {
    Feature { name, on, why: (if on { what } else { why_not }).to_owned() }
}

/// Whether `membarrier(MEMBARRIER_CMD_GLOBAL)` works: 1 is its bit in what the query returns.
fn membarrier() -> bool {
    // SAFETY: no addresses.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
    commands > 0 && commands & 1 != 0
}
