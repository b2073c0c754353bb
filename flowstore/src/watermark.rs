//! What was kept last of each node: the memory by which a redelivered batch is known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Boots of one node that are remembered. A node redelivers of its present boot and perhaps of the
/// one before; more only guards against a clock-work reboot loop.
const BOOTS: usize = 8;

/// The highest kept sequence of every (node, boot). Sequences of a boot arrive in order, so one
/// number says all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Watermarks(BTreeMap<String, Vec<Boot>>);

/// One boot of a node; the latest seen is the last of its list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Boot {
    boot_id: String,
    sequence: u64,
}

/// What a sequence number says about its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It was kept before.
    Duplicate,
    /// It is new; so many before it never came.
    New { missed: u64 },
}

/// How to take back one [`Watermarks::raise`].
#[derive(Debug)]
pub(crate) struct Undo {
    node: String,
    boots: Option<Vec<Boot>>,
}

// === impl Watermarks ===

impl Watermarks {
    pub(crate) fn arrival(&self, node: &str, boot_id: &str, sequence: u64) -> Arrival {
        let boot = self.0.get(node).and_then(|boots| boots.iter().find(|b| b.boot_id == boot_id));
        match boot {
            Some(boot) if sequence <= boot.sequence => Arrival::Duplicate,
            Some(boot) => Arrival::New { missed: sequence - boot.sequence - 1 },
            // The first of a boot may carry any number: what came before it was kept by another
            // store, or was given up by the node, which then says so itself.
            None => Arrival::New { missed: 0 },
        }
    }

    pub(crate) fn raise(&mut self, node: &str, boot_id: &str, sequence: u64) -> Undo {
        let undo = Undo { node: node.to_owned(), boots: self.0.get(node).cloned() };
        let boots = self.0.entry(node.to_owned()).or_default();
        let boot = match boots.iter().position(|boot| boot.boot_id == boot_id) {
            Some(at) => {
                let mut boot = boots.remove(at);
                boot.sequence = boot.sequence.max(sequence);
                boot
            }
            None => Boot { boot_id: boot_id.to_owned(), sequence },
        };
        if boots.len() >= BOOTS {
            boots.remove(0);
        }
        boots.push(boot);
        undo
    }

    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo.boots {
            Some(boots) => self.0.insert(undo.node, boots),
            None => self.0.remove(&undo.node),
        };
    }

    /// The boot seen last of a node, and the highest sequence kept of it.
    pub(crate) fn latest(&self, node: &str) -> Option<(String, u64)> {
        let boot = self.0.get(node)?.last()?;
        Some((boot.boot_id.clone(), boot.sequence))
    }

    pub(crate) fn of_boot(&self, node: &str, boot_id: &str) -> Option<u64> {
        let boots = self.0.get(node)?;
        boots.iter().find(|boot| boot.boot_id == boot_id).map(|boot| boot.sequence)
    }

    /// Takes over whatever is higher in `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (node, boots) in &other.0 {
            for boot in boots {
                self.raise(node, &boot.boot_id, boot.sequence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_duplicates_from_gaps() {
        let mut marks = Watermarks::default();
        assert_eq!(marks.arrival("a", "1", 7), Arrival::New { missed: 0 });
        marks.raise("a", "1", 7);
        assert_eq!(marks.arrival("a", "1", 7), Arrival::Duplicate);
        assert_eq!(marks.arrival("a", "1", 8), Arrival::New { missed: 0 });
        assert_eq!(marks.arrival("a", "1", 11), Arrival::New { missed: 3 });
        assert_eq!(marks.arrival("a", "2", 1), Arrival::New { missed: 0 });
        let undo = marks.raise("a", "2", 1);
        assert_eq!(marks.latest("a"), Some(("2".into(), 1)));
        marks.undo(undo);
        assert_eq!(marks.latest("a"), Some(("1".into(), 7)));
    }

    #[test]
    fn forgets_the_oldest_boot_only() {
        let mut marks = Watermarks::default();
        for boot in 0..20 {
            marks.raise("a", &boot.to_string(), 1);
        }
        assert_eq!(marks.of_boot("a", "11"), None);
        assert_eq!(marks.of_boot("a", "12"), Some(1));
    }
}
