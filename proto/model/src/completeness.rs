//! How complete an answer is.

/// What is known to be missing from the rows that an answer covers. Times in nanoseconds since the
/// epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completeness {
    /// Start of the covered range; `None` for "from the beginning".
    pub from: Option<i64>,
    /// End of the covered range; `None` for "until now".
    pub until: Option<i64>,
    /// Nodes that should have reported in the range.
    pub nodes_expected: u32,
    /// Nodes that did.
    pub nodes_reporting: u32,
    /// Events that are known to be lost. Events are news; their loss delays, it does not miscount.
    pub lost_events: u64,
    /// Rows of flows that are known to be lost.
    pub lost_flows: u64,
    /// Bytes that passed an interface and could not be attributed to a connection.
    pub unattributed_bytes: u64,
    /// How far the slowest node lags behind, milliseconds.
    pub late_ms: u64,
    /// Nothing is missing: every expected node reported and no flow or byte was lost.
    pub complete: bool,
    /// The losses, by stage and cause.
    pub causes: Vec<CompletenessCause>,
}

/// Losses of one stage and cause at one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompletenessCause {
    /// Where, a [`LossStage`](crate::LossStage) name.
    pub stage: String,
    /// Why, a [`LossCause`](crate::LossCause) name.
    pub cause: String,
    /// On which node.
    pub node: String,
    /// Events lost.
    pub events: u64,
    /// Rows lost.
    pub flows: u64,
    /// Bytes concerned.
    pub bytes: u64,
}
