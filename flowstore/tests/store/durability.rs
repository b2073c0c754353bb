//! What was acknowledged survives a process that is killed at any moment.
//!
//! The test starts itself again as a child that appends batches and prints what was acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::*;

/// Tells the child its directory.
const CHILD: &str = "FLOWSTORE_TEST_CHILD";

const ROWS: u64 = 20;

/// No test of its own: the child's main function.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = config(Path::new(&dir));
        // Everything that moves rows runs all the time.
        config.hot_rows = 300;
        config.compact_segments = 3;
        config.maintenance_interval = Duration::from_millis(5);
        let (store, report) = open_with(config);
        assert!(report.is_clean(), "{report:?}");
        let mut next = store.watermark("a").map_or(0, |(_, sequence)| sequence + 1);
        loop {
            // Two at a time, so that groups of the log hold more than one.
            let batches = [next, next + 1]
                .map(|sequence| batch("boot", sequence, sequence * ROWS..(sequence + 1) * ROWS));
            let [first, second] = batches;
            let (first, second) = tokio::join!(store.append(first), store.append(second));
            assert!(!first.unwrap().duplicate && !second.unwrap().duplicate);
            let mut out = std::io::stdout().lock();
            writeln!(out, "ack {}", next + 1).unwrap();
            out.flush().unwrap();
            next += 2;
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_rows_survive_kill_9() {
    let rounds = if std::env::var("WEIR_LONG").is_ok_and(|long| long == "1") { 200 } else { 15 };
    let dir = tempfile::tempdir().unwrap();
    let mut seed: u64 = 0x5eed;
    let mut acked: Option<u64> = None;
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durability::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let life = Duration::from_micros(seed >> 33 & 0x3_ffff);
        let mut born: Option<Instant> = None;
        let mut killed = false;
        // Reads to the end: what was printed before the kill was acknowledged.
        while let Some(Ok(line)) = lines.next() {
            if let Some((_, number)) = line.split_once("ack ") {
                acked = acked.max(number.trim().parse().ok());
                born.get_or_insert_with(Instant::now);
            }
            if !killed && born.is_some_and(|born| born.elapsed() >= life) {
                child.kill().unwrap();
                killed = true;
            }
        }
        assert!(killed, "the child ended by itself in round {round}");
        child.wait().unwrap();

        let (store, report) = open_with(config(dir.path()));
        assert!(report.is_clean(), "round {round}: {report:?}");
        let (_, kept) = store.watermark("a").unwrap();
        assert!(Some(kept) >= acked, "round {round}: acknowledged {acked:?}, kept {kept}");
        assert_whole(&store, (kept + 1) * ROWS).await;
    }
    println!("{rounds} kills, {} batches acknowledged", acked.unwrap() + 1);
}
