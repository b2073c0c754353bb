//! The policy tables, typed. What each holds and in which order they are to be written:
//! [`datapath_abi::policy`].
//!
//! All of them are pinned: with the links that are pinned too, verdicts stay when the process ends, and
//! the next one reads by [`PolicyTables::snapshot`] what is enforced.
//!
//! An interface without a [`Subject`] is not enforced, and neither is anything before the first one is
//! written: so a node that starts lets pass until its agent has spoken, and an agent that dies changes
//! nothing. Once there is a subject, tables that lack what they refer to refuse.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use datapath_abi::policy::{
    self, Class, DeniedCounter, DeniedKey, Interval, Origin, Peer, Policy, Prefix, Rule, SELECTORS,
    Settings, Subject,
};
use datapath_abi::retire::{DENIED_ZERO, MAX_RECORDS, OFFSET};
use zerocopy::{FromZeros, IntoBytes};

use crate::error::Doing;
use crate::pins::Pins;
use crate::sys::{self, map, run};
use crate::table::{put, read, read_array, read_slowly, remove, write};
use crate::{Connections, Error};

use classes::Classes;

mod classes;

/// Room in the policy tables: numbers of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicySizes {
    /// Interfaces.
    pub subjects: u32,
    /// Policies, one for each set of endpoints that have the same; 240 bytes each.
    pub policies: u32,
    /// Intervals of ports, 16 bytes each.
    pub intervals: u32,
    /// Rules, 8 bytes each.
    pub rules: u32,
    /// Classes, 512 bytes each.
    pub classes: u32,
    /// Single addresses, some 72 bytes each.
    pub hosts: u32,
    /// Prefixes; they take memory as they come.
    pub cidrs: u32,
    /// Refusals that are told apart, some 150 bytes each.
    pub denied: u32,
    /// Origins, some 400 bytes each; they take memory as they come.
    pub origins: u32,
}

/// The policy tables. Cheap to clone; usable from any thread.
#[derive(Debug, Clone)]
pub struct PolicyTables(Arc<Tables>);

#[derive(Debug)]
struct Tables {
    subjects: OwnedFd,
    policies: OwnedFd,
    intervals: OwnedFd,
    rules: OwnedFd,
    classes: Classes,
    hosts: OwnedFd,
    cidrs: OwnedFd,
    settings: OwnedFd,
    denied: OwnedFd,
    origins: OwnedFd,
    retire: OwnedFd,
    connections: Connections,
}

/// All that is in the policy tables but for what was refused.
#[derive(Debug, Clone, Default)]
pub struct PolicySnapshot {
    /// By interface.
    pub subjects: Vec<(u32, Subject)>,
    /// By policy number.
    pub policies: Vec<(u32, Policy)>,
    /// By index, all of them.
    pub intervals: Vec<Interval>,
    /// By index, all of them.
    pub rules: Vec<Rule>,
    /// By index, all of them.
    pub classes: Vec<Class>,
    /// By address.
    pub hosts: Vec<([u8; 16], Peer)>,
    /// By prefix.
    pub cidrs: Vec<(Prefix, Peer)>,
    /// By number.
    pub origins: Vec<(u32, Origin)>,
    /// Revision and flags.
    pub settings: Option<Settings>,
}

// === impl PolicySizes ===

impl PolicySizes {
    /// For a node of some hundred endpoints: 30 MB in advance.
    pub const USUAL: Self = Self {
        subjects: 4096,
        policies: 4096,
        intervals: 1 << 18,
        rules: 1 << 19,
        classes: 1 << 14,
        hosts: 1 << 17,
        cidrs: 1 << 17,
        denied: 1 << 14,
        origins: 1 << 16,
    };

    /// For a datapath that only observes: nothing to speak of.
    pub(crate) const NONE: Self = Self {
        subjects: 1,
        policies: 1,
        intervals: 1,
        rules: 1,
        classes: 1,
        hosts: 1,
        cidrs: 1,
        denied: 1,
        origins: 1,
    };
}

// === impl PolicyTables ===

