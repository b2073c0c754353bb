//! `ip(text)` and `cidr_contains(cidr, ip)`.

use std::net::IpAddr;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::{on_texts, text_type};

/// Brings an address into its one usual form; NULL if it is none.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Ip(Signature);

/// Whether a block of addresses holds an address; NULL if either is none.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CidrContains(Signature);

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    address: IpAddr,
    bits: u32,
}

// === impl Ip ===

impl Ip {
    pub(super) fn new() -> Self {
        Self(Signature::user_defined(Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Ip {
    fn name(&self) -> &'static str {
        "ip"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match given {
            [text] => Ok(vec![text_type(text)]),
            _ => plan_err!("ip(text) takes one address"),
        }
    }

    fn return_type(&self, _given: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let normal = |texts: &StringArray| -> ArrayRef {
            let texts = texts.iter().map(|text| parse(text?).map(|address| address.to_string()));
            Arc::new(texts.collect::<StringArray>())
        };
        match &args.args[0] {
            ColumnarValue::Scalar(value) => {
                let column = on_texts(&value.to_array()?, normal)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&column, 0)?))
            }
            ColumnarValue::Array(column) => Ok(ColumnarValue::Array(on_texts(column, normal)?)),
        }
    }
}

// === impl CidrContains ===

impl CidrContains {
    pub(super) fn new() -> Self {
        Self(Signature::user_defined(Volatility::Immutable))
    }
}

impl ScalarUDFImpl for CidrContains {
    fn name(&self) -> &'static str {
        "cidr_contains"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match given {
            [_, address] => Ok(vec![DataType::Utf8, text_type(address)]),
            _ => plan_err!("cidr_contains(cidr, ip) takes a block and an address"),
        }
    }

    fn return_type(&self, _given: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let ColumnarValue::Scalar(block) = &args.args[0] {
            let block = block.try_as_str().flatten().and_then(Block::parse);
            let inside = |texts: &StringArray| -> ArrayRef {
                let inside = texts.iter().map(|text| Some(block?.contains(parse(text?)?)));
                Arc::new(inside.collect::<BooleanArray>())
            };
            return match &args.args[1] {
                ColumnarValue::Scalar(value) => {
                    let column = on_texts(&value.to_array()?, inside)?;
                    Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&column, 0)?))
                }
                ColumnarValue::Array(column) => Ok(ColumnarValue::Array(on_texts(column, inside)?)),
            };
        }
        let blocks = args.args[0].to_array(args.number_rows)?;
        let addresses = args.args[1].to_array(args.number_rows)?;
        let addresses = on_texts(&addresses, |texts| Arc::new(texts.clone()))?;
        let pairs = blocks.as_string::<i32>().iter().zip(addresses.as_string::<i32>());
        let inside =
            pairs.map(|(block, address)| Some(Block::parse(block?)?.contains(parse(address?)?)));
        Ok(ColumnarValue::Array(Arc::new(inside.collect::<BooleanArray>())))
    }
}

// === impl Block ===

impl Block {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (parse(address)?, Some(bits.parse::<u32>().ok()?)),
            None => (parse(text)?, None),
        };
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(all);
        (bits <= all).then_some(Self { address, bits })
    }

    fn contains(self, address: IpAddr) -> bool {
        let differ = match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
            _ => return false,
        };
        differ.leading_zeros() >= self.bits
    }
}

/// An address; an IPv4 one inside of IPv6 is what it stands for.
fn parse(text: &str) -> Option<IpAddr> {
    Some(text.trim().parse::<IpAddr>().ok()?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_their_addresses() {
        let holds = |block: &str, address: &str| {
            Block::parse(block).map(|block| block.contains(parse(address).unwrap()))
        };
        assert_eq!(holds("10.0.0.0/8", "10.255.1.2"), Some(true));
        assert_eq!(holds("10.0.0.0/8", "11.0.0.0"), Some(false));
        assert_eq!(holds("10.1.2.3", "10.1.2.3"), Some(true));
        assert_eq!(holds("0.0.0.0/0", "1.2.3.4"), Some(true));
        assert_eq!(holds("0.0.0.0/0", "::1"), Some(false));
        assert_eq!(holds("fd00::/8", "fd12::1"), Some(true));
        assert_eq!(holds("10.0.0.0/8", "::ffff:10.0.0.1"), Some(true));
        assert_eq!(holds("10.0.0.0/33", "10.0.0.1"), None);
        assert_eq!(holds("ten", "10.0.0.1"), None);
    }
}
