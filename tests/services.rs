//! Services end to end: manifests in, connections to backends, rows and answers out; and nothing breaks while
//! endpoints come and go and the agent is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::weir::{Agent, AgentOptions, Binaries, Relay};
use harness::{Cluster, Netns, http, serial, wait_until};
use serde_json::Value;

const BACKENDS: [&str; 4] = ["b0", "b1", "b2", "b3"];
const VIP: &str = "10.96.7.1:80";
const VIP6: &str = "[fd96::7]:80";
const PORT: u16 = 8080;

/// Two nodes, a client and three backends on the first, one on the second; agents that enforce.
struct Lab {
    relay: Relay,
    agents: Vec<Agent>,
    cluster: Cluster,
    manifests: PathBuf,
}

// === impl Lab ===

impl Lab {
    fn start(name: &str, spec: &str) -> Self {
        let mut cluster = Cluster::for_test(name, &["sa", "sb"]).unwrap();
        for (node, pod) in [(0, "c0"), (0, "b0"), (0, "b1"), (0, "b2"), (1, "b3")] {
            cluster.add_plain_pod(node, pod).unwrap();
        }
        for name in BACKENDS {
            let pod = cluster.pod(name);
            for ip in [IpAddr::from(pod.ipv4), IpAddr::from(pod.ipv6)] {
                serve(&pod.netns, SocketAddr::new(ip, PORT), name);
            }
        }
        let manifests = cluster.run().directory("manifests").unwrap();
        let binaries = Binaries::beside_this().unwrap();
        let options = AgentOptions {
            manifests: Some(manifests.clone()),
            flags: vec!["--mode".to_owned(), "enforce".to_owned()],
            ..AgentOptions::default()
        };
        write(&cluster, &manifests, spec, &BACKENDS);
        let nodes = cluster.nodes().iter();
        let agents: Vec<_> = nodes
            .map(|node| Agent::start(cluster.run(), &binaries, node, &options).unwrap())
            .collect();
        let peers: Vec<&Agent> = agents.iter().collect();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let relay = Relay::start(cluster.run(), &binaries, &peers, listen, &[]).unwrap();
        Self { agents, relay, cluster, manifests }
    }

    fn write(&self, spec: &str, endpoints: &[&str]) {
        write(&self.cluster, &self.manifests, spec, endpoints);
    }

    /// `weir service`, of the first node.
    fn service(&self, args: &[&str]) -> Output {
        let weir = Binaries::beside_this().unwrap().path("weir").unwrap();
        let mut command = Command::new(weir);
        command.arg("service").args(args).arg("--agent-socket");
        command.arg(self.agents[0].local_socket()).output().unwrap()
    }

    /// What `weir service list` says of the only service.
    fn listed(&self) -> Option<Value> {
        let output = self.service(&["list", "-o", "json"]);
        let all: Value = serde_json::from_slice(&output.stdout).ok()?;
        all["services"].as_array()?.first().cloned()
    }

    fn chosen(&self) -> BTreeSet<String> {
        let listed = self.listed().unwrap_or_default();
        let backends = listed["backends"].as_array().cloned().unwrap_or_default();
        let active = backends.iter().filter(|backend| backend["state"] == "active");
        active.filter_map(|backend| backend["address"].as_str().map(str::to_owned)).collect()
    }
}

/// The cluster's manifests, with a service of these endpoints.
fn write(cluster: &Cluster, manifests: &Path, spec: &str, endpoints: &[&str]) {
    let mut text = String::new();
    for node in cluster.nodes() {
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\nstatus: {{addresses: [{{type: InternalIP, address: {}}}]}}",
            node.name, node.ipv4
        );
        for pod in &node.pods {
            let _ = writeln!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {0}, namespace: default, labels: {{app: {0}}}}}\n\
                 spec: {{nodeName: {1}}}\nstatus: {{phase: Running, podIP: {2}, podIPs: [{{ip: {2}}}, {{ip: '{3}'}}]}}",
                pod.spec.name, node.name, pod.ipv4, pod.ipv6
            );
        }
    }
    let _ = writeln!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n{spec}\n  \
         clusterIP: 10.96.7.1\n  clusterIPs: [10.96.7.1, 'fd96::7']\n  \
         ports: [{{name: http, port: 80, targetPort: {PORT}, nodePort: 30080}}]"
    );
    for v6 in [false, true] {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let _ = writeln!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-{}\n  \
             namespace: default\n  labels: {{kubernetes.io/service-name: web}}\naddressType: {family}\n\
             ports: [{{name: http, port: {PORT}, protocol: TCP}}]\nendpoints:",
            family.to_lowercase()
        );
        if endpoints.is_empty() {
            text.push_str("  []\n");
        }
        for name in endpoints {
            let pod = cluster.pod(name);
            let address = if v6 { pod.ipv6.to_string() } else { pod.ipv4.to_string() };
            let node = if *name == "b3" { "sb" } else { "sa" };
            let _ = writeln!(text, "  - {{addresses: ['{address}'], nodeName: {node}}}");
        }
    }
    let path = manifests.join("all.yaml");
    let next = manifests.join("all.next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// Says its name, then echoes.
fn serve(netns: &Netns, at: SocketAddr, name: &'static str) {
    let listener = netns.run(move || TcpListener::bind(at)).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || greet(stream, name));
        }
    });
}

