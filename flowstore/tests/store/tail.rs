//! Tails follow, and say where they could not.

use columns::Table;
use flowstore::TailItem;

use crate::support::*;

#[tokio::test]
async fn a_tail_sees_what_is_appended_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(batch("b", 0, 0..10)).await.unwrap();
    let mut tail = store.tail();
    let mut other = store.tail_of(&[Table::Losses]);
    store.append(batch("b", 1, 10..20)).await.unwrap();
    store.append(batch("b", 1, 10..20)).await.unwrap();
    store.append(batch("b", 2, 20..30)).await.unwrap();
    for ids in [10..20, 20..30] {
        match tail.recv().await.unwrap() {
            TailItem::Rows(Table::Flows, rows) => assert_eq!(rows, flows("a", ids)),
            other => panic!("{other:?}"),
        }
    }
    assert!(tail.try_recv().is_none());
    assert!(other.try_recv().is_none());
    drop(store);
    assert!(tail.recv().await.is_none());
}

#[tokio::test]
async fn a_slow_tail_is_told_how_much_it_lost_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let stages = stage::Registry::new();
    let mut config = config(dir.path());
    config.tail_items = 2;
    let (store, _) = flowstore::Store::open(
        config,
        &prometheus::Registry::new(),
        stages.clone(),
        stage::StopToken::new(),
    )
    .unwrap();
    let mut tail = store.tail();
    let mut sequence = 0;
    for _ in 0..3 {
        for _ in 0..5 {
            let ids = sequence * 10..sequence * 10 + 10;
            store.append(batch("b", sequence, ids)).await.unwrap();
            sequence += 1;
        }
        for _ in 0..2 {
            assert!(matches!(tail.recv().await, Some(TailItem::Rows(..))));
        }
        assert!(matches!(tail.recv().await, Some(TailItem::Gap { lost: 30 })));
        assert!(tail.try_recv().is_none());
    }
    let ledger = || stages.snapshots().into_iter().find(|s| s.name == "store_tail").unwrap();
    assert_eq!((ledger().taken, ledger().handed), (15, 6));
    assert_eq!(ledger().lost, [("full", 9)]);
    // Nothing that was lost to a tail is lost to the store.
    assert_whole(&store, 150).await;
    store.append(batch("b", sequence, 150..160)).await.unwrap();
    drop(tail);
    assert_eq!((ledger().held(), ledger().lost), (0, vec![("full", 9), ("closed", 1)]));
    store.append(batch("b", sequence + 1, 160..170)).await.unwrap();
    assert_eq!(ledger().taken, 16);
}
