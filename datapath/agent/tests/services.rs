//! Redirection to pods of the client's node, and weights, over the real kernel half: what a client gets to see while
//! policies and pods come and go. Needs root; without it, it fails.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use datapath_agent::{Config, Interfaces, Mode, Ready, Timeouts};
use harness::{Cluster, Netns, serial, wait_until};
use stage::StopToken;
use tonic::transport::Endpoint;
use wire::agent::ServiceTablesRequest;
use wire::agent::agent_client::AgentClient;

const SERVICE: &str = "10.96.7.1:80";
const ADDRESS: &str = "169.254.20.10:53";
const PORT: u16 = 8080;

/// `redirectFrontend` of a policy.
const OF_SERVICE: &str = "{serviceMatcher: {serviceName: web, namespace: default}}";
const OF_ADDRESS: &str = "{addressMatcher: {ip: 169.254.20.10, toPorts: [\
    {port: '53', protocol: UDP, name: u}, {port: '53', protocol: TCP, name: t}]}}";

/// What is in the manifests, beside nodes and pods.
#[derive(Default)]
struct Content<'a> {
    /// Of redirect policies.
    frontends: &'a [&'a str],
    near_is_unready: bool,
    /// Both pods are the service's, `near` with this weight.
    weight: Option<u8>,
}

fn manifests(cluster: &Cluster, content: &Content<'_>) -> String {
    let mut text = String::new();
    for pod in cluster.pods() {
        let name = &pod.spec.name;
        let near = name == "near";
        let ready = if near && content.near_is_unready { "False" } else { "True" };
        let weight = content.weight.filter(|_| near).map_or(String::new(), |weight| {
            format!(", annotations: {{weir.io/lb-weight: '{weight}'}}")
        });
        let web = if name == "web" || near && content.weight.is_some() { "web" } else { "" };
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{app: {name}, of: '{web}'}}{weight}}}\n\
             spec: {{nodeName: ra}}\nstatus: {{podIPs: [{{ip: {}}}], conditions: [{{type: Ready, status: '{ready}'}}]}}",
            pod.ipv4
        );
    }
    let _ = writeln!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{clusterIP: 10.96.7.1, selector: {{of: web}}, ports: [{{port: 80, targetPort: {PORT}}}]}}"
    );
    for (number, frontend) in content.frontends.iter().enumerate() {
        let ports = if frontend.contains("toPorts") {
            format!(
                "[{{port: '{PORT}', protocol: UDP, name: u}}, {{port: '{PORT}', protocol: TCP, name: t}}]"
            )
        } else {
            format!("[{{port: '{PORT}', protocol: TCP}}]")
        };
        let _ = writeln!(
            text,
            "---\napiVersion: cilium.io/v2\nkind: CiliumLocalRedirectPolicy\n\
             metadata: {{name: p{number}, namespace: default}}\nspec:\n  redirectFrontend: {frontend}\n  \
             redirectBackend: {{localEndpointSelector: {{matchLabels: {{app: near}}}}, toPorts: {ports}}}"
        );
    }
    text
}

fn write(folder: &Path, text: &str) {
    let next = folder.join("all.next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, folder.join("all.yaml")).unwrap();
}

/// Says its name to whoever connects, and then what it is told; its name to whoever sends a datagram.
fn serve(netns: &Netns, ip: IpAddr, name: &'static str) {
    let at = SocketAddr::new(ip, PORT);
    let bound = netns.run(move || (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
    let (tcp, udp) = bound.unwrap();
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            std::thread::spawn(move || {
                stream.write_all(name.as_bytes())?;
                std::io::copy(&mut stream.try_clone()?, &mut stream)
            });
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(name.as_bytes(), from);
        }
    });
}

/// A new connection, and who answers; none where nobody does within a short time.
fn connect(netns: &Netns, to: &str) -> Option<(TcpStream, String)> {
    let to = to.parse().unwrap();
    let patience = Duration::from_millis(300);
    let stream = netns.run(move || TcpStream::connect_timeout(&to, patience)).unwrap();
    let mut stream = stream.ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    let name = read(&mut stream)?;
    Some((stream, name))
}

fn read(stream: &mut TcpStream) -> Option<String> {
    let mut buffer = [0; 64];
    let length = stream.read(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn tcp(netns: &Netns, to: &str) -> Option<String> {
    connect(netns, to).map(|(_, name)| name)
}

/// Who answers a datagram.
fn udp(socket: &UdpSocket, to: &str) -> Option<String> {
    let mut buffer = [0; 64];
    socket.send_to(b"?", to).ok()?;
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    assert_eq!(from.to_string(), to, "answers come from the address that was asked");
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn datagrams(netns: &Netns) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

#[track_caller]
fn until(what: Option<&str>, mut ask: impl FnMut() -> Option<String>) {
    let end = Instant::now() + Duration::from_secs(5);
    let mut got = ask();
    while got.as_deref() != what {
        assert!(Instant::now() < end, "{got:?} instead of {what:?}");
        got = ask();
    }
    for _ in 0..5 {
        assert_eq!(ask().as_deref(), what);
    }
}

/// Where cgroup v2 is mounted.
fn cgroup() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2) == Some(&"cgroup2"));
    PathBuf::from(found.expect("cgroup v2 is mounted")[1])
}

fn run(config: Config, netns: &Netns, stop: StopToken, ready: &OnceLock<Ready>) {
    let (metrics, stages) = (prometheus::Registry::new(), stage::Registry::new());
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let said = |said| ready.set(said).unwrap();
        runtime.block_on(datapath_agent::run(config, &metrics, &stages, stop, said))
    };
    netns.run(work).unwrap().unwrap();
}

