//! Damaged files: what is left is served, what is lost is told.

use std::path::{Path, PathBuf};

use columns::Table;
use flowstore::{Covered, ManifestState, Store};

use crate::support::*;

fn files(dir: &Path, folder: &str, end: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0xff;
    std::fs::write(path, bytes).unwrap();
}

/// Three segments of 100 flows, and 50 in the log.
async fn filled(dir: &Path) {
    let store = open(dir);
    for sequence in 0..3 {
        store.append(batch("b", sequence, sequence * 100..sequence * 100 + 100)).await.unwrap();
        store.flush().await.unwrap();
    }
    store.append(batch("b", 3, 300..350)).await.unwrap();
}

async fn corrupt_losses(store: &Store) -> u64 {
    let sql = "SELECT coalesce(sum(flows), 0) AS n FROM losses WHERE stage = 'disk' AND cause = 'corrupt'";
    number(store, sql).await
}

#[tokio::test]
async fn a_damaged_segment_is_put_aside_and_told() {
    for damage in ["footer", "short", "gone"] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path()).await;
        let victim = files(dir.path(), "segments", ".parquet").remove(1);
        let length = std::fs::metadata(&victim).unwrap().len() as usize;
        match damage {
            "footer" => flip(&victim, length - 6),
            "short" => std::fs::File::options()
                .write(true)
                .open(&victim)
                .and_then(|file| file.set_len(length as u64 / 2))
                .unwrap(),
            _ => std::fs::remove_file(&victim).unwrap(),
        }
        let (store, report) = open_with(config(dir.path()));
        assert_eq!(report.quarantined.len(), 1, "{damage}: {report:?}");
        assert_eq!((report.quarantined[0].rows, report.quarantined[0].table), (100, "flows"));
        assert!(!report.is_clean());
        assert_eq!(count(&store).await, 250, "{damage}");
        assert_eq!(corrupt_losses(&store).await, 100, "{damage}");
        let aside = files(dir.path(), "segments", ".corrupt").len();
        assert_eq!(aside, usize::from(damage != "gone"));
        // An answer that covers the lost time says so, also after the next start, once.
        drop(store);
        let (store, report) = open_with(config(dir.path()));
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(corrupt_losses(&store).await, 100, "{damage}");
        let covered = Covered { from: Some(BASE), until: Some(BASE + SECOND) };
        let told = store.completeness(covered).await.unwrap();
        assert_eq!((told.complete, told.lost_flows), (false, 100), "{damage}");
        let before = Covered { from: Some(BASE - 9 * SECOND), until: Some(BASE - SECOND) };
        let told = store.completeness(before).await.unwrap();
        assert_eq!((told.complete, told.lost_flows), (true, 0), "{damage}");
    }
}

#[tokio::test]
async fn every_byte_of_a_segment_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let victim = files(dir.path(), "segments", ".parquet").remove(0);
    flip(&victim, 200);
    let (store, report) = open_with(config(dir.path()));
    assert!(report.is_clean());
    assert_eq!(store.verify().await.unwrap(), 1);
    assert_eq!(store.verify().await.unwrap(), 0);
    assert_eq!(count(&store).await, 250);
    assert_eq!(corrupt_losses(&store).await, 100);
}

#[tokio::test]
async fn a_store_checks_its_segments_by_itself_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    flip(&files(dir.path(), "segments", ".parquet")[2], 150);
    let mut config = config(dir.path());
    config.maintenance_interval = std::time::Duration::from_millis(2);
    let (store, _) = open_with(config);
    for _ in 0..1000 {
        if corrupt_losses(&store).await == 100 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(count(&store).await, 250);
    assert_eq!(corrupt_losses(&store).await, 100);
}

/// Damage that happens while the store runs is found by the first question that meets it.
#[tokio::test]
async fn a_query_that_stumbles_has_the_segments_checked() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let (store, _) = open_with(config(dir.path()));
    let victim = files(dir.path(), "segments", ".parquet").remove(1);
    let mut bytes = std::fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[4..middle].fill(0x5a);
    std::fs::write(&victim, bytes).unwrap();
    let error = failure(&store, flowstore::QueryRequest::new("SELECT * FROM flows")).await;
    assert_eq!(error.code(), "failed", "{error:?}");
    for _ in 0..1000 {
        if corrupt_losses(&store).await == 100 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(rows(&store, "SELECT * FROM flows").await.len(), 250);
    assert_eq!(corrupt_losses(&store).await, 100);
}

/// Everything of three flushes, one merge and a log, whatever becomes of the manifest.
#[tokio::test]
async fn a_damaged_manifest_is_made_anew() {
    for (damage, merge) in [("last", false), ("both", false), ("both", true), ("gone", true)] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path()).await;
        if merge {
            let mut config = config(dir.path());
            config.compact_segments = 3;
            let (store, _) = open_with(config);
            store.maintain().await.unwrap();
            assert_eq!(store.status().segments, 1);
            store.append(batch("b", 4, 350..360)).await.unwrap();
            store.flush().await.unwrap();
            store.append(batch("b", 5, 360..370)).await.unwrap();
        }
        let rows = if merge { 370 } else { 350 };
        let last = dir.path().join("manifest.json");
        let previous = dir.path().join("manifest.previous.json");
        match damage {
            "last" => flip(&last, 40),
            "both" => {
                flip(&last, 40);
                flip(&previous, 60);
            }
            _ => {
                std::fs::remove_file(&last).unwrap();
                std::fs::remove_file(&previous).unwrap();
            }
        }
        let (store, report) = open_with(config(dir.path()));
        assert_eq!(report.manifest, ManifestState::Rebuilt);
        assert!(report.quarantined.is_empty());
        assert_whole(&store, rows).await;
        // Watermarks came along: nothing is taken twice.
        let sequence = if merge { 5 } else { 3 };
        assert_eq!(store.watermark("a"), Some(("b".into(), sequence)));
        assert!(store.append(batch("b", 2, 200..300)).await.unwrap().duplicate);
        drop(store);
        let (store, report) = open_with(config(dir.path()));
        assert_eq!(report.manifest, ManifestState::Good);
        assert_whole(&store, rows).await;
    }
}

