//! IP addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use corral_api::field::go_quote;

/// An address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip(pub(crate) IpAddr);

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Ip {
    /// Reads an address without zone that isn't an IPv4 one within IPv6.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let quoted = || go_quote(text);
        let (address, zone) = parse_address(text).map_err(|e| {
            format!(
                "IP Address {} parse error during conversion from string: {e}",
                quoted()
            )
        })?;
        if zone {
            return Err(format!(
                "IP address {} with zone value is not allowed",
                quoted()
            ));
        }
        if is_mapped(address) {
            return Err(format!(
                "IPv4-mapped IPv6 address {} is not allowed",
                quoted()
            ));
        }
        Ok(Self(address))
    }

    pub(crate) fn n_bytes(&self) -> usize {
        match self.0 {
            IpAddr::V4(_) => 4,
            IpAddr::V6(_) => 16,
        }
    }

    pub(crate) fn family(&self) -> i64 {
        match self.0 {
            IpAddr::V4(_) => 4,
            IpAddr::V6(_) => 6,
        }
    }

    pub(crate) fn is_link_local_multicast(&self) -> bool {
        match self.0 {
            IpAddr::V4(a) => a.octets()[..3] == [224, 0, 0],
            IpAddr::V6(a) => a.segments()[0] & 0xff0f == 0xff02,
        }
    }

    pub(crate) fn is_link_local_unicast(&self) -> bool {
        match self.0 {
            IpAddr::V4(a) => a.is_link_local(),
            IpAddr::V6(a) => a.is_unicast_link_local(),
        }
    }

    pub(crate) fn is_global_unicast(&self) -> bool {
        let broadcast = matches!(self.0, IpAddr::V4(a) if a.is_broadcast());
        !(broadcast
            || self.0.is_unspecified()
            || self.0.is_loopback()
            || self.0.is_multicast()
            || self.is_link_local_unicast())
    }
}

pub(crate) fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some())
}

fn wrong<T>(text: &str, what: &str) -> Result<T, String> {
    Err(format!("ParseAddr({}): {what}", go_quote(text)))
}

fn wrong_at<T>(text: &str, what: &str, at: &str) -> Result<T, String> {
    let (text, at) = (go_quote(text), go_quote(at));
    Err(format!("ParseAddr({text}): {what} (at {at})"))
}

/// An address and whether it has a zone; or why it is none, in the words of Go's netip.
pub(crate) fn parse_address(text: &str) -> Result<(IpAddr, bool), String> {
    for c in text.bytes() {
        match c {
            b'.' => return parse_v4(text, text).map(|a| (IpAddr::V4(a), false)),
            b':' => return parse_v6(text),
            b'%' => return wrong(text, "missing IPv6 address"),
            _ => {}
        }
    }
    wrong(text, "unable to parse IP")
}

/// The address in `part` of the whole text.
fn parse_v4(whole: &str, part: &str) -> Result<Ipv4Addr, String> {
    let mut fields = [0_u8; 4];
    let (mut value, mut n_digits, mut position) = (0_u32, 0, 0);
    let bytes = part.as_bytes();
    for (i, c) in bytes.iter().enumerate() {
        if c.is_ascii_digit() {
            if n_digits == 1 && value == 0 {
                return wrong(whole, "IPv4 field has octet with leading zero");
            }
            value = value * 10 + u32::from(c - b'0');
            n_digits += 1;
            if value > 255 {
                return wrong(whole, "IPv4 field has value >255");
            }
        } else if *c == b'.' {
            // Neither ".1.2.3", "1.2.3." nor "1..2.3".
            if i == 0 || i == bytes.len() - 1 || bytes[i - 1] == b'.' {
                return wrong_at(whole, "IPv4 field must have at least one digit", &part[i..]);
            }
            if position == 3 {
                return wrong(whole, "IPv4 address too long");
            }
            fields[position] = u8::try_from(value).unwrap_or(0);
            position += 1;
            (value, n_digits) = (0, 0);
        } else {
            return wrong_at(whole, "unexpected character", &part[i..]);
        }
    }
    if position < 3 {
        return wrong(whole, "IPv4 address too short");
    }
    fields[3] = u8::try_from(value).unwrap_or(0);
    Ok(Ipv4Addr::from(fields))
}

