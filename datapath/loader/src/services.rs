//! The service tables, typed. What each holds and in which order they are to be written:
//! [`datapath_abi::service`].
//!
//! All of them are pinned, so services go on when the process ends; the next one reads by
//! [`ServiceTables::snapshot`] what is there, and writes what is different.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::policy::Prefix;
use datapath_abi::retire::Record;
use datapath_abi::service::{
    self, Affinity, AffinityKey, Asked, Backend, Frontend, FrontendKey, LocalKey, NAT_DSR,
    NAT_NONE, ReplyKey, Served, ServiceCounters, ServiceSettings, SourceRange, Translation,
};
use zerocopy::FromZeros;

use crate::error::Doing;
use crate::pins::Pins;
use crate::sys::{self, map};
use crate::table::{put, read, read_array, read_slowly, remove, write};
use crate::{Connections, Error, counters};

/// Room in the service tables: numbers of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceSizes {
    /// Addresses with a port that clients use, some 100 bytes each.
    pub frontends: u32,
    /// Slots, 4 bytes each: one for each backend and scope, or a Maglev table.
    pub slots: u32,
    /// Backends, 24 bytes each.
    pub backends: u32,
    /// Prefixes of clients; they take memory as they come.
    pub source_ranges: u32,
    /// Clients with a backend of their own, some 100 bytes each.
    pub clients: u32,
    /// Interfaces.
    pub interfaces: u32,
    /// Names of this node's backends for other nodes, some 80 bytes each.
    pub locals: u32,
    /// Prefixes that masquerading knows: one for each pod and node of the cluster. They take memory as they come, some
    /// 100 bytes each.
    pub prefixes: u32,
    /// Translated connections, some 120 bytes each.
    pub translations: u32,
}

/// The service tables. Cheap to clone; usable from any thread.
#[derive(Debug, Clone)]
pub struct ServiceTables(Arc<Tables>);

#[derive(Debug)]
struct Tables {
    frontends: OwnedFd,
    slots: OwnedFd,
    backends: OwnedFd,
    source_ranges: OwnedFd,
    affinity: OwnedFd,
    served: OwnedFd,
    locals: OwnedFd,
    prefixes: OwnedFd,
    settings: OwnedFd,
    translations: OwnedFd,
    counters: OwnedFd,
    asked: OwnedFd,
    replies: OwnedFd,
    cpus: u32,
    connections: Connections,
}

/// What user space has written.
#[derive(Debug, Clone, Default)]
pub struct ServiceSnapshot {
    /// By address, port and protocol.
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// By index, all of them.
    pub slots: Vec<u32>,
    /// By index, all of them.
    pub backends: Vec<Backend>,
    /// Prefixes of clients.
    pub source_ranges: Vec<SourceRange>,
    /// By interface.
    pub served: Vec<(u32, Served)>,
    /// Backends of this node, as other nodes name them.
    pub locals: Vec<(LocalKey, u32)>,
    /// Prefixes with what masquerading makes of them.
    pub prefixes: Vec<(Prefix, u32)>,
    /// What holds for all.
    pub settings: Option<ServiceSettings>,
}

// === impl ServiceSizes ===

impl ServiceSizes {
    /// For ten thousand services and more: 50 MB in advance.
    pub const USUAL: Self = Self {
        frontends: 1 << 16,
        slots: 1 << 20,
        backends: 1 << 17,
        source_ranges: 1 << 16,
        clients: 1 << 16,
        interfaces: 4096,
        locals: 1 << 16,
        prefixes: 1 << 17,
        translations: 1 << 18,
    };

    /// For a datapath that serves nothing.
    pub(crate) const NONE: Self = Self {
        frontends: 1,
        slots: 1,
        backends: 1,
        source_ranges: 1,
        clients: 1,
        interfaces: 1,
        locals: 1,
        prefixes: 1,
        translations: 1,
    };
}

// === impl ServiceTables ===

