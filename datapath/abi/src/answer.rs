//! Answers to refused packets; which there are: `datapath_engine::answer`.

use crate::layout;

/// Map name: per-CPU array of one [`AnswerCounters`].
pub const MAP: &str = "answers";

/// `skb->mark` of an answer on its way from the hook that refused to the other hook of the same interface, which lets
/// it pass and clears it. It means nothing on a packet that does not look like an answer.
pub const MARK: u32 = 0x7765_6972;

layout! {
    /// Answers to packets that an interface's policy refused.
    pub struct AnswerCounters {
        /// Packets that were answered.
        pub sent: u64,
        /// Packets that were not, for the rate's sake.
        pub limited: u64,
        /// Packets that were not because the kernel could not rewrite them.
        pub failed: u64,
        /// When the next answer is due (`bpf_ktime_get_ns`); may lie in the past by what can be sent at once.
        pub next_ns: u64,
    } = 32
}
