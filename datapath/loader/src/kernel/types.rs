//! What the drop program and its reader need to know of the kernel's types.

use super::btf::Btf;

/// Offsets in bytes, under the names of the program's globals.
#[derive(Debug, Clone)]
pub(crate) struct Offsets(pub(crate) [(&'static str, u32); 11]);

/// Found in the kernel's BTF.
#[derive(Debug)]
pub(crate) struct Types {
    /// None where a member was not found: then the name of the first.
    pub(crate) offsets: Result<Offsets, String>,
    /// Whether `kfree_skb` says the reason (kernel ≥ 5.17).
    pub(crate) has_reason: bool,
    /// Reasons by number, without the prefix `SKB_DROP_REASON_`.
    reasons: Vec<(u32, Box<str>)>,
}

const FIELDS: [(&str, &str, &str); 11] = [
    ("SKB_DEV", "sk_buff", "dev"),
    ("SKB_IIF", "sk_buff", "skb_iif"),
    ("SKB_LEN", "sk_buff", "len"),
    ("SKB_PROTOCOL", "sk_buff", "protocol"),
    ("SKB_NETWORK_HEADER", "sk_buff", "network_header"),
    ("SKB_HEAD", "sk_buff", "head"),
    ("SKB_DATA", "sk_buff", "data"),
    ("SKB_TAIL", "sk_buff", "tail"),
    ("DEV_IFINDEX", "net_device", "ifindex"),
    ("DEV_NET", "net_device", "nd_net"),
    ("NET_INUM", "net", "ns"),
];

/// Parameters of `btf_trace_kfree_skb` before the reason: the kernel's own, skb, location.
const BEFORE_REASON: usize = 3;

// === impl Types ===

impl Types {
    /// Asks the kernel's BTF.
    pub(crate) fn of(btf: &Btf) -> Self {
        let reasons = btf.enumeration("skb_drop_reason").unwrap_or_default();
        let mut reasons: Vec<_> =
            reasons.into_iter().map(|(number, name)| (number, short(name).into())).collect();
        reasons.sort_unstable_by_key(|&(number, _)| number);
        Self {
            offsets: offsets(btf),
            has_reason: btf
                .parameters("btf_trace_kfree_skb")
                .is_some_and(|parameters| parameters > BEFORE_REASON),
            reasons,
        }
    }

    /// Nothing known.
    pub(crate) fn unknown(why: String) -> Self {
        Self { offsets: Err(why), has_reason: false, reasons: Vec::new() }
    }

    /// Name of a reason.
    pub(crate) fn reason(&self, number: u32) -> Option<&str> {
        let index = self.reasons.binary_search_by_key(&number, |&(number, _)| number).ok()?;
        Some(&self.reasons[index].1)
    }
}

fn offsets(btf: &Btf) -> Result<Offsets, String> {
    let mut offsets = [("", 0); 11];
    for (found, (global, structure, member)) in offsets.iter_mut().zip(FIELDS) {
        let missing = || format!("the kernel's BTF has no {structure}.{member}");
        *found = (global, btf.offset(structure, member).ok_or_else(missing)?);
    }
    // `net.ns` is a `ns_common`, and the number is a member of that.
    let inum = btf.offset("ns_common", "inum").ok_or("the kernel's BTF has no ns_common.inum")?;
    offsets[10].1 += inum;
    Ok(Offsets(offsets))
}

fn short(name: &str) -> &str {
    name.strip_prefix("SKB_DROP_REASON_").or_else(|| name.strip_prefix("SKB_")).unwrap_or(name)
}