impl ServiceTables {
    pub(crate) fn open(pins: &Pins, cpus: u32, connections: Connections) -> Result<Self, Error> {
        let open = |name: &str| {
            let path = pins.map(name);
            sys::open_pin(&path).doing(|| format!("opening {}", path.display()))
        };
        Ok(Self(Arc::new(Tables {
            frontends: open(service::FRONTENDS)?,
            slots: open(service::SLOTS)?,
            backends: open(service::BACKENDS)?,
            source_ranges: open(service::SOURCE_RANGES)?,
            affinity: open(service::AFFINITY)?,
            served: open(service::SERVED)?,
            locals: open(service::LOCALS)?,
            prefixes: open(service::PREFIXES)?,
            settings: open(service::SETTINGS)?,
            translations: open(service::TRANSLATIONS)?,
            counters: open(service::COUNTERS)?,
            asked: open(service::ASKED)?,
            replies: open(service::SOCKET_REPLIES)?,
            cpus,
            connections,
        })))
    }

    /// Writes frontends, each as a whole: the last step of a change.
    pub fn put_frontends(&self, entries: &[(FrontendKey, Frontend)]) -> Result<(), Error> {
        self.renewed(put(self.0.frontends.as_fd(), entries, service::FRONTENDS))
    }

    /// Removes frontends.
    pub fn remove_frontends(&self, keys: &[FrontendKey]) -> Result<(), Error> {
        self.renewed(remove(self.0.frontends.as_fd(), keys, service::FRONTENDS))
    }

    /// Writes slots from an index on.
    pub fn write_slots(&self, start: u32, values: &[u32]) -> Result<(), Error> {
        write(self.0.slots.as_fd(), start, values, service::SLOTS)
    }

    /// Writes backends, each by its index.
    pub fn put_backends(&self, entries: &[(u32, Backend)]) -> Result<(), Error> {
        self.renewed(put(self.0.backends.as_fd(), entries, service::BACKENDS))
    }

    /// Writes prefixes of clients.
    pub fn put_source_ranges(&self, entries: &[SourceRange]) -> Result<(), Error> {
        let entries: Vec<_> = entries.iter().map(|range| (*range, 1u32)).collect();
        self.renewed(put(self.0.source_ranges.as_fd(), &entries, service::SOURCE_RANGES))
    }

    /// Removes prefixes of clients.
    pub fn remove_source_ranges(&self, keys: &[SourceRange]) -> Result<(), Error> {
        self.renewed(remove(self.0.source_ranges.as_fd(), keys, service::SOURCE_RANGES))
    }

    /// Says what is done at interfaces.
    pub fn put_served(&self, entries: &[(u32, Served)]) -> Result<(), Error> {
        self.renewed(put(self.0.served.as_fd(), entries, service::SERVED))
    }

    /// Stops translating at interfaces; what is being translated there stays so.
    pub fn remove_served(&self, keys: &[u32]) -> Result<(), Error> {
        self.renewed(remove(self.0.served.as_fd(), keys, service::SERVED))
    }

    /// After a change that ways of the flow cache follow from.
    fn renewed(&self, written: Result<(), Error>) -> Result<(), Error> {
        written.and_then(|()| self.0.connections.cache().renew())
    }

    /// What is done at interfaces.
    pub fn served(&self) -> Result<Vec<(u32, Served)>, Error> {
        read(self.0.served.as_fd(), 0, service::SERVED)
    }

    /// Names backends of this node for other nodes.
    pub fn put_locals(&self, entries: &[(LocalKey, u32)]) -> Result<(), Error> {
        put(self.0.locals.as_fd(), entries, service::LOCALS)
    }

    /// Removes such names.
    pub fn remove_locals(&self, keys: &[LocalKey]) -> Result<(), Error> {
        remove(self.0.locals.as_fd(), keys, service::LOCALS)
    }

    /// Says which sources are masqueraded, and to which destinations they are not; see
    /// [`service::PREFIXES`].
    pub fn put_prefixes(&self, entries: &[(Prefix, u32)]) -> Result<(), Error> {
        put(self.0.prefixes.as_fd(), entries, service::PREFIXES)
    }

    /// Removes such prefixes.
    pub fn remove_prefixes(&self, keys: &[Prefix]) -> Result<(), Error> {
        remove(self.0.prefixes.as_fd(), keys, service::PREFIXES)
    }

