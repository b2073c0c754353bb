//! Attaching to interfaces, and adopting what was attached.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya_obj::generated::{bpf_link_info, bpf_prog_info};
use datapath_abi::iface::IfaceKey;

use super::Datapath;
use crate::error::Doing;
use crate::hooks::{self, Device, Hook, MAX_IFINDEX, tc};
use crate::object::Loaded;
use crate::pins::{Pin, Pins, repin, unpin};
use crate::sys::{self, info, link, map};
use crate::{Attached, AttachedBy, Error, Mode, counters};

/// Whether the kernel knows tcx: asked to attach to an interface that cannot exist, it minds the
/// interface; a kernel without minds the question.
pub(super) fn tcx(loaded: &Loaded, forbidden: bool) -> Result<(), String> {
    if forbidden {
        return Err("not allowed".to_owned());
    }
    let program = loaded.get("observe_ingress").map_err(|error| error.to_string())?;
    match link::create(program, i32::MAX as u32, link::TCX_INGRESS, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        Err(error) => Err(format!("kernel older than 6.6 ({error})")),
        Ok(_) => Ok(()),
    }
}

// === impl Datapath ===

impl Datapath {
    /// Attaches to an interface of this network namespace, on both hooks, before all others that are
    /// there. Where that is done already, the programs are replaced if the mode is another one: every packet meets
    /// those of the one mode or of the other. [`Mode::Enforce`] needs [`Options::policy`](crate::Options::policy).
    pub fn attach(&mut self, interface: &str, mode: Mode) -> Result<Attached, Error> {
        let name = interface.to_owned();
        let Some(ifindex) = hooks::index_of(interface) else {
            return Err(Error::NoInterface { name });
        };
        if ifindex > MAX_IFINDEX {
            return Err(Error::Ifindex { name, ifindex });
        }
        if mode == Mode::Enforce && self.loaded.get("enforce_ingress").is_err() {
            let why = "none given, so there is nothing to enforce".to_owned();
            return Err(Error::Option { option: "policy", why });
        }
        let device =
            hooks::device(interface).doing(|| format!("interface {interface}: its type"))?;
        if let Some(attached) = self.attached.get(&ifindex)
            && self.is_live(attached)
        {
            if attached.mode == mode {
                return Ok(attached.clone());
            }
            let attached = Attached { mode, ..attached.clone() };
            self.replace(&attached, device)?;
            self.attached.insert(ifindex, attached.clone());
            return Ok(attached);
        }
        let by = if self.tcx { AttachedBy::Tcx } else { AttachedBy::Clsact };
        let attached = Attached { ifindex, name, by, link_header: device.counted(), mode };
        self.undo(ifindex)?;
        counters::create(self.maps.interfaces.as_fd(), ifindex, self.cpus)
            .doing(|| format!("interface {interface}: making its counters"))?;
        for hook in Hook::BOTH {
            if let Err(error) = self.attach_hook(&attached, device, hook) {
                self.undo(ifindex)?;
                return Err(error);
            }
        }
        self.attached.insert(ifindex, attached.clone());
        Ok(attached)
    }

