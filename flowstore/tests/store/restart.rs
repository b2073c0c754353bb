//! What a store knows after it was closed.

use flowstore::{Appended, Batch, Error, ManifestState};

use crate::support::*;

#[tokio::test]
async fn log_and_segments_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, report) = open_with(config(dir.path()));
    assert_eq!(report.manifest, ManifestState::New);
    store.append(batch("b", 1, 0..100)).await.unwrap();
    store.flush().await.unwrap();
    store.append(batch("b", 2, 100..150)).await.unwrap();
    drop(store);
    let (store, report) = open_with(config(dir.path()));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.segment_rows, report.log_rows, report.torn_bytes), (100, 50, 0));
    assert_whole(&store, 150).await;
    // Again, with nothing new.
    drop(store);
    let (store, report) = open_with(config(dir.path()));
    assert_eq!((report.segment_rows, report.log_rows), (100, 50));
    assert_whole(&store, 150).await;
}

/// A process that is killed soon after each start does not find a log that grows without end.
#[tokio::test]
async fn a_long_log_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for sequence in 0..1100 {
        store.append(batch("b", sequence + 1, sequence..sequence + 1)).await.unwrap();
    }
    drop(store);
    let (store, report) = open_with(config(dir.path()));
    assert_eq!((report.segment_rows, report.log_rows), (0, 1100));
    assert_whole(&store, 1100).await;
    drop(store);
    let (store, report) = open_with(config(dir.path()));
    assert_eq!((report.segment_rows, report.log_rows), (1100, 0));
    assert_whole(&store, 1100).await;
}

#[tokio::test]
async fn duplicates_are_known_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let kept = Appended { duplicate: false, missed: 0 };
    let again = Appended { duplicate: true, missed: 0 };
    assert_eq!(store.append(batch("b", 1, 0..10)).await.unwrap(), kept);
    assert_eq!(store.append(batch("b", 1, 0..10)).await.unwrap(), again);
    assert_eq!(store.append(batch("b", 2, 10..20)).await.unwrap(), kept);
    assert_eq!(store.watermark("a"), Some(("b".into(), 2)));
    drop(store);
    // From the log.
    let store = open(dir.path());
    assert_eq!(store.watermark("a"), Some(("b".into(), 2)));
    assert_eq!(store.append(batch("b", 2, 10..20)).await.unwrap(), again);
    store.flush().await.unwrap();
    drop(store);
    // From the manifest.
    let store = open(dir.path());
    assert_eq!(store.append(batch("b", 1, 0..10)).await.unwrap(), again);
    assert_eq!(store.append(batch("b", 2, 10..20)).await.unwrap(), again);
    assert_whole(&store, 20).await;
    // Another boot counts anew.
    assert_eq!(store.append(batch("c", 1, 20..30)).await.unwrap(), kept);
    assert_eq!(store.watermark("a"), Some(("c".into(), 1)));
    assert_eq!(store.watermark("z"), None);
    // A gap is told, and the batch is kept.
    let gap = Appended { duplicate: false, missed: 4 };
    assert_eq!(store.append(batch("c", 6, 30..40)).await.unwrap(), gap);
    assert_whole(&store, 40).await;
}

#[tokio::test]
async fn many_senders_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut tasks = tokio::task::JoinSet::new();
    for node in 0..50_u64 {
        let store = store.clone();
        tasks.spawn(async move {
            let ids = node * 10..node * 10 + 10;
            let batch = batch_of(&format!("node-{node}"), "b", 1, ids);
            // Twice at once: one of them is a duplicate.
            let (x, y) = tokio::join!(store.append(batch.clone()), store.append(batch));
            assert!(x.unwrap().duplicate != y.unwrap().duplicate);
        });
    }
    tasks.join_all().await;
    assert_whole(&store, 500).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut bad = batch("b", 1, 0..10);
    bad.parts.push((columns::Table::L7, bytes::Bytes::from_static(b"no arrow")));
    let error = store.append(bad).await.unwrap_err();
    assert!(matches!(error, Error::Undecodable { part: 1, table: "l7", .. }), "{error}");
    // A table's rows under another table's name.
    let (_, bytes) = part(columns::Table::Flows, &flows("a", 0..1));
    let parts = vec![(columns::Table::Losses, bytes)];
    let wrong = Batch { node: "a".into(), boot_id: "b".into(), sequence: 1, parts };
    let error = store.append(wrong).await.unwrap_err();
    assert!(matches!(error, Error::Undecodable { .. }), "{error}");
    assert_eq!((count(&store).await, store.watermark("a")), (0, None));
    // An empty batch only moves the watermark.
    let empty = Batch { node: "a".into(), boot_id: "b".into(), sequence: 1, parts: vec![] };
    store.append(empty).await.unwrap();
    drop(store);
    assert_eq!(open(dir.path()).watermark("a"), Some(("b".into(), 1)));
}

#[tokio::test]
async fn rows_of_its_own_making_last_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let row = columns::rows::LossRow {
        time: BASE,
        node: "n",
        stage: "relay",
        cause: "gap",
        ..Default::default()
    };
    for _ in 0..3 {
        store.append_local(vec![part(columns::Table::Losses, &losses(&[row]))]).await.unwrap();
    }
    drop(store);
    let store = open(dir.path());
    store.append_local(vec![part(columns::Table::Losses, &losses(&[row]))]).await.unwrap();
    assert_eq!(number(&store, "SELECT count(*) AS n FROM losses").await, 4);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let metrics = prometheus::Registry::new();
    let second = flowstore::Store::open(
        config(dir.path()),
        &metrics,
        stage::Registry::new(),
        stage::StopToken::new(),
    );
    assert!(matches!(second, Err(Error::InUse(_))));
    drop(store);
    open(dir.path());
}

#[tokio::test]
async fn stops_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let stop = stage::StopToken::new();
    let (store, _) = flowstore::Store::open(
        config(dir.path()),
        &prometheus::Registry::new(),
        stage::Registry::new(),
        stop.clone(),
    )
    .unwrap();
    store.append(batch("b", 1, 0..10)).await.unwrap();
    stop.stop();
    assert!(matches!(store.append(batch("b", 2, 10..20)).await, Err(Error::Closed)));
    // Questions are answered to the last.
    assert_whole(&store, 10).await;
}
