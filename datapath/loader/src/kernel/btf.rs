//! The kernel's own type information, read just far enough.
//!
//! aya-obj's reader keeps every type of the kernel in memory, some 30 MB; the agent may have 40 in
//! all. This one goes over the section once per question and keeps nothing. Format:
//! Documentation/bpf/btf.rst. Every read is bounded: a broken section is an answer "not found".

use std::io;

/// The section, as /sys/kernel/btf/vmlinux gives it.
#[derive(Debug)]
pub(crate) struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
}

/// A type's head, and where its parts are.
#[derive(Debug, Clone, Copy)]
struct Type {
    name: u32,
    kind: u8,
    length: usize,
    size_or_type: u32,
    parts: usize,
}

const MAGIC: u16 = 0xeb9f;

const STRUCT: u8 = 4;
const UNION: u8 = 5;
const ENUM: u8 = 6;
const TYPEDEF: u8 = 8;
const FUNC_PROTO: u8 = 13;

/// Modifiers (typedef, volatile, const, restrict, type tag): to be looked through.
const MODIFIERS: [u8; 5] = [TYPEDEF, 9, 10, 11, 18];

const PTR: u8 = 2;

// === impl Btf ===

impl Btf {
    /// This kernel's.
    pub(crate) fn of_kernel() -> io::Result<Self> {
        let section = std::fs::read("/sys/kernel/btf/vmlinux")?;
        Self::parse(&section).ok_or_else(|| io::Error::other("/sys/kernel/btf/vmlinux: not BTF"))
    }

    /// Splits a section into its parts.
    pub(crate) fn parse(section: &[u8]) -> Option<Self> {
        if u16::from_le_bytes(*section.first_chunk()?) != MAGIC {
            return None;
        }
        let header = word(section, 4)? as usize;
        let part = |at: usize| -> Option<Vec<u8>> {
            let start = header.checked_add(word(section, at)? as usize)?;
            let end = start.checked_add(word(section, at + 4)? as usize)?;
            Some(section.get(start..end)?.to_vec())
        };
        Some(Self { types: part(8)?, strings: part(16)? })
    }

    /// Offset in bytes of a member, looked for in anonymous members too.
    pub(crate) fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let (_, ty) = self
            .all()
            .find(|(_, ty)| ty.kind == STRUCT && ty.length > 0 && self.named(ty.name, structure))?;
        let index = Index::of(self);
        self.member(&index, &ty, member, 0).map(|bits| bits / 8)
    }

    /// Values of an enumeration, by name.
    pub(crate) fn enumeration(&self, name: &str) -> Option<Vec<(u32, &str)>> {
        let (_, ty) = self.all().find(|(_, ty)| ty.kind == ENUM && self.named(ty.name, name))?;
        let values = (0..ty.length).filter_map(|index| {
            let at = ty.parts + index * 8;
            Some((word(&self.types, at + 4)?, self.string(word(&self.types, at)?)?))
        });
        Some(values.collect())
    }

    /// Number of parameters of the function type behind a typedef, as tracepoints have one
    /// (`btf_trace_…`; the first parameter is the kernel's own).
    pub(crate) fn parameters(&self, typedef: &str) -> Option<usize> {
        let (_, ty) =
            self.all().find(|(_, ty)| ty.kind == TYPEDEF && self.named(ty.name, typedef))?;
        let index = Index::of(self);
        let mut ty = index.get(self, ty.size_or_type)?;
        for _ in 0..8 {
            match ty.kind {
                FUNC_PROTO => return Some(ty.length),
                kind if kind == PTR || MODIFIERS.contains(&kind) => {
                    ty = index.get(self, ty.size_or_type)?;
                }
                _ => return None,
            }
        }
        None
    }

    /// Bits from the beginning of `ty` to a member.
    fn member(&self, index: &Index, ty: &Type, member: &str, depth: u32) -> Option<u32> {
        if depth > 8 {
            return None;
        }
        (0..ty.length).find_map(|part| {
            let at = ty.parts + part * 12;
            let (name, of, bits) =
                (word(&self.types, at)?, word(&self.types, at + 4)?, word(&self.types, at + 8)?);
            // With bit fields, the upper byte is the field's size.
            let bits = bits & 0xff_ffff;
            if name != 0 {
                return self.named(name, member).then_some(bits);
            }
            let inner = index.get(self, of)?;
            if !matches!(inner.kind, STRUCT | UNION) {
                return None;
            }
            self.member(index, &inner, member, depth + 1)?.checked_add(bits)
        })
    }

    /// All types, with where each begins.
    fn all(&self) -> impl Iterator<Item = (usize, Type)> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let ty = self.at(at)?;
            let found = (at, ty);
            at = ty.parts + ty.parts_bytes()?;
            Some(found)
        })
    }

    fn at(&self, at: usize) -> Option<Type> {
        let info = word(&self.types, at + 4)?;
        Some(Type {
            name: word(&self.types, at)?,
            kind: (info >> 24 & 0x1f) as u8,
            length: (info & 0xffff) as usize,
            size_or_type: word(&self.types, at + 8)?,
            parts: at + 12,
        })
    }

    fn string(&self, at: u32) -> Option<&str> {
        let rest = self.strings.get(at as usize..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    fn named(&self, at: u32, name: &str) -> bool {
        self.strings.get(at as usize..).is_some_and(|rest| {
            rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0)
        })
    }
}

// === impl Type ===

impl Type {
    /// Bytes of what follows the head; none for a kind that we don't know.
    fn parts_bytes(&self) -> Option<usize> {
        Some(match self.kind {
            1 | 14 | 17 => 4,
            3 => 12,
            STRUCT | UNION | 15 | 19 => self.length * 12,
            ENUM | FUNC_PROTO => self.length * 8,
            PTR | 7..=12 | 16 | 18 => 0,
            _ => return None,
        })
    }
}

/// Where each type begins, by its number.
struct Index(Vec<u32>);

// === impl Index ===

impl Index {
    fn of(btf: &Btf) -> Self {
        Self(btf.all().map(|(at, _)| at as u32).collect())
    }

    /// Number 0 is `void`.
    fn get(&self, btf: &Btf, number: u32) -> Option<Type> {
        btf.at(*self.0.get((number as usize).checked_sub(1)?)? as usize)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel() {
        let btf = Btf::of_kernel().expect("this test needs a kernel with BTF");
        assert_eq!(btf.offset("iphdr", "ttl"), Some(8));
        assert_eq!(btf.offset("iphdr", "daddr"), Some(16));
        assert!(btf.offset("sk_buff", "network_header").unwrap() > 0);
        assert_eq!(btf.offset("sk_buff", "no_such_member"), None);
        assert_eq!(btf.offset("no_such_structure", "len"), None);
        let reasons = btf.enumeration("skb_drop_reason").unwrap();
        assert!(reasons.contains(&(1, "SKB_CONSUMED")));
        assert!(btf.parameters("btf_trace_kfree_skb").unwrap() >= 3);
    }

    #[test]
    fn broken() {
        let section = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        assert!(Btf::parse(&[]).is_none());
        assert!(Btf::parse(&section[..20]).is_none());
        let mut btf = Btf::parse(&section).unwrap();
        btf.types.truncate(4001);
        btf.strings.truncate(3);
        assert_eq!(btf.offset("iphdr", "ttl"), None);
        btf.types.fill(0xff);
        assert_eq!(btf.offset("iphdr", "ttl"), None);
    }
}
