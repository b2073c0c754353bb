//! Per-CPU counters, summed.

use std::io;
use std::os::fd::BorrowedFd;

use datapath_abi::answer::AnswerCounters;
use datapath_abi::drops::{DropCounter, DropKey};
use datapath_abi::event::KINDS;
use datapath_abi::iface::{CAUSES, Count, IfaceCounters, IfaceKey};
use datapath_abi::service::ServiceCounters;
use zerocopy::FromZeros;

use crate::hooks::Hook;
use crate::sys::map;

/// Makes an interface's entries, if they are not there.
pub(crate) fn create(interfaces: BorrowedFd<'_>, ifindex: u32, cpus: u32) -> io::Result<()> {
    let zero = vec![ZERO; cpus as usize];
    for hook in Hook::BOTH {
        let key = IfaceKey { ifindex, hook: hook.number() };
        match map::update(interfaces, &key, zero.as_slice(), map::NOEXIST) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// An interface's counters, by hook; zero where it has none.
pub(crate) fn interfaces(
    map: BorrowedFd<'_>,
    ifindex: u32,
    cpus: u32,
) -> io::Result<[IfaceCounters; 2]> {
    let mut sums = [ZERO; 2];
    let mut values = vec![ZERO; cpus as usize];
    for (sum, hook) in sums.iter_mut().zip(Hook::BOTH) {
        let key = IfaceKey { ifindex, hook: hook.number() };
        if map::lookup(map, &key, values.as_mut_slice())? {
            values.iter().for_each(|value| add(sum, value));
        }
    }
    Ok(sums)
}

/// Events for which there was no room, by kind.
pub(crate) fn lost(map: BorrowedFd<'_>, cpus: u32) -> io::Result<[u64; KINDS]> {
    let mut sums = [0; KINDS];
    let mut values = vec![0u64; cpus as usize];
    for (kind, sum) in (0u32..).zip(&mut sums) {
        map::lookup(map, &kind, values.as_mut_slice())?;
        *sum = values.iter().sum();
    }
    Ok(sums)
}

/// Answers to refused packets.
pub(crate) fn answers(map: BorrowedFd<'_>, cpus: u32) -> io::Result<AnswerCounters> {
    let mut values = vec![AnswerCounters::new_zeroed(); cpus as usize];
    map::lookup(map, &0u32, values.as_mut_slice())?;
    Ok(values.iter().fold(AnswerCounters::new_zeroed(), |sum, value| AnswerCounters {
        sent: sum.sent + value.sent,
        limited: sum.limited + value.limited,
        failed: sum.failed + value.failed,
        next_ns: sum.next_ns.max(value.next_ns),
    }))
}

/// What did not go well with services.
pub(crate) fn services(map: BorrowedFd<'_>, cpus: u32) -> io::Result<ServiceCounters> {
    let mut values = vec![ServiceCounters::default(); cpus as usize];
    map::lookup(map, &0u32, values.as_mut_slice())?;
    Ok(values.iter().fold(ServiceCounters::default(), |sum, value| ServiceCounters {
        balanced: sum.balanced + value.balanced,
        masqueraded: sum.masqueraded + value.masqueraded,
        exhausted: sum.exhausted + value.exhausted,
        full: sum.full + value.full,
        no_backend: sum.no_backend + value.no_backend,
        not_allowed: sum.not_allowed + value.not_allowed,
        failed: sum.failed + value.failed,
        sockets: sum.sockets + value.sockets,
        dsr: sum.dsr + value.dsr,
        dsr_arrived: sum.dsr_arrived + value.dsr_arrived,
        too_big: sum.too_big + value.too_big,
        no_route: sum.no_route + value.no_route,
    }))
}

/// Drops by namespace and reason.
pub(crate) fn drops(map: BorrowedFd<'_>, cpus: u32) -> io::Result<Vec<(DropKey, DropCounter)>> {
    let mut found = Vec::new();
    let mut values = vec![DropCounter::new_zeroed(); cpus as usize];
    let mut next = map::next_key::<DropKey>(map, None)?;
    while let Some(key) = next {
        if map::lookup(map, &key, values.as_mut_slice())? {
            let packets = values.iter().map(|value| value.packets).sum();
            let bytes = values.iter().map(|value| value.bytes).sum();
            found.push((key, DropCounter { packets, bytes }));
        }
        next = map::next_key(map, Some(&key))?;
    }
    Ok(found)
}

const ZERO: IfaceCounters = IfaceCounters { causes: [Count { packets: 0, bytes: 0 }; CAUSES] };

fn add(sum: &mut IfaceCounters, value: &IfaceCounters) {
    for (sum, value) in sum.causes.iter_mut().zip(&value.causes) {
        sum.packets += value.packets;
        sum.bytes += value.bytes;
    }
}
