//! Events from the kernel, whatever brings them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use datapath_abi::drops::DropEvent;
use datapath_abi::event::{self, ConnEvent, DeniedEvent};
use datapath_abi::names::DnsEvent;
use zerocopy::FromBytes;

use crate::Error;
use crate::error::Doing;
use crate::kernel::cpus;
use crate::sys::{self, info, map};

pub(crate) use perf::Wake;

mod mapping;
mod perf;
mod ring;

/// Something happened in the kernel.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A connection was created, changed or closed.
    Conn(&'a ConnEvent),
    /// The kernel dropped a packet.
    Drop(&'a DropEvent),
    /// A DNS answer passed.
    Dns(&'a DnsEvent),
    /// The policy refused something new, or would have.
    Denied(&'a DeniedEvent),
}

/// The one reader of the events. It does not wait: nobody wakes it, so drain on a timer.
#[derive(Debug)]
pub struct Events(Source);

#[derive(Debug)]
enum Source {
    Rings(Vec<ring::Ring>),
    Perf {
        buffers: Vec<perf::Buffer>,
        /// The kernel clears the array when its descriptor is closed.
        _array: OwnedFd,
    },
}

// === impl Events ===

impl Events {
    /// Maps every CPU's ring.
    pub(crate) fn of_rings(rings: BorrowedFd<'_>, cpus: u32) -> Result<Self, Error> {
        let open = |cpu| -> std::io::Result<ring::Ring> {
            let mut id = 0u32;
            if !map::lookup(rings, &cpu, &mut id)? {
                return Err(std::io::Error::other("there is none"));
            }
            ring::Ring::open(sys::map_of_id(id)?)
        };
        let rings = (0..cpus).map(|cpu| open(cpu).doing(|| format!("opening ring {cpu}")));
        Ok(Self(Source::Rings(rings.collect::<Result<_, _>>()?)))
    }

    /// Makes a perf buffer for every CPU that is up.
    pub(crate) fn of_perf(array: OwnedFd, bytes: u32, wake: Wake) -> Result<Self, Error> {
        let online = cpus::online().doing(|| "/sys/devices/system/cpu/online")?;
        let open = |cpu| {
            perf::Buffer::open(array.as_fd(), cpu, bytes, wake)
                .doing(|| format!("opening the perf buffer of CPU {cpu}"))
        };
        let buffers = online.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self(Source::Perf { buffers, _array: array }))
    }

    /// Descriptors that become readable when an event comes, where [`Wake::Each`] was asked for.
    pub(crate) fn wakers(&self) -> Vec<BorrowedFd<'_>> {
        match &self.0 {
            Source::Rings(_) => Vec::new(),
            Source::Perf { buffers, .. } => buffers.iter().map(perf::Buffer::waker).collect(),
        }
    }

    /// Shows all events that have come since the last time to `on`, those of one CPU in order;
    /// returns how many. References are good during the call only.
    pub fn drain(&mut self, on: &mut dyn FnMut(Event<'_>)) -> usize {
        let mut count = 0;
        let mut record = |bytes: &[u8]| {
            if let Some(event) = Event::of(bytes) {
                count += 1;
                on(event);
            }
        };
        match &mut self.0 {
            Source::Rings(rings) => rings.iter_mut().for_each(|ring| ring.drain(&mut record)),
            Source::Perf { buffers, .. } => {
                buffers.iter_mut().for_each(|buffer| buffer.drain(&mut record));
            }
        }
        count
    }
}

// === impl Event ===

impl<'a> Event<'a> {
    /// Reads a record by its kind; none for a kind that this version does not know.
    fn of(record: &'a [u8]) -> Option<Self> {
        let kind = u32::from_ne_bytes(*record.first_chunk()?);
        Some(match kind {
            event::CREATED | event::STATE | event::CLOSED => {
                Self::Conn(ConnEvent::ref_from_prefix(record).ok()?.0)
            }
            event::DROP => Self::Drop(DropEvent::ref_from_prefix(record).ok()?.0),
            event::DNS => Self::Dns(DnsEvent::ref_from_prefix(record).ok()?.0),
            event::DENIED => Self::Denied(DeniedEvent::ref_from_prefix(record).ok()?.0),
            _ => return None,
        })
    }
}

/// Makes sure that there is a ring of this size for every CPU. Rings that were pinned stay, with
/// the events in them, unless the size differs.
pub(crate) fn fill_rings(rings: BorrowedFd<'_>, cpus: u32, bytes: u32) -> std::io::Result<()> {
    for cpu in 0..cpus {
        let mut id = 0u32;
        if map::lookup(rings, &cpu, &mut id)?
            && let Ok(ring) = sys::map_of_id(id)
            && info::info::<aya_obj::generated::bpf_map_info>(ring.as_fd())?.max_entries == bytes
        {
            continue;
        }
        let ring = map::create_ring(bytes)?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&ring) as u32;
        map::update(rings, &cpu, &fd, map::ANY)?;
    }
    Ok(())
}
