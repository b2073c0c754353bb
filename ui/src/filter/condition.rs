//! Conditions over the columns of `flows`, and their text in SQL.

use std::fmt::Write as _;
use std::net::IpAddr;

/// A network: an address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Net {
    pub(crate) address: IpAddr,
    pub(crate) length: u8,
}

/// A test of a row. Unknown (NULL) passes no test, and so passes every negated one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Condition {
    /// A word or text is this.
    Equal(&'static str, String),
    /// A word or text begins with this.
    Prefix(&'static str, String),
    /// A word or text is like this pattern.
    Like(&'static str, Glob),
    /// A number is this.
    Number(&'static str, u64),
    /// An address lies in this network.
    Within(&'static str, Net),
    /// A list has this.
    Has(&'static str, String),
    /// A list has one that begins with this.
    HasPrefix(&'static str, String),
    /// A list has one that is like this pattern.
    HasLike(&'static str, Glob),
    /// A list has all of these.
    HasAll(&'static str, Vec<String>),
    /// None of it holds.
    Not(Box<Condition>),
    /// All of them hold; so does an empty list.
    And(Vec<Condition>),
    /// One of them holds.
    Or(Vec<Condition>),
}

/// A pattern in which `*` stands for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(String);

// === impl Net ===

impl Net {
    /// Whether it is a single address.
    pub(crate) fn is_host(self) -> bool {
        self.length == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// Whether `address` lies in it; an IPv4 address lies in no IPv6 network.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        let (network, address, width) = match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                (network.to_bits(), address.to_bits(), 128)
            }
            _ => return false,
        };
        let shift = width - u32::from(self.length);
        // A shift by the whole width is none that a machine knows.
        network.checked_shr(shift).unwrap_or(0) == address.checked_shr(shift).unwrap_or(0)
    }
}

// === impl Condition ===

impl Condition {
    pub(crate) fn equal(column: &'static str, text: &str) -> Self {
        Self::Equal(column, text.to_owned())
    }

    pub(crate) fn not(condition: Self) -> Self {
        Self::Not(Box::new(condition))
    }

    pub(crate) fn any(mut conditions: Vec<Self>) -> Self {
        if conditions.len() == 1 { conditions.remove(0) } else { Self::Or(conditions) }
    }

    /// The condition in SQL. Only names of columns and literals stand in it.
    pub(crate) fn sql(&self) -> String {
        match self {
            Self::Equal(column, text) => format!("{column} = {}", literal(text)),
            Self::Prefix(column, text) => format!("starts_with({column}, {})", literal(text)),
            Self::Like(column, glob) => format!("{column} LIKE {}", literal(&glob.like())),
            Self::Number(column, number) => format!("{column} = {number}"),
            Self::Within(column, net) if net.is_host() => {
                format!("{column} = {}", literal(&net.address.to_string()))
            }
            Self::Within(column, net) => {
                let cidr = format!("{}/{}", net.address, net.length);
                format!("cidr_contains({}, {column})", literal(&cidr))
            }
            Self::Has(column, text) => format!("array_has({column}, {})", literal(text)),
            Self::HasPrefix(column, text) => {
                // Names, labels and flags have no blanks in them.
                let joined = format!("concat(' ', array_to_string({column}, ' '))");
                format!("strpos({joined}, {}) > 0", literal(&format!(" {text}")))
            }
            Self::HasLike(column, glob) => {
                let pattern = format!("(^| ){}( |$)", glob.regex());
                format!("regexp_like(array_to_string({column}, ' '), {})", literal(&pattern))
            }
            Self::HasAll(column, all) => {
                let list: Vec<String> = all.iter().map(|one| literal(one)).collect();
                format!("array_has_all({column}, [{}])", list.join(", "))
            }
            Self::Not(condition) => format!("({}) IS NOT TRUE", condition.sql()),
            Self::And(all) => join(all, " AND ", "true"),
            Self::Or(any) => join(any, " OR ", "false"),
        }
    }
}

fn join(conditions: &[Condition], word: &str, empty: &str) -> String {
    match conditions {
        [] => empty.to_owned(),
        [one] => one.sql(),
        many => {
            let parts: Vec<String> = many.iter().map(Condition::sql).collect();
            format!("({})", parts.join(word))
        }
    }
}

// === impl Glob ===

impl Glob {
    pub(crate) fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// Whether `text` is like it: by going back to the last `*` on a mismatch, linear for one
    /// star and quadratic at worst.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        let mut star = None;
        while t < text.len() {
            if p < pattern.len() && pattern[p] == b'*' {
                star = Some((p, t));
                p += 1;
            } else if p < pattern.len() && pattern[p] == text[t] {
                p += 1;
                t += 1;
            } else if let Some((at, from)) = star {
                p = at + 1;
                t = from + 1;
                star = Some((at, t));
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }

    /// The pattern of SQL's LIKE.
    fn like(&self) -> String {
        let mut out = String::with_capacity(self.0.len() + 4);
        for c in self.0.chars() {
            match c {
                '*' => out.push('%'),
                '%' | '_' | '\\' => {
                    out.push('\\');
                    out.push(c);
                }
                c => out.push(c),
            }
        }
        out
    }

    /// A regular expression over elements that have no blanks.
    fn regex(&self) -> String {
        let mut out = String::with_capacity(self.0.len() + 8);
        for c in self.0.chars() {
            match c {
                '*' => out.push_str("[^ ]*"),
                c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
                // Every other character stands for itself when its code is written out.
                c => write!(out, "\\x{{{:x}}}", u32::from(c)).expect("memory takes it"),
            }
        }
        out
    }
}

/// A string literal of SQL: the quote is doubled, nothing else is special in it.
pub fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        if c == '\'' {
            out.push('\'');
        }
        out.push(c);
    }
    out.push('\'');
    out
}
