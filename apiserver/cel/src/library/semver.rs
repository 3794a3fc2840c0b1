//! Semantic versions.

use std::cmp::Ordering;

use corral_api::field::go_quote;

/// A version such as `1.2.3-rc.1+build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) patch: u64,
    pre: Vec<Identifier>,
}

impl std::fmt::Display for Semver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

fn number(text: &str, what: &str) -> Result<u64, String> {
    let quoted = go_quote(text);
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "Invalid character(s) found in {what} number {quoted}"
        ));
    }
    if text.len() > 1 && text.starts_with('0') {
        let what = what[..1].to_uppercase() + &what[1..];
        return Err(format!(
            "{what} number must not contain leading zeroes {quoted}"
        ));
    }
    text.parse().map_err(|_| parse_uint_error(text))
}

fn parse_uint_error(text: &str) -> String {
    let why = if text.is_empty() {
        "invalid syntax"
    } else {
        "value out of range"
    };
    format!("strconv.ParseUint: parsing {}: {why}", go_quote(text))
}

fn is_identifier(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn identifier(text: &str) -> Result<Identifier, String> {
    let quoted = go_quote(text);
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!(
                "Numeric PreRelease version must not contain leading zeroes {quoted}"
            ));
        }
        return text
            .parse()
            .map(Identifier::Number)
            .map_err(|_| parse_uint_error(text));
    }
    if !is_identifier(text) {
        return Err(format!("Invalid character(s) found in prerelease {quoted}"));
    }
    Ok(Identifier::Text(text.to_owned()))
}

impl Semver {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let parts: Vec<&str> = text.splitn(3, '.').collect();
        let [major, minor, rest] = parts[..] else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let (major, minor) = (number(major, "major")?, number(minor, "minor")?);
        let (rest, build) = match rest.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (rest, None),
        };
        let (patch, pre) = match rest.split_once('-') {
            Some((patch, pre)) => (patch, Some(pre)),
            None => (rest, None),
        };
        let patch = number(patch, "patch")?;
        let pre = match pre {
            Some(pre) => pre.split('.').map(identifier).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        for part in build.into_iter().flat_map(|b| b.split('.')) {
            if part.is_empty() {
                return Err("Build meta data is empty".to_owned());
            }
            if !is_identifier(part) {
                let quoted = go_quote(part);
                return Err(format!(
                    "Invalid character(s) found in build meta data {quoted}"
                ));
            }
        }
        Ok(Self {
            major,
            minor,
            patch,
            pre,
        })
    }

    /// The same after a leading `v`, leading zeros and missing parts are put right.
    pub(crate) fn parse_normalized(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text
            .splitn(3, '.')
            .map(|part| {
                if part.len() <= 1 {
                    return part.to_owned();
                }
                let trimmed = part.trim_start_matches('0');
                if trimmed.starts_with(|c: char| c.is_ascii_digit()) {
                    trimmed.to_owned()
                } else {
                    format!("0{trimmed}")
                }
            })
            .collect();
        if parts.len() < 3 {
            if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
                return Err("short version cannot contain PreRelease/Build meta data".to_owned());
            }
            parts.resize(3, "0".to_owned());
        }
        Self::parse(&parts.join("."))
    }

    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        (self.major, self.minor, self.patch)
            .cmp(&(other.major, other.minor, other.patch))
            .then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => self.pre.cmp(&other.pre),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_their_order() {
        let of = |text: &str| Semver::parse(text).expect(text);
        let order = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "2.0.0",
        ];
        for pair in order.windows(2) {
            assert_eq!(
                of(pair[0]).compare(&of(pair[1])),
                Ordering::Less,
                "{pair:?}"
            );
        }
        assert_eq!(of("1.0.0+a").compare(&of("1.0.0+b")), Ordering::Equal);
        for text in [
            "", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.x", "1.2.3-01", "1.2.3+",
        ] {
            assert!(Semver::parse(text).is_err(), "{text}");
        }
        for (text, normal) in [("v1.2", "1.2.0"), ("01.02.03", "1.2.3"), ("1", "1.0.0")] {
            assert_eq!(Semver::parse_normalized(text), Semver::parse(normal));
        }
    }
}
