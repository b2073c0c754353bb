//! The eBPF object: what `build.rs` found or built, loaded.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::EbpfLoader;
use aya::maps::Map;
use aya::programs::{Program, ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};
use datapath_abi::event;

use crate::error::Doing;
use crate::kernel::types::Types;
use crate::maps::Shape;
use crate::pins::Pins;
use crate::{Error, Options, Transport, sys};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir.bpf.o"));

/// Programs without which there is no datapath.
const NEEDED: [&str; 7] = [
    "observe_ingress",
    "observe_egress",
    "observe_l3_in",
    "observe_l3_out",
    "retire",
    "retire_denied",
    "tick",
];

/// Programs without which there is no policy.
const ENFORCING: [&str; 4] =
    ["enforce_ingress", "enforce_egress", "enforce_l3_in", "enforce_l3_out"];

/// Programs that balance sockets; see `ebpf/src/socket.rs`.
pub(crate) const SOCKETS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

/// The XDP program; see `ebpf/src/xdp.rs`.
pub(crate) const FORWARD: &str = "xdp_forward";
/// What empties its cache; see `ebpf/src/flow_cache.rs`.
pub(crate) const SWEEP: &str = "xdp_sweep";

/// As often as libbpf tries (`PROG_LOAD_ATTEMPTS` is 5), and a few more for busy machines.
const LOAD_ATTEMPTS: usize = 10;

/// Programs in the kernel.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) programs: BTreeMap<&'static str, OwnedFd>,
    /// Those that may be missing, and why they are.
    pub(crate) refused: BTreeMap<&'static str, String>,
    /// The perf event array.
    pub(crate) perf: OwnedFd,
}

// === impl Loaded ===

impl Loaded {
    /// Loads the object; maps with a pin are taken from there, others of `shapes` are made and
    /// pinned. `enforce`: with the programs for policy.
    pub(crate) fn load(
        options: &Options,
        types: &Types,
        pins: &Pins,
        shapes: &[Shape],
        enforce: bool,
    ) -> Result<Self, Error> {
        let mut ebpf = parse(options, types, pins, shapes, &[])?;
        let mut programs = BTreeMap::new();
        let enforcing = ENFORCING.iter().filter(|_| enforce);
        for &name in NEEDED.iter().chain(enforcing) {
            let fd = program(&mut ebpf, name)?
                .map_err(|source| Error::Program { name, source: Box::new(source) })?;
            programs.insert(name, fd);
        }
        let mut refused = BTreeMap::new();
        for name in wanted(options, types, &mut refused) {
            match program(&mut ebpf, name)? {
                Ok(fd) => drop(programs.insert(name, fd)),
                Err(error) => drop(refused.insert(name, chain(&error))),
            }
        }
        let perf = map(&ebpf, event::PERF_MAP)?;
        Ok(Self { programs, refused, perf })
    }

    pub(crate) fn get(&self, name: &'static str) -> Result<BorrowedFd<'_>, Error> {
        let missing = || Error::Missing { what: format!("program {name}") };
        Ok(self.programs.get(name).ok_or_else(missing)?.as_fd())
    }
}

/// Programs that the options ask for and the kernel's types allow.
fn wanted(
    options: &Options,
    types: &Types,
    refused: &mut BTreeMap<&'static str, String>,
) -> Vec<&'static str> {
    let mut wanted = Vec::new();
    match (&types.offsets, options.drops) {
        (Ok(_), true) => wanted.push("kfree_skb"),
        (Err(why), true) => drop(refused.insert("kfree_skb", why.clone())),
        (_, false) => drop(refused.insert("kfree_skb", "not asked for".to_owned())),
    }
    let refusal = match &options.socket_services {
        None => Some("not asked for".to_owned()),
        Some(sockets) if sockets.own_namespace => sys::netns_cookie().err().map(|error| {
            format!("the network namespace has no cookie ({error}): kernel older than 5.14")
        }),
        Some(_) => None,
    };
    match refusal {
        None => wanted.extend(SOCKETS),
        Some(why) => refused.extend(SOCKETS.map(|name| (name, why.clone()))),
    }
    // Also without: an earlier process may have left something in the cache.
    wanted.push(SWEEP);
    match options.xdp {
        Some(_) => wanted.push(FORWARD),
        None => drop(refused.insert(FORWARD, "not asked for".to_owned())),
    }
    match options.cgroup {
        Some(_) => wanted.push("sock_create"),
        None => drop(refused.insert("sock_create", "no cgroup given".to_owned())),
    }
    wanted
}

