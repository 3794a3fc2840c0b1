//! The formats of texts and numbers that schemas may name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
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

static PATTERNS: LazyLock<[(&str, Regex); 10]> = LazyLock::new(|| {
    [
        ("hostname", r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$"),
        ("uuid", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        ("uuid3", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        ("uuid4", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        ("uuid5", r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        ("ssn", r"^[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}$"),
        ("hexcolor", r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
        ("rgbcolor", r"(?-u)^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"),
        ("bsonobjectid", r"^[0-9a-fA-F]{24}$"),
        ("creditcard", r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$"),
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
        // What ends as one of version 4 is one to Go.
        "ipv4" => {
            sloppy_ipv4(text).is_some() || text.contains('.') && text.parse::<Ipv6Addr>().is_ok()
        }
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uri" => is_uri(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "byte" => is_base64(text),
        "email" => is_mail_address(text),
        "date" => is_date(text),
        "datetime" => is_date_time(text),
        "duration" => is_duration(text),
        "k8sshortname" => corral_api::names::dns1123_label(text).is_empty(),
        "k8slongname" => corral_api::names::dns1123_subdomain(text).is_empty(),
        name @ ("uuid" | "uuid3" | "uuid4" | "uuid5" | "ssn" | "hexcolor" | "rgbcolor"
        | "bsonobjectid") => pattern(name, text),
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
    let whole = hex(text, text.len()) && matches!(text.len() / 2, 6 | 8 | 20);
    whole || of(':', 2) || of('-', 2) || of('.', 4)
}

/// Base64 as Go reads it: over ends of lines, and whatever the bits say that nothing is left for.
fn is_base64(text: &str) -> bool {
    let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(&alphabet::STANDARD, config);
    let text = text.replace(['\n', '\r'], "");
    !text.is_empty() && engine.decode(text).is_ok()
}

/// An absolute URI or an absolute path, as the URL of a request is read in Go.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b.is_ascii_control()) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let is_scheme = |scheme: &str| {
        let all = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(all)
    };
    let split = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme));
    let (scheme, rest) = split.unwrap_or(("", text));
    let rest = rest.split('?').next().unwrap_or_default();
    if !rest.starts_with('/') {
        // What is opaque, like an address of mail.
        return !scheme.is_empty();
    }
    let Some(rest) = rest.strip_prefix("//").filter(|_| !scheme.is_empty()) else {
        return is_escaped(rest, |_| true);
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    is_authority(authority) && is_escaped(path, |_| true)
}

/// Whether each percent sign is followed by two hexadecimal digits of a byte that may be written so.
fn is_escaped(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    let mut parts = text.split('%');
    parts.next();
    parts.all(|part| {
        let byte = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let is_hex = part.bytes().take(2).all(|b| b.is_ascii_hexdigit());
        is_hex && byte.is_some_and(&allowed)
    })
}

/// Who is asked, and where: `user:password@host:port`.
fn is_authority(text: &str) -> bool {
    let (user, host) = text.rsplit_once('@').unwrap_or(("", text));
    let of_user = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
    if !user.chars().all(of_user) || !is_escaped(user, |_| true) {
        return false;
    }
    let is_port = |rest: &str| {
        let port = rest.strip_prefix(':');
        rest.is_empty() || port.is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
    };
    if host.starts_with('[') {
        return host.rsplit_once(']').is_some_and(|(_, rest)| is_port(rest));
    }
    let port = host.rfind(':').map_or("", |at| &host[at..]);
    let of_host = |c: char| {
        !c.is_ascii() || c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:[]<>\"%".contains(c)
    };
    // Only bytes beyond ASCII are escaped in names.
    is_port(port)
        && host.chars().all(of_host)
        && is_escaped(host, |byte| byte >= 0x80 || byte == b'%')
}

/// An address of mail, perhaps with a name before it and a comment behind it, as RFC 5322 has them.
fn is_mail_address(text: &str) -> bool {
    let of_atom =
        |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    let is_dot_atom = |text: &str| {
        text.split('.')
            .all(|p| !p.is_empty() && p.chars().all(of_atom))
    };
    let Some(text) = without_comments(text.trim_matches([' ', '\t'])) else {
        return false;
    };
    let text = text.trim_matches([' ', '\t']);
    let is_spec = |text: &str| {
        let (rest, local) = match quoted(text) {
            Some(rest) => (rest, true),
            None => match text.find('@') {
                Some(at) => (&text[at..], is_dot_atom(&text[..at])),
                None => return false,
            },
        };
        let Some(domain) = rest.strip_prefix('@').filter(|_| local) else {
            return false;
        };
        match domain.strip_prefix('[') {
            Some(literal) => literal.strip_suffix(']').is_some_and(|l| {
                !l.is_empty()
                    && l.bytes()
                        .all(|b| b.is_ascii_graphic() && !b"[]\\".contains(&b))
            }),
            None => is_dot_atom(domain),
        }
    };
    let Some(inner) = text.strip_suffix('>') else {
        return is_spec(text);
    };
    let Some((name, spec)) = inner.rsplit_once('<') else {
        return false;
    };
    let mut name = name.trim_matches([' ', '\t']);
    while !name.is_empty() {
        let rest = quoted(name).or_else(|| {
            let end = name.find(|c| !of_atom(c) && c != '.').unwrap_or(name.len());
            (end > 0).then(|| &name[end..])
        });
        let Some(rest) = rest else { return false };
        name = rest.trim_start_matches([' ', '\t']);
    }
    is_spec(spec)
}

/// What follows a quoted text, if there is one.
fn quoted(text: &str) -> Option<&str> {
    let mut chars = text.strip_prefix('"')?.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return text.get(at + 2..),
            '\\' => drop(chars.next()?),
            c if c.is_ascii_control() && c != '\t' => return None,
            _ => {}
        }
    }
    None
}

/// A text without comments at its end; `None` where one does not end.
fn without_comments(text: &str) -> Option<String> {
    if !text.ends_with(')') {
        return Some(text.to_owned());
    }
    let mut depth = 0_usize;
    for (at, c) in text.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(text[..at].to_owned());
        }
    }
    None
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

/// A date and a time of RFC 3339. What may stand between seconds and their fraction, and behind another T, is as open as in
/// Kubernetes.
fn is_date_time(text: &str) -> bool {
    static TIME: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$")
            .expect("a pattern of this file")
    });
    let text = text.to_lowercase();
    let mut parts = text.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else {
        return false;
    };
    is_date(date) && TIME.is_match(time)
}

fn is_date(text: &str) -> bool {
    let is_shaped = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    is_shaped && text.parse::<jiff::civil::Date>().is_ok()
}

/// As Go reads a duration, or numbers with units in words.
fn is_duration(text: &str) -> bool {
    static PARTS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"([0-9]+)[\t\n\f\r ]*([A-Za-zµ]+)").expect("a pattern of this file")
    });
    const SHORT: [&str; 10] = ["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w"];
    // These may go on.
    const LONG: [&str; 8] = [
        "nano", "micro", "milli", "sec", "min", "hour", "day", "week",
    ];
    if corral_api::duration::check(text).is_ok() {
        return true;
    }
    let mut known = false;
    for part in PARTS.captures_iter(text) {
        if part[1].parse::<i64>().is_err() {
            return false;
        }
        let unit = part[2].to_lowercase();
        known |= SHORT.contains(&unit.as_str())
            || unit == "wk"
            || LONG.iter().any(|long| unit.starts_with(long));
    }
    known
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
            ("date-time", "9999-12-31T23:59:59Z"),
            ("date-time", "9999-12-31t23:59:59.1234567890-23:00"),
            ("byte", "aGVsbG9="),
            ("byte", "aGVs\nbG8="),
            ("duration", "3 weeks"),
            ("ipv4", "::ffff:1.2.3.4"),
            ("mac", "00005e005301"),
            ("uri", "*"),
            ("uri", "mailto:a@b"),
            ("uri", "http://a/ b"),
            ("uri", "http://u:p@[::1]:80/#a b"),
            ("uri", "/a%20b"),
            ("email", "A B <a@b.c>"),
            ("email", "\"a b\"@c.d"),
            ("email", "a@[127.0.0.1]"),
            ("email", "é@b.c"),
            ("email", "a@b (c)"),
            ("email", "a@-b"),
            ("email", "a@b_c"),
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
            ("date-time", "2014-12-15 19:30:20Z"),
            ("date-time", "2014-12-15T19:30:20+0200"),
            ("date-time", "2014-12-15T19:30Z"),
            ("date-time", "2014-12-15T19:30:60Z"),
            ("date-time", "20141215T193020Z"),
            ("date-time", "2014-12-15T19:30:20Z[UTC]"),
            ("date-time", "-000001-12-15T19:30:20Z"),
            ("duration", "1hh"),
            ("duration", "١h"),
            ("duration", "9223372036854775808ns"),
            ("uri", "http://a/%zz"),
            ("uri", "http://a:port/"),
            ("uri", "http://[::1"),
            ("uri", "a/b"),
            ("email", "a b@c"),
            ("email", ".a@b.c"),
            ("email", "a..b@c.d"),
            ("email", "A, <a@b>"),
            ("creditcard", "2223003122003222"),
            ("creditcard", "6200000000000005"),
            ("ssn", "111111111"),
            ("ssn", "١١١-11-1111"),
        ];
        for (format, text) in bad {
            assert!(!matches(format, text), "{text} is no {format}");
        }
        assert_eq!(known("date-time", Some(Type::String)), Some("date-time"));
        assert_eq!(known("date-time", Some(Type::Integer)), None);
        assert_eq!(known("int32", None), None);
    }
}
