use super::*;

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  namespace: shop
  labels: {app: web}
spec: {nodeName: n1}
status: {podIP: 10.1.0.5, podIPs: [{ip: 10.1.0.5}, {ip: 'fd00::5'}]}
";
const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80, protocol: TCP, nodePort: 30080}, {port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
endpoints: [{addresses: [10.1.0.5]}]
ports: [{port: 8080, protocol: TCP}]
";

/// Writes with a time of change that differs from the last one's, however coarse the clock.
fn write(path: &Path, text: &str, second: u64) {
    std::fs::write(path, text).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + second);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.pods.iter().map(|pod| pod.name.as_str()).collect()
}

#[test]
fn reads_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("more")).unwrap();
    write(&dir.path().join("a.yaml"), POD, 0);
    write(&dir.path().join("more/b.yml"), SERVICE, 0);
    write(&dir.path().join("more/.hidden.yaml"), "broken: [", 0);
    write(&dir.path().join("notes.txt"), "broken: [", 0);
    let list = r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop","labels":{"team":"blue"}}},
        {"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"},"status":{"addresses":[
            {"type":"InternalIP","address":"192.168.0.1"},{"type":"Hostname","address":"n1"}]}},
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}},
        {"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy",
            "metadata":{"name":"p","namespace":"shop"},"spec":{"podSelector":{}}}]}"#;
    write(&dir.path().join("list.json"), list, 0);
    let mut manifests = Manifests::new(dir.path());
    let snapshot = manifests.poll().unwrap();
    assert_eq!(snapshot.problems, []);
    let pod = &snapshot.pods[0];
    assert_eq!((pod.namespace.as_str(), pod.node.as_str(), pod.ips.len()), ("shop", "n1", 2));
    assert_eq!((pod.workload.as_str(), pod.workload_kind.as_str()), ("web", "Pod"));
    assert_eq!(snapshot.services[0].ports[0].node_port, 30080);
    let port = &snapshot.slices[0].ports[0];
    assert_eq!((port.protocol, port.port), (6, 8080));
    assert_eq!(snapshot.namespaces["shop"]["team"], "blue");
    assert_eq!(snapshot.nodes[0].addresses.len(), 1);
    assert_eq!(snapshot.policies[0].name, "p");
    assert_eq!(manifests.poll(), None);
}

#[test]
fn a_broken_document_is_named_and_the_rest_stays_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    write(&a, POD, 0);
    write(&b, &POD.replace("web-0", "db-0"), 0);
    let mut manifests = Manifests::new(dir.path());
    assert_eq!(names(&manifests.poll().unwrap()), ["web-0", "db-0"]);

    // Line 9 is the second document's first; its third line is no YAML.
    let broken = format!(
        "{}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: [}}\n",
        POD.replace("web-0", "web-1")
    );
    write(&a, &broken, 1);
    let snapshot = manifests.poll().unwrap();
    assert_eq!(names(&snapshot), ["web-0", "db-0"], "the last good version of the file");
    let [problem] = snapshot.problems.as_slice() else { panic!("{:?}", snapshot.problems) };
    assert_eq!((problem.document, problem.line), (2, 12), "{problem}");
    assert!(problem.file.ends_with("a.yaml") && !problem.message.is_empty());
    assert_eq!(manifests.poll(), None, "told once");

    write(&b, &POD.replace("web-0", "db-1"), 2);
    assert_eq!(names(&manifests.poll().unwrap()), ["web-0", "db-1"], "other files go on");

    write(&a, &POD.replace("web-0", "web-2"), 3);
    let snapshot = manifests.poll().unwrap();
    assert_eq!((names(&snapshot), snapshot.problems.len()), (vec!["web-2", "db-1"], 0));

    std::fs::remove_file(&a).unwrap();
    assert_eq!(names(&manifests.poll().unwrap()), ["db-1"]);
}

#[test]
fn of_a_file_that_never_was_good_the_good_documents_count() {
    let dir = tempfile::tempdir().unwrap();
    let a = dir.path().join("a.yaml");
    for (i, broken) in [
        "apiVersion: v1\nkind: Pod\nmetadata: {}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nstatus: {podIP: 10.0.0.300}\n",
        "kind: Pod\n",
        "- a\n- b\n",
        "\tx: y\n",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\nspec: {podSelecter: {}}\n",
    ]
    .into_iter()
    .enumerate()
    {
        write(&a, &format!("# comment\n---\n{broken}---\n{POD}"), i as u64);
        let mut manifests = Manifests::new(dir.path());
        let snapshot = manifests.poll().unwrap();
        assert_eq!(names(&snapshot), ["web-0"], "{broken}");
        assert_eq!(snapshot.problems.len(), 1, "{broken}");
        assert_eq!(snapshot.problems[0].document, 1, "{broken}");
        assert!((2..8).contains(&snapshot.problems[0].line), "{}", snapshot.problems[0]);
    }
}

#[test]
fn a_folder_that_is_not_there_is_a_problem_and_takes_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("manifests");
    let mut manifests = Manifests::new(&root);
    assert_eq!(manifests.poll().unwrap().problems.len(), 1);
    assert_eq!(manifests.poll(), None);
    std::fs::create_dir(&root).unwrap();
    write(&root.join("a.yaml"), POD, 0);
    assert_eq!(names(&manifests.poll().unwrap()), ["web-0"]);
    std::fs::rename(&root, dir.path().join("away")).unwrap();
    let snapshot = manifests.poll().unwrap();
    assert_eq!((names(&snapshot), snapshot.problems.len()), (vec!["web-0"], 1));
}

#[test]
fn weights_are_within_their_bounds() {
    let of = |text: &str, weight: &str| {
        let annotated = format!("annotations: {{weir.io/lb-weight: '{weight}'}}, name: ");
        document::parse("a", &text.replacen("name: ", &annotated, 1))
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\n\
        endpoints: [{addresses: [10.1.0.5]}]\n";
    for (text, weight) in [("0", 0), ("100", 100), (" 7 ", 7)] {
        assert_eq!(of(pod, text).objects.pods[0].weight, Some(weight));
        assert_eq!(of(slice, text).objects.slices[0].endpoints[0].weight, weight);
    }
    let parsed = document::parse("a", slice);
    assert_eq!(parsed.objects.slices[0].endpoints[0].weight, 100);
    for (text, of_it) in [("101", pod), ("-1", pod), ("1.5", slice), ("", slice)] {
        let problems = of(of_it, text).problems;
        assert!(problems[0].message.contains("weir.io/lb-weight"), "{problems:?}");
    }
}