impl PolicyTables {
    pub(crate) fn open(
        pins: &Pins,
        retire: OwnedFd,
        connections: Connections,
    ) -> Result<Self, Error> {
        let open = |name: &str| {
            let path = pins.map(name);
            sys::open_pin(&path).doing(|| format!("opening {}", path.display()))
        };
        let classes = Classes::map(open(policy::CLASSES)?).doing(|| "mapping policy_classes")?;
        Ok(Self(Arc::new(Tables {
            subjects: open(policy::SUBJECTS)?,
            policies: open(policy::POLICIES)?,
            intervals: open(policy::INTERVALS)?,
            rules: open(policy::RULES)?,
            classes,
            hosts: open(policy::HOSTS)?,
            cidrs: open(policy::CIDRS)?,
            settings: open(policy::SETTINGS)?,
            denied: open(policy::DENIED)?,
            origins: open(policy::ORIGINS)?,
            retire,
            connections,
        })))
    }

    /// Says what is enforced on interfaces.
    pub fn put_subjects(&self, entries: &[(u32, Subject)]) -> Result<(), Error> {
        put(self.0.subjects.as_fd(), entries, policy::SUBJECTS)?;
        self.0.connections.cache().renew()
    }

    /// Stops enforcing on interfaces.
    pub fn remove_subjects(&self, keys: &[u32]) -> Result<(), Error> {
        remove(self.0.subjects.as_fd(), keys, policy::SUBJECTS)?;
        self.0.connections.cache().renew()
    }

    /// Replaces policies, each as a whole.
    pub fn put_policies(&self, entries: &[(u32, Policy)]) -> Result<(), Error> {
        put(self.0.policies.as_fd(), entries, policy::POLICIES)
    }

    /// Removes policies that no subject refers to any more.
    pub fn remove_policies(&self, keys: &[u32]) -> Result<(), Error> {
        remove(self.0.policies.as_fd(), keys, policy::POLICIES)
    }

    /// Writes intervals from an index on.
    pub fn write_intervals(&self, start: u32, values: &[Interval]) -> Result<(), Error> {
        write(self.0.intervals.as_fd(), start, values, policy::INTERVALS)
    }

    /// Writes rules from an index on.
    pub fn write_rules(&self, start: u32, values: &[Rule]) -> Result<(), Error> {
        write(self.0.rules.as_fd(), start, values, policy::RULES)
    }

    /// Writes a class, word by word; false where there is no such class.
    pub fn write_class(&self, class: u32, value: &Class) -> bool {
        self.0.classes.write(class, value)
    }

    /// Writes one word of a class, at once and with no system call; false where there is no such word.
    pub fn write_word(&self, class: u32, word: u32, bits: u64) -> bool {
        self.0.classes.write_word(class, word, bits)
    }

    /// Sets or clears one selector of a class, at once and with no system call; false where there is no such
    /// class or selector.
    pub fn set_selector(&self, class: u32, selector: u32, on: bool) -> bool {
        self.0.classes.set(class, selector, on)
    }

    /// Writes addresses.
    pub fn put_hosts(&self, entries: &[([u8; 16], Peer)]) -> Result<(), Error> {
        put(self.0.hosts.as_fd(), entries, policy::HOSTS)
    }

    /// Removes addresses.
    pub fn remove_hosts(&self, keys: &[[u8; 16]]) -> Result<(), Error> {
        remove(self.0.hosts.as_fd(), keys, policy::HOSTS)
    }

    /// Writes prefixes.
    pub fn put_cidrs(&self, entries: &[(Prefix, Peer)]) -> Result<(), Error> {
        put(self.0.cidrs.as_fd(), entries, policy::CIDRS)
    }

    /// Removes prefixes.
    pub fn remove_cidrs(&self, keys: &[Prefix]) -> Result<(), Error> {
        remove(self.0.cidrs.as_fd(), keys, policy::CIDRS)
    }

    /// Writes origins.
    pub fn put_origins(&self, entries: &[(u32, Origin)]) -> Result<(), Error> {
        put(self.0.origins.as_fd(), entries, policy::ORIGINS)
    }

