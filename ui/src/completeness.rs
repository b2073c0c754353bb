//! How complete an answer is, as JSON.

use model::{Completeness, CompletenessCause};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::time;

/// A header of answers that are no JSON.
pub(crate) const HEADER: &str = "weir-completeness";

/// The JSON of `docs/http-api.md`.
pub(crate) struct Report<'a>(pub(crate) &'a Completeness);

struct Cause<'a>(&'a CompletenessCause);

// === impl Report ===

impl Report<'_> {
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("plain fields always serialise")
    }
}

impl Serialize for Report<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let it = self.0;
        let causes: Vec<Cause<'_>> = it.causes.iter().map(Cause).collect();
        let mut out = serializer.serialize_struct("Completeness", 10)?;
        out.serialize_field("from", &it.from.map(time::format))?;
        out.serialize_field("until", &it.until.map(time::format))?;
        out.serialize_field("nodes_expected", &it.nodes_expected)?;
        out.serialize_field("nodes_reporting", &it.nodes_reporting)?;
        out.serialize_field("lost_events", &it.lost_events)?;
        out.serialize_field("lost_flows", &it.lost_flows)?;
        out.serialize_field("unattributed_bytes", &it.unattributed_bytes)?;
        out.serialize_field("late_ms", &it.late_ms)?;
        out.serialize_field("complete", &it.complete)?;
        out.serialize_field("causes", &causes)?;
        out.end()
    }
}

// === impl Cause ===

impl Serialize for Cause<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let it = self.0;
        let mut out = serializer.serialize_struct("Cause", 6)?;
        out.serialize_field("stage", &it.stage)?;
        out.serialize_field("cause", &it.cause)?;
        out.serialize_field("node", &(!it.node.is_empty()).then_some(&it.node))?;
        out.serialize_field("events", &it.events)?;
        out.serialize_field("flows", &it.flows)?;
        out.serialize_field("bytes", &it.bytes)?;
        out.end()
    }
}
