//! `weir demo` as a user meets it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use harness::process::Signal;
use harness::sql::Sql;
use harness::weir::Binaries;
use harness::{Netns, Process, Run, http, serial, wait_for, wait_until};
use serde_json::Value;

const NODES: [&str; 2] = ["node-a", "node-b"];
const READY: Duration = Duration::from_secs(90);

/// A demo under test. The run is the test's own: the demo has its own as well.
struct Demo {
    process: Process,
    address: SocketAddr,
    run: Run,
}

// === impl Demo ===

impl Demo {
    fn start(name: &str, seconds: u64) -> Self {
        let run = Run::for_test(name).unwrap();
        let ready: PathBuf = run.directory("ready").unwrap().join("ready.json");
        let weir = Binaries::beside_this().unwrap().path("weir").unwrap();
        let mut command = Command::new(weir);
        command.args(["demo", "--listen", "127.0.0.1:0", "--seconds", &seconds.to_string()]);
        command.arg("--ready-file").arg(&ready);
        let mut process = Process::spawn(&run, None, "demo", &mut command).unwrap();
        let told = wait_for("the demo is ready", READY, || {
            let text = std::fs::read_to_string(&ready).ok()?;
            serde_json::from_str::<Value>(&text).ok()
        });
        let told = told.unwrap_or_else(|error| {
            panic!("{error}: {:?}\n{}", process.ended(), process.log());
        });
        for key in ["hubble", "sql_pg", "flight", "kubeconfig"] {
            assert!(told.get(key).is_some(), "{key} is not in the ready file");
        }
        let ui = told["ui"].as_str().unwrap();
        let address = ui.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        Self { process, address, run }
    }

    fn sql(&self) -> Sql {
        Sql::new(self.address)
    }
}

/// Namespaces of the demo.
fn namespaces() -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("weir-demo-")).collect()
}

/// What a demo may leave anywhere.
fn leftovers() -> Vec<String> {
    let mut found = namespaces();
    let pins = std::fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten();
    let pins = pins.map(|entry| entry.file_name().to_string_lossy().into_owned());
    found.extend(pins.filter(|name| name.starts_with("weir-demo-")));
    if std::path::Path::new("/var/lib/weir/lab/demo").exists() {
        found.push("/var/lib/weir/lab/demo".to_owned());
    }
    found
}

