//! The formats of texts and numbers that schemas may name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use regex::Regex;

use super::structural::Type;

/// Formats of texts, without dashes.
const TEXTS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// A format, if a schema of that type may have it; others are ignored.
pub fn known(format: &str, kind: Option<Type>) -> Option<&str> {
    let known = match kind {
        None | Some(Type::String) => TEXTS.contains(&format.replace('-', "").as_str()),
        Some(Type::Integer) => matches!(format, "int32" | "int64"),
        Some(Type::Number) => matches!(format, "float" | "double"),
        Some(_) => false,
    };
    known.then_some(format)
}

static PATTERNS: LazyLock<[(&str, Regex); 11]> = LazyLock::new(|| {
    [
        ("hostname", r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$"),
        ("uuid", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        ("uuid3", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        ("uuid4", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        ("uuid5", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        ("ssn", r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"),
        ("hexcolor", r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
        ("rgbcolor", r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"),
        ("bsonobjectid", r"^[0-9a-fA-F]{24}$"),
        ("email", r"^(?:[^<>@\s]+(?: [^<>@\s]+)* )?<?[A-Za-z0-9.!#$%&'*+/=?^_`{|}~\-]+@[A-Za-z0-9](?:[A-Za-z0-9.\-]*[A-Za-z0-9])?>?$"),
        ("creditcard", r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|(222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11}|6[27][0-9]{14})$"),
    ]
    .map(|(name, pattern)| (name, Regex::new(pattern).expect("a pattern of this file")))
});

fn pattern(name: &str, text: &str) -> bool {
    let found = PATTERNS.iter().find(|(n, _)| *n == name);
    found.is_some_and(|(_, regex)| regex.is_match(text))
}

/// Whether a text has a format; any text has one that there is not.
pub fn matches(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "hostname" => {
            text.len() <= 255 && text.split('.').all(|p| p.len() <= 63) && pattern("hostname", text)
        }
        "ipv4" => sloppy_ipv4(text).is_some(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uri" => is_uri(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "byte" => {
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
                && !text.is_empty()
        }
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "datetime" => is_date_time(text),
        "duration" => is_duration(text),
        "k8sshortname" => corral_api::names::dns1123_label(text).is_empty(),
        "k8slongname" => corral_api::names::dns1123_subdomain(text).is_empty(),
        name @ ("uuid" | "uuid3" | "uuid4" | "uuid5" | "ssn" | "hexcolor" | "rgbcolor"
        | "bsonobjectid" | "email") => pattern(name, text),
        _ => true,
    }
}

/// An address of version 4, whose numbers may begin with zeros.
fn sloppy_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let part = part.trim_start_matches('0');
        *octet = if part.is_empty() {
            0
        } else {
            part.parse().ok()?
        };
    }
    parts.next().is_none().then(|| octets.into())
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, prefix)| {
        let address = sloppy_ipv4(address)
            .map(IpAddr::V4)
            .or_else(|| address.parse().ok());
        let most = match address {
            Some(IpAddr::V4(_)) => 32,
            Some(IpAddr::V6(_)) => 128,
            None => return false,
        };
        prefix.bytes().all(|b| b.is_ascii_digit()) && prefix.parse::<u8>().is_ok_and(|n| n <= most)
    })
}

/// Six, eight or twenty bytes, in pairs with colons or dashes, or in fours with dots.
fn is_mac(text: &str) -> bool {
    let hex = |part: &str, n: usize| part.len() == n && part.bytes().all(|b| b.is_ascii_hexdigit());
    let of = |separator: char, digits: usize| {
        let parts: Vec<&str> = text.split(separator).collect();
        parts.iter().all(|part| hex(part, digits)) && matches!(parts.len() * digits / 2, 6 | 8 | 20)
    };
    of(':', 2) || of('-', 2) || of('.', 4)
}

/// An absolute URI or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return false;
    }
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let has_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    has_scheme || text.starts_with('/')
}

fn digits(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '-')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = digits(text);
    if text.len() != 10 {
        return false;
    }
    let mut sum = 0;
    for (index, c) in text.chars().enumerate() {
        let digit = match c {
            'X' if index == 9 => 10,
            other => match other.to_digit(10) {
                Some(digit) => digit,
                None => return false,
            },
        };
        sum += (10 - index as u32) * digit;
    }
    sum.is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let text = digits(text);
    let numbers: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(10)).collect();
    numbers.is_some_and(|numbers| {
        let weighted = numbers.iter().zip([1, 3].iter().cycle());
        numbers.len() == 13 && weighted.map(|(n, w)| n * w).sum::<u32>().is_multiple_of(10)
    })
}

