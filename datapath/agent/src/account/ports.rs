//! Interfaces that come and go.

use std::collections::BTreeSet;
use std::io;

use datapath_abi::conn::{ConnKey, HIGH_TO_LOW, LOW_TO_HIGH, PATH_LOW_INGRESS};
use datapath_abi::iface::{Count, INGRESS};
use datapath_abi::reported::{KIND_IFACE, ReportedKey, TOTALS};
use hashbrown::HashMap;

use super::book::{PER_DIRECTION, settled};
use super::counters::{self, own_totals};
use super::ledger::{self, OWN};
use super::{Accountant, Failure};
use crate::host::{Link, LinkStats};
use crate::kernel::{Attached, Kernel};

/// Tries to read counters and hooks in a moment without packets.
const TRIES: usize = 5;

/// What an interface received, since it was attached, in connections that are reported; counted on
/// from what it had then.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    packets: u64,
    /// With the link header of each.
    bytes: u64,
    header: u8,
}

// === impl Accountant ===

impl Accountant {
    /// Begins to observe an interface. Its own counters (`stats` reads them) count from here; that is
    /// noted before the first packet can be seen, so that no crash makes them count from elsewhere.
    ///
    /// # Errors
    /// When the kernel half cannot; then nothing is different.
    pub(crate) fn attach(
        &mut self,
        kernel: &mut dyn Kernel,
        link: &Link,
        stats: &mut dyn FnMut() -> io::Result<Option<LinkStats>>,
    ) -> Result<Attached, Failure> {
        let key = ledger::iface(link.index, OWN);
        let before = stats()?.unwrap_or(link.stats);
        kernel.write_reported(&[(key, settled(own_totals(&before), 0, 0))])?;
        let attached = match kernel.attach(&link.name) {
            Ok(attached) => attached,
            Err(error) => {
                kernel.remove_reported(&[key])?;
                return Err(error.into());
            }
        };
        let base = own_totals(&base(kernel, &attached, before, stats)?);
        kernel.write_reported(&[(key, settled(base, 0, 0))])?;
        self.ledger.set(key, base);
        let header = attached.link_header;
        self.seen.insert(link.index, Seen { packets: base[0], bytes: base[1], header });
        Ok(attached)
    }

    /// Takes over an interface that an agent before this one observed.
    ///
    /// # Errors
    /// When its start cannot be noted.
    pub(crate) fn adopt(&mut self, kernel: &dyn Kernel, link: &Link) -> Result<(), Failure> {
        let key = ledger::iface(link.index, OWN);
        if self.ledger.get(&key).is_none() {
            let base = own_totals(&link.stats);
            kernel.write_reported(&[(key, settled(base, 0, 0))])?;
            self.ledger.set(key, base);
        }
        Ok(())
    }

    /// Ends the observation of an interface. Its final counters (`own` where they are known) are
    /// reported by the next [`report_ended`](Self::report_ended), its connections by the next pass.
    ///
    /// # Errors
    /// When the kernel half cannot; then it is observed as before.
    pub(crate) fn end(
        &mut self,
        kernel: &mut dyn Kernel,
        ifindex: u32,
        own: Option<LinkStats>,
    ) -> Result<(), Failure> {
        let attached = kernel.attached().into_iter().find(|a| a.ifindex == ifindex);
        if let Some(attached) = attached {
            kernel.detach(ifindex)?;
            self.ended.push((attached, own));
        }
        Ok(())
    }

    /// Gives the final counters of interfaces that ended, now that nothing adds to them.
    pub(crate) fn ended_with(&mut self, links: &[Link]) {
        for (attached, own) in &mut self.ended {
            let link = links.iter().find(|link| link.index == attached.ifindex);
            *own = own.or(link.map(|link| link.stats));
        }
    }

    /// Reports the final counters of interfaces that ended, and forgets them.
    ///
    /// # Errors
    /// When they could not be committed; then the next call does it.
    pub(crate) fn report_ended(
        &mut self,
        kernel: &mut dyn Kernel,
        now: i64,
    ) -> Result<(), Failure> {
        if self.ended.is_empty() {
            return Ok(());
        }
        self.commit(kernel, now)?;
        for (attached, own) in self.ended.clone() {
            let own = match own {
                Some(own) => Some(self.last_stats(kernel, attached.ifindex, own)?),
                None => None,
            };
            self.interface(kernel, &attached, own, now)?;
        }
        self.commit(kernel, now)?;
        for (attached, _) in std::mem::take(&mut self.ended) {
            self.forget_interface(kernel, attached.ifindex)?;
        }
        Ok(())
    }

