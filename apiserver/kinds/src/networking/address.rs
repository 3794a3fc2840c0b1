//! Addresses and networks as Kubernetes has taken them in strictly since v1.36.
//!
//! Older fields held what programs read in different ways: leading zeros, which may mean octal, and IPv4 addresses in
//! the form of IPv6. Each answer is one error, or none.

use std::net::IpAddr;

use corral_api::field::{FieldError, FieldPath};

const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_NETWORK: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address, whose numbers may have leading zeros.
fn loose_address(text: &str) -> Option<IpAddr> {
    let number = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    text.parse().ok().or_else(|| {
        let parts: Vec<String> = text.split('.').map(number).collect();
        parts.join(".").parse().ok()
    })
}

/// A network, whose numbers may have leading zeros.
fn loose_network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address = loose_address(address)?;
    let is_number = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    let bits: u8 = bits.parse().ok().filter(|_| is_number)?;
    (bits <= bits_of(address)).then_some((address, bits))
}

fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// The first address of the network that an address is in.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// What is wrong with an address of an old field.
pub(super) fn address_error(text: &str) -> Option<String> {
    let Some(address) = loose_address(text) else {
        return Some(NO_ADDRESS.to_owned());
    };
    if text.parse::<IpAddr>().is_err() {
        return Some("must not have leading 0s".to_owned());
    }
    is_mapped(address).then(|| "must not be an IPv4-mapped IPv6 address".to_owned())
}

/// What is wrong with an address that must be written in its one canonical form.
pub(super) fn canonical_address_error(text: &str) -> Option<String> {
    address_error(text).or_else(|| {
        let canonical = loose_address(text)?.to_string();
        (canonical != text).then(|| format!("must be in canonical form ({canonical:?})"))
    })
}

/// What is wrong with a network of an old field.
pub(super) fn network_error(text: &str) -> Option<String> {
    let Some((address, bits)) = loose_network(text) else {
        return Some(NO_NETWORK.to_owned());
    };
    let (written, written_bits) = text.split_once('/')?;
    let words = if written.parse::<IpAddr>().is_err() || written_bits != bits.to_string() {
        "must not have leading 0s in IP or prefix length"
    } else if is_mapped(address) {
        "must not have an IPv4-mapped IPv6 address"
    } else if masked(address, bits) != address {
        "must not have bits set beyond the prefix length"
    } else {
        return None;
    };
    Some(words.to_owned())
}

/// Whether a network is a part of another, and not all of it.
pub(super) fn is_strict_part(part: &str, whole: &str) -> bool {
    let (Some((part, part_bits)), Some((whole, bits))) =
        (loose_network(part), loose_network(whole))
    else {
        return false;
    };
    part.is_ipv4() == whole.is_ipv4()
        && bits < part_bits
        && masked(part, bits) == masked(whole, bits)
}

/// A network in its canonical form.
pub(super) fn canonical_network(errors: &mut Vec<FieldError>, path: &FieldPath, text: &str) {
    let wrong = network_error(text).or_else(|| {
        let (address, bits) = loose_network(text)?;
        let canonical = format!("{address}/{bits}");
        (canonical != text).then(|| format!("must be in canonical form ({canonical:?})"))
    });
    errors.extend(wrong.map(|why| FieldError::invalid(path, text, why)));
}

/// Whether a network is one of IPv6 addresses; `None` for what is no network.
pub(super) fn is_v6_network(text: &str) -> Option<bool> {
    loose_network(text).map(|(address, _)| address.is_ipv6())
}

/// What Kubernetes warns of where an old field may hold more than one form of a network.
pub(super) fn network_warning(path: &FieldPath, text: &str) -> Option<String> {
    let (address, bits) = loose_network(text)?;
    let canonical = format!("{address}/{bits}");
    (address.is_ipv6() && canonical != text).then(|| {
        format!("{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({canonical:?})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_are_taken_strictly() {
        for (text, wrong) in [
            ("10.0.0.1", ""),
            ("010.0.0.1", "must not have leading 0s"),
            ("::ffff:10.0.0.1", "must not be an IPv4-mapped IPv6 address"),
            ("2001:DB8::1", "must be in canonical form (\"2001:db8::1\")"),
            ("10.0.0", NO_ADDRESS),
        ] {
            assert_eq!(
                canonical_address_error(text).unwrap_or_default(),
                wrong,
                "{text}"
            );
        }
        for (text, wrong) in [
            ("10.0.0.0/8", ""),
            ("0.0.0.0/0", ""),
            (
                "10.0.0.1/8",
                "must not have bits set beyond the prefix length",
            ),
            (
                "10.0.0.0/08",
                "must not have leading 0s in IP or prefix length",
            ),
            ("10.0.0.0/33", NO_NETWORK),
            ("10.0.0.0/+8", NO_NETWORK),
        ] {
            assert_eq!(network_error(text).unwrap_or_default(), wrong, "{text}");
        }
        assert!(is_strict_part("10.1.0.0/16", "10.0.0.0/8"));
        assert!(!is_strict_part("10.0.0.0/8", "10.0.0.0/8"));
        assert!(!is_strict_part("11.0.0.0/16", "10.0.0.0/8"));
    }
}
