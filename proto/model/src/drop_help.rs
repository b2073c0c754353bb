//! What the kernel's reasons for dropping a packet mean, and what to look at.

/// A sentence or two about a kernel drop: `reason` as in `enum skb_drop_reason`
/// (`include/net/dropreason-core.h`, Linux 6.1 to 6.18; with or without its prefix), `location` the function
/// that dropped. None where nothing can be said that the two names do not say.
pub fn drop_help(reason: &str, location: &str) -> Option<&'static str> {
    if location == "ping_rcv" {
        // Not what its reason, NO_SOCKET, means elsewhere.
        return Some(
            "An echo reply that no ping socket waits for, as `ping` as root does. Harmless.",
        );
    }
    by_reason(bare(reason)).or_else(|| by_location(location))
}

fn bare(reason: &str) -> &str {
    reason.strip_prefix("SKB_DROP_REASON_").or(reason.strip_prefix("SKB_")).unwrap_or(reason)
}

fn by_reason(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "NETFILTER_DROP" => {
            "A rule of nftables or iptables dropped it. Look at `nft list ruleset` and `iptables-save` \
             of that network namespace, counters first."
        }
        "TC_INGRESS" | "TC_EGRESS" => {
            "A tc classifier dropped it: Weir's policy, or another program on that hook. \
             `bpftool net` lists them."
        }
        "XDP" => "An XDP program dropped it before the stack saw it; `bpftool net` lists them.",
        "BPF_CGROUP_EGRESS" => {
            "A BPF program of the sender's cgroup refused it (`bpftool cgroup tree`)."
        }
        "SOCKET_FILTER" => "A BPF filter on the receiving socket did not want it.",
        "NO_SOCKET" => {
            "Nobody listens on that address and port in the receiver's network namespace: the service is \
             not up, listens on another address (127.0.0.1?), or the connection is already gone."
        }
        "TCP_CSUM" | "UDP_CSUM" | "ICMP_CSUM" | "IP_CSUM" | "SKB_CSUM" => {
            "A checksum is wrong: damage on the way, or checksum offload that a virtual device does not \
             complete (try `ethtool -K DEV tx off` at the sender)."
        }
        "IP_INNOROUTES" | "IP_OUTNOROUTES" => {
            "There is no route: `ip route get ADDRESS` in that network namespace says the same. \
             In a routed-on packet, look at the route back as well."
        }
        "IP_RPFILTER" => {
            "Reverse path filter: an answer to the source would leave by another interface. Asymmetric \
             routing, or `rp_filter` = 1 where 2 (loose) is meant."
        }
        "IP_LOCAL_SOURCE" | "IP_LOCALNET" | "IP_INVALID_SOURCE" => {
            "Martian: an address that cannot come by that interface, such as a local, loopback or \
             multicast source. Often a spoofed or looped packet, or the same address on two machines."
        }
        "IP_INVALID_DEST" => {
            "The destination is not valid on that interface (loopback addresses from outside, class E)."
        }
        "NEIGH_FAILED" | "NEIGH_QUEUEFULL" | "NEIGH_DEAD" | "NEIGH_CREATEFAIL"
        | "NEIGH_HH_FILLFAIL" => {
            "The neighbour did not answer ARP or neighbour discovery, or too many packets waited for it: \
             the host is down, on another network segment, or `ip neigh` has a stale entry."
        }
        "SOCKET_RCVBUFF" | "PROTO_MEM" => {
            "The receiving socket's buffer is full: the application reads too slowly, or the buffer is too \
             small (`ss -m`, net.core.rmem_max, net.ipv4.udp_mem)."
        }
        "SOCKET_BACKLOG" => {
            "The socket was locked by its owner and its backlog is full: one very busy connection; \
             net.core.rmem_max limits it."
        }
        "TCP_LISTEN_OVERFLOW" => {
            "The listening socket's accept queue is full: the server accepts too slowly, or its backlog \
             (`listen(2)`, net.core.somaxconn) is too small. `ss -lnt` shows Recv-Q against Send-Q."
        }
        "TCP_OVERWINDOW"
        | "TCP_RFC7323_PAWS"
        | "TCP_RFC7323_PAWS_ACK"
        | "TCP_OLD_SEQUENCE"
        | "TCP_OLD_DATA"
        | "TCP_OLD_ACK"
        | "TCP_TOO_OLD_ACK"
        | "TCP_ACK_UNSENT_DATA"
        | "TCP_INVALID_SEQUENCE"
        | "TCP_INVALID_ACK_SEQUENCE"
        | "TCP_INVALID_END_SEQUENCE" => {
            "Outside of the connection's window: a late duplicate, mostly harmless; many of them mean a \
             middlebox that keeps wrong state or rewrites sequence numbers."
        }
        "TCP_ZEROWINDOW" => {
            "More data than the receiver has said it can take: its application reads too slowly."
        }
        "TCP_OFOMERGE" | "TCP_OFO_DROP" | "TCP_OFO_QUEUE_PRUNE" => {
            "Out-of-order data that was there already, or had no room: loss or reordering on the path."
        }
        "TCP_INVALID_SYN" | "TCP_FLAGS" | "TCP_RESET" => {
            "TCP flags that do not fit the connection's state: it was reset, its port is being used again, \
             or somebody scans."
        }
        "TCP_CLOSE" | "TCP_ABORT_ON_DATA" => {
            "It came after the application had closed the connection."
        }
        "TCP_FASTOPEN" => "TCP fast open was refused.",
        "TCP_MD5NOTFOUND" | "TCP_MD5UNEXPECTED" | "TCP_MD5FAILURE" | "TCP_AONOTFOUND"
        | "TCP_AOUNEXPECTED" | "TCP_AOKEYNOTFOUND" | "TCP_AOFAILURE" => {
            "TCP authentication (MD5, AO) does not match at both ends."
        }
        "XFRM_POLICY" => "An IPsec policy wants it encrypted, or not at all (`ip xfrm policy`).",
        "IP_NOPROTO" | "UNHANDLED_PROTO" | "INVALID_PROTO" => {
            "Nothing in that network namespace handles the protocol: a missing module, or no bridge, VLAN \
             or raw socket that wants it."
        }
        "OTHERHOST" => {
            "The frame's MAC address is another machine's: a bridge that floods, a stale neighbour entry, \
             or an interface in promiscuous mode. Mostly harmless."
        }
        "UNICAST_IN_L2_MULTICAST" => {
            "A unicast packet in a multicast or broadcast frame (RFC 1122, 3.3.6)."
        }
        "IP_INHDR" | "HDR_TRUNC" | "PKT_TOO_SMALL" | "IPV6_BAD_EXTHDR" | "IPV6DISABLED" => {
            "The header is damaged or cut short, or IPv6 is off on that interface."
        }
        "PKT_TOO_BIG" | "FRAG_TOO_FAR" | "FRAG_REASM_TIMEOUT" | "DUP_FRAG" => {
            "Too large for the path, or its fragments did not all come: look for an MTU that is too large \
             (tunnels!) and for ICMP \"fragmentation needed\" that a filter drops."
        }
        "QDISC_DROP" | "QDISC_OVERLIMIT" | "QDISC_CONGESTED" | "CAKE_FLOOD" | "FQ_BAND_LIMIT"
        | "FQ_HORIZON_LIMIT" | "FQ_FLOW_LIMIT" => {
            "The interface's queue is full or its rate limit is reached: `tc -s qdisc show dev DEV`."
        }
        "CPU_BACKLOG" => {
            "The CPU's input queue is full (net.core.netdev_max_backlog): it cannot keep up."
        }
        "FULL_RING" | "TAP_FILTER" | "TAP_TXFILTER" => {
            "The virtual machine or process behind a tap or veth does not take packets fast enough."
        }
        "DEV_HDR" | "DEV_READY" => "The interface is down, or its link header cannot be made.",
        "NOMEM" | "SKB_UCOPY_FAULT" | "SKB_GSO_SEG" => "The kernel had no memory for it.",
        "VXLAN_INVALID_HDR"
        | "VXLAN_VNI_NOT_FOUND"
        | "VXLAN_NO_REMOTE"
        | "VXLAN_ENTRY_EXISTS"
        | "TUNNEL_TXINFO"
        | "IP_TUNNEL_ECN" => {
            "The tunnel does not know what to do with it: its header is wrong, or there is no entry for that \
             network or remote end (`bridge fdb show dev DEV`)."
        }
        "BRIDGE_INGRESS_STP_STATE" => {
            "The bridge port does not forward: spanning tree, or the port is isolated or down."
        }
        "ARP_PVLAN_DISABLE" | "MAC_INVALID_SOURCE" => {
            "Its MAC address may not be used on that port."
        }
        _ => return None,
    })
}