    /// An interface's last counters. A veth counts what it receives at its peer, and has forgotten
    /// that when it is deleted: then it received what the ingress hook saw, and if that is not
    /// known (an agent before this one attached it) what it had when it was last asked.
    fn last_stats(
        &self,
        kernel: &dyn Kernel,
        ifindex: u32,
        own: LinkStats,
    ) -> Result<LinkStats, Failure> {
        let Some(was) = self.ledger.get(&ledger::iface(ifindex, OWN)) else { return Ok(own) };
        let mut last = own;
        if own.rx_packets < was[0] || own.rx_bytes < was[1] {
            let seen = self.seen.get(&ifindex).copied().unwrap_or_default();
            let mut received = (seen.packets, seen.bytes);
            for count in &kernel.interface(ifindex)?[INGRESS as usize].causes {
                received = (received.0 + count.packets, received.1 + count.bytes);
            }
            last.rx_packets = was[0].max(received.0);
            last.rx_bytes = was[1].max(received.1);
        }
        last.tx_packets = last.tx_packets.max(was[2]);
        last.tx_bytes = last.tx_bytes.max(was[3]);
        last.rx_dropped = last.rx_dropped.max(was[4]);
        last.tx_dropped = last.tx_dropped.max(was[5]);
        Ok(last)
    }

    /// Adds what a connection's report brings to what its interface's ingress hook saw.
    pub(super) fn note_seen(
        seen: &mut HashMap<u32, Seen>,
        key: &ConnKey,
        was: &[u64; TOTALS],
        now: &[u64; TOTALS],
    ) {
        let Some(seen) = seen.get_mut(&key.ifindex()) else { return };
        let enters = if key.path() == PATH_LOW_INGRESS { LOW_TO_HIGH } else { HIGH_TO_LOW };
        let at = enters * PER_DIRECTION;
        let packets = now[at] - was[at];
        seen.packets += packets;
        seen.bytes += now[at + 1] - was[at + 1] + packets * u64::from(seen.header);
    }

    /// Ends what an agent before this one left of interfaces that are not observed any more; their
    /// names are not known.
    ///
    /// # Errors
    /// See [`report_ended`](Self::report_ended).
    pub(crate) fn end_unattached(
        &mut self,
        kernel: &mut dyn Kernel,
        now: i64,
    ) -> Result<(), Failure> {
        let attached = kernel.attached();
        let of_unattached = |key: &&ReportedKey| {
            key.kind == KIND_IFACE && attached.iter().all(|a| a.ifindex != key.link)
        };
        let stale: BTreeSet<u32> =
            self.ledger.keys().filter(of_unattached).map(|key| key.link).collect();
        for ifindex in stale {
            let attached = Attached { ifindex, name: String::new(), by: "", link_header: 0 };
            self.ended.push((attached, None));
        }
        self.report_ended(kernel, now)
    }

    fn forget_interface(&mut self, kernel: &mut dyn Kernel, ifindex: u32) -> Result<(), Failure> {
        let keys = counters::keys(ifindex);
        // Counters first: what was reported of them must be known as long as they are there.
        kernel.forget(ifindex)?;
        kernel.remove_reported(&keys)?;
        for key in &keys {
            self.ledger.remove(key);
        }
        self.seen.remove(&ifindex);
        Ok(())
    }
}

/// What an interface had counted when its hooks began to see: where nothing passed meanwhile, what
/// it had before; else what it has less what the hooks saw, read while nothing passes.
fn base(
    kernel: &dyn Kernel,
    attached: &Attached,
    before: LinkStats,
    stats: &mut dyn FnMut() -> io::Result<Option<LinkStats>>,
) -> Result<LinkStats, Failure> {
    let mut base = before;
    let mut last = stats()?.unwrap_or(before);
    for _ in 0..TRIES {
        if last == before {
            return Ok(before);
        }
        let [rx, tx] = hooks_saw(kernel, attached)?;
        base = LinkStats {
            rx_packets: last.rx_packets.saturating_sub(rx.packets),
            rx_bytes: last.rx_bytes.saturating_sub(rx.bytes),
            tx_packets: last.tx_packets.saturating_sub(tx.packets),
            tx_bytes: last.tx_bytes.saturating_sub(tx.bytes),
            ..last
        };
        let now = stats()?.unwrap_or(last);
        if now == last {
            break;
        }
        last = now;
    }
    Ok(base)
}

/// Frames and bytes that an interface's two hooks have seen.
fn hooks_saw(kernel: &dyn Kernel, attached: &Attached) -> Result<[Count; 2], Failure> {
    let mut saw = [Count { packets: 0, bytes: 0 }; 2];
    for (saw, hook) in saw.iter_mut().zip(&kernel.interface(attached.ifindex)?) {
        for count in &hook.causes {
            saw.packets += count.packets;
            saw.bytes += count.bytes;
        }
    }
    kernel.walk(&mut |key, value| {
        if key.ifindex() != attached.ifindex {
            return;
        }
        for (direction, hot) in value.dirs.iter().enumerate() {
            // Low to high enters on the one path, leaves on the other.
            let saw = &mut saw[(direction ^ key.path() as usize) & 1];
            saw.packets += hot.packets;
            saw.bytes += hot.bytes + hot.packets * u64::from(attached.link_header);
        }
    })?;
    Ok(saw)
}
