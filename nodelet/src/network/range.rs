//! An IPv4 address range in CIDR notation.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An address range. The base has no bits beyond the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    base: Ipv4Addr,
    prefix: u8,
}

/// The text is not an address range.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an IPv4 address range such as 10.244.0.0/24")]
pub struct InvalidRange(String);

impl Range {
    /// The range of this prefix that an address is in.
    ///
    /// # Panics
    /// When the prefix is longer than 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        assert!(prefix <= 32, "an IPv4 prefix has at most 32 bits");
        Self {
            base: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)),
            prefix,
        }
    }

    /// The first address.
    pub fn base(&self) -> Ipv4Addr {
        self.base
    }

    /// The length of the prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How many addresses there are.
    pub fn size(&self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The address at a place, if the range is that large.
    pub fn nth(&self, n: u64) -> Option<Ipv4Addr> {
        let offset = u32::try_from(n).ok().filter(|_| n < self.size())?;
        Some(Ipv4Addr::from_bits(self.base.to_bits() + offset))
    }

    /// The node's own address among its pods.
    pub fn gateway(&self) -> Ipv4Addr {
        self.nth(1).unwrap_or(self.base)
    }

    /// Whether an address is inside.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.base.to_bits()
    }

    /// Whether two ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Range {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            Some(Self::new(address.parse().ok()?, prefix))
        };
        parse().ok_or_else(|| InvalidRange(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_counted() {
        let range: Range = "10.244.3.7/24".parse().expect("a range");
        assert_eq!(range.to_string(), "10.244.3.0/24");
        assert_eq!(range.gateway(), Ipv4Addr::new(10, 244, 3, 1));
        assert_eq!(
            (range.nth(255), range.nth(256)),
            (Some(Ipv4Addr::new(10, 244, 3, 255)), None)
        );
        assert!(
            range.contains(Ipv4Addr::new(10, 244, 3, 200))
                && !range.contains(Ipv4Addr::new(10, 244, 4, 0))
        );
        assert!(range.overlaps(&"10.244.0.0/16".parse().expect("a range")));
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/64"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }
}
