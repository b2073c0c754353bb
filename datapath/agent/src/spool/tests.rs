use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn part(flows: u64, bytes: usize) -> Vec<Part> {
    vec![
        Part { table: "flows".into(), rows: flows, ipc: Bytes::from(vec![7; bytes]) },
        Part { table: "counters".into(), rows: 1, ipc: Bytes::from_static(b"c") },
    ]
}

fn open_with(dir: &Path, bytes: u64, disk: Disk) -> Spool {
    let ledger = stage::Registry::new().ledger("spool", 0);
    let limits = Limits { bytes, segment: bytes / 8 };
    Spool::open(dir, limits, disk, ledger).unwrap()
}

fn open(dir: &Path, bytes: u64) -> Spool {
    open_with(dir, bytes, Disk::default())
}

fn all(spool: &Spool) -> Vec<(String, u64)> {
    let (mut cursor, mut found) = (0, Vec::new());
    while let Some((next, stored)) = spool.next_after(cursor).unwrap() {
        found.push((stored.boot, stored.sequence));
        cursor = next;
    }
    found
}

fn only_segment(dir: &Path) -> PathBuf {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_committed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), 1 << 20);
    assert_eq!(spool.begin("a").unwrap(), (0, 0));
    for n in 1..=3 {
        spool.commit(n, 100 + n.cast_signed(), part(n, 10)).unwrap();
    }
    drop(spool);
    let spool = open(dir.path(), 1 << 20);
    assert_eq!(spool.boot().as_deref(), Some("a"));
    assert_eq!(spool.begin("a").unwrap(), (3, 103));
    let (_, first) = spool.next_after(0).unwrap().unwrap();
    assert_eq!((first.closed_at, first.parts), (101, part(1, 10)));
    spool.commit(4, 104, part(1, 1)).unwrap();
    assert_eq!(all(&spool), [1, 2, 3, 4].map(|n| ("a".to_owned(), n)));
    assert_eq!(spool.begin("b").unwrap(), (0, 0));
    spool.commit(1, 200, part(1, 1)).unwrap();
    let state = spool.state();
    assert_eq!((state.oldest, state.newest), (1, 1));
    assert_eq!(all(&spool).len(), 5);
}

/// A record torn at any byte was never committed; everything before it was.
#[test]
fn torn_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), 1 << 20);
    spool.begin("a").unwrap();
    spool.commit(1, 1, part(1, 20)).unwrap();
    let path = only_segment(dir.path());
    let whole = std::fs::metadata(&path).unwrap().len();
    spool.commit(2, 2, part(1, 20)).unwrap();
    drop(spool);
    let bytes = std::fs::read(&path).unwrap();
    for length in usize::try_from(whole).unwrap()..bytes.len() {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let spool = open(dir.path(), 1 << 20);
        assert_eq!(spool.begin("a").unwrap().0, 1, "cut at {length}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), whole, "cut at {length}");
        spool.commit(2, 2, part(1, 1)).unwrap();
        assert_eq!(all(&spool).len(), 2);
    }
    for at in usize::try_from(whole).unwrap()..bytes.len() {
        std::fs::write(&path, &bytes).unwrap();
        flip(&path, at);
        assert_eq!(open(dir.path(), 1 << 20).begin("a").unwrap().0, 1, "flipped at {at}");
    }
    // A torn header is a segment that was never begun.
    for length in 0..40 {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert_eq!(open(dir.path(), 1 << 20).boot(), None);
        std::fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn damage_in_the_middle_costs_one_batch_and_says_so() {
    for restart in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path(), 1 << 20);
        spool.begin("a").unwrap();
        spool.commit(1, 1, part(1, 20)).unwrap();
        let path = only_segment(dir.path());
        let middle = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap() + 90;
        spool.commit(2, 2, part(5, 20)).unwrap();
        spool.commit(3, 3, part(1, 20)).unwrap();
        flip(&path, middle);
        if restart {
            drop(spool);
            spool = open(dir.path(), 1 << 20);
            assert_eq!(spool.begin("a").unwrap().0, 3);
        }
        assert_eq!(all(&spool), [1, 3].map(|n| ("a".to_owned(), n)));
        let damaged = spool.take_damaged();
        assert_eq!((damaged.batches, damaged.flows), (1, 5));
    }
}

/// Batches and rows of `flows` that are still in the spool behind `cursor`.
fn kept(spool: &Spool, mut cursor: Cursor) -> (u64, u64) {
    let mut kept = (0, 0);
    while let Some((next, stored)) = spool.next_after(cursor).unwrap() {
        kept = (kept.0 + 1, kept.1 + stored.parts[0].rows);
        cursor = next;
    }
    kept
}

