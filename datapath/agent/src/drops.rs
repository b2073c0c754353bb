//! Reasons for kernel drops, in Hubble's words.

use model::DropReason;

/// EtherTypes (IEEE 802).
pub(crate) const IPV4: u16 = 0x0800;
/// See [`IPV4`].
pub(crate) const IPV6: u16 = 0x86dd;

/// Hubble's reason for the kernel's (`enum skb_drop_reason`, with or without its prefix). Only
/// where the meaning is the same; the kernel's own word stands beside it in every row.
pub(crate) fn reason(kernel: &str) -> DropReason {
    match kernel.strip_prefix("SKB_DROP_REASON_").or(kernel.strip_prefix("SKB_")).unwrap_or(kernel)
    {
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
}