    /// Stops observing an interface, which may be gone. Its counters and connections stay.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), Error> {
        self.undo(ifindex)?;
        self.attached.remove(&ifindex);
        Ok(())
    }

    /// Removes the counters of an interface that is not observed any more.
    pub fn forget(&mut self, ifindex: u32) -> Result<(), Error> {
        for hook in Hook::BOTH {
            let key = IfaceKey { ifindex, hook: hook.number() };
            map::delete(self.maps.interfaces.as_fd(), &key)
                .doing(|| format!("removing the counters of interface {ifindex}"))?;
        }
        Ok(())
    }

    /// Takes over the hooks of an earlier process: the same ones, with our programs.
    pub(super) fn adopt_hooks(&mut self) -> Result<(), Error> {
        let links = self.pins.links()?;
        let by_hook = |hook, pin: &Pin| match *pin {
            Pin::Tcx(ifindex, of) if of == hook => Some((ifindex, AttachedBy::Tcx)),
            Pin::Filter(ifindex, of) if of == hook => Some((ifindex, AttachedBy::Clsact)),
            _ => None,
        };
        let found = |hook| links.iter().filter_map(move |(_, pin)| by_hook(hook, pin));
        let ingress: Vec<_> = found(Hook::Ingress).collect();
        let egress: Vec<_> = found(Hook::Egress).collect();
        for &(ifindex, by) in ingress.iter().chain(&egress) {
            if self.attached.contains_key(&ifindex) {
                continue;
            }
            let both = ingress.contains(&(ifindex, by)) && egress.contains(&(ifindex, by));
            if !both || !self.adopt(ifindex, by)? {
                tracing::info!(ifindex, "what was left of an interface's hooks is removed");
                self.undo(ifindex)?;
            }
        }
        Ok(())
    }

    /// Whether the interface is still there, and its hooks now have our programs.
    fn adopt(&mut self, ifindex: u32, by: AttachedBy) -> Result<bool, Error> {
        let Some(name) = hooks::name_of(ifindex) else {
            return Ok(false);
        };
        let device = hooks::device(&name).doing(|| format!("interface {name}: its type"))?;
        let mode = mode_of(&self.pins, ifindex);
        let attached = Attached { ifindex, name, by, link_header: device.counted(), mode };
        if !self.is_live(&attached) {
            return Ok(false);
        }
        counters::create(self.maps.interfaces.as_fd(), ifindex, self.cpus)
            .doing(|| format!("interface {}: making its counters", attached.name))?;
        self.replace(&attached, device)?;
        self.attached.insert(ifindex, attached);
        Ok(true)
    }

    /// Puts our programs into hooks that are ours already.
    fn replace(&self, attached: &Attached, device: Device) -> Result<(), Error> {
        let ifindex = attached.ifindex;
        for hook in Hook::BOTH {
            let program = self.loaded.get(device.program(hook, attached.mode))?;
            let replaced = match attached.by {
                AttachedBy::Tcx => sys::open_pin(&self.pins.tcx(ifindex, hook))
                    .and_then(|link| link::update(link.as_fd(), program)),
                AttachedBy::Clsact => tc::put_filter(ifindex, hook, program),
            };
            replaced.doing(|| format!("interface {}: replacing {hook}", attached.name))?;
            if attached.by == AttachedBy::Clsact {
                self.mark(ifindex, hook, program)?;
            }
        }
        Ok(())
    }

    fn attach_hook(&self, attached: &Attached, device: Device, hook: Hook) -> Result<(), Error> {
        let doing = || format!("interface {}: attaching to {hook}", attached.name);
        let program = self.loaded.get(device.program(hook, attached.mode))?;
        match attached.by {
            AttachedBy::Tcx => {
                let kind = match hook {
                    Hook::Ingress => link::TCX_INGRESS,
                    Hook::Egress => link::TCX_EGRESS,
                };
                let link =
                    link::create(program, attached.ifindex, kind, link::FIRST).doing(doing)?;
                repin(&link, &self.pins.tcx(attached.ifindex, hook))
            }
            AttachedBy::Clsact => {
                if tc::add_qdisc(attached.ifindex).doing(doing)? {
                    let program = program.try_clone_to_owned().doing(doing)?;
                    repin(&program, &self.pins.qdisc(attached.ifindex))?;
                }
                self.mark(attached.ifindex, hook, program)?;
                tc::put_filter(attached.ifindex, hook, program).doing(doing)
            }
        }
    }

    /// Marks a filter as ours, before it exists, so that a crash leaves nothing unmarked.
    fn mark(&self, ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> Result<(), Error> {
        let program = program.try_clone_to_owned().doing(|| "a program's descriptor")?;
        repin(&program, &self.pins.filter(ifindex, hook))
    }

    /// Whether the hooks are on the interface that has this index now: a link outlives its
    /// interface, and an index may be given again.
    fn is_live(&self, attached: &Attached) -> bool {
        Hook::BOTH.into_iter().all(|hook| match attached.by {
            AttachedBy::Tcx => {
                link_ifindex(&self.pins.tcx(attached.ifindex, hook)) == Some(attached.ifindex)
            }
            AttachedBy::Clsact => {
                self.pins.filter(attached.ifindex, hook).exists()
                    && tc::has_filter(attached.ifindex, hook).unwrap_or(false)
            }
        })
    }

    /// Detaches whatever of ours is on an interface.
    fn undo(&self, ifindex: u32) -> Result<(), Error> {
        for hook in Hook::BOTH {
            self.undo_pin(&self.pins.tcx(ifindex, hook), &Pin::Tcx(ifindex, hook))?;
            self.undo_pin(&self.pins.filter(ifindex, hook), &Pin::Filter(ifindex, hook))?;
        }
        self.undo_pin(&self.pins.qdisc(ifindex), &Pin::Qdisc(ifindex))
    }

    fn undo_pin(&self, path: &Path, pin: &Pin) -> Result<(), Error> {
        if path.exists() { self.pins.undo(path, pin) } else { unpin(path) }
    }
}

/// Whether an earlier process has left hooks that enforce.
pub(super) fn is_enforced(pins: &Pins) -> Result<bool, Error> {
    let enforces = |pin: &Pin| match *pin {
        Pin::Tcx(ifindex, _) | Pin::Filter(ifindex, _) => mode_of(pins, ifindex) == Mode::Enforce,
        _ => false,
    };
    Ok(pins.links()?.iter().any(|(_, pin)| enforces(pin)))
}

/// Mode of the programs that are pinned, or in pinned links: if one of the two enforces, both shall.
fn mode_of(pins: &Pins, ifindex: u32) -> Mode {
    let program = |hook| {
        if let Ok(program) = sys::open_pin(&pins.filter(ifindex, hook)) {
            return Some(program);
        }
        let link = sys::open_pin(&pins.tcx(ifindex, hook)).ok()?;
        let found: bpf_link_info = info::info(link.as_fd()).ok()?;
        sys::program_of_id(found.prog_id).ok()
    };
    let enforces = |hook| {
        let info = program(hook).and_then(|fd| info::info::<bpf_prog_info>(fd.as_fd()).ok());
        info.is_some_and(|info| Mode::of(&info::name(&info.name)) == Mode::Enforce)
    };
    if Hook::BOTH.into_iter().any(enforces) { Mode::Enforce } else { Mode::Observe }
}

/// The interface that a pinned tcx link is on; 0 once that is gone.
fn link_ifindex(path: &Path) -> Option<u32> {
    let link = sys::open_pin(path).ok()?;
    let found: bpf_link_info = info::info(link.as_fd()).ok()?;
    // SAFETY: every member of the union is integers, and the kernel has filled this one for a tcx
    // link, or left it zero.
    Some(unsafe { found.__bindgen_anon_1.tcx.ifindex })
}