#[test]
fn shows_who_talks_to_whom_and_stops_by_itself() {
    let _turn = serial();
    let mut demo = Demo::start("demo", 75);
    let page = http::get(demo.address, "/").unwrap();
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<html"), "{}", page.text());
    let sql = demo.sql();

    // Who: every workload, in its namespace, on its node, by its kind.
    let expected = [
        ("shop", "loadgen", "web"),
        ("shop", "web", "api"),
        ("shop", "api", "redis"),
        ("shop", "api", "cart"),
        ("shop", "web", "dns"),
        ("shop", "cart", "redis"),
    ];
    for (namespace, source, destination) in expected {
        let query = format!(
            "SELECT count(*), sum(bytes_out + bytes_in) FROM flows WHERE source_namespace = '{namespace}' \
             AND source_workload = '{source}' AND destination_workload = '{destination}' \
             AND reporter = 'SOURCE' AND source_pod LIKE '{source}-%'"
        );
        wait_until(&format!("{source} → {destination}"), Duration::from_secs(20), || {
            sql.query(&query).is_ok_and(|rows| rows.number(0, 1).is_some_and(|bytes| bytes > 0))
        })
        .unwrap();
    }
    let kinds = sql
        .query("SELECT DISTINCT source_workload_kind FROM flows WHERE source_workload = 'loadgen'")
        .unwrap();
    assert_eq!((kinds.rows.len(), kinds.text(0, 0)), (1, "Deployment"));

    // What fails: refused, dropped by the policy, outside, over IPv6.
    let some = |what: &str, query: &str| {
        let asked = || sql.number(query).is_ok_and(|n| n > 0);
        let waited = wait_until(what, Duration::from_secs(20), asked);
        waited.unwrap_or_else(|error| panic!("{error}: {query}"));
    };
    some(
        "refused connections",
        "SELECT sum(attempts) FROM flows WHERE destination_port = 9090 AND destination_service = 'api' \
         AND drop_reason = 'SERVICE_BACKEND_NOT_FOUND'",
    );
    some(
        "a filter's drops",
        "SELECT sum(packets) FROM drops WHERE destination_ip = '203.0.113.10' \
         AND destination_port = 80 AND kernel_reason = 'NETFILTER_DROP'",
    );
    some(
        "traffic to the outside",
        "SELECT sum(packets_out) FROM flows WHERE destination_ip = '203.0.113.10' AND protocol = 'TCP'",
    );
    some(
        "IPv6",
        "SELECT count(*) FROM flows WHERE ip_version = 6 AND destination_workload = 'cart'",
    );
    some("pings", "SELECT count(*) FROM flows WHERE protocol = 'ICMPv4'");
    some(
        "names from DNS answers",
        "SELECT count(*) FROM flows WHERE array_has(destination_names, 'payments.example.com')",
    );
    some("retransmissions", "SELECT sum(retransmits) FROM flows WHERE destination_port = 80");
    some(
        "the policy's verdict",
        "SELECT count(*) FROM flows WHERE verdict = 'DROPPED' AND drop_reason = 'POLICY_DENIED' \
         AND source_workload = 'loadgen' AND destination_workload = 'redis' AND attempts > 0 \
         AND policy_kind = 'default-deny' AND array_has(policies_selecting, 'data/redis')",
    );
    some("refused inside pods", "SELECT count(*) FROM drops WHERE kernel_reason = 'NO_SOCKET'");

    let none = |what: &str, query: &str| {
        let rows = sql.query(query).unwrap().rows;
        assert!(rows.is_empty(), "{what}: {rows:?}");
    };
    none(
        "flows that are said to be dropped and were not",
        "SELECT * FROM flows WHERE verdict = 'DROPPED' AND destination_workload <> 'redis' LIMIT 3",
    );
    none(
        "drops that two nodes claim",
        "SELECT kernel_reason, source_pod, destination_pod, destination_port FROM drops \
         WHERE source_pod IS NOT NULL AND destination_pod IS NOT NULL GROUP BY 1, 2, 3, 4 HAVING count(DISTINCT node) > 1",
    );
    none(
        "drops inside pods that are told of another interface",
        "SELECT interface, destination_pod FROM drops WHERE kernel_reason = 'NO_SOCKET' \
         AND destination_port = 9090 AND interface NOT LIKE 'veth-api-%' LIMIT 3",
    );
    none(
        "what nobody lost",
        "SELECT * FROM drops WHERE kernel_reason = 'QUEUE_PURGE' \
         OR drop_location = 'bpf_prog_test_run_skb' LIMIT 3",
    );
    none(
        "DNS answers that are told of twice",
        "SELECT flow_id, query FROM l7 GROUP BY 1, 2 HAVING count(*) > 1 LIMIT 3",
    );
    follows(demo.address);
    what_it_prints_works(&demo);

    let status = demo.process.wait(Duration::from_secs(120)).unwrap();
    assert!(status.success(), "{status}\n{}", demo.process.log());
    let printed = demo.process.log();
    assert_eq!(printed.matches("weir sql \"").count(), 4, "{printed}");
    assert_eq!(printed.matches("  weir observe").count(), 3, "{printed}");
    assert_eq!(leftovers(), [""; 0]);
}

/// Every line that the demo says to try is run as it stands, by a shell.
fn what_it_prints_works(demo: &Demo) {
    let weir = Binaries::beside_this().unwrap().path("weir").unwrap();
    let printed = demo.process.log();
    let commands = [
        "weir sql ",
        "weir observe ",
        "weir why ",
        "weir policy ",
        "weir endpoint ",
        "weir service ",
        "weir bpf ",
    ];
    let tried = |line: &&str| commands.iter().any(|command| line.starts_with(command));
    let lines: Vec<&str> = printed.lines().map(str::trim).filter(tried).collect();
    assert_eq!(lines.len(), 14, "{printed}");
    for line in lines {
        // What follows for ever is left after some seconds.
        let line = format!("PATH={}:$PATH timeout 5 {line}", weir.parent().unwrap().display());
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).env("WEIR_SERVER", format!("http://{}", demo.address));
        let output = shell.output().unwrap();
        let ended = output.status.success() || line.contains("--follow");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(ended && said.lines().count() > 1, "{line}: {output:?}");
    }
}

/// The live stream brings flows, and says every second how it is doing.
fn follows(address: SocketAddr) {
    let lines = http::lines(address, "/api/v1/flows?follow=true&namespace=shop").unwrap();
    let (mut flows, mut statuses) = (0, 0);
    let mut kind = String::new();
    for line in lines.take(4000) {
        if let Some(event) = line.strip_prefix("event: ") {
            kind = event.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data).unwrap();
            match kind.as_str() {
                "flow" => {
                    flows += 1;
                    let end = |side: &str| data[format!("{side}_namespace")] == "shop";
                    assert!(end("source") || end("destination"), "not of the namespace: {data}");
                }
                "status" => statuses += 1,
                // A burst is more than anybody can read; that it was thinned out is said.
                "gap" => assert!(data["lost"].is_u64(), "{data}"),
                other => panic!("{other}: {data}"),
            }
        }
        if flows >= 20 && statuses >= 2 {
            return;
        }
    }
    panic!("{flows} flows and {statuses} statuses only");
}

