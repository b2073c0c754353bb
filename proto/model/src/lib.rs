//! The vocabulary of Weir. Plain types: no IO, no async, no wire format.

#![forbid(unsafe_code)]

mod completeness;
mod drop_help;
mod flow_id;
mod loss;
mod protocol;
mod verdict;

pub use completeness::{Completeness, CompletenessCause};
pub use drop_help::drop_help;
pub use flow_id::FlowId;
pub use loss::{LossCause, LossStage};
pub use protocol::Protocol;
pub use verdict::{Direction, DropReason, Reporter, Verdict};
