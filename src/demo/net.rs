//! The demo's network: the cast's pods, and a filter that loses.

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
    lose(&cluster)?;
    Ok(cluster)
}

/// A filter on the nodes loses one request in eight to the payments provider, which then is sent again.
fn lose(cluster: &Cluster) -> Result<()> {
    let lossy = "table inet demo_loss {\n\
                   chain forward {\n\
                     type filter hook forward priority 0;\n\
                     tcp dport 80 tcp flags & psh == psh numgen random mod 8 < 1 drop\n\
                   }\n\
                 }";
    cluster.nodes().iter().try_for_each(|node| node.netns.nft(lossy))
}