/// A client and two servers on a node whose agent enforces.
struct Lab {
    cluster: Cluster,
    folder: PathBuf,
}

// === impl Lab ===

impl Lab {
    fn new(name: &str) -> Self {
        let mut cluster = Cluster::for_test(name, &["ra"]).unwrap();
        for pod in ["client", "web", "near"] {
            cluster.add_plain_pod(0, pod).unwrap();
        }
        for name in ["web", "near"] {
            let pod = cluster.pod(name);
            serve(&pod.netns, pod.ipv4.into(), name);
        }
        let folder = cluster.run().directory("manifests").unwrap();
        Self { cluster, folder }
    }

    fn put(&self, content: &Content<'_>) {
        write(&self.folder, &manifests(&self.cluster, content));
    }

    fn node(&self) -> &Netns {
        &self.cluster.nodes()[0].netns
    }

    fn socket(&self) -> PathBuf {
        self.folder.with_file_name("agent.sock")
    }

    /// How many translations the kernel has.
    fn translations(&self) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let uri = format!("unix://{}", self.socket().display());
        let answer = runtime.block_on(async {
            let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
            let request = ServiceTablesRequest { what: "nat".to_owned(), limit: 0 };
            AgentClient::new(channel).service_tables(request).await.unwrap().into_inner()
        });
        let table: serde_json::Value = serde_json::from_str(&answer.json).unwrap();
        table["nat"].as_array().unwrap().len()
    }

    fn client(&self) -> &Netns {
        &self.cluster.pod("client").netns
    }

    /// While the agent runs.
    fn enforce(&self, during: impl FnOnce()) {
        let run_of = self.cluster.run();
        let config = Config {
            mode: Mode::Enforce,
            manifests: Some(self.folder.clone()),
            interfaces: Interfaces::parse("veth*,eth0,lo"),
            max_connections: 8192,
            cgroup: Some(cgroup()),
            local_socket: Some(self.socket()),
            timeouts: Timeouts { closed: Duration::from_secs(1), ..Timeouts::default() },
            interval: Duration::from_secs(1),
            ..Config::new("ra", run_of.directory("agent").unwrap(), run_of.pins("agent"))
        };
        let (stop, ready) = (StopToken::new(), OnceLock::new());
        std::thread::scope(|scope| {
            let agent = scope.spawn(|| run(config, self.node(), stop.clone(), &ready));
            while ready.get().is_none() {
                assert!(!agent.is_finished());
                std::thread::sleep(Duration::from_millis(5));
            }
            // Whatever becomes of it: the agent is waited for.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
            stop.stop();
            agent.join().unwrap();
            if let Err(panic) = done {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

#[test]
fn clients_get_to_the_pod_of_their_node_while_it_is_ready() {
    let _turn = serial();
    let lab = Lab::new("redirect");
    let put = |frontends: &[&str], ready: bool| {
        lab.put(&Content { frontends, near_is_unready: !ready, ..Content::default() });
    };
    put(&[], true);
    let (node, client) = (lab.node(), lab.client());
    lab.enforce(|| {
        let flow = datagrams(client);
        let both = [client, node];
        both.iter().for_each(|netns| until(Some("web"), || tcp(netns, SERVICE)));
        assert_eq!((tcp(client, ADDRESS), udp(&flow, ADDRESS)), (None, None));

        put(&[OF_SERVICE, OF_ADDRESS], true);
        both.iter().for_each(|netns| until(Some("near"), || tcp(netns, SERVICE)));
        both.iter().for_each(|netns| until(Some("near"), || tcp(netns, ADDRESS)));
        // The flow is older than the policy.
        until(Some("near"), || udp(&flow, ADDRESS));
        let of_host = datagrams(node);
        until(Some("near"), || udp(&of_host, ADDRESS));

        put(&[OF_SERVICE, OF_ADDRESS], false);
        both.iter().for_each(|netns| until(Some("web"), || tcp(netns, SERVICE)));
        until(None, || tcp(client, ADDRESS));
        until(None, || udp(&flow, ADDRESS));

        put(&[OF_SERVICE, OF_ADDRESS], true);
        until(Some("near"), || tcp(client, SERVICE));
        put(&[OF_ADDRESS], true);
        until(Some("web"), || tcp(client, SERVICE));
        until(Some("near"), || udp(&flow, ADDRESS));
    });
}

#[test]
fn new_connections_follow_weights_and_old_ones_stay() {
    let _turn = serial();
    let lab = Lab::new("weights");
    let put = |weight| lab.put(&Content { weight: Some(weight), ..Content::default() });
    put(25);
    let client = lab.client();
    lab.enforce(|| {
        let to_near = |name: &String| name == "near";
        let count = || (0..400).filter_map(|_| tcp(client, SERVICE)).filter(to_near).count();
        // A fifth: 80, give or take five standard deviations of 8.
        let near = count();
        assert!((40..=120).contains(&near), "{near} of 400");
        let mut kept = loop {
            match connect(client, SERVICE).unwrap() {
                (stream, name) if name == "near" => break stream,
                _ => {}
            }
        };
        put(0);
        // Of so many one would be seen.
        wait_until("no new connections", Duration::from_secs(10), || count() == 0).unwrap();
        kept.write_all(b"still there").unwrap();
        assert_eq!(read(&mut kept).as_deref(), Some("still there"));
        // Of what is over nothing is left.
        wait_until("one translation", Duration::from_secs(20), || lab.translations() == 1).unwrap();
    });
}
