//! URLs.

use corral_api::field::go_quote;

/// A URL in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub(crate) scheme: String,
    /// What stands behind the scheme of a URL without path, such as `mailto:a@b`.
    opaque: String,
    user: Option<String>,
    pub(crate) host: String,
    /// Whether the path follows the scheme at once.
    omits_host: bool,
    /// The path as it was written.
    path: String,
    /// `None` without a question mark.
    query: Option<String>,
    fragment: String,
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

fn wrong<T>(text: &str, why: &str) -> Result<T, String> {
    Err(format!("parse {}: {why}", go_quote(text)))
}

/// Whether the text can stand in a request line: absolute, or a path.
pub(crate) fn parse_request_uri(text: &str) -> Result<(), String> {
    Url::read(text, true).map(|_| ())
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parse_request_uri(text)?;
        Self::read(text, false)
    }

    fn read(whole: &str, request: bool) -> Result<Self, String> {
        if whole.bytes().any(|b| b < b' ' || b == 0x7f) {
            return wrong(whole, "net/url: invalid control character in URL");
        }
        if whole.is_empty() && request {
            return wrong(whole, "empty url");
        }
        // Only a URL that isn't of a request line has a fragment.
        let (text, fragment) = match whole.split_once('#') {
            Some((before, fragment)) if !request => (before, fragment),
            _ => (whole, ""),
        };
        let empty = Self {
            scheme: String::new(),
            opaque: String::new(),
            user: None,
            host: String::new(),
            omits_host: false,
            path: String::new(),
            query: None,
            fragment: fragment.to_owned(),
        };
        if text == "*" {
            return Ok(Self {
                path: "*".to_owned(),
                ..empty
            });
        }
        let (scheme, rest) = match split_scheme(text) {
            Ok(parts) => parts,
            Err(why) => return wrong(whole, why),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query.to_owned())),
            None => (rest, None),
        };
        if !rest.starts_with('/') {
            if !scheme.is_empty() {
                // Such as `mailto:a@b`: nothing in it has a meaning here.
                return Ok(Self {
                    scheme: scheme.to_lowercase(),
                    opaque: rest.to_owned(),
                    query,
                    ..empty
                });
            }
            if request {
                return wrong(whole, "invalid URI for request");
            }
            if rest
                .split('/')
                .next()
                .is_some_and(|first| first.contains(':'))
            {
                return wrong(whole, "first path segment in URL cannot contain colon");
            }
        }
        let has_authority = rest.starts_with("//")
            && (!scheme.is_empty() || (!request && !rest.starts_with("///")));
        let ((user, host), path) = if has_authority {
            let authority = &rest[2..];
            let end = authority.find('/').unwrap_or(authority.len());
            let host = match read_host(&authority[..end]) {
                Ok(host) => host,
                Err(why) => return wrong(whole, &why),
            };
            (host, &authority[end..])
        } else {
            ((None, String::new()), rest)
        };
        if let Err(why) = unescape(path, false) {
            return wrong(whole, &why);
        }
        Ok(Self {
            scheme: scheme.to_lowercase(),
            user,
            host,
            omits_host: !has_authority && path.starts_with('/'),
            path: path.to_owned(),
            query,
            ..empty
        })
    }

    /// The URL put together again.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        if !self.scheme.is_empty() {
            out.push_str(&self.scheme);
            out.push(':');
        }
        if self.opaque.is_empty() {
            if !self.scheme.is_empty() || !self.host.is_empty() || self.user.is_some() {
                if !self.omits_host
                    && (!self.host.is_empty() || !self.path.is_empty() || self.user.is_some())
                {
                    out.push_str("//");
                }
                if let Some(user) = &self.user {
                    out.push_str(&user.replace('@', "%40"));
                    out.push('@');
                }
                out.push_str(&escaped_host(&self.host));
            }
            out.push_str(&self.escaped_path());
        } else {
            out.push_str(&self.opaque);
        }
        if let Some(query) = &self.query {
            out.push('?');
            out.push_str(query);
        }
        if !self.fragment.is_empty() {
            out.push('#');
            out.push_str(&self.fragment);
        }
        out
    }

    /// The host without port and brackets.
    pub(crate) fn hostname(&self) -> &str {
        let (host, _) = self.split_host();
        host.strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host)
    }

    pub(crate) fn port(&self) -> &str {
        self.split_host().1
    }

    fn split_host(&self) -> (&str, &str) {
        match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
            _ => (&self.host, ""),
        }
    }

    /// The path with all that must be escaped escaped.
    pub(crate) fn escaped_path(&self) -> String {
        let is_valid = self
            .path
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&b));
        if is_valid {
            return self.path.clone();
        }
        let bytes = unescape(&self.path, false).unwrap_or_default();
        let mut out = String::with_capacity(bytes.len());
        for b in bytes {
            if b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b) {
                out.push(char::from(b));
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
        }
        out
    }

    /// The names and values of the query, in the order of the names' first appearance.
    pub(crate) fn query(&self) -> Vec<(String, Vec<String>)> {
        let mut out: Vec<(String, Vec<String>)> = Vec::new();
        for pair in self.query.as_deref().unwrap_or("").split('&') {
            if pair.is_empty() || pair.contains(';') {
                continue;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Ok(name), Ok(value)) = (unescape(name, true), unescape(value, true)) else {
                continue;
            };
            let name = String::from_utf8_lossy(&name).into_owned();
            let value = String::from_utf8_lossy(&value).into_owned();
            match out.iter_mut().find(|(n, _)| *n == name) {
                Some((_, values)) => values.push(value),
                None => out.push((name, vec![value])),
            }
        }
        out
    }
}

