//! What the demo prints: where to look and what to try.

use std::net::SocketAddr;

use harness::Cluster;
use harness::weir::Agent;

const QUERIES: [(&str, &str); 4] = [
    (
        "who talks to whom, and how much",
        "SELECT source_workload, destination_workload, sum(bytes_out + bytes_in) AS bytes, count(DISTINCT flow_id) \
         AS connections FROM flows WHERE reporter = 'SOURCE' GROUP BY 1, 2 ORDER BY bytes DESC LIMIT 10",
    ),
    (
        "what the policy refuses, and which policies select the server",
        "SELECT source_pod, destination_pod, destination_port, policy_kind, policies_selecting, sum(attempts) \
         AS attempts FROM flows WHERE verdict = 'DROPPED' GROUP BY 1, 2, 3, 4, 5 LIMIT 10",
    ),
    (
        "what the kernel drops, where and why",
        "SELECT source_workload, destination_workload, destination_port, kernel_reason, drop_location, \
         sum(packets) AS packets FROM drops GROUP BY 1, 2, 3, 4, 5 ORDER BY packets DESC LIMIT 10",
    ),
    (
        "does it add up, per interface: flows + unattributed against the kernel's counters (both are \
         a moment old, so what moves right now may be in one of them only)",
        "SELECT c.node, c.interface, c.kernel, f.flows + c.unattributed AS accounted FROM (SELECT node, interface, \
         sum(rx_bytes + tx_bytes) AS kernel, sum(unattributed_bytes) AS unattributed FROM counters GROUP BY 1, 2) c \
         JOIN (SELECT node, interface, sum(bytes_out + bytes_in + 14 * (packets_out + packets_in)) AS flows \
         FROM flows GROUP BY 1, 2) f USING (node, interface) ORDER BY 1, 2",
    ),
];

const OBSERVES: [(&str, &str); 3] = [
    ("watch connections as they come", "weir observe --follow"),
    ("only what goes to redis", "weir observe --to-pod data/redis-0 --last 20"),
    ("only DNS, as JSON", "weir observe --port 53 --last 20 -o jsonpb"),
];

/// Who would like to reach redis, and may not.
const LOADGEN: &str = "loadgen-9f7c4b8d5-b6z8s";

/// Where the commands look without being told.
const DEFAULT_ADDRESS: &str = "127.0.0.1:4280";

/// Prints the page's address and what to try.
pub(super) fn print(cluster: &Cluster, agents: &[Agent], address: SocketAddr) {
    let pods = cluster.pods().count();
    println!("\nweir demo: {} nodes, {pods} pods, real traffic\n", cluster.nodes().len());
    println!("  page   http://{address}/\n");
    if address.to_string() != DEFAULT_ADDRESS {
        println!("  export WEIR_SERVER=http://{address}\n");
    }
    println!("SQL:");
    for (purpose, query) in QUERIES {
        println!("  # {purpose}\n  weir sql \"{query}\"");
    }
    println!("\nObserve:");
    for (purpose, line) in OBSERVES {
        println!("  {line:<52} # {purpose}");
    }
    if let Some(agent) = agents.first() {
        let socket = agent.local_socket();
        let socket = socket.display();
        println!("\nPolicy and services, as the agent of node-a has them (as root):");
        println!("  weir why shop/{LOADGEN} data/redis-0:6379 --agent-socket {socket}");
        for command in [
            "policy get",
            "endpoint list --local",
            "bpf policy data/redis-0",
            "service list",
            "service get shop/web",
            "bpf nat --limit 10",
        ] {
            println!("  weir {command} --agent-socket {socket}");
        }
    }
    println!("\nLook inside a pod:\n  ip netns exec weir-demo-web-0 ss -tn\n");
    println!("Ctrl-C stops it and removes everything.");
}