#[test]
fn top_talkers_agree_with_the_kernel() {
    let _turn = serial();
    let demo = Demo::start("talkers", 180);
    let first = Standing::of(&demo);
    set_traffic(Signal::CONT);
    std::thread::sleep(Duration::from_secs(8));
    let mut last = Vec::new();
    let agreed = wait_until("SQL and `ip -s link` agree", Duration::from_secs(60), || {
        let now = Standing::of(&demo);
        last = now.since(&first);
        last.iter().all(|(_, kernel, said)| kernel == said)
    });
    agreed.unwrap_or_else(|error| panic!("{error}: interface, ip -s link, SQL: {last:#?}"));
    let total: u64 = last.iter().map(|(_, kernel, _)| kernel).sum();
    assert!(total > 1_000_000, "hardly any traffic: {last:?}");
    drop(demo);
    assert_eq!(leftovers(), [""; 0], "after TERM");
}

#[test]
fn a_killed_demo_is_cleaned_up() {
    let _turn = serial();
    let mut demo = Demo::start("killed", 600);
    let weir = Binaries::beside_this().unwrap().path("weir").unwrap();
    let cleanup = || Command::new(&weir).args(["demo", "--cleanup"]).output().unwrap();
    assert!(!cleanup().status.success(), "a running demo was removed");
    demo.process.kill();
    assert!(!namespaces().is_empty());
    let cleaned = cleanup();
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert_eq!(leftovers(), [""; 0]);
    assert!(http::get(demo.address, "/").is_err(), "the page still answers");

    // The next start cleans up as well.
    let mut demo = Demo::start("again", 600);
    demo.process.kill();
    let mut demo = Demo::start("again2", 600);
    demo.process.signal(Signal::INT);
    assert!(demo.process.wait(Duration::from_secs(30)).unwrap().success());
    assert_eq!(leftovers(), [""; 0], "after Ctrl-C");
    drop(demo.run);
}

/// Bytes of every interface of the nodes, by the kernel and by SQL, while the traffic stands still.
struct Standing {
    kernel: BTreeMap<String, u64>,
    said: BTreeMap<String, u64>,
}

impl Standing {
    /// Stops the traffic, and takes both once neither moves any more.
    fn of(demo: &Demo) -> Self {
        set_traffic(Signal::STOP);
        let mut before = Self::take(demo);
        wait_for("the demo stands still", Duration::from_secs(60), || {
            // Longer than the agents' interval.
            std::thread::sleep(Duration::from_secs(5));
            let now = Self::take(demo);
            let still = (&now.kernel, &now.said) == (&before.kernel, &before.said);
            before = now;
            still.then_some(())
        })
        .unwrap();
        before
    }

    fn take(demo: &Demo) -> Self {
        let mut kernel = BTreeMap::new();
        for node in NODES {
            let netns = Netns::existing(&format!("weir-demo-{node}"));
            let printed = netns.output(Command::new("ip").args(["-j", "-s", "link"])).unwrap();
            let links: Value = serde_json::from_slice(&printed.stdout).unwrap();
            for link in links.as_array().unwrap() {
                let bytes = |way: &str| link["stats64"][way]["bytes"].as_u64().unwrap();
                let name = link["ifname"].as_str().unwrap();
                if name != "lo" {
                    kernel.insert(format!("{node}/{name}"), bytes("rx") + bytes("tx"));
                }
            }
        }
        let mut said = BTreeMap::new();
        let rows = demo.sql().query(
            "SELECT concat(node, '/', interface) AS place, sum(b) FROM (\
             SELECT node, interface, bytes_out + bytes_in + 14 * (packets_out + packets_in) AS b FROM flows \
             UNION ALL SELECT node, interface, unattributed_bytes AS b FROM counters) GROUP BY 1",
        );
        let rows = rows.unwrap();
        for row in 0..rows.rows.len() {
            said.insert(rows.text(row, 0).to_owned(), rows.number(row, 1).unwrap());
        }
        Self { kernel, said }
    }

    /// Interface, its bytes by the kernel, its bytes by SQL, since `first`; the largest first.
    fn since(&self, first: &Self) -> Vec<(String, u64, u64)> {
        let mut all: Vec<_> = self
            .kernel
            .iter()
            .map(|(place, bytes)| {
                let of = |map: &BTreeMap<String, u64>| map.get(place).copied().unwrap_or(0);
                (place.clone(), bytes - of(&first.kernel), of(&self.said) - of(&first.said))
            })
            .collect();
        all.sort_by_key(|(_, bytes, _)| std::cmp::Reverse(*bytes));
        all
    }
}

/// Signals every workload of the demo, in its pods and outside; not the agents.
fn set_traffic(signal: Signal) {
    for name in namespaces() {
        if NODES.iter().any(|node| name.ends_with(node)) {
            continue;
        }
        for pid in Netns::existing(&name).pids().unwrap() {
            let number = match signal {
                Signal::STOP => "-STOP",
                _ => "-CONT",
            };
            // A process that has just ended is no error.
            let _ = Command::new("kill").args([number, &pid.to_string()]).status();
        }
    }
}
