//! Reasons for kernel drops, in Hubble's words.

use model::DropReason;

/// EtherTypes (IEEE 802).
pub(crate) const IPV4: u16 = 0x0800;
/// See [`IPV4`].
pub(crate) const IPV6: u16 = 0x86dd;

/// Whether the kernel freed a packet that nobody lost, by reason and place: what a socket had received
/// when it was closed (mostly its peer's FIN), and the packets of the agent's own program runs.
pub(crate) fn is_none(kernel: &str, location: &str) -> bool {
    bare(kernel) == "QUEUE_PURGE" || location == "bpf_prog_test_run_skb"
}

/// `drop_location` of what Weir's own policy refused.
pub(crate) const OWN: &str = "weir";

/// Whether a classifier dropped it (`SKB_DROP_REASON_TC_INGRESS` and `_TC_EGRESS`, net/core/dev.c).
pub(crate) fn by_classifier(kernel: &str) -> bool {
    matches!(bare(kernel), "TC_INGRESS" | "TC_EGRESS")
}

/// Hubble's reason for the kernel's (`enum skb_drop_reason`, with or without its prefix). Only
/// where the meaning is the same; the kernel's own word stands beside it in every row.
pub(crate) fn reason(kernel: &str) -> DropReason {
    match bare(kernel) {
        // A rule that someone wrote, in whichever language.
        "NETFILTER_DROP" | "SOCKET_FILTER" | "TC_INGRESS" | "TC_EGRESS" | "XDP" | "QDISC_DROP"
        | "BPF_CGROUP_EGRESS" => DropReason::PolicyDenied,
        "PKT_TOO_SMALL" | "TCP_CSUM" | "UDP_CSUM" | "IP_CSUM" | "ICMP_CSUM" | "SKB_CSUM"
        | "HDR_TRUNC" | "IP_INHDR" | "IPV6_BAD_EXTHDR" | "INVALID_PROTO" | "INVALID_SKB"
        | "PKT_TOO_BIG" | "IP_INVALID_SOURCE" | "IP_INVALID_DEST" | "TCP_FLAGS" => {
            DropReason::InvalidPacket
        }
        "IP_OUTNOROUTES" | "IP_INNOROUTES" | "IP_NOROUTES" | "IP_RPFILTER" | "NEIGH_FAILED"
        | "NEIGH_CREATEFAIL" | "NEIGH_DEAD" => DropReason::FibLookupFailed,
        _ => DropReason::Unknown,
    }
}

fn bare(kernel: &str) -> &str {
    kernel.strip_prefix("SKB_DROP_REASON_").or(kernel.strip_prefix("SKB_")).unwrap_or(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_meaning_with_or_without_prefix() {
        for (kernel, expected) in [
            ("SKB_DROP_REASON_NETFILTER_DROP", DropReason::PolicyDenied),
            ("NETFILTER_DROP", DropReason::PolicyDenied),
            ("TCP_CSUM", DropReason::InvalidPacket),
            ("IP_OUTNOROUTES", DropReason::FibLookupFailed),
            ("NO_SOCKET", DropReason::Unknown),
            ("", DropReason::Unknown),
        ] {
            assert_eq!(reason(kernel), expected, "{kernel}");
        }
    }

    #[test]
    fn what_nobody_lost_is_no_drop() {
        assert!(is_none("SKB_DROP_REASON_QUEUE_PURGE", "sk_stream_kill_queues"));
        assert!(is_none("NOT_SPECIFIED", "bpf_prog_test_run_skb"));
        assert!(!is_none("NOT_SPECIFIED", "ip6_mc_input"));
    }
}
