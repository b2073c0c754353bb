//! What the agent says of itself when it is asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use wire::export::{Feature, Interface, MapUse, Stage, StatusResponse};

use crate::VERSION;

/// Shared by those who know and those who are asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status(Arc<Mutex<Report>>);

/// The answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) node: String,
    pub(crate) cluster: String,
    pub(crate) boot_id: String,
    pub(crate) mode: &'static str,
    pub(crate) kernel: String,
    /// Nanoseconds since the epoch.
    pub(crate) started_at: i64,
    pub(crate) features: Vec<crate::kernel::Feature>,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) maps: Vec<crate::kernel::MapUse>,
    pub(crate) addresses: Vec<String>,
    pub(crate) connections: u64,
    pub(crate) flows_per_second: f64,
    /// By what they are about, so that each goes when its cause does.
    pub(crate) warnings: BTreeMap<&'static str, Vec<String>>,
}

// === impl Status ===

impl Status {
    /// Changes the report.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Report) -> T) -> T {
        change(&mut self.0.lock())
    }

    /// Sets the warnings about one thing; none takes them back.
    pub(crate) fn warn(&self, about: &'static str, warnings: Vec<String>) {
        self.update(|report| {
            if warnings.is_empty() {
                report.warnings.remove(about);
            } else {
                report.warnings.insert(about, warnings);
            }
        });
    }

    /// The answer to a question for the status.
    pub(crate) fn response(&self, stages: &stage::Registry) -> StatusResponse {
        let report = self.0.lock().clone();
        let warnings = report.warnings.into_iter().flat_map(|(about, texts)| {
            texts.into_iter().map(move |text| format!("{about}: {text}"))
        });
        StatusResponse {
            node: report.node,
            cluster: report.cluster,
            boot_id: report.boot_id,
            version: VERSION.to_owned(),
            mode: report.mode.to_owned(),
            kernel: report.kernel,
            started_at: report.started_at,
            features: report
                .features
                .into_iter()
                .map(|feature| Feature { name: feature.name, on: feature.on, why: feature.why })
                .collect(),
            interfaces: report.interfaces,
            maps: report.maps.into_iter().map(map_use).collect(),
            stages: stages.snapshots().into_iter().map(stage_use).collect(),
            flows_per_second: report.flows_per_second,
            connections: report.connections,
            addresses: report.addresses,
            warnings: warnings.collect(),
        }
    }
}

fn map_use(map: crate::kernel::MapUse) -> MapUse {
    MapUse {
        name: map.name,
        kind: map.kind,
        entries: map.entries,
        capacity: map.capacity,
        key_bytes: map.key_bytes,
        value_bytes: map.value_bytes,
    }
}

fn stage_use(stage: stage::Snapshot) -> Stage {
    Stage {
        held: stage.held(),
        lost: stage.lost.iter().map(|(cause, count)| ((*cause).to_owned(), *count)).collect(),
        name: stage.name,
        capacity: stage.capacity,
        taken: stage.taken,
        handed: stage.handed,
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The kernel's release.
pub(crate) fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