fn is_credit_card(text: &str) -> bool {
    let text: String = text.chars().filter(char::is_ascii_digit).collect();
    let luhn: u32 = text
        .chars()
        .rev()
        .filter_map(|c| c.to_digit(10))
        .enumerate()
        .map(|(index, digit)| match (index % 2, digit * 2) {
            (0, _) => digit,
            (_, double) if double > 9 => double - 9,
            (_, double) => double,
        })
        .sum();
    pattern("creditcard", &text) && luhn.is_multiple_of(10)
}

fn is_date_time(text: &str) -> bool {
    text.len() >= 4 && text.parse::<jiff::Timestamp>().is_ok()
}

/// As Go reads a duration, or a number with a unit in words.
fn is_duration(text: &str) -> bool {
    static GO: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)$")
            .expect("a pattern of this file")
    });
    static WORDS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)\d+\s*(?:ns|nanos|us|µs|micros|ms|millis|s|secs?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?|nanosecond|microsecond|millisecond|second)")
            .expect("a pattern of this file")
    });
    GO.is_match(text) || WORDS.is_match(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_what_they_are_for() {
        let good = [
            ("ipv4", "10.0.0.1"),
            ("ipv4", "010.0.0.1"),
            ("ipv6", "::1"),
            ("cidr", "10.0.0.0/8"),
            ("mac", "00:1b:44:11:3a:b7"),
            ("uuid", "9a1f8b7e-3c41-4c55-8e1d-0a1b2c3d4e5f"),
            ("date", "2026-11-21"),
            ("date-time", "2014-12-15T19:30:20.000Z"),
            ("duration", "1h30m"),
            ("duration", "22 ns"),
            ("byte", "aGVsbG8="),
            ("uri", "https://a.example/b?c"),
            ("email", "a@b.example"),
            ("hostname", "a-b.example"),
            ("isbn10", "0321751043"),
            ("isbn13", "978-0321751041"),
            ("creditcard", "4111 1111 1111 1111"),
            ("hexcolor", "#FFF"),
            ("rgbcolor", "rgb(255,0,1)"),
            ("ssn", "111-11-1111"),
            ("k8s-short-name", "a-1"),
            ("password", "anything"),
        ];
        for (format, text) in good {
            assert!(matches(format, text), "{text} is a {format}");
        }
        let bad = [
            ("ipv4", "10.0.0.256"),
            ("ipv6", "10.0.0.1"),
            ("cidr", "10.0.0.0/33"),
            ("mac", "00:1b"),
            ("uuid", "x"),
            ("date", "2026-13-21"),
            ("date-time", "yesterday"),
            ("duration", "long"),
            ("byte", "=a"),
            ("uri", "a b"),
            ("email", "a"),
            ("hostname", "-a"),
            ("isbn10", "0321751044"),
            ("isbn13", "978-0321751042"),
            ("creditcard", "4111111111111112"),
            ("hexcolor", "#FF"),
            ("rgbcolor", "rgb(256,0,1)"),
            ("k8s-short-name", "A"),
        ];
        for (format, text) in bad {
            assert!(!matches(format, text), "{text} is no {format}");
        }
        assert_eq!(known("date-time", Some(Type::String)), Some("date-time"));
        assert_eq!(known("date-time", Some(Type::Integer)), None);
        assert_eq!(known("int32", None), None);
    }
}
