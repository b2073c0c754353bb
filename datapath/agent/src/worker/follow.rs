//! Following what there is: interfaces, addresses, routes, and the cluster.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Worker;
use crate::account::Failure;
use crate::control::Snapshot;
use crate::enforce::cluster::placed_alike;
use crate::host::Link;
use crate::kernel::KernelError;
use crate::view::directory::Directory;
use crate::view::ports::Ports;

/// Shortest time between two looks: a pod that starts makes a dozen changes in a row.
pub(super) const PAUSE: Duration = Duration::from_millis(250);
/// Pause before an interface that refused is asked again.
const RETRY: Duration = Duration::from_secs(10);

impl Worker {
    pub(super) fn look_if_changed(&mut self, now: i64) -> Result<(), Failure> {
        let changes = self.host.changes()?;
        for link in &changes.removed {
            // Its last words hold its final counters.
            self.accountant.end(&mut *self.kernel, link.index, Some(link.stats))?;
        }
        let control = self.control.has_changed().unwrap_or(false);
        let again = self.following.refused.iter().any(|(.., when)| *when <= Instant::now());
        if changes.any || control || again || !self.following.looked {
            // Set when the look is complete: one that fails is made again.
            let host = changes.any || again || !self.following.looked;
            self.following.looked = false;
            self.look(now, host)?;
        }
        Ok(())
    }

    /// Looks at everything; at the host only where it, or what there is to find on it, has changed.
    pub(super) fn look(&mut self, now: i64, host: bool) -> Result<(), Failure> {
        let snapshot = Arc::clone(&self.control.borrow_and_update());
        if !host && placed_alike(&self.following.snapshot, &snapshot) {
            let node = self.config.node.clone();
            let local = self.view().directory.local().to_vec();
            self.view().directory = Directory::new(&snapshot, &node, local);
            return self.looked(snapshot, now);
        }
        let links = self.host.links()?;
        self.attach_and_end(&links)?;
        let local = local_addresses(self.host.addresses()?);
        let node = self.config.node.clone();
        let directory = Directory::new(&snapshot, &node, local);
        let before = std::mem::take(&mut self.view().ports);
        let ports = Ports::new(before, &links, &snapshot, &directory, &node, &mut *self.host);
        (self.view().directory, self.view().ports) = (directory, ports);
        self.following.links = links;
        self.looked(snapshot, now)
    }

    fn looked(&mut self, snapshot: Arc<Snapshot>, now: i64) -> Result<(), Failure> {
        let identities = self.compiled.identities();
        self.view().directory.identify(&identities);
        self.following.snapshot = snapshot;
        self.write_dimensions(now);
        self.tell();
        self.following.looked = true;
        Ok(())
    }

    /// Attaches to interfaces that are wanted, and ends those that are gone.
    fn attach_and_end(&mut self, links: &[Link]) -> Result<(), Failure> {
        let attached = self.kernel.attached();
        for old in &attached {
            match links.iter().find(|link| link.index == old.ifindex) {
                Some(link) if self.config.interfaces.includes(&link.name) => {
                    self.accountant.adopt(&*self.kernel, link)?;
                }
                // Left by an agent that was set up otherwise, or gone without a word.
                link => {
                    let last = link.map(|link| link.stats);
                    self.accountant.end(&mut *self.kernel, old.ifindex, last)?;
                }
            }
        }
        let now = Instant::now();
        self.following
            .refused
            .retain(|(name, _, when)| *when > now && links.iter().any(|link| link.name == *name));
        for link in links.iter().filter(|link| link.up && link.observable()) {
            let wanted = self.config.interfaces.includes(&link.name)
                && attached.iter().all(|attached| attached.ifindex != link.index)
                && self.following.refused.iter().all(|(name, ..)| *name != link.name);
            if !wanted {
                continue;
            }
            let host = &mut self.host;
            let mut stats = || host.stats(link.index);
            match self.accountant.attach(&mut *self.kernel, link, &mut stats) {
                Ok(attached) => {
                    tracing::info!(interface = attached.name, by = attached.by, "observed");
                }
                Err(Failure::Kernel(KernelError { why, .. })) => {
                    tracing::warn!(interface = link.name, why, "not observed");
                    self.following.refused.push((link.name.clone(), why, now + RETRY));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn write_dimensions(&mut self, now: i64) {
        let node = self.this_node();
        let following = &mut self.following;
        let rows =
            following.dimensions.update(&following.snapshot, &self.accountant.view, node, now);
        self.accountant.dimensions(rows);
    }

    fn tell(&mut self) {
        let problems = &self.following.snapshot.problems;
        self.metrics.manifest_errors.set(problems.len() as i64);
        self.status.warn("manifests", problems.iter().map(ToString::to_string).collect());
        let refused = self.following.refused.iter();
        let refused = refused.map(|(name, why, _)| format!("{name} is not observed: {why}"));
        self.status.warn("interfaces", refused.collect());
        if let Err(error) = self.kernel.accelerate() {
            tracing::warn!(%error, "XDP");
        }
        let features = self.kernel.features();
        let interfaces = self.interfaces();
        let addresses = self.accountant.view.directory.local();
        let addresses = addresses.iter().map(IpAddr::to_string).collect();
        self.status.update(|report| {
            report.features = features;
            report.addresses = addresses;
            report.interfaces = interfaces;
        });
    }
}

/// The host's addresses, without those that mean it anyway or nothing beyond their link.
fn local_addresses(all: Vec<(u32, IpAddr)>) -> Vec<IpAddr> {
    let mut local: Vec<_> =
        all.into_iter().map(|(_, ip)| ip).filter(|ip| !ip.is_loopback()).collect();
    local.sort_unstable();
    local.dedup();
    local
}
