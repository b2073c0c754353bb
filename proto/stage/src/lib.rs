//! How a stage hands on to the next.
//!
//! A queue between two parts is made here or not at all: it has a name, a capacity, and counters
//! of what went in, out, and was lost, by cause. So the balance
//! `in = out + lost + held` can be asked of every one of them, in metrics and in tests.

#![forbid(unsafe_code)]

mod queue;
mod stop;

pub use queue::{Ledger, Receiver, Registry, Sender, Snapshot, StageMetrics, queue};
pub use stop::StopToken;