/// A crash between writing segments and naming them, then a damaged manifest on top.
#[tokio::test]
async fn segments_that_nobody_named_do_not_count_twice() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let manifest = std::fs::read(dir.path().join("manifest.json")).unwrap();
    let log = files(dir.path(), "wal", ".wal");
    let kept: Vec<_> = log.iter().map(|path| (path, std::fs::read(path).unwrap())).collect();
    let store = open(dir.path());
    store.flush().await.unwrap();
    drop(store);
    // As if the flush had stopped before its manifest.
    std::fs::write(dir.path().join("manifest.json"), &manifest).unwrap();
    for (path, bytes) in &kept {
        std::fs::write(path, bytes).unwrap();
    }
    let copy = tempfile::tempdir().unwrap();
    assert!(
        std::process::Command::new("cp")
            .arg("-r")
            .arg(format!("{}/.", dir.path().display()))
            .arg(copy.path())
            .status()
            .unwrap()
            .success()
    );
    let (store, report) = open_with(config(dir.path()));
    assert_eq!((report.orphans.len(), report.log_rows), (1, 50), "{report:?}");
    assert_whole(&store, 350).await;
    flip(&copy.path().join("manifest.json"), 40);
    flip(&copy.path().join("manifest.previous.json"), 40);
    let (store, report) = open_with(config(copy.path()));
    assert_eq!((report.manifest, report.log_rows), (ManifestState::Rebuilt, 50), "{report:?}");
    assert_whole(&store, 350).await;
}

#[tokio::test]
async fn a_log_cut_short_anywhere_loses_only_its_end() {
    let origin = tempfile::tempdir().unwrap();
    let store = open(origin.path());
    store.append(batch("b", 0, 0..10)).await.unwrap();
    let log = files(origin.path(), "wal", ".wal").remove(0);
    let first = std::fs::metadata(&log).unwrap().len();
    store.append(batch("b", 1, 10..20)).await.unwrap();
    drop(store);
    let bytes = std::fs::read(&log).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("wal").join(log.file_name().unwrap());
    // Opening a store takes a while, so the middle of the record is sampled here; that each byte is
    // safe is shown where the log is read.
    let last = first..bytes.len() as u64;
    let cuts =
        last.filter(|cut| cut - first < 24 || bytes.len() as u64 - cut < 4 || cut % 997 == 0);
    for cut in cuts {
        let _ = std::fs::remove_dir_all(dir.path().join("wal"));
        std::fs::create_dir_all(dir.path().join("wal")).unwrap();
        std::fs::create_dir_all(dir.path().join("segments")).unwrap();
        std::fs::copy(origin.path().join("manifest.json"), dir.path().join("manifest.json"))
            .unwrap();
        std::fs::write(&place, &bytes[..cut as usize]).unwrap();
        let (store, report) = open_with(config(dir.path()));
        assert_eq!(report.torn_bytes, cut - first, "cut at {cut}");
        assert!(report.is_clean(), "cut at {cut}: {report:?}");
        assert_eq!(store.watermark("a"), Some(("b".into(), 0)));
        assert_eq!(store.status().hot_rows, 10);
        drop(store);
        let (store, report) = open_with(config(dir.path()));
        assert_eq!(report.torn_bytes, 0, "told once");
        assert!(report.is_clean(), "cut at {cut}: {report:?}");
        // What was torn is sent again.
        assert!(!store.append(batch("b", 1, 10..20)).await.unwrap().duplicate);
        assert_eq!(store.status().hot_rows, 20);
    }
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_is_told_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut ends = Vec::new();
    let log = || files(dir.path(), "wal", ".wal").remove(0);
    for sequence in 0..3 {
        store.append(batch("b", sequence, sequence * 10..sequence * 10 + 10)).await.unwrap();
        ends.push(std::fs::metadata(log()).unwrap().len() as usize);
    }
    drop(store);
    flip(&log(), ends[0] + 50);
    let (store, report) = open_with(config(dir.path()));
    assert_eq!(report.corrupt_log_places, 1, "{report:?}");
    assert_eq!(report.corrupt_log_bytes, (ends[1] - ends[0]) as u64);
    assert_eq!(report.torn_bytes, 0);
    assert_eq!(count(&store).await, 20);
    let told = rows(&store, "SELECT stage, cause, events FROM losses").await;
    assert_eq!(told, [serde_json::json!({"stage": "disk", "cause": "corrupt", "events": 1})]);
    assert!(!store.completeness(Covered::default()).await.unwrap().complete);
    drop(store);
    let (store, report) = open_with(config(dir.path()));
    assert!(report.is_clean(), "told once: {report:?}");
    assert_eq!(count(&store).await, 20);
}

#[tokio::test]
async fn files_that_belong_to_nothing_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let stray = files(dir.path(), "segments", ".parquet").remove(0);
    std::fs::copy(&stray, dir.path().join("segments/flows-0000099999.parquet")).unwrap();
    std::fs::write(dir.path().join("segments/flows-0000000042.parquet.tmp"), b"half").unwrap();
    let (store, report) = open_with(config(dir.path()));
    assert_eq!(report.orphans.len(), 2, "{report:?}");
    assert!(report.is_clean());
    assert_whole(&store, 350).await;
    assert_eq!(store.segment_files(Table::Flows).len(), 3);
}
