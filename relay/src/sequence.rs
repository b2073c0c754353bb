//! Which batch of a node comes next.
//!
//! Batches of one boot are numbered without holes. What an agent evicted from its spool it
//! reports itself, in rows of `losses`; it says so by the `oldest` of its `Hello`. Only a hole
//! that is still there after the agent was asked again is the relay's to report.

use wire::export::{Hello, Position};

/// What a batch is, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The one that was expected.
    Next,
    /// It, or one after it, is durable already.
    Duplicate,
    /// So many before it did not come.
    Gap(u64),
}

/// The place in a node's sequence.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    boot_id: String,
    /// Number of the batch expected next; `None` while any is right.
    next: Option<u64>,
}

// === impl Sequence ===

impl Sequence {
    /// The place after `durable`, given what the agent can still send.
    pub(crate) fn new(hello: &Hello, durable: Option<&Position>) -> Self {
        let after = durable.filter(|position| position.boot_id == hello.boot_id);
        let next = match (after, hello.oldest) {
            // Nothing can be sent: whatever comes is new.
            (None, 0) => None,
            (None, oldest) => Some(oldest),
            // The agent evicted what lies between, and says so itself.
            (Some(position), oldest) => Some(oldest.max(position.sequence + 1)),
        };
        Self { boot_id: hello.boot_id.clone(), next }
    }

    /// What the batch at `position` is; [`advance`](Self::advance) is separate, as a batch that
    /// fails comes again.
    pub(crate) fn arrival(&self, position: &Position) -> Arrival {
        let Some(next) = self.next.filter(|_| position.boot_id == self.boot_id) else {
            return Arrival::Next;
        };
        match position.sequence {
            sequence if sequence < next => Arrival::Duplicate,
            sequence if sequence > next => Arrival::Gap(sequence - next),
            _ => Arrival::Next,
        }
    }

    /// Takes the batch at `position` as done.
    pub(crate) fn advance(&mut self, position: &Position) {
        self.boot_id.clone_from(&position.boot_id);
        self.next = Some(position.sequence + 1);
    }

    /// The batch that is missing, when one was expected.
    pub(crate) fn missing(&self) -> Option<Position> {
        self.next.map(|sequence| Position { boot_id: self.boot_id.clone(), sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(oldest: u64, newest: u64) -> Hello {
        Hello { boot_id: "b".to_owned(), oldest, newest, ..Hello::default() }
    }

    fn at(boot: &str, sequence: u64) -> Position {
        Position { boot_id: boot.to_owned(), sequence }
    }

    #[test]
    fn arrivals() {
        let check = |oldest, durable: Option<Position>, boot: &str, sequence, expected| {
            let place = Sequence::new(&hello(oldest, 99), durable.as_ref());
            assert_eq!(place.arrival(&at(boot, sequence)), expected, "{durable:?} {sequence}");
        };
        check(4, Some(at("b", 3)), "b", 4, Arrival::Next);
        check(4, Some(at("b", 3)), "b", 3, Arrival::Duplicate);
        check(4, Some(at("b", 3)), "b", 7, Arrival::Gap(3));
        // 4 to 6 were evicted: the agent's own rows say so.
        check(7, Some(at("b", 3)), "b", 7, Arrival::Next);
        // Another boot begins where the agent says.
        check(1, Some(at("a", 9)), "b", 1, Arrival::Next);
        check(5, Some(at("a", 9)), "b", 6, Arrival::Gap(1));
        check(0, None, "b", 12, Arrival::Next);
        // A boot begins in the middle of a stream.
        check(4, Some(at("b", 3)), "c", 1, Arrival::Next);
    }

    #[test]
    fn goes_on_after_a_boot() {
        let mut place = Sequence::new(&hello(1, 2), None);
        place.advance(&at("c", 1));
        assert_eq!(place.arrival(&at("c", 3)), Arrival::Gap(1));
        assert_eq!(place.missing(), Some(at("c", 2)));
    }
}