/// Parses and relocates the object, with its maps made or taken from their pins; `sizes`: of others.
pub(crate) fn parse(
    options: &Options,
    types: &Types,
    pins: &Pins,
    shapes: &[Shape],
    sizes: &[(&str, u32)],
) -> Result<aya::Ebpf, Error> {
    let (perf, dns) = (u8::from(options.transport == Transport::Perf), u8::from(options.dns));
    let has_reason = u8::from(types.has_reason);
    let own = options.socket_services.as_ref().is_some_and(|sockets| sockets.own_namespace);
    // Where it cannot be known, none: see `wanted`.
    let namespace = if own { sys::netns_cookie().unwrap_or(u64::MAX) } else { 0 };
    let mut loader = EbpfLoader::new();
    // No program here needs the kernel's types, and aya's copy of them takes 30 MB.
    loader.btf(None);
    loader.override_global("PERF", &perf, true).override_global("DNS", &dns, true).override_global(
        "HAS_REASON",
        &has_reason,
        true,
    );
    loader.override_global("NETNS", &namespace, true);
    // Where it cannot be found out, as if not.
    let kind = ProgramType::CgroupSockAddr;
    let has_retval = options.socket_services.is_some()
        && is_helper_supported(kind, BpfHelper::BPF_FUNC_set_retval).unwrap_or(false);
    let has_retval = u8::from(has_retval);
    loader.override_global("HAS_RETVAL", &has_retval, true);
    if let Ok(offsets) = &types.offsets {
        for (global, offset) in &offsets.0 {
            loader.override_global(global, offset, true);
        }
    }
    for &(name, entries) in sizes {
        loader.map_max_entries(name, entries);
    }
    for shape in shapes {
        loader.map_pin_path(shape.name, pins.map(shape.name));
        if let Some(entries) = shape.entries {
            loader.map_max_entries(shape.name, entries);
        }
    }
    loader.load(OBJECT).map_err(|source| Error::Object(Box::new(source)))
}

/// Loads one program into the kernel.
pub(crate) fn program(
    ebpf: &mut aya::Ebpf,
    name: &str,
) -> Result<Result<OwnedFd, ProgramError>, Error> {
    let missing = || Error::Missing { what: format!("program {name}") };
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    let mut loaded = load(program).ok_or_else(missing)?;
    for _ in 1..LOAD_ATTEMPTS {
        if !matches!(&loaded, Err(error) if interrupted(error)) {
            break;
        }
        loaded = load(program).ok_or_else(missing)?;
    }
    if let Err(error) = loaded {
        return Ok(Err(error));
    }
    match program.fd() {
        Ok(fd) => fd.as_fd().try_clone_to_owned().doing(|| format!("program {name}")).map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

/// `None`: a kind of program that there is none of.
fn load(program: &mut Program) -> Option<Result<(), ProgramError>> {
    match program {
        Program::SchedClassifier(program) => Some(program.load()),
        Program::RawTracePoint(program) => Some(program.load()),
        Program::CgroupSock(program) => Some(program.load()),
        Program::CgroupSockAddr(program) => Some(program.load()),
        Program::Xdp(program) => Some(program.load()),
        _ => None,
    }
}

/// The verifier gives up with `EAGAIN` when a signal waits for its thread (`bpf_check`, Linux 5.0).
fn interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. }
        if io_error.kind() == std::io::ErrorKind::WouldBlock)
}

/// The descriptor of a map that is not pinned.
pub(crate) fn map(ebpf: &aya::Ebpf, name: &str) -> Result<OwnedFd, Error> {
    match ebpf.map(name) {
        Some(Map::PerfEventArray(data)) => {
            data.fd().as_fd().try_clone_to_owned().doing(|| format!("map {name}"))
        }
        _ => Err(Error::Missing { what: format!("map {name}") }),
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    // The verifier's log is the last; its last lines say what it minded.
    match text.char_indices().nth_back(600) {
        Some((at, _)) => format!("… {}", &text[at..]),
        None => text,
    }
}
