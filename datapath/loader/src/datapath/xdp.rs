//! The XDP hook of the host's own interfaces.

use std::os::fd::AsFd;

use aya_obj::generated::bpf_link_info;

use super::Datapath;
use crate::error::Doing;
use crate::hooks;
use crate::object::{FORWARD, Loaded, SWEEP};
use crate::pins::{Pin, Pins, repin};
use crate::sys::{self, info, link};
use crate::{Error, Feature, FlowCache, XdpMode};

/// What became of interfaces.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    /// Indices of those with the program.
    on: Vec<u32>,
    /// Why another one has none.
    refused: Option<String>,
}

/// The cache, and the hooks of an earlier process with our program, or without any, if none is wanted.
pub(super) fn adopt(pins: &Pins, loaded: &Loaded, cpus: u32) -> Result<(FlowCache, Hooks), Error> {
    let sweep = loaded.programs.get(SWEEP).map(|program| program.as_fd().try_clone_to_owned());
    let sweep = sweep.transpose().doing(|| "program xdp_sweep")?;
    let cache = FlowCache::open(pins, cpus, sweep)?;
    let (mut hooks, mut undone) = (Hooks::default(), false);
    for (path, pin) in pins.links()? {
        let Pin::Xdp(ifindex) = pin else {
            continue;
        };
        let replaced = loaded.programs.get(FORWARD).is_some_and(|program| {
            let found = sys::open_pin(&path);
            found.is_ok_and(|link| {
                is_on(&link, ifindex) && link::update(link.as_fd(), program.as_fd()).is_ok()
            })
        });
        if replaced {
            hooks.on.push(ifindex);
        } else {
            pins.undo(&path, &pin)?;
            undone = true;
        }
    }
    if undone {
        cache.use_up()?;
    }
    Ok((cache, hooks))
}

/// Whether a link is on the interface that has this index now.
fn is_on(link: &impl AsFd, ifindex: u32) -> bool {
    let found: std::io::Result<bpf_link_info> = info::info(link.as_fd());
    // SAFETY: every member of the union is integers, and the kernel has filled this one for an XDP link.
    found.is_ok_and(|found| unsafe { found.__bindgen_anon_1.xdp.ifindex } == ifindex)
}

// === impl Datapath ===

impl Datapath {
    /// Has packets of direct server return that come in by an interface sent on by XDP. Why not, where that cannot be: the
    /// tc programs do it then.
    pub fn accelerate(&mut self, interface: &str) -> Result<Result<(), String>, Error> {
        let Some(asked) = self.options.xdp else {
            return Ok(Err("not asked for".to_owned()));
        };
        let Some(ifindex) = hooks::index_of(interface) else {
            return Err(Error::NoInterface { name: interface.to_owned() });
        };
        if self.xdp.on.contains(&ifindex) {
            return Ok(Ok(()));
        }
        let attached = self.hook(ifindex, asked.mode)?;
        match &attached {
            Ok(()) => self.xdp.on.push(ifindex),
            Err(why) => self.xdp.refused = Some(format!("{interface}: {why}")),
        }
        self.features.retain(|feature| feature.name != "xdp");
        let feature = self.xdp_feature();
        self.features.push(feature);
        Ok(attached)
    }

    fn hook(&self, ifindex: u32, mode: XdpMode) -> Result<Result<(), String>, Error> {
        let Some(program) = self.loaded.programs.get(FORWARD) else {
            let why = self.loaded.refused.get(FORWARD).cloned().unwrap_or_default();
            return Ok(Err(why));
        };
        if !self.loaded.programs.contains_key(SWEEP) {
            return Ok(Err("what it counts could not be read: no program xdp_sweep".to_owned()));
        }
        let flags = match mode {
            XdpMode::Native => link::XDP_NATIVE,
            XdpMode::Generic => link::XDP_GENERIC,
        };
        match link::create(program.as_fd(), ifindex, link::XDP, flags) {
            Ok(link) => repin(&link, &self.pins.xdp(ifindex)).map(Ok),
            Err(error) => Ok(Err(match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => "its driver has no XDP".to_owned(),
                Some(libc::EBUSY) => "another XDP program is there".to_owned(),
                _ => error.to_string(),
            })),
        }
    }

    /// Takes the hook away again.
    pub fn decelerate(&mut self, ifindex: u32) -> Result<(), Error> {
        self.xdp.on.retain(|on| *on != ifindex);
        let path = self.pins.xdp(ifindex);
        if path.exists() {
            self.pins.undo(&path, &Pin::Xdp(ifindex))?;
        }
        self.cache.sweep().map(drop)
    }

    /// Indices of the interfaces with the hook.
    pub fn accelerated(&self) -> Vec<u32> {
        self.xdp.on.clone()
    }

    /// The flow cache.
    pub fn flow_cache(&self) -> FlowCache {
        self.cache.clone()
    }

    pub(super) fn xdp_feature(&self) -> Feature {
        let on = !self.xdp.on.is_empty();
        let why = if let Some(why) = &self.xdp.refused {
            why.clone()
        } else if on {
            format!("direct server return on {} interfaces", self.xdp.on.len())
        } else if self.options.xdp.is_none() {
            "not asked for".to_owned()
        } else {
            self.loaded.refused.get(FORWARD).cloned().unwrap_or("no interface for it".to_owned())
        };
        Feature { name: "xdp", on, why }
    }
}
