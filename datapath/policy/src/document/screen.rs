//! Hostile YAML is refused before anything is built from it.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::ParseError;

/// Longest document, bytes: what etcd takes as one object.
pub(crate) const MAX_BYTES: usize = 3 << 19;
/// Values of a document at most, after aliases are followed.
const MAX_VALUES: usize = 400_000;
/// Bytes of its texts at most, after aliases are followed.
const MAX_TEXT: usize = 8 << 20;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;

/// Refuses what would cost more than a policy may: too long, too deep, or grown by aliases.
pub(crate) fn screen(text: &str) -> Result<(), ParseError> {
    if text.len() > MAX_BYTES {
        let message = format!("the document has {} bytes; at most {MAX_BYTES}", text.len());
        return Err(ParseError::of(message));
    }
    depth(text)?;
    let limits = Limits { values: Cell::new(MAX_VALUES), text: Cell::new(MAX_TEXT) };
    let count = Count { limits: &limits };
    count
        .deserialize(serde_norway::Deserializer::from_str(text))
        .map_err(|error| ParseError::yaml(&error))
}

/// Brackets, and dashes and indentation in front of a line: the parser's cost grows with the square
/// of the nesting, so it is not asked. Brackets inside of texts count too; no policy has so many.
fn depth(text: &str) -> Result<(), ParseError> {
    let too_deep = |line| {
        let message = format!("line {line}: nested deeper than {MAX_DEPTH}");
        ParseError { line: Some(line), message }
    };
    let mut open = 0usize;
    for (i, line) in text.lines().enumerate() {
        let front =
            line.bytes().take_while(|byte| matches!(byte, b' ' | b'-' | b'?' | b':' | b'\t'));
        let marks = front.filter(|byte| *byte != b' ' && *byte != b'\t').count();
        // `---` ends a document, and long rules of dashes stand in comments' place.
        if marks > MAX_DEPTH {
            return Err(too_deep(i + 1));
        }
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if open > MAX_DEPTH {
                return Err(too_deep(i + 1));
            }
        }
    }
    Ok(())
}

struct Limits {
    values: Cell<usize>,
    text: Cell<usize>,
}

/// Visits a document and builds nothing.
#[derive(Clone, Copy)]
struct Count<'l> {
    limits: &'l Limits,
}

impl Count<'_> {
    fn value<E: Error>(self, text: usize) -> Result<(), E> {
        let take = |cell: &Cell<usize>, amount: usize| {
            let left = cell.get().checked_sub(amount);
            left.map(|left| cell.set(left)).ok_or_else(|| E::custom("the document is too large"))
        };
        take(&self.limits.values, 1)?;
        take(&self.limits.text, text)
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.value(0)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.value(0)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.value(0)
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.value(0)
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.value(0)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.value(0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.value(text.len())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.value(0)
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.value(0)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.value(0)?;
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.value(0)?;
        while entries.next_entry_seed(self, self)?.is_some() {}
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom("tags are not allowed"))
    }
}
