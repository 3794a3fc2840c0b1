//! Ranges of IP addresses.

use std::fmt;
use std::net::IpAddr;

use corral_api::field::go_quote;

use super::ip::{Ip, is_mapped, parse_address};

/// A range: an address in it and the number of leading bits that all its addresses share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub(crate) address: Ip,
    pub(crate) bits: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Cidr {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const PREFIX: &str = "network address parse error during conversion from string: ";
        let (address, bits) = parse_prefix(text).map_err(|e| format!("{PREFIX}{PREFIX}{e}"))?;
        if is_mapped(address) {
            let text = go_quote(text);
            return Err(format!(
                "{PREFIX}IPv4-mapped IPv6 address {text} is not allowed"
            ));
        }
        Ok(Self {
            address: Ip(address),
            bits,
        })
    }

    /// How many bytes the shared bits take.
    pub(crate) fn n_bytes(&self) -> usize {
        usize::from(self.bits).div_ceil(8)
    }

    pub(crate) fn masked(&self) -> Self {
        Self {
            address: Ip(mask(self.address.0, self.bits)),
            ..*self
        }
    }

    pub(crate) fn contains_ip(&self, ip: &Ip) -> bool {
        ip.0.is_ipv4() == self.address.0.is_ipv4()
            && mask(ip.0, self.bits) == mask(self.address.0, self.bits)
    }

    pub(crate) fn contains_cidr(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains_ip(&other.address)
    }
}

fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(a) & keep).into())
        }
        IpAddr::V6(a) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(a) & keep).into())
        }
    }
}

fn parse_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = |what: &str| Err(format!("netip.ParsePrefix({}): {what}", go_quote(text)));
    let Some((address, bits)) = text.rsplit_once('/') else {
        return wrong("no '/'");
    };
    let address = match parse_address(address) {
        Ok((_, true)) => return wrong("IPv6 zones cannot be present in a prefix"),
        Ok((address, false)) => address,
        Err(e) => return wrong(&e),
    };
    let shown = go_quote(bits);
    let is_number = bits.bytes().all(|b| b.is_ascii_digit()) && !bits.is_empty();
    if bits.len() > 1 && (bits.starts_with('0') || !bits.starts_with(|c: char| c.is_ascii_digit()))
    {
        return wrong(&format!("bad bits after slash: {shown}"));
    }
    let Some(n) = is_number.then(|| bits.parse::<u32>().unwrap_or(u32::MAX)) else {
        return wrong(&format!("bad bits after slash: {shown}"));
    };
    let max = if address.is_ipv4() { 32 } else { 128 };
    match u8::try_from(n) {
        Ok(n) if n <= max => Ok((address, n)),
        _ => wrong("prefix length out of range"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_addresses() {
        let range = Cidr::parse("10.1.2.3/8").expect("a range");
        assert_eq!(range.masked().to_string(), "10.0.0.0/8");
        assert!(range.contains_ip(&Ip::parse("10.255.0.1").expect("an address")));
        assert!(!range.contains_ip(&Ip::parse("::1").expect("an address")));
        assert!(range.contains_cidr(&Cidr::parse("10.9.0.0/16").expect("a range")));
        assert!(
            !Cidr::parse("10.9.0.0/16")
                .expect("a range")
                .contains_cidr(&range)
        );
        for text in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/08",
            "::/129",
            "x/8",
        ] {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
        assert!(
            Cidr::parse("::/0")
                .expect("a range")
                .contains_cidr(&Cidr::parse("::1/128").expect("a range"))
        );
    }
}
