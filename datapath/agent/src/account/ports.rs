//! Interfaces that come and go.

use std::collections::BTreeSet;

use datapath_abi::reported::{KIND_IFACE, ReportedKey};

use super::book::settled;
use super::counters::{self, own_totals};
use super::ledger::{self, OWN};
use super::{Accountant, Failure};
use crate::host::{Link, LinkStats};
use crate::kernel::{Attached, Kernel};

impl Accountant {
    /// Begins to observe an interface. Its own counters count from here; that is noted before the
    /// first packet can be seen, so that no crash makes them count from somewhere else.
    ///
    /// # Errors
    /// When the kernel half cannot; then nothing is different.
    pub(crate) fn attach(
        &mut self,
        kernel: &mut dyn Kernel,
        link: &Link,
    ) -> Result<Attached, Failure> {
        let key = ledger::iface(link.index, OWN);
        let base = own_totals(&link.stats);
        kernel.write_reported(&[(key, settled(base, 0, 0))])?;
        let attached = match kernel.attach(&link.name) {
            Ok(attached) => attached,
            Err(error) => {
                kernel.remove_reported(&[key])?;
                return Err(error.into());
            }
        };
        self.ledger.set(key, base);
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
            self.interface(kernel, &attached, own, now)?;
        }
        self.commit(kernel, now)?;
        for (attached, _) in std::mem::take(&mut self.ended) {
            self.forget_interface(kernel, attached.ifindex)?;
        }
        Ok(())
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
        Ok(())
    }
}