fn parse_v6(whole: &str) -> Result<(IpAddr, bool), String> {
    let (mut s, zone) = match whole.split_once('%') {
        Some((_, "")) => return wrong(whole, "zone must be a non-empty string"),
        Some((address, _)) => (address, true),
        None => (whole, false),
    };
    let mut ip = [0_u8; 16];
    let mut ellipsis = None;
    let mut i = 0;
    if s.starts_with("::") {
        ellipsis = Some(0);
        s = &s[2..];
        if s.is_empty() {
            return Ok((IpAddr::V6(Ipv6Addr::UNSPECIFIED), zone));
        }
    }
    while i < 16 {
        let n = s.bytes().take_while(u8::is_ascii_hexdigit).count();
        if n > 4 {
            return wrong_at(whole, "each group must have 4 or less digits", s);
        }
        let value = u16::from_str_radix(&s[..n], 16).unwrap_or(0);
        if n == 0 {
            return wrong_at(
                whole,
                "each colon-separated field must have at least one digit",
                s,
            );
        }
        if s[n..].starts_with('.') {
            if ellipsis.is_none() && i != 12 {
                return wrong_at(
                    whole,
                    "embedded IPv4 address must replace the final 2 fields of the address",
                    s,
                );
            }
            if i + 4 > 16 {
                return wrong_at(
                    whole,
                    "too many hex fields to fit an embedded IPv4 at the end of the address",
                    s,
                );
            }
            ip[i..i + 4].copy_from_slice(&parse_v4(whole, s)?.octets());
            s = "";
            i += 4;
            break;
        }
        let [high, low] = value.to_be_bytes();
        (ip[i], ip[i + 1]) = (high, low);
        i += 2;
        s = &s[n..];
        if s.is_empty() {
            break;
        }
        if !s.starts_with(':') {
            return wrong_at(whole, "unexpected character, want colon", s);
        }
        if s.len() == 1 {
            return wrong_at(whole, "colon must be followed by more characters", s);
        }
        s = &s[1..];
        if s.starts_with(':') {
            if ellipsis.is_some() {
                return wrong_at(whole, "multiple :: in address", s);
            }
            ellipsis = Some(i);
            s = &s[1..];
            if s.is_empty() {
                break;
            }
        }
    }
    if !s.is_empty() {
        return wrong_at(whole, "trailing garbage after address", s);
    }
    if i < 16 {
        let Some(at) = ellipsis else {
            return wrong(whole, "address string too short");
        };
        ip.copy_within(at..i, 16 - (i - at));
        ip[at..16 - (i - at)].fill(0);
    } else if ellipsis.is_some() {
        return wrong(whole, "the :: must expand to at least one field of zeros");
    }
    Ok((IpAddr::V6(Ipv6Addr::from(ip)), zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_go_reads_them() {
        for text in [
            "1.2.3.4",
            "::",
            "::1",
            "2001:db8::1",
            "fe80::1:2",
            "1:2:3:4:5:6:7:8",
        ] {
            assert_eq!(
                Ip::parse(text).map(|ip| ip.to_string()).as_deref(),
                Ok(text)
            );
        }
        for text in [
            "",
            "1.2.3",
            "1.2.3.256",
            "01.2.3.4",
            "1.2.3.4.5",
            "::1::",
            "1::2::3",
            "12345::",
            ":1",
            "1:",
            "::ffff:1.2.3.4",
            "fe80::1%eth0",
            "1:2:3:4:5:6:7:8:9",
            "g::",
        ] {
            assert!(Ip::parse(text).is_err(), "{text}");
        }
    }
}