/// Where the kernel gives no reason (`NOT_SPECIFIED`), the function says a little.
fn by_location(location: &str) -> Option<&'static str> {
    let starts = |prefix: &str| location.starts_with(prefix);
    Some(match location {
        "nf_hook_slow" | "nft_do_chain" => by_reason("NETFILTER_DROP")?,
        "ip_error" | "ip6_pkt_drop" => by_reason("IP_INNOROUTES")?,
        "tcp_conn_request" => {
            "A connection request was refused: the listener's queues are full (`ss -lnt`, net.core.somaxconn)."
        }
        "ip6_mc_input" | "ip_mr_input" | "ip6_mr_input" => {
            "Multicast that nobody here has joined. Harmless."
        }
        "netlink_broadcast_filtered" | "unix_dgram_sendmsg" | "unix_stream_connect" => {
            "Not a network packet: a message between processes of this machine."
        }
        _ if starts("nf_conntrack")
            || starts("nf_confirm")
            || location == "__nf_conntrack_confirm" =>
        {
            "Connection tracking refused it: its table is full (`nf_conntrack: table full` in dmesg, \
             net.netfilter.nf_conntrack_max), or two packets of one new connection raced."
        }
        _ if starts("tun_") || starts("veth_") || starts("vhost_") => by_reason("FULL_RING")?,
        _ if starts("ip_forward") => {
            "It was not forwarded: TTL reached 0, it is larger than the next link takes, or forwarding is off."
        }
        _ if starts("arp_") => "ARP that was not for this machine, or not wanted. Mostly harmless.",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_ones_are_explained() {
        let explained = |reason: &str, location: &str| drop_help(reason, location).is_some();
        // What the issue of every network begins with.
        for reason in ["TCP_CSUM", "IP_OUTNOROUTES", "IP_RPFILTER", "SOCKET_RCVBUFF", "NO_SOCKET"] {
            assert!(explained(reason, ""), "{reason}");
            assert!(explained(&format!("SKB_DROP_REASON_{reason}"), ""), "{reason}");
        }
        assert!(explained("NOT_SPECIFIED", "nf_conntrack_in"));
        assert!(explained("NOT_SPECIFIED", "tcp_conn_request"));
        assert!(!explained("NOT_SPECIFIED", "some_function"));
        assert!(!explained("", ""));
    }
}
