//! A relay for tests: reads batches, and checks that a number never names two.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int32Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array as _, RecordBatch};
use columns::{Table, ipc};

use crate::spool::{Spool, Stored};

/// What was delivered.
#[derive(Debug, Default)]
pub(super) struct Relay {
    seen: BTreeMap<(String, u64), Stored>,
    pub(super) rows: Vec<Row>,
    /// Packets and bytes, by interface.
    pub(super) unattributed: BTreeMap<u32, (u64, u64)>,
    /// Events and bytes, by stage and cause.
    pub(super) losses: BTreeMap<(String, String), (u64, u64)>,
    /// Packets.
    pub(super) drops: u64,
    /// Received and sent packets and bytes, by interface.
    pub(super) own: BTreeMap<String, [u64; 4]>,
}

/// A row of `flows`.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) flow_id: String,
    pub(super) seq: u32,
    pub(super) closed: bool,
    reason: String,
    port: u16,
    interface: u32,
    pub(super) bytes: u64,
    sums: [u64; 4],
}

// === impl Relay ===

impl Relay {
    pub(super) fn read(&mut self, spool: &Spool, ack: bool) {
        let mut cursor = 0;
        while let Some((next, stored)) = spool.next_after(cursor).unwrap() {
            cursor = next;
            let position = (stored.boot.clone(), stored.sequence);
            match self.seen.get(&position) {
                Some(before) => assert_eq!(before, &stored, "{position:?} named two batches"),
                None => {
                    self.take(&stored);
                    self.seen.insert(position, stored.clone());
                }
            }
            if ack {
                // A failure is the disk's: the batch comes again.
                let _ = spool.ack(&stored.boot, stored.sequence);
            }
        }
    }

    fn take(&mut self, stored: &Stored) {
        for part in &stored.parts {
            let table = Table::by_name(&part.table).unwrap();
            let batch = ipc::decode(table, &part.ipc).unwrap();
            assert_eq!(batch.num_rows() as u64, part.rows);
            for row in 0..batch.num_rows() {
                self.row(table, &batch, row);
            }
        }
    }

    fn row(&mut self, table: Table, batch: &RecordBatch, row: usize) {
        let number = |name: &str| u64_of(batch, name, row);
        match table {
            Table::Flows => self.rows.push(flow(batch, row)),
            Table::Counters => {
                let interface = word(batch, "interface", row);
                let sums = self.own.entry(interface.clone()).or_default();
                let names = ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"];
                for (sum, name) in sums.iter_mut().zip(names) {
                    *sum += number(name);
                }
                let (packets, bytes) =
                    (number("unattributed_packets"), number("unattributed_bytes"));
                if packets != 0 {
                    let sum = self.unattributed.entry(index(&interface)).or_default();
                    *sum = (sum.0 + packets, sum.1 + bytes);
                }
            }
            Table::Losses => {
                let key = (word(batch, "stage", row), word(batch, "cause", row));
                let sum = self.losses.entry(key).or_default();
                *sum = (sum.0 + number("events"), sum.1 + number("bytes"));
            }
            Table::Drops => self.drops += number("packets"),
            _ => {}
        }
    }

    /// Packets, bytes, extra segments, extra bytes, by tuple and interface.
    pub(super) fn flows(&self) -> BTreeMap<(u8, u32), [u64; 4]> {
        let mut all: BTreeMap<(u8, u32), [u64; 4]> = BTreeMap::new();
        for row in &self.rows {
            let tuple = u8::try_from(row.port - 1000).unwrap();
            let sums = all.entry((tuple, row.interface)).or_default();
            for (sum, more) in sums.iter_mut().zip(row.sums) {
                *sum += more;
            }
        }
        all.retain(|_, sums| *sums != [0; 4]);
        all
    }

    pub(super) fn closings(&self) -> Vec<(u32, bool, String)> {
        self.rows.iter().map(|row| (row.seq, row.closed, row.reason.clone())).collect()
    }

    pub(super) fn boots(&self) -> Vec<String> {
        let mut boots: Vec<_> = self.seen.keys().map(|(boot, _)| boot.clone()).collect();
        boots.dedup();
        boots
    }

    pub(super) fn first_sequence(&self) -> u64 {
        self.seen.keys().map(|(_, sequence)| *sequence).min().unwrap_or(1)
    }
}

fn flow(batch: &RecordBatch, row: usize) -> Row {
    let number = |name: &str| u64_of(batch, name, row);
    let both = |a: &str, b: &str| number(a) + number(b);
    let ports = ["source_port", "destination_port"]
        .map(|name| batch.column_by_name(name).unwrap().as_primitive::<UInt16Type>().value(row));
    let start = time(batch, "start_time", row);
    assert!(start <= time(batch, "end_time", row) && start > 0);
    Row {
        flow_id: batch.column_by_name("flow_id").unwrap().as_string::<i32>().value(row).to_owned(),
        seq: batch.column_by_name("seq").unwrap().as_primitive::<UInt32Type>().value(row),
        closed: batch.column_by_name("closed").unwrap().as_boolean().value(row),
        reason: word(batch, "close_reason", row),
        // The client's end has the one above 1000.
        port: ports.into_iter().max().unwrap(),
        // Interfaces are numbers here, because the view of these tests knows no names.
        interface: index(&word(batch, "interface", row)),
        bytes: both("bytes_out", "bytes_in"),
        sums: [
            both("packets_out", "packets_in"),
            both("bytes_out", "bytes_in"),
            both("extra_segments_out", "extra_segments_in"),
            both("extra_bytes_out", "extra_bytes_in"),
        ],
    }
}

fn index(interface: &str) -> u32 {
    interface.trim_start_matches("if").parse().unwrap()
}

fn u64_of(batch: &RecordBatch, name: &str, row: usize) -> u64 {
    batch.column_by_name(name).unwrap().as_primitive::<UInt64Type>().value(row)
}

fn time(batch: &RecordBatch, name: &str, row: usize) -> i64 {
    let column = batch.column_by_name(name).unwrap();
    column.as_primitive::<arrow_array::types::TimestampNanosecondType>().value(row)
}

fn word(batch: &RecordBatch, name: &str, row: usize) -> String {
    let column = batch.column_by_name(name).unwrap().as_dictionary::<Int32Type>();
    match column.key(row).filter(|_| column.is_valid(row)) {
        Some(key) => column.values().as_string::<i32>().value(key).to_owned(),
        None => String::new(),
    }
}
