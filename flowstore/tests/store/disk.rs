//! A disk that is full or fails.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flowstore::{DiskOperation, Error, FaultHook, Ingest};

use crate::support::*;

/// A small file system in memory, gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test mounts a file system: it must run as root");
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_stops_ingest_and_nothing_else() {
    let small = Small::new("4m");
    let mut config = config(small.path());
    config.min_free_bytes = 0;
    config.query.spill_bytes = 0;
    let (store, _) = open_with(config.clone());
    let mut kept = 0;
    let stopped = loop {
        match store.append(batch("b", kept, kept * 500..kept * 500 + 500)).await {
            Ok(appended) => {
                assert!(!appended.duplicate);
                kept += 1;
            }
            Err(error) => break error,
        }
        assert!(kept < 10_000, "the disk never fills");
    };
    assert!(matches!(stopped, Error::Stopped { .. }), "{stopped}");
    assert!(kept > 3, "{kept}");
    assert!(matches!(store.ingest(), Ingest::Stopped(_)));
    // Questions are answered, and the batch that was refused is not there.
    assert_whole(&store, kept * 500).await;
    assert_eq!(store.watermark("a"), Some(("b".into(), kept - 1)));
    // Again and again, with nothing gained or lost.
    for _ in 0..3 {
        let again = store.append(batch("b", kept, kept * 500..kept * 500 + 500)).await;
        assert!(matches!(again, Err(Error::Stopped { .. })));
    }
    // A duplicate is still known as one.
    assert!(store.append(batch("b", 0, 0..500)).await.unwrap().duplicate);
    // There is no room for segments either; rows stay where they are.
    assert!(store.flush().await.is_err());
    assert_whole(&store, kept * 500).await;
    drop(store);
    // Nor for a crash to lose anything.
    let (store, report) = open_with(config);
    assert!(report.is_clean(), "{report:?}");
    assert_whole(&store, kept * 500).await;
    // More room: it goes on by itself.
    let grown =
        Command::new("mount").args(["-o", "remount,size=64m"]).arg(small.path()).status().unwrap();
    assert!(grown.success());
    store.append(batch("b", kept, kept * 500..kept * 500 + 500)).await.unwrap();
    assert_eq!(store.ingest(), Ingest::Running);
    store.flush().await.unwrap();
    assert_whole(&store, kept * 500 + 500).await;
}

#[tokio::test]
async fn the_reserve_is_kept_and_ingest_resumes_without_an_append() {
    let small = Small::new("16m");
    let mut config = config(small.path());
    config.min_free_bytes = 8 << 20;
    config.maintenance_interval = std::time::Duration::from_millis(5);
    let (store, _) = open_with(config);
    store.append(batch("b", 0, 0..100)).await.unwrap();
    let ballast = small.path().join("ballast");
    std::fs::write(&ballast, vec![1; 10 << 20]).unwrap();
    let error = store.append(batch("b", 1, 100..200)).await.unwrap_err();
    assert!(error.to_string().contains("are free"), "{error}");
    assert!(matches!(store.ingest(), Ingest::Stopped(_)));
    // The reserve is there for segments.
    assert_eq!(store.flush().await.unwrap(), 100);
    std::fs::remove_file(&ballast).unwrap();
    for _ in 0..2000 {
        if store.ingest() == Ingest::Running {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(store.ingest(), Ingest::Running);
    store.append(batch("b", 1, 100..200)).await.unwrap();
    assert_whole(&store, 200).await;
}

/// Fails the n-th operation of all, for every n: whatever is acknowledged is there once, after the
/// failure and after a restart.
#[tokio::test]
async fn any_single_failure_costs_nothing() {
    let mut failed = 0;
    for victim in 0_u64.. {
        let dir = tempfile::tempdir().unwrap();
        // The initial manifest is not part of this: without a disk there is no store to open.
        drop(open(dir.path()));
        let seen = Arc::new(AtomicU64::new(0));
        let mut config = config(dir.path());
        config.compact_segments = 2;
        config.fault = Some(FaultHook::new({
            let seen = Arc::clone(&seen);
            move |_: DiskOperation, _: &Path| match seen.fetch_add(1, Ordering::Relaxed) {
                at if at == victim => Err(std::io::Error::other("injected")),
                _ => Ok(()),
            }
        }));
        let (store, _) = open_with(config);
        let mut failures = 0;
        for sequence in 0..4 {
            let next = || batch("b", sequence, sequence * 10..sequence * 10 + 10);
            if let Err(error) = store.append(next()).await {
                assert!(matches!(error, Error::Stopped { .. }), "{error}");
                failures += 1;
                // The writer leaves a failed disk alone for a moment.
                while store.append(next()).await.is_err() {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
            failures += u64::from(store.flush().await.is_err());
            failures += u64::from(store.maintain().await.is_err());
            assert_eq!(store.status().flows, (sequence + 1) * 10, "operation {victim}");
        }
        assert_whole(&store, 40).await;
        drop(store);
        let (store, report) = open_with(self::config(dir.path()));
        assert!(report.is_clean(), "operation {victim}: {report:?}");
        assert_whole(&store, 40).await;
        failed += failures;
        if seen.load(Ordering::Relaxed) <= victim {
            assert_eq!(failures, 0);
            break;
        }
        assert!(failures >= 1, "operation {victim} failed and nobody noticed");
    }
    println!("{failed} failures");
    assert!(failed > 40, "{failed}");
}