fn greet(mut stream: TcpStream, name: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    let mut buffer = [0; 4096];
    if writeln!(stream, "{name} {}", peer.ip()).is_err() {
        return;
    }
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Who served, and whom it saw.
fn ask(netns: &Netns, at: &str) -> std::io::Result<(String, String)> {
    let at: SocketAddr = at.parse().unwrap();
    netns
        .run(move || {
            let stream = TcpStream::connect_timeout(&at, Duration::from_secs(4))?;
            stream.set_read_timeout(Some(Duration::from_secs(4)))?;
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line)?;
            let (name, peer) = line.trim().split_once(' ').unwrap_or_default();
            Ok((name.to_owned(), peer.to_owned()))
        })
        .unwrap()
}

#[test]
fn services_are_served_and_told() {
    let _turn = serial();
    let spec = "  type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: 32100";
    let lab = Lab::start("serve", spec);
    let client = &lab.cluster.pod("c0").netns;
    let (node, other) = (&lab.cluster.nodes()[0], &lab.cluster.nodes()[1]);
    let own = lab.cluster.pod("c0").ipv4.to_string();

    // From a pod: all endpoints, and they see the pod.
    let mut served = BTreeMap::new();
    for _ in 0..60 {
        let (name, seen) = ask(client, VIP).unwrap();
        assert_eq!(seen, own);
        *served.entry(name).or_insert(0) += 1;
    }
    assert_eq!(served.len(), 4, "{served:?}");
    assert!(ask(client, VIP6).is_ok());
    // From the host, by its sockets; the test is one of its processes while it is in its namespace.
    for _ in 0..10 {
        ask(&node.netns, VIP).unwrap();
        ask(&node.netns, VIP6).unwrap();
    }
    // From outside: endpoints of that node only, which see the client itself.
    let at = format!("{}:30080", node.ipv4);
    let mut served = BTreeSet::new();
    for _ in 0..30 {
        let (name, seen) = ask(lab.cluster.world(), &at).unwrap();
        assert_eq!(seen, "172.18.0.1");
        served.insert(name);
    }
    assert_eq!(served, ["b0", "b1", "b2"].map(str::to_owned).into());
    assert_eq!(ask(lab.cluster.world(), &format!("{}:30080", other.ipv4)).unwrap().0, "b3");
    // At another port nobody listens, and that is said at once.
    let refused = ask(client, "10.96.7.1:81").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    // A load balancer is told who has endpoints.
    let health = |node: &harness::Node| {
        let at = SocketAddr::new(node.ipv4.into(), 32100);
        lab.cluster.world().run(|| http::get(at, "/healthz")).unwrap().unwrap()
    };
    let told = wait_until("the health port answers", Duration::from_secs(10), || {
        health(node).json()["localEndpoints"] == 3
    });
    told.unwrap();
    assert_eq!(health(node).status, 200);
    lab.write(spec, &["b3"]);
    wait_until("no endpoint is left here", Duration::from_secs(10), || health(node).status == 503)
        .unwrap();
    assert_eq!(health(other).json()["localEndpoints"], 1);

    // One is shown by its name; what may have been meant by another is said.
    let output = lab.service(&["get", "default/web", "-o", "json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), shown[0]["backends"][0]["weight"].as_u64()),
        (Some(0), Some(100))
    );
    let output = lab.service(&["get", "wbe"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no service wbe") && said.contains("(near: default/web)"), "{said}");

    // What the rows say: as asked and as reached, for packets and for sockets.
    let sql = lab.relay.sql();
    let some = |what: &str, query: &str| {
        wait_until(what, Duration::from_secs(20), || sql.number(query).is_ok_and(|n| n > 0))
            .unwrap_or_else(|error| panic!("{error}: {query}"));
    };
    let both = "destination_ip = '10.96.7.1' AND destination_port = 80 AND destination_service = 'web' \
                AND backend_port = 8080";
    some(
        "rows of a pod's connections",
        &format!(
            "SELECT count(DISTINCT backend_ip) - 3 FROM flows WHERE source_pod = 'c0' AND {both}"
        ),
    );
    some(
        "rows of the host's connections",
        &format!(
            "SELECT count(*) FROM flows WHERE source_ip = '172.18.0.11' AND destination_pod LIKE 'b%' AND {both}"
        ),
    );
    some(
        "the same connection by both nodes",
        "SELECT count(*) FROM (SELECT flow_id FROM flows WHERE source_pod = 'c0' AND backend_port = 8080 \
         AND reporter = 'SOURCE' INTERSECT SELECT flow_id FROM flows WHERE destination_pod = 'b3' \
         AND reporter = 'DESTINATION')",
    );
    some(
        "a NodePort",
        "SELECT count(*) FROM flows WHERE destination_port = 30080 AND destination_service = 'web' \
         AND backend_port = 8080 AND destination_pod LIKE 'b%'",
    );
    some(
        "what was refused",
        "SELECT sum(attempts) FROM flows WHERE destination_ip = '10.96.7.1' AND destination_port = 81 \
         AND drop_reason = 'SERVICE_BACKEND_NOT_FOUND'",
    );
}

/// Connections that live through everything.
fn lasting(lab: &Lab, stop: &Arc<AtomicBool>) -> Vec<std::thread::JoinHandle<Result<u64, String>>> {
    let open = || {
        let at: SocketAddr = VIP.parse().unwrap();
        let stream =
            lab.cluster.pod("c0").netns.run(move || TcpStream::connect(at)).unwrap().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut line = String::new();
        BufReader::with_capacity(1, &stream).read_line(&mut line).unwrap();
        let stop = Arc::clone(stop);
        std::thread::spawn(move || {
            let mut stream = stream;
            let mut rounds = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let text = rounds.to_be_bytes();
                let mut back = [0; 8];
                stream.write_all(&text).map_err(|error| format!("{line}: {error}"))?;
                stream.read_exact(&mut back).map_err(|error| format!("{line}: {error}"))?;
                if back != text {
                    return Err(format!("{line}: an echo of something else"));
                }
                rounds += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(rounds)
        })
    };
    (0..20).map(|_| open()).collect()
}

#[test]
fn nothing_breaks_while_endpoints_come_and_go_and_the_agent_is_killed() {
    let _turn = serial();
    let spec = "  type: ClusterIP";
    let mut lab = Lab::start("churn", spec);
    let long = std::env::var_os("WEIR_LONG").is_some();
    let wanted: u64 = if long { 1_000_000 } else { 4_000 };
    let stop = Arc::new(AtomicBool::new(false));
    let lasting = lasting(&lab, &stop);

    // Who may serve now: a change is begun before the file is written and over once the kernel has it.
    let allowed: Arc<Mutex<BTreeSet<&'static str>>> = Arc::new(Mutex::new(BACKENDS.into()));
    let done = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let netns = Netns::existing(lab.cluster.pod("c0").netns.name());
            let (stop, allowed, done) =
                (Arc::clone(&stop), Arc::clone(&allowed), Arc::clone(&done));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let before = allowed.lock().unwrap().clone();
                    let (name, _) = match ask(&netns, VIP) {
                        Ok(said) => said,
                        // Every port of the client's waits for the end of an earlier connection (TIME-WAIT).
                        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                            std::thread::sleep(Duration::from_millis(100));
                            continue;
                        }
                        Err(error) => return Err(format!("a new one: {error}")),
                    };
                    let after = allowed.lock().unwrap().clone();
                    if !before.iter().chain(&after).any(|known| *known == name) {
                        return Err(format!(
                            "{name} served, allowed were {before:?} and {after:?}"
                        ));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let started = Instant::now();
    let sets: [&[&'static str]; 5] =
        [&["b0", "b1"], &["b2", "b3"], &["b1"], &["b0", "b1", "b2", "b3"], &["b3"]];
    let mut changes = 0;
    let mut killed = 0;
    while (done.load(Ordering::Relaxed) < wanted || changes < 12)
        && started.elapsed() < Duration::from_secs(if long { 3000 } else { 60 })
    {
        let set = sets[changes % sets.len()];
        changes += 1;
        allowed.lock().unwrap().extend(set);
        lab.write(spec, set);
        let wanted: BTreeSet<String> = set
            .iter()
            .flat_map(|name| {
                let pod = lab.cluster.pod(name);
                [IpAddr::from(pod.ipv4), IpAddr::from(pod.ipv6)]
            })
            .map(|ip| SocketAddr::new(ip, PORT).to_string())
            .collect();
        if changes % 4 == 2 {
            // Killed in the middle of a change; the next one brings it to its end.
            lab.agents[0].process.signal(harness::process::Signal::KILL);
            std::thread::sleep(Duration::from_millis(300));
            lab.agents[0].restart(lab.cluster.run()).unwrap();
            killed += 1;
        }
        wait_until("the change is served", Duration::from_secs(10), || lab.chosen() == wanted)
            .unwrap();
        // What was on its way has arrived by then.
        std::thread::sleep(Duration::from_millis(50));
        *allowed.lock().unwrap() = set.iter().copied().collect();
        std::thread::sleep(Duration::from_millis(300));
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap().unwrap();
    }
    let rounds: u64 = lasting.into_iter().map(|thread| thread.join().unwrap().unwrap()).sum();
    let done = done.load(Ordering::Relaxed);
    println!(
        "{done} connections, {rounds} exchanges on 20 that lasted, {changes} changes, agent killed {killed} times, {:?}",
        started.elapsed()
    );
    assert!(done >= wanted / 2 && changes >= 5 && killed >= 1 && rounds > 1000);
}
