//! The demo's network: the cast's pods, a rule that drops, a link that loses.

use harness::{Cluster, PodSpec, Result, Run};

use super::cast::{CAST, NODES};

/// Builds nodes, pods and what stands in their way.
pub(super) fn build(run: Run) -> Result<Cluster> {
    let mut cluster = Cluster::new(run, &NODES)?;
    for role in CAST {
        cluster.add_pod(
            role.node,
            PodSpec {
                namespace: role.namespace.to_owned(),
                name: role.pod.to_owned(),
                short: role.short.to_owned(),
            },
        )?;
    }
    deny(&cluster)?;
    lose(&cluster)?;
    Ok(cluster)
}

/// What the network policy `data/redis` asks for, enforced at redis's node by nftables: the load
/// generator may not reach redis. (Observe mode never drops; another program must.)
fn deny(cluster: &Cluster) -> Result<()> {
    let (redis, loadgen) = (cluster.pod("redis-0"), cluster.pod("loadgen-0"));
    cluster.nodes()[0].netns.nft(&format!(
        "table inet demo_policy {{\n\
           chain forward {{\n\
             type filter hook forward priority 0;\n\
             oifname {} ip saddr {} tcp dport 6379 drop\n\
           }}\n\
         }}",
        redis.interface, loadgen.ipv4,
    ))
}

/// The way to the payments provider loses one request in eight, which then is sent again.
fn lose(cluster: &Cluster) -> Result<()> {
    cluster.world().nft(
        "table inet demo_loss {\n\
           chain input {\n\
             type filter hook input priority 0;\n\
             tcp dport 80 tcp flags & psh == psh numgen random mod 8 < 1 drop\n\
           }\n\
         }",
    )
}
