//! Σ flows + unattributed = the interface's own counters, to the byte.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::counters::Counters;
use crate::sql::{Rows, Sql};
use crate::{Node, Result, wait_until};

/// Link header of an Ethernet frame, bytes: flows count IP total length, counters count frames.
const LINK_HEADER: u64 = 14;

/// What an interface had counted when observing began.
#[derive(Debug, Clone)]
pub struct Baseline {
    node: String,
    counters: BTreeMap<String, Counters>,
}

/// Both sides of the balance, for one interface since the baseline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// `node/interface`.
    pub place: String,
    /// The kernel's counters.
    pub kernel: Counters,
    /// The same by the table `counters`.
    pub reported: Counters,
    /// Bytes in `flows`, brought to the link layer.
    pub flow_bytes: u64,
    /// Packets in `flows`.
    pub flow_packets: u64,
    /// Bytes of frames that belong to no flow.
    pub unattributed_bytes: u64,
    /// Frames that belong to no flow.
    pub unattributed_packets: u64,
}

// === impl Baseline ===

impl Baseline {
    /// The counters now; nothing may move between this and the agent's start.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn take(node: &Node) -> Result<Self> {
        Ok(Self { node: node.name.clone(), counters: node.counters()? })
    }

    /// Waits until the node's counters have stood still for a second, then takes them.
    ///
    /// # Errors
    /// When they don't within half a minute.
    pub fn take_quiet(node: &Node) -> Result<Self> {
        let mut last = Self::take(node)?;
        wait_until("the node is quiet", Duration::from_secs(30), || {
            std::thread::sleep(Duration::from_secs(1));
            match Self::take(node) {
                Ok(now) if now.counters == last.counters => true,
                Ok(now) => {
                    last = now;
                    false
                }
                Err(_) => false,
            }
        })?;
        Ok(last)
    }

    /// Whether nothing moved since.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn is_unmoved(&self, node: &Node) -> Result<bool> {
        Ok(self.counters == node.counters()?)
    }

    /// Both sides, for every interface, now.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub fn accounts(&self, node: &Node, sql: Sql) -> Result<Vec<Account>> {
        let name = &self.node;
        let flows = sql.query(&format!(
            "SELECT interface, sum(bytes_out + bytes_in), sum(packets_out + packets_in) \
             FROM flows WHERE node = '{name}' GROUP BY interface"
        ))?;
        let counters = sql.query(&format!(
            "SELECT interface, sum(unattributed_bytes), sum(unattributed_packets), sum(rx_bytes), \
             sum(rx_packets), sum(tx_bytes), sum(tx_packets) \
             FROM counters WHERE node = '{name}' GROUP BY interface"
        ))?;
        let now = node.counters()?;
        let accounts = self.counters.iter().filter_map(|(interface, before)| {
            let kernel = *now.get(interface)? - *before;
            Some(account(name, interface, kernel, &flows, &counters))
        });
        Ok(accounts.collect())
    }

    /// Waits until every interface balances; answers the accounts of the last look.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub fn settle(&self, node: &Node, sql: Sql, within: Duration) -> Result<Vec<Account>> {
        let mut last = Vec::new();
        let mut failed = None;
        let balanced = wait_until("balance", within, || {
            match self.accounts(node, sql) {
                Ok(accounts) => last = accounts,
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            }
            failed = None;
            !last.is_empty() && last.iter().all(Account::is_balanced)
        });
        match (balanced, failed) {
            (Err(_), Some(error)) => Err(error),
            _ => Ok(last),
        }
    }

    /// Waits until every interface balances.
    ///
    /// # Panics
    /// With both sides of each account, when one does not in time.
    pub fn assert(&self, node: &Node, sql: Sql, within: Duration) -> Vec<Account> {
        let accounts = self.settle(node, sql, within).expect("the relay answers");
        let text: Vec<String> = accounts.iter().map(ToString::to_string).collect();
        let balanced = !accounts.is_empty() && accounts.iter().all(Account::is_balanced);
        assert!(balanced, "does not balance:\n{}", text.join("\n"));
        accounts
    }
}

fn account(
    node: &str,
    interface: &str,
    kernel: Counters,
    flows: &Rows,
    counters: &Rows,
) -> Account {
    let of = |rows: &Rows, column: usize| {
        let row = (0..rows.rows.len()).find(|&row| rows.text(row, 0) == interface);
        row.and_then(|row| rows.number(row, column)).unwrap_or(0)
    };
    let flow_packets = of(flows, 2);
    Account {
        place: format!("{node}/{interface}"),
        kernel,
        reported: Counters {
            rx_bytes: of(counters, 3),
            rx_packets: of(counters, 4),
            tx_bytes: of(counters, 5),
            tx_packets: of(counters, 6),
            ..Counters::default()
        },
        flow_bytes: of(flows, 1) + LINK_HEADER * flow_packets,
        flow_packets,
        unattributed_bytes: of(counters, 1),
        unattributed_packets: of(counters, 2),
    }
}

// === impl Account ===

impl Account {
    /// Bytes that are in the kernel's counters and nowhere else; negative: counted too often.
    pub fn missing_bytes(&self) -> i64 {
        self.kernel.bytes().cast_signed()
            - (self.flow_bytes + self.unattributed_bytes).cast_signed()
    }

    /// The same in packets.
    pub fn missing_packets(&self) -> i64 {
        self.kernel.packets().cast_signed()
            - (self.flow_packets + self.unattributed_packets).cast_signed()
    }

    /// Whether both sides agree, and `counters` with the kernel.
    pub fn is_balanced(&self) -> bool {
        let kernel = Counters { rx_dropped: 0, tx_dropped: 0, ..self.kernel };
        self.missing_bytes() == 0 && self.missing_packets() == 0 && self.reported == kernel
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: kernel {} B in {} packets; flows {} B in {}; unattributed {} B in {}; missing {} B in {}; \
             table `counters` says rx {}/{} tx {}/{}, the kernel rx {}/{} tx {}/{}",
            self.place,
            self.kernel.bytes(),
            self.kernel.packets(),
            self.flow_bytes,
            self.flow_packets,
            self.unattributed_bytes,
            self.unattributed_packets,
            self.missing_bytes(),
            self.missing_packets(),
            self.reported.rx_bytes,
            self.reported.rx_packets,
            self.reported.tx_bytes,
            self.reported.tx_packets,
            self.kernel.rx_bytes,
            self.kernel.rx_packets,
            self.kernel.tx_bytes,
            self.kernel.tx_packets,
        )
    }
}
