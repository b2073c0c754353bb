//! Where and why something can be lost: the vocabulary of the table `losses`.

use crate::verdict::words;

words! {
    /// A stage between packet and answer.
    LossStage {
        /// The kernel's connection table.
        Table = "table",
        /// The ring (or perf) buffer between kernel and agent.
        Ring = "ring",
        /// A queue inside the agent.
        AgentQueue = "agent_queue",
        /// The agent's spool on disk.
        Spool = "spool",
        /// The stream between agent and relay.
        Network = "network",
        /// The relay's ingest.
        Relay = "relay",
        /// The relay's disk.
        Disk = "disk",
        /// A live tail that could not follow.
        Tail = "tail",
    }
}

words! {
    /// A cause of loss.
    LossCause {
        /// No room.
        Full = "full",
        /// The oldest was given up for something newer.
        Evicted = "evicted",
        /// It could not be decoded.
        Corrupt = "corrupt",
        /// An input or output error.
        Io = "io",
        /// The kernel had no memory.
        NoMemory = "no_memory",
        /// The kernel's table was locked.
        Busy = "busy",
        /// The entry was just being retired.
        Retiring = "retiring",
        /// The packet could not be parsed.
        Malformed = "malformed",
        /// A sequence number never came.
        Gap = "gap",
        /// Removed by retention before it was asked for.
        Retention = "retention",
    }
}
