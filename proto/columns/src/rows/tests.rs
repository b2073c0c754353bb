use arrow_array::cast::AsArray as _;
use arrow_array::types::UInt64Type;

use super::*;
use crate::ipc::{self, Compression};

#[test]
fn every_row_fits_its_table() {
    let mut builder = BatchBuilder::new(Table::Flows);
    FlowRow { flow_id: "x", bytes_out: 7, ..FlowRow::default() }.push(&mut builder);
    assert_eq!(builder.finish().num_rows(), 1);

    let check = |table, push: &dyn Fn(&mut BatchBuilder)| {
        let mut builder = BatchBuilder::new(table);
        push(&mut builder);
        assert_eq!(builder.finish().num_rows(), 1, "{}", table.name());
    };
    check(Table::Drops, &|b| DropRow::default().push(b));
    check(Table::Losses, &|b| LossRow::default().push(b));
    check(Table::Counters, &|b| CounterRow::default().push(b));
    check(Table::Nodes, &|b| NodeRow::default().push(b));
    check(Table::Endpoints, &|b| EndpointRow::default().push(b));
    check(Table::L7, &|b| L7Row::default().push(b));
    check(Table::Services, &|b| ServiceRow::default().push(b));
    check(Table::Policies, &|b| PolicyRow::default().push(b));
}

#[test]
fn bytes_come_back_as_the_same_batch() {
    for compression in [Compression::None, Compression::Zstd] {
        let mut builder = BatchBuilder::new(Table::Flows);
        let labels = ["app=web".to_owned()];
        for i in 0..100 {
            let end = FlowEnd { namespace: "shop", labels: &labels, ..FlowEnd::default() };
            FlowRow { flow_id: "id", bytes_out: i, source: end, ..FlowRow::default() }
                .push(&mut builder);
        }
        let batch = builder.finish();
        let bytes = ipc::encode(&batch, compression).unwrap();
        assert_eq!(ipc::decode(Table::Flows, &bytes).unwrap(), batch);
        let sum: u64 = batch
            .column_by_name("bytes_out")
            .unwrap()
            .as_primitive::<UInt64Type>()
            .values()
            .iter()
            .sum();
        assert_eq!(sum, 4950);
    }
}

#[test]
fn a_batch_of_another_table_is_refused_or_conformed() {
    let mut builder = BatchBuilder::new(Table::Losses);
    LossRow { time: 5, stage: "ring", events: 2, ..LossRow::default() }.push(&mut builder);
    let bytes = ipc::encode(&builder.finish(), Compression::None).unwrap();
    // `losses` has `node`, `time` … in common with `counters`; what it lacks is NULL there.
    let batch = ipc::decode(Table::Counters, &bytes).unwrap();
    assert_eq!(batch.schema(), Table::Counters.schema());
    // `flows` has no `time`, and its own time column must not be NULL.
    assert!(ipc::decode(Table::Flows, &bytes).is_err());
}

#[test]
fn broken_bytes_are_an_error_and_never_a_panic() {
    let mut builder = BatchBuilder::new(Table::Losses);
    LossRow { time: 5, node: "n", ..LossRow::default() }.push(&mut builder);
    let good = ipc::encode(&builder.finish(), Compression::None).unwrap();
    let mut seed = 0x9e37_79b9_u64;
    for cut in 0..good.len() {
        let _ = ipc::decode(Table::Losses, &good[..cut]);
        let mut bad = good.clone();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bad[cut] ^= (seed >> 32) as u8 | 1;
        let _ = ipc::decode(Table::Losses, &bad);
    }
}