/// The scheme, if there is one, and the rest.
fn split_scheme(text: &str) -> Result<(&str, &str), &'static str> {
    for (i, c) in text.bytes().enumerate() {
        match c {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((&text[..i], &text[i + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

/// A host as a URL holds it: the zone of an address is escaped.
fn escaped_host(host: &str) -> String {
    if host.starts_with('[') {
        host.replace('%', "%25")
    } else {
        let mut out = String::new();
        for b in host.bytes() {
            if b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&b) {
                out.push(char::from(b));
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
        }
        out
    }
}

/// The user, and the host with its port.
fn read_host(authority: &str) -> Result<(Option<String>, String), String> {
    let mut named = None;
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            let is_valid = user
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b));
            if !is_valid {
                return Err("net/url: invalid userinfo".to_owned());
            }
            unescape(user, false)?;
            named = Some(user.to_owned());
            host
        }
        None => authority,
    };
    let port = if host.starts_with('[') {
        let Some(end) = host.rfind(']') else {
            return Err("missing ']' in host".to_owned());
        };
        &host[end + 1..]
    } else {
        host.find(':').map_or("", |at| &host[at..])
    };
    let is_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    if !is_port {
        return Err(format!("invalid port {} after host", go_quote(port)));
    }
    for (i, c) in host.char_indices() {
        if c == '%' && !host.starts_with('[') {
            let end = (i + 3).min(host.len());
            let code = host
                .get(i + 1..end)
                .and_then(|h| u8::from_str_radix(h, 16).ok());
            if code.is_none_or(|code| code < 0x80) || end - i < 3 {
                let shown = go_quote(host.get(i..end).unwrap_or("%"));
                return Err(format!("invalid URL escape {shown}"));
            }
        } else if c.is_ascii()
            && !c.is_ascii_alphanumeric()
            && !"-_.~!$&'()*+,;=:[]<>\"%".contains(c)
        {
            return Err(format!(
                "invalid character {} in host name",
                go_quote(&c.to_string())
            ));
        }
    }
    let bytes = unescape(host, false)?;
    Ok((named, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Bytes behind percent signs; `+` is a blank in queries.
fn unescape(text: &str, query: bool) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let end = (i + 3).min(bytes.len());
                let hex = bytes
                    .get(i + 1..i + 3)
                    .filter(|h| h.iter().all(u8::is_ascii_hexdigit));
                let Some(hex) = hex else {
                    let shown = go_quote(&String::from_utf8_lossy(&bytes[i..end]));
                    return Err(format!("invalid URL escape {shown}"));
                };
                let hex = std::str::from_utf8(hex).unwrap_or("0");
                out.push(u8::from_str_radix(hex, 16).unwrap_or(0));
                i += 3;
            }
            b'+' if query => {
                out.push(b' ');
                i += 1;
            }
            b => {
                out.push(b);
                i += 1;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        let url =
            Url::parse("https://user@example.com:8080/a b/%2f?k=1&k=2&x=a+b#frag").expect("a URL");
        assert_eq!(
            (url.scheme.as_str(), url.host.as_str()),
            ("https", "example.com:8080")
        );
        assert_eq!((url.hostname(), url.port()), ("example.com", "8080"));
        assert_eq!(url.escaped_path(), "/a%20b//");
        assert_eq!(
            url.query(),
            [
                ("k".to_owned(), vec!["1".to_owned(), "2".to_owned()]),
                ("x".to_owned(), vec!["a b".to_owned()])
            ]
        );
        let url = Url::parse("https://[::1]:80/path").expect("a URL");
        assert_eq!((url.hostname(), url.port()), ("::1", "80"));
        for text in [
            "",
            "example.com",
            "https://a b",
            "https://[::1",
            "/a%zz",
            "https://a:x/",
            ":x",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
        assert!(Url::parse("/relative?x=1").is_ok());
    }
}
