//! Weights of backends.

use super::*;

fn weighing(weights: &[u8]) -> Vec<Endpoint> {
    let of = |(number, weight): (usize, &u8)| Endpoint {
        weight: *weight,
        ..endpoint(&format!("10.1.0.{}", number + 1), "n1")
    };
    weights.iter().enumerate().map(of).collect()
}

/// Slots of each backend, by the last byte of its address.
fn slots(kernel: &Kernel) -> BTreeMap<u8, u32> {
    let Slots { start, count } = kernel.frontends[&key("10.96.0.1", 80)].slots[0];
    let mut found = BTreeMap::new();
    for slot in &kernel.slots[start as usize..(start + count) as usize] {
        *found.entry(kernel.backends[*slot as usize].address[15]).or_insert(0) += 1;
    }
    found
}

#[test]
fn slots_follow_weights_by_chance_and_by_hash() {
    for (algorithm, expected) in [
        (None, BTreeMap::from([(1, 4), (2, 2), (3, 1)])),
        (Some(Algorithm::Maglev), BTreeMap::from([(1, 144), (2, 72), (3, 35)])),
    ] {
        let service = Service { algorithm, ..service("ClusterIP") };
        let snapshot = cluster(service, weighing(&[100, 50, 25, 0]));
        let mut kernel = Kernel::new();
        kernel.apply(&Book::new(SIZES).change(&desired(&snapshot, &here()).0, HASHING).unwrap());
        let found = slots(&kernel);
        let near = |(at, count): (&u8, &u32)| count.abs_diff(expected[at]) <= 1;
        assert!(found.len() == 3 && found.iter().all(near), "{found:?}");
    }
}

#[test]
fn without_weight_there_are_no_new_connections() {
    let port = one(&cluster(service("ClusterIP"), weighing(&[100, 0])));
    assert_eq!(at(&port, "10.96.0.1", 80).1[0], [1]);
    assert_eq!(port.backends[&(ip("10.1.0.2"), 8080)], ALIVE | LOCAL, "what it has goes on");
    let port = one(&cluster(service("ClusterIP"), weighing(&[0, 0])));
    assert!(at(&port, "10.96.0.1", 80).1[0].is_empty(), "clients are refused");
    let last = Endpoint { terminating: true, ready: false, ..endpoint("10.1.0.9", "n2") };
    let both = weighing(&[0]).into_iter().chain([last]).collect();
    assert_eq!(at(&one(&cluster(service("ClusterIP"), both)), "10.96.0.1", 80).1[0], [9]);
}

#[test]
fn a_pods_word_counts_before_its_slices() {
    let mut snapshot = cluster(service("ClusterIP"), weighing(&[30, 30]));
    let pod = |namespace: &str, address: &str| Pod {
        namespace: namespace.to_owned(),
        ips: vec![ip(address)],
        weight: Some(70),
        ..Pod::default()
    };
    snapshot.pods = vec![pod("shop", "10.1.0.1"), pod("other", "10.1.0.2")];
    let weights = one(&snapshot).weights;
    assert_eq!(weights.into_values().collect::<Vec<_>>(), [70, 30]);
    // Where endpoints follow from pods, too.
    snapshot.slices.clear();
    snapshot.services[0].selector = Some(BTreeMap::from([("app".to_owned(), "web".to_owned())]));
    snapshot.pods[0].labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    assert_eq!(one(&snapshot).weights, BTreeMap::from([((ip("10.1.0.1"), 80), 70)]));
}
