//! Loads, pins and attaches the eBPF programs, and gives typed access to their maps.
//!
//! [`Datapath`] is the whole of it. Maps and links are pinned, so counting goes on when the process
//! ends; the next one adopts them. aya parses, relocates and loads the object; what aya does not
//! offer (batches, test runs, inner maps, link updates) is in [`sys`].
//!
//! Everything here needs root or `CAP_BPF`, `CAP_NET_ADMIN`, `CAP_PERFMON` and, for opening inner
//! maps by id, `CAP_SYS_ADMIN`.

mod connections;
mod counters;
mod datapath;
mod error;
mod events;
mod features;
mod flow_cache;
mod hooks;
mod inventory;
mod kernel;
mod maps;
mod object;
mod options;
mod pins;
mod policy;
mod reported;
mod services;
mod sockets;
mod sys;
mod table;

#[doc(hidden)]
pub mod bench;

pub use connections::Connections;
pub use datapath::Datapath;
pub use error::Error;
pub use events::{Event, Events};
pub use features::Feature;
pub use flow_cache::{Acceleration, CacheCounters, FlowCache, XdpMode};
pub use hooks::{Attached, AttachedBy, Mode};
pub use inventory::{MapInfo, ProgramInfo};
pub use kernel::clock::Clock;
pub use options::{Options, SocketServices, Transport};
pub use pins::{cleanup, default_pin_root};
pub use policy::{PolicySizes, PolicySnapshot, PolicyTables};
pub use reported::ReportedMap;
pub use services::{ServiceSizes, ServiceSnapshot, ServiceTables};
pub use sockets::can_destroy_sockets;
