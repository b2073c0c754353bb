//! Names of kernel functions.

use std::io::{BufRead, BufReader};

/// Functions by address: 12 bytes and the name for each.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    /// Ascending addresses, and where each name begins in `names`; it ends at a newline.
    addresses: Vec<u64>,
    starts: Vec<u32>,
    names: String,
}

// === impl Symbols ===

impl Symbols {
    /// Reads /proc/kallsyms; empty where it may not be read (`kptr_restrict`, no `CAP_SYSLOG`).
    pub(crate) fn of_kernel() -> Self {
        match std::fs::File::open("/proc/kallsyms") {
            Ok(file) => Self::read(BufReader::with_capacity(1 << 16, file)),
            Err(error) => {
                tracing::warn!(%error, "/proc/kallsyms: kernel functions have no names");
                Self::default()
            }
        }
    }

    fn read(mut text: impl BufRead) -> Self {
        let mut found: Vec<(u64, u32)> = Vec::new();
        let mut names = String::new();
        let mut line = String::new();
        while matches!(text.read_line(&mut line), Ok(1..)) {
            if let Some((address, name)) = function(&line) {
                found.push((address, names.len() as u32));
                names.push_str(name);
                names.push('\n');
            }
            line.clear();
        }
        found.sort_unstable();
        found.dedup_by_key(|&mut (address, _)| address);
        names.shrink_to_fit();
        let (addresses, starts) = found.into_iter().unzip();
        Self { addresses, starts, names }
    }

    /// The function that an address lies in.
    pub(crate) fn name(&self, address: u64) -> Option<&str> {
        let after = self.addresses.partition_point(|&start| start <= address);
        let rest = self.names.get(*self.starts.get(after.checked_sub(1)?)? as usize..)?;
        rest.split('\n').next()
    }
}

/// `ffffffff81000000 T _stext [module]`, if it is a function.
fn function(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let is_function = matches!(words.next()?, "t" | "T" | "w" | "W");
    (is_function && address != 0).then_some((address, words.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_function_below() {
        let text = "\
ffffffff81000200 t second\n\
ffffffff81000100 T first\n\
ffffffff81000150 d data\n\
ffffffffc0000000 t in_module\t[module]\n\
broken\n\
0000000000000000 T hidden\n";
        let symbols = Symbols::read(text.as_bytes());
        assert_eq!(symbols.name(0xffffffff81000100), Some("first"));
        assert_eq!(symbols.name(0xffffffff810001ff), Some("first"));
        assert_eq!(symbols.name(0xffffffff81000234), Some("second"));
        assert_eq!(symbols.name(0xffffffffc0000010), Some("in_module"));
        assert_eq!(symbols.name(0x1000), None);
        assert_eq!(Symbols::default().name(0x1000), None);
    }
}
