//! Any order of appends, flushes, merges and restarts adds up to what was appended.

use proptest::prelude::*;

use crate::support::*;

#[derive(Debug, Clone)]
enum Step {
    Append { node: u8, rows: u16 },
    Again { node: u8 },
    Flush,
    Maintain,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u8, 0..40_u16).prop_map(|(node, rows)| Step::Append { node, rows }),
        2 => (0..3_u8).prop_map(|node| Step::Again { node }),
        2 => Just(Step::Flush),
        1 => Just(Step::Maintain),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn appended_is_what_is_found(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = config(dir.path());
        config.compact_segments = 2;
        config
    };
    let (mut store, _) = open_with(config());
    let mut next = 0_u64;
    let mut last: [Option<flowstore::Batch>; 3] = Default::default();
    for step in steps {
        match step {
            Step::Append { node, rows } => {
                let sequence = last[node as usize].as_ref().map_or(0, |batch| batch.sequence + 1);
                let batch =
                    batch_of(&format!("n{node}"), "b", sequence, next..next + u64::from(rows));
                next += u64::from(rows);
                assert!(!store.append(batch.clone()).await.unwrap().duplicate);
                last[node as usize] = Some(batch);
            }
            Step::Again { node } => {
                if let Some(batch) = &last[node as usize] {
                    assert!(store.append(batch.clone()).await.unwrap().duplicate);
                }
            }
            Step::Flush => {
                store.flush().await.unwrap();
            }
            Step::Maintain => store.maintain().await.unwrap(),
            Step::Restart => {
                drop(store);
                let report;
                (store, report) = open_with(config());
                assert!(report.is_clean() && report.orphans.is_empty(), "{report:?}");
            }
        }
    }
    assert_whole(&store, next).await;
}