    /// An origin.
    pub fn origin(&self, number: u32) -> Result<Option<Origin>, Error> {
        let mut origin = Origin::new_zeroed();
        let found = map::lookup(self.0.origins.as_fd(), &number, &mut origin)
            .doing(|| "reading policy_origins")?;
        Ok(found.then_some(origin))
    }

    /// Removes origins.
    pub fn remove_origins(&self, keys: &[u32]) -> Result<(), Error> {
        remove(self.0.origins.as_fd(), keys, policy::ORIGINS)
    }

    /// Revision and flags.
    pub fn settings(&self) -> Result<Settings, Error> {
        let mut settings = Settings::new_zeroed();
        map::lookup(self.0.settings.as_fd(), &0u32, &mut settings)
            .doing(|| "reading policy_settings")?;
        Ok(settings)
    }

    /// Sets revision and flags: the last step of a change. From the next packet on, connections are
    /// judged again.
    pub fn set_settings(&self, settings: Settings) -> Result<(), Error> {
        map::update(self.0.settings.as_fd(), &0u32, &settings, map::ANY)
            .doing(|| "writing policy_settings")
    }

    /// Waits for an RCU grace period, some 10 to 50 ms: packets that were on their way when it was called
    /// have been judged by then, and what they might have referred to can be used again.
    pub fn barrier(&self) -> Result<(), Error> {
        self.0.connections.barrier()
    }

    /// Shows what was refused to `on`.
    pub fn denied(&self, on: &mut dyn FnMut(&DeniedKey, &DeniedCounter)) -> Result<(), Error> {
        let zero = (DENIED_ZERO, DeniedCounter::new_zeroed());
        map::walk(self.0.denied.as_fd(), zero, on).doing(|| "reading what was refused")
    }

    /// Ends the counting of these refusals, and returns their final values. After this, their packets count as
    /// unattributed (cause denied_full) until [`PolicyTables::remove_denied`]. Waits as
    /// [`PolicyTables::barrier`] does.
    pub fn retire_denied(
        &self,
        keys: &[DeniedKey],
    ) -> Result<Vec<(DeniedKey, DeniedCounter)>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        for chunk in keys.chunks(MAX_RECORDS as usize) {
            let mut packet = vec![0; OFFSET as usize];
            packet.extend_from_slice(chunk.as_bytes());
            run::run(self.0.retire.as_fd(), &packet, &mut [], 1)
                .doing(|| "marking refusals as retired")?;
        }
        self.barrier()?;
        let mut retired = Vec::with_capacity(keys.len());
        for key in keys {
            let mut value = DeniedCounter::new_zeroed();
            if map::lookup(self.0.denied.as_fd(), key, &mut value)
                .doing(|| "reading what was refused")?
            {
                retired.push((*key, value));
            }
        }
        Ok(retired)
    }

    /// Removes refusals; what they held is gone, so only after they were retired and reported.
    pub fn remove_denied(&self, keys: &[DeniedKey]) -> Result<(), Error> {
        remove(self.0.denied.as_fd(), keys, policy::DENIED)
    }

    /// Reads all tables, as they are: for whom takes over from another process.
    pub fn snapshot(&self) -> Result<PolicySnapshot, Error> {
        let tables = &*self.0;
        let zero = [0; 16];
        Ok(PolicySnapshot {
            subjects: read(tables.subjects.as_fd(), 0, policy::SUBJECTS)?,
            policies: read(tables.policies.as_fd(), 0, policy::POLICIES)?,
            intervals: read_array(tables.intervals.as_fd(), policy::INTERVALS)?,
            rules: read_array(tables.rules.as_fd(), policy::RULES)?,
            classes: tables.classes.read(),
            hosts: read(tables.hosts.as_fd(), zero, policy::HOSTS)?,
            cidrs: read_slowly(tables.cidrs.as_fd(), policy::CIDRS)?,
            origins: read(tables.origins.as_fd(), 0, policy::ORIGINS)?,
            settings: Some(self.settings()?),
        })
    }
}

const _: () = assert!(SELECTORS.is_multiple_of(64));
