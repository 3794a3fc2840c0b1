//! Named formats that texts can be checked against.

use corral_api::names;

use super::url;

/// A format.
#[derive(Debug)]
pub struct NamedFormat {
    pub(crate) name: &'static str,
    /// The function that gives it.
    key: &'static str,
    check: fn(&str) -> Vec<String>,
    /// How long its regular expression is, for the cost.
    pub(crate) pattern_size: u64,
}

impl std::fmt::Display for NamedFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

fn one(wrong: bool, message: &str) -> Vec<String> {
    if wrong {
        vec![message.to_owned()]
    } else {
        Vec::new()
    }
}

/// A prefix that ends with a dash is made whole, so that it is checked like a name.
fn prefix(text: &str, check: fn(&str) -> Vec<String>) -> Vec<String> {
    let mut whole = text.to_owned();
    if whole.len() > 1 && whole.ends_with('-') {
        whole.replace_range(whole.len() - 2.., "a");
    }
    check(&whole)
}

/// Kubernetes' words for the names of labels, which these functions use.
fn label_key(text: &str) -> Vec<String> {
    let problems = names::qualified_name(text);
    problems
        .into_iter()
        .map(|p| match p.strip_prefix("a qualified name must") {
            Some(rest) => format!("a valid label key must{rest}"),
            None => p,
        })
        .collect()
}

fn uri(text: &str) -> Vec<String> {
    url::parse_request_uri(text).err().into_iter().collect()
}

fn is_uuid(text: &str) -> bool {
    let mut rest = text;
    for (i, n) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        if rest.len() < n || !rest.as_bytes()[..n].iter().all(u8::is_ascii_hexdigit) {
            return false;
        }
        rest = &rest[n..];
    }
    rest.is_empty()
}

fn is_base64(text: &str) -> bool {
    let unpadded = text.trim_end_matches('=');
    text.len().is_multiple_of(4)
        && !text.is_empty()
        && text.len() - unpadded.len() <= 2
        && unpadded
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}

fn is_date(text: &str) -> bool {
    crate::time::Timestamp::parse_date(text).is_some()
}

/// Date and time as OpenAPI has them: also with small letters, and with 60 seconds in no minute.
fn is_date_time(text: &str) -> bool {
    let text = text.to_lowercase();
    let Some((date, time)) = text.split_once('t') else {
        return false;
    };
    let bytes = time.as_bytes();
    let two = |from: usize, max: &str| {
        time.get(from..from + 2)
            .is_some_and(|t| t.bytes().all(|b| b.is_ascii_digit()) && t <= max)
    };
    let is_time = two(0, "23") && two(3, "59") && two(6, "59");
    let has_colons = bytes.get(2) == Some(&b':') && bytes.get(5) == Some(&b':');
    if !is_date(date) || !is_time || !has_colons {
        return false;
    }
    let mut rest = &time[8..];
    // The fraction's separator may be anything.
    if let Some(c) = rest.chars().next() {
        let digits = &rest[c.len_utf8()..];
        let n = digits.bytes().take_while(u8::is_ascii_digit).count();
        let is_offset =
            matches!(c, '+' | '-') && digits.get(n..).is_some_and(|r| r.starts_with(':'));
        if n > 0 && !is_offset {
            rest = &digits[n..];
        }
    }
    let is_offset = rest.len() == 6
        && rest.starts_with(['+', '-'])
        && rest.bytes().enumerate().skip(1).all(|(i, b)| {
            if i == 3 {
                b == b':'
            } else {
                b.is_ascii_digit()
            }
        });
    rest == "z" || is_offset
}

const SUBDOMAIN: fn(&str) -> Vec<String> = names::dns1123_subdomain;
const LABEL: fn(&str) -> Vec<String> = names::dns1123_label;
const LABEL_1035: fn(&str) -> Vec<String> = names::dns1035_label;

static FORMATS: [NamedFormat; 13] = [
    NamedFormat {
        name: "DNS1123Label",
        key: "dns1123Label",
        check: LABEL,
        pattern_size: 30,
    },
    NamedFormat {
        name: "DNS1123Subdomain",
        key: "dns1123Subdomain",
        check: SUBDOMAIN,
        pattern_size: 60,
    },
    NamedFormat {
        name: "DNS1035Label",
        key: "dns1035Label",
        check: LABEL_1035,
        pattern_size: 30,
    },
    NamedFormat {
        name: "QualifiedName",
        key: "qualifiedName",
        check: label_key,
        pattern_size: 60,
    },
    NamedFormat {
        name: "DNS1123LabelPrefix",
        key: "dns1123LabelPrefix",
        check: |text| prefix(text, LABEL),
        pattern_size: 30,
    },
    NamedFormat {
        name: "DNS1123SubdomainPrefix",
        key: "dns1123SubdomainPrefix",
        check: |text| prefix(text, SUBDOMAIN),
        pattern_size: 60,
    },
    NamedFormat {
        name: "DNS1035LabelPrefix",
        key: "dns1035LabelPrefix",
        check: |text| prefix(text, LABEL_1035),
        pattern_size: 30,
    },
    NamedFormat {
        name: "LabelValue",
        key: "labelValue",
        check: names::label_value,
        pattern_size: 40,
    },
    NamedFormat {
        name: "URI",
        key: "uri",
        check: uri,
        pattern_size: 1103,
    },
    NamedFormat {
        name: "uuid",
        key: "uuid",
        check: |text| one(!is_uuid(text), "does not match the UUID format"),
        pattern_size: 69,
    },
    NamedFormat {
        name: "byte",
        key: "byte",
        check: |text| one(!is_base64(text), "invalid base64"),
        pattern_size: 84,
    },
    NamedFormat {
        name: "date",
        key: "date",
        check: |text| one(!is_date(text), "invalid date"),
        pattern_size: 71,
    },
    NamedFormat {
        name: "datetime",
        key: "datetime",
        check: |text| one(!is_date_time(text), "invalid datetime"),
        pattern_size: 71,
    },
];

impl NamedFormat {
    /// The format of that name, such as `dns1123Label`.
    pub(crate) fn find(key: &str) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.key == key)
    }

    /// What is wrong with a text.
    pub(crate) fn check(&self, text: &str) -> Vec<String> {
        (self.check)(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_know_their_texts() {
        for (format, good, bad) in [
            ("dns1123Label", "a-b", "a.b"),
            ("dns1123LabelPrefix", "a-", "-a"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("byte", "aGVsbG8=", "aGVsbG8"),
            ("date", "2021-01-01", "2021-1-1"),
            ("datetime", "2021-01-01t00:00:00.1z", "2021-01-01"),
            ("uri", "https://a/b", "a/b"),
            ("labelValue", "a", "a!"),
            ("qualifiedName", "a/b", "a/b/c"),
        ] {
            let format = NamedFormat::find(format).expect(format);
            assert!(format.check(good).is_empty(), "{good}");
            assert!(!format.check(bad).is_empty(), "{bad}");
        }
    }
}