/// What batches that are kept tell of, and what the next one will, is all that was evicted: also
/// when batches that told of it were evicted themselves.
#[test]
fn eviction_is_told_of_once_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (mut batches, mut flows) = (0, 0);
    let mut told = std::collections::BTreeMap::new();
    for _ in 0..5 {
        let spool = open(dir.path(), 20_000);
        let (last, _) = spool.begin("a").unwrap();
        for n in last + 1..=last + 60 {
            told.insert(n, spool.unreported());
            spool.commit(n, 0, part(n, 300)).unwrap();
            (batches, flows) = (batches + 1, flows + n);
            assert!(spool.state().bytes <= 20_600);
        }
    }
    let spool = open(dir.path(), 20_000);
    spool.begin("a").unwrap();
    let (first, evicted) = (spool.state().oldest, spool.state().evicted);
    let told = told.range(first..).fold(spool.unreported(), |sum, (_, told)| sum + *told);
    assert_eq!(told, evicted);
    let kept = kept(&spool, 0);
    assert_eq!((batches, flows), (kept.0 + evicted.batches, kept.1 + evicted.flows));
}

#[test]
fn what_was_acknowledged_is_not_lost_when_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), 20_000);
    spool.begin("a").unwrap();
    for n in 1..=20 {
        spool.commit(n, 0, part(1, 300)).unwrap();
    }
    spool.ack("a", 20).unwrap();
    drop(spool);
    // The acknowledgement is known to the next one.
    let spool = open(dir.path(), 20_000);
    spool.begin("a").unwrap();
    for n in 21..=100 {
        spool.commit(n, 0, part(1, 300)).unwrap();
    }
    let kept = kept(&spool, spool.state().acked);
    assert_eq!(kept.0 + spool.state().evicted.batches, 80);
}

#[test]
fn acknowledged_segments_go_and_the_newest_batch_stays_known() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), 80_000);
    spool.begin("a").unwrap();
    for n in 1..=100 {
        spool.commit(n, 0, part(1, 300)).unwrap();
    }
    let full = spool.state().bytes;
    spool.ack("a", 50).unwrap();
    assert_eq!(spool.state().oldest, 51);
    spool.ack("a", 20).unwrap();
    spool.ack("b", 99).unwrap();
    assert_eq!(spool.state().oldest, 51);
    spool.ack("a", 100).unwrap();
    assert!(spool.state().bytes < full / 3);
    assert_eq!(spool.state().evicted, Totals::default());
    drop(spool);
    let spool = open(dir.path(), 80_000);
    assert_eq!(spool.begin("a").unwrap().0, 100);
    assert_eq!(spool.state().acked, spool.state().newest_cursor);
    assert_eq!(spool.find("a", 1000), Some(spool.state().newest_cursor));
    assert_eq!(spool.find("b", 1), None);
}

/// A failed commit leaves nothing behind, whether or not the torn bytes could be cut off.
#[test]
fn failed_commits_are_not_there() {
    for truncate_fails in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&calls);
        let judge = move |op| match op {
            // Every third append, from the second on.
            Op::Append(_) => {
                let n = seen.fetch_add(1, Ordering::Relaxed);
                (n % 3 == 1).then_some(Fault { keep: n % 50 })
            }
            Op::Truncate if truncate_fails => Some(Fault { keep: 0 }),
            _ => None,
        };
        let mut disk = Disk::default();
        disk.faults.0 = Some(Arc::new(judge));
        let spool = open_with(dir.path(), 1 << 20, disk);
        spool.begin("a").unwrap();
        let (mut n, mut failures) = (1, 0);
        while n <= 40 && failures < 1000 {
            match spool.commit(n, 0, part(1, 100)) {
                Ok(()) => n += 1,
                Err(_) => failures += 1,
            }
        }
        assert!(failures >= 10);
        drop(spool);
        let spool = open(dir.path(), 1 << 20);
        assert_eq!(spool.begin("a").unwrap().0, 40);
        let found: Vec<u64> = all(&spool).into_iter().map(|(_, n)| n).collect();
        assert_eq!(found, (1..=40).collect::<Vec<_>>());
    }
}

#[test]
fn another_versions_spool_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), 1 << 20).begin("a").unwrap();
    let path = only_segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    // The version follows the frame and the kind.
    bytes[record::FRAME + 1] = 99;
    let crc = crc32c::crc32c(&bytes[record::FRAME..]).to_le_bytes();
    bytes[4..8].copy_from_slice(&crc);
    std::fs::write(&path, &bytes).unwrap();
    let ledger = stage::Registry::new().ledger("spool", 0);
    let error = Spool::open(dir.path(), Limits::new(1 << 20), Disk::default(), ledger).unwrap_err();
    assert!(error.to_string().contains("another version"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

proptest! {
    /// Whatever stands in a segment file, opening it neither panics nor fails.
    #[test]
    fn any_bytes_can_be_opened(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        flips in prop::collection::vec((0usize..2000, any::<u8>()), 0..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("00000000000000000001.spool"), &bytes).unwrap();
        open(dir.path(), 1 << 20);

        let dir = tempfile::tempdir().unwrap();
        let spool = open(dir.path(), 1 << 20);
        spool.begin("a").unwrap();
        for n in 1..=5 {
            spool.commit(n, 0, part(1, 200)).unwrap();
        }
        let path = only_segment(dir.path());
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, mask) in flips {
            let at = at % bytes.len();
            bytes[at] ^= mask;
        }
        std::fs::write(&path, bytes).unwrap();
        let spool = open(dir.path(), 1 << 20);
        let _ = all(&spool);
        spool.begin("b").unwrap();
        spool.commit(1, 0, part(1, 1)).unwrap();
    }
}
