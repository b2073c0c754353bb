//! The node agent: reads what the datapath counted and reports every byte of it exactly once.
//!
//! ```text
//! rings ──▶ events ──▶ account ──▶ spool ──▶ export ──▶ relay
//! maps  ─────────────▶    ▲
//!            control, host, names, process (what rows say beside the counters)
//! ```
//!
//! Start at [`account`](self): the protocol by which nothing is reported twice or never stands
//! there. [`run()`] puts the parts together. What this crate does not know: SQL, HTTP, and how the
//! eBPF programs work (`datapath-loader` is behind the trait in `kernel`).

#![forbid(unsafe_code)]

mod account;
mod boot;
mod config;
pub mod control;
mod dimensions;
mod drops;
pub mod enforce;
mod events;
mod export;
mod host;
mod kernel;
pub mod local;
mod metrics;
mod names;
mod process;
mod run;
pub mod services;
mod spool;
mod status;
mod view;
mod words;
mod worker;

pub use config::{Config, Interfaces, Mode, Timeouts, Transport};
pub use datapath_loader::{cleanup, default_pin_root};
pub use datapath_policy::{Cidr, DenyResponse, Enforcement, Failsafe};
pub use export::serve::ListenError;
pub use kernel::{Feature, KernelError};
pub use run::{Error, Ready, run};

/// Version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Parsers of bytes that come from the network, for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::names::dns::{Answer, parse as parse_dns};
}
