//! The agent over the real kernel half: one node, two pods, real traffic, a real gRPC client. Needs
//! root; without it, it fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int32Type, UInt64Type};
use arrow_array::{Array as _, RecordBatch};
use columns::{Table, ipc};
use datapath_agent::{Config, Interfaces, Ready};
use harness::traffic::{EchoServer, datagrams, ping, short_connections};
use harness::{Cluster, Node, Pod};
use stage::StopToken;
use tonic::transport::Endpoint;
use wire::export::export_client::ExportClient;
use wire::export::subscribe_request::Request;
use wire::export::subscribe_response::Response;
use wire::export::{Ack, Part, Start, StatusRequest, SubscribeRequest};

/// Rows by table, as a relay has them.
type Rows = BTreeMap<String, Vec<RecordBatch>>;
/// Batches by boot and number: one that comes again is not taken again.
type Batches = BTreeMap<(String, u64), Vec<Part>>;

const FLOWS: [&str; 4] = ["packets_out", "packets_in", "bytes_out", "bytes_in"];
const COUNTERS: [&str; 6] = [
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "unattributed_packets",
    "unattributed_bytes",
];

struct Lab {
    cluster: Cluster,
    dir: PathBuf,
    pins: PathBuf,
}

// === impl Lab ===

impl Lab {
    fn new(name: &str) -> Self {
        let mut cluster = Cluster::for_test(name, &["a"]).unwrap();
        cluster.add_plain_pod(0, "client").unwrap();
        cluster.add_plain_pod(0, "server").unwrap();
        let dir = cluster.run().directory("agent").unwrap();
        let lab = Self { pins: cluster.run().pins("agent"), dir, cluster };
        std::fs::create_dir_all(lab.dir.join("manifests")).unwrap();
        for pod in lab.cluster.pods() {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, \
                 labels: {{app: {name}}}}}\nstatus: {{podIPs: [{{ip: {}}}, {{ip: '{}'}}]}}\n",
                pod.ipv4,
                pod.ipv6,
                name = pod.spec.name,
            );
            std::fs::write(lab.dir.join(format!("manifests/{}.yaml", pod.spec.name)), text)
                .unwrap();
        }
        lab
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes()[0]
    }

    fn pod(&self, name: &str) -> &Pod {
        self.cluster.pod(name)
    }

    fn config(&self) -> Config {
        Config {
            interval: Duration::from_secs(1),
            manifests: Some(self.dir.join("manifests")),
            socket: Some(self.dir.join("hubble.sock")),
            interfaces: Interfaces::parse("veth*,eth0,lo"),
            max_connections: 8192,
            ..Config::new("a", self.dir.join("spool"), &self.pins)
        }
    }

    /// Runs an agent in the node's namespace while `during` runs; adds what it exports to
    /// `batches`.
    fn observe(&self, config: Config, batches: &mut Batches, during: impl FnOnce(&Ready)) {
        let (stop, socket) = (StopToken::new(), config.socket.clone().unwrap());
        let ready = OnceLock::new();
        std::thread::scope(|scope| {
            let agent = scope.spawn(|| self.run(config, stop.clone(), &ready));
            let ready = loop {
                match ready.get() {
                    Some(ready) => break ready,
                    None if agent.is_finished() => panic!("{:?}", agent.join().unwrap()),
                    None => std::thread::sleep(Duration::from_millis(5)),
                }
            };
            let relay = scope.spawn(|| runtime().block_on(relay(&socket)));
            during(ready);
            stop.stop();
            agent.join().unwrap().unwrap();
            batches.extend(relay.join().unwrap());
        });
    }

    fn run(
        &self,
        config: Config,
        stop: StopToken,
        ready: &OnceLock<Ready>,
    ) -> Result<(), datapath_agent::Error> {
        let metrics = prometheus::Registry::new();
        let stages = stage::Registry::new();
        let work = || {
            runtime().block_on(datapath_agent::run(config, &metrics, &stages, stop, |r| {
                ready.set(r).unwrap();
            }))
        };
        self.node().netns.run(work).unwrap()
    }

    /// The interfaces' counters, once nothing moves any more (routers and groups are sought first).
    fn quiet(&self) -> BTreeMap<String, harness::counters::Counters> {
        loop {
            let before = self.node().counters().unwrap();
            std::thread::sleep(Duration::from_secs(2));
            if self.node().counters().unwrap() == before {
                return before;
            }
        }
    }

    fn traffic(&self) {
        let (client, server) = (self.pod("client"), self.pod("server"));
        for ip in [server.ipv4.into(), server.ipv6.into()] {
            let address = SocketAddr::new(ip, 8080);
            let _echo = EchoServer::start(&server.netns, address).unwrap();
            assert_eq!(short_connections(&client.netns, address, 50, 20_000).unwrap(), 50);
            ping(&client.netns, ip, 5, 3000).unwrap();
            datagrams(&client.netns, SocketAddr::new(ip, 9), 50, 500, true).unwrap();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Takes everything until the agent ends the stream.
async fn relay(socket: &Path) -> Batches {
    let uri = format!("unix://{}", socket.display());
    let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let mut client = ExportClient::new(channel).max_decoding_message_size(64 << 20);
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.warnings, Vec::<String>::new());
    let ask = |request| SubscribeRequest { request: Some(request) };
    let (acks, outbound) = stage::queue(&stage::Registry::new(), "test", 64);
    let start = Start { relay: "test".into(), after: None, window: 0 };
    acks.send(ask(Request::Start(start))).await.unwrap();
    let outbound = futures::stream::unfold(outbound, |mut outbound| async move {
        outbound.recv().await.map(|message| (message, outbound))
    });
    let mut inbound = client.subscribe(outbound).await.unwrap().into_inner();
    let mut batches = Batches::new();
    while let Ok(Some(message)) = inbound.message().await {
        let Some(Response::Batch(batch)) = message.response else { continue };
        let position = batch.position.clone().unwrap();
        batches.insert((position.boot_id, position.sequence), batch.parts);
        let _ = acks.send(ask(Request::Ack(Ack { up_to: batch.position }))).await;
    }
    batches
}

fn rows(batches: Batches) -> Rows {
    let mut rows = Rows::new();
    for part in batches.into_values().flatten() {
        let table = Table::by_name(&part.table).unwrap();
        rows.entry(part.table).or_default().push(ipc::decode(table, &part.ipc).unwrap());
    }
    rows
}

/// Sums of columns, by a word.
fn sums(rows: &Rows, table: &str, by: &str, columns: &[&str]) -> BTreeMap<String, Vec<u64>> {
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for batch in rows.get(table).into_iter().flatten() {
        for row in 0..batch.num_rows() {
            let sums = all.entry(word(batch, by, row)).or_insert_with(|| vec![0; columns.len()]);
            for (sum, column) in sums.iter_mut().zip(columns) {
                let column = batch.column_by_name(column).unwrap().as_primitive::<UInt64Type>();
                *sum += column.value(row);
            }
        }
    }
    all
}

fn word(batch: &RecordBatch, name: &str, row: usize) -> String {
    let column = batch.column_by_name(name).unwrap().as_dictionary::<Int32Type>();
    let key = column.key(row).filter(|_| column.is_valid(row));
    key.map(|key| column.values().as_string::<i32>().value(key).to_owned()).unwrap_or_default()
}

/// Σ flows + unattributed = the interface's own counters, in packets and in bytes.
fn assert_balanced(rows: &Rows, lab: &Lab, before: &BTreeMap<String, harness::counters::Counters>) {
    let flows = sums(rows, "flows", "interface", &FLOWS);
    let counters = sums(rows, "counters", "interface", &COUNTERS);
    for (name, after) in lab.node().counters().unwrap() {
        let moved = after - before[&name];
        if moved.packets() == 0 {
            continue;
        }
        let (flow, own) = (&flows[&name], &counters[&name]);
        assert_eq!((own[0] + own[1], own[2] + own[3]), (moved.packets(), moved.bytes()), "{name}");
        let (packets, bytes) = (flow[0] + flow[1], flow[2] + flow[3]);
        assert_eq!(packets + own[4], moved.packets(), "{name}: packets");
        assert_eq!(bytes + 14 * packets + own[5], moved.bytes(), "{name}: bytes");
    }
}

#[test]
fn every_byte_is_there_once_across_a_restart() {
    let _turn = harness::serial();
    let lab = Lab::new("agent");
    let before = lab.quiet();
    let kept = Config { keep_datapath: true, ..lab.config() };
    let mut batches = Batches::new();
    lab.observe(kept, &mut batches, |ready| {
        assert!(!ready.adopted);
        assert!(ready.interfaces.iter().any(|name| *name == lab.pod("client").interface));
        lab.traffic();
    });
    // Nobody is there to report this, and it is counted.
    lab.traffic();
    lab.observe(lab.config(), &mut batches, |ready| {
        assert!(ready.adopted);
        lab.traffic();
        // Past the time that closed connections are kept.
        std::thread::sleep(Duration::from_secs(8));
    });
    assert!(batches.keys().all(|(boot, _)| *boot == batches.keys().next().unwrap().0));
    let rows = rows(batches);
    assert!(!lab.pins.exists(), "nothing is left in the kernel");
    assert_balanced(&rows, &lab, &before);

    let client = &lab.pod("client").interface;
    let (mut sources, mut closed) = (0, 0);
    for batch in &rows["flows"] {
        for row in 0..batch.num_rows() {
            let is = |name: &str, value: &str| word(batch, name, row) == value;
            if is("interface", client) && is("protocol", "TCP") {
                assert!(is("reporter", "SOURCE") && is("direction", "EGRESS"));
                assert!(is("source_pod", "client") && is("destination_workload", "server"));
                sources += 1;
                closed +=
                    u32::from(batch.column_by_name("closed").unwrap().as_boolean().value(row));
            }
            if is("interface", &lab.pod("server").interface) && is("protocol", "TCP") {
                assert!(is("reporter", "DESTINATION") && is("direction", "INGRESS"));
            }
        }
    }
    assert!(sources >= 300, "{sources}");
    assert_eq!(closed, 300, "each connection ends once");
    for table in ["nodes", "endpoints", "identities"] {
        assert!(rows.contains_key(table), "{table}");
    }
}

#[test]
fn interfaces_come_and_go() {
    let _turn = harness::serial();
    let lab = Lab::new("agentifs");
    let node = &lab.node().netns;
    let mut batches = Batches::new();
    lab.observe(lab.config(), &mut batches, |_| {
        node.ip("link add vethnew type veth peer name vethpeer\nlink set vethnew up\nlink set vethpeer up\naddr add 10.99.0.1/30 dev vethnew").unwrap();
        // Time to be found; then traffic that only its own counters can balance.
        std::thread::sleep(Duration::from_millis(1500));
        let mut child = node.spawn(std::process::Command::new("ping").args(["-c", "3", "-i", "0.2", "-W", "1", "10.99.0.2"])).unwrap();
        child.wait().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        node.ip("link del vethnew").unwrap();
        std::thread::sleep(Duration::from_secs(3));
    });
    let rows = rows(batches);
    let counters = sums(&rows, "counters", "interface", &COUNTERS);
    let flows = sums(&rows, "flows", "interface", &FLOWS);
    let own = &counters["vethnew"];
    let flow = flows.get("vethnew").cloned().unwrap_or(vec![0; 4]);
    println!("{flows:?}\n{counters:?}");
    assert!(own[0] + own[1] > 0);
    assert_eq!(flow[0] + flow[1] + own[4], own[0] + own[1]);
    let bytes = flow[2] + flow[3] + 14 * (flow[0] + flow[1]);
    assert_eq!(bytes + own[5], own[2] + own[3]);
}

#[test]
fn a_flow_is_exported_within_a_second() {
    let _turn = harness::serial();
    let lab = Lab::new("agentlag");
    let mut batches = Batches::new();
    lab.observe(lab.config(), &mut batches, |_| {
        std::thread::sleep(Duration::from_secs(2));
        let before = Instant::now();
        ping(&lab.pod("client").netns, lab.pod("server").ipv4.into(), 1, 56).unwrap();
        std::thread::sleep(Duration::from_secs(1).saturating_sub(before.elapsed()));
    });
    let rows = rows(batches);
    assert!(sums(&rows, "flows", "protocol", &["packets_out"]).contains_key("ICMPv4"));
}

/// Rows of a table as text, by the columns asked for; of a list its first value.
fn texts(rows: &Rows, table: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for batch in rows.get(table).into_iter().flatten() {
        let text = |name: &&str, row: usize| {
            let column = batch.column_by_name(name).unwrap();
            match column.as_list_opt::<i32>() {
                Some(list) if list.is_null(row) => String::new(),
                Some(list) => list.value(row).as_string::<i32>().value(0).to_owned(),
                None => word(batch, name, row),
            }
        };
        for row in 0..batch.num_rows() {
            all.push(columns.iter().map(|name| text(name, row)).collect());
        }
    }
    all
}

#[test]
fn names_processes_and_drops() {
    let _turn = harness::serial();
    let lab = Lab::new("agentwho");
    let (client, server) = (lab.pod("client"), lab.pod("server"));
    let octets = server.ipv4.octets();
    let mut batches = Batches::new();
    for cgroup in [None, Some(PathBuf::from("/sys/fs/cgroup/unified"))] {
        lab.observe(Config { cgroup, ..lab.config() }, &mut batches, |_| {
            // An answer from the server pod's port 53, then a connection to what it says.
            let mut answer = b"\x00\x01\x84\x00\x00\x01\x00\x01\x00\x00\x00\x00\x03www\x04shop\
                \x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04"
                .to_vec();
            answer.extend(octets);
            let to = SocketAddr::new(client.ipv4.into(), 5353);
            let send = || std::net::UdpSocket::bind("0.0.0.0:53").unwrap().send_to(&answer, to);
            server.netns.run(send).unwrap().unwrap();
            std::thread::sleep(Duration::from_millis(700));
            ping(&client.netns, server.ipv4.into(), 1, 56).unwrap();
            // Nobody listens: the kernel drops it.
            datagrams(&client.netns, SocketAddr::new(server.ipv4.into(), 9), 5, 100, false)
                .unwrap();
            // A program of the node itself, that stays for a while.
            let talk = || {
                let listener = std::net::TcpListener::bind("127.0.0.1:7777").unwrap();
                let _stream = std::net::TcpStream::connect("127.0.0.1:7777").unwrap();
                let _accepted = listener.accept().unwrap();
                std::thread::sleep(Duration::from_secs(6));
            };
            lab.node().netns.run(talk).unwrap();
        });
    }
    let rows = rows(batches);
    let flows =
        texts(&rows, "flows", &["protocol", "destination_names", "process_name", "reporter"]);
    assert!(flows.iter().any(|row| row[0] == "ICMPv4" && row[1] == "www.shop"), "{flows:?}");
    for reporter in ["SOURCE", "DESTINATION"] {
        let known =
            |row: &&Vec<String>| row[0] == "TCP" && !row[2].is_empty() && row[3] == reporter;
        assert!(flows.iter().filter(known).count() >= 2, "{reporter}: {flows:?}");
    }
    let answers = texts(&rows, "l7", &["query", "qtypes", "ips"]);
    let expected = ["www.shop", "A", &server.ipv4.to_string()];
    assert!(answers.iter().any(|row| *row == expected), "{answers:?}");
    let drops = texts(&rows, "drops", &["kernel_reason", "destination_pod", "drop_location"]);
    let dropped = |row: &&Vec<String>| row[0] == "NO_SOCKET" && row[1] == "server";
    let row = drops.iter().find(dropped).unwrap_or_else(|| panic!("{drops:?}"));
    assert!(row[2].contains("udp"), "{row:?}");
}