    /// What holds for all services.
    pub fn settings(&self) -> Result<ServiceSettings, Error> {
        let mut settings = ServiceSettings::new_zeroed();
        map::lookup(self.0.settings.as_fd(), &0u32, &mut settings)
            .doing(|| "reading service_settings")?;
        Ok(settings)
    }

    /// Sets what holds for all services.
    pub fn set_settings(&self, settings: ServiceSettings) -> Result<(), Error> {
        map::update(self.0.settings.as_fd(), &0u32, &settings, map::ANY)
            .doing(|| "writing service_settings")
    }

    /// Waits for an RCU grace period: packets that were on their way when it was called have been sent by
    /// then, and places that frontends referred to can be used again.
    pub fn barrier(&self) -> Result<(), Error> {
        self.0.connections.barrier()
    }

    /// Reads what was written, as it is: for whom takes over from another process.
    pub fn snapshot(&self) -> Result<ServiceSnapshot, Error> {
        let tables = &*self.0;
        let key = FrontendKey::new_zeroed();
        let ranges: Vec<(SourceRange, u32)> =
            read_slowly(tables.source_ranges.as_fd(), service::SOURCE_RANGES)?;
        Ok(ServiceSnapshot {
            frontends: read(tables.frontends.as_fd(), key, service::FRONTENDS)?,
            slots: read_array(tables.slots.as_fd(), service::SLOTS)?,
            backends: read_array(tables.backends.as_fd(), service::BACKENDS)?,
            source_ranges: ranges.into_iter().map(|(range, _)| range).collect(),
            served: self.served()?,
            locals: read(tables.locals.as_fd(), LocalKey::new_zeroed(), service::LOCALS)?,
            prefixes: read_slowly(tables.prefixes.as_fd(), service::PREFIXES)?,
            settings: Some(self.settings()?),
        })
    }

    /// Shows every translation to `on`, by its stack side.
    pub fn translations(&self, on: &mut dyn FnMut(&ConnKey, &Translation)) -> Result<(), Error> {
        let zero = (Record::ZERO.key, Translation::new_zeroed());
        map::walk(self.0.translations.as_fd(), zero, on).doing(|| "reading translations")
    }

    /// Removes translations.
    pub fn remove_translations(&self, keys: &[ConnKey]) -> Result<(), Error> {
        remove(self.0.translations.as_fd(), keys, service::TRANSLATIONS)
    }

    /// Removes the translations that belong to these connections of the connection table.
    pub fn forget(&self, connections: &[(ConnKey, ConnValue)]) -> Result<(), Error> {
        let translated =
            connections.iter().filter(|(_, value)| !matches!(value.nat, NAT_NONE | NAT_DSR));
        let keys: Vec<_> = translated.map(|(key, value)| value.stack_key(key)).collect();
        if keys.is_empty() { Ok(()) } else { self.remove_translations(&keys) }
    }

    /// Shows every client that has a backend of its own to `on`.
    pub fn affinity(&self, on: &mut dyn FnMut(&AffinityKey, &Affinity)) -> Result<(), Error> {
        let zero = (AffinityKey::new_zeroed(), Affinity::new_zeroed());
        map::walk(self.0.affinity.as_fd(), zero, on).doing(|| "reading affinity")
    }

    /// The connection table, whose entries lead to translations.
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// What did not go well, since the tables were made.
    pub fn counters(&self) -> Result<ServiceCounters, Error> {
        counters::services(self.0.counters.as_fd(), self.0.cpus)
            .doing(|| "reading service_counters")
    }

    /// What a socket asked for that was connected to this backend at once.
    pub fn asked(&self, key: &ReplyKey) -> Option<Asked> {
        let mut asked = Asked::new_zeroed();
        let found = map::lookup(self.0.replies.as_fd(), key, &mut asked);
        found.is_ok_and(|found| found).then_some(asked)
    }

    /// Whether the socket with this cookie was connected to a backend at once.
    pub fn has_asked(&self, cookie: u64) -> bool {
        let mut asked = Asked::new_zeroed();
        map::lookup(self.0.asked.as_fd(), &cookie, &mut asked).is_ok_and(|found| found)
    }
}
