//! Users named by a proxy in front of the server, which proves itself by a certificate of its own CA.

use http::{HeaderMap, HeaderName};

use super::{AUTHENTICATED, User};

/// Values of one header that are read. Proxies send a user's groups, of which large directories have hundreds.
const VALUES_MAX: usize = 10_000;

/// Which proxies are believed, and by which headers.
#[derive(Debug, Clone, Default)]
pub struct RequestHeader {
    /// Names of certificates that are believed; empty believes every certificate of the CA.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name; the first that is there counts.
    pub username_headers: Vec<String>,
    /// Headers with the user's uid.
    pub uid_headers: Vec<String>,
    /// Headers with groups; all count.
    pub group_headers: Vec<String>,
    /// Beginnings of headers with more about the user.
    pub extra_header_prefixes: Vec<String>,
}

impl RequestHeader {
    /// Whether a proxy of a name is believed.
    pub fn allows(&self, name: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|n| n == name)
    }

    /// The user that the headers name.
    pub fn user(&self, headers: &HeaderMap) -> Option<User> {
        let first = |names: &[String]| {
            let mut found = names.iter().flat_map(|name| values(headers, name));
            found.find(|value| !value.is_empty())
        };
        let name = first(&self.username_headers)?;
        let groups = self.group_headers.iter();
        let mut groups: Vec<String> = groups.flat_map(|name| values(headers, name)).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        let mut user = User {
            name,
            uid: first(&self.uid_headers).unwrap_or_default(),
            groups,
            ..User::default()
        };
        for header in headers.keys() {
            if let Some(key) = self.extra_key(header) {
                let found = values(headers, header.as_str());
                user.extra.entry(key).or_default().extend(found);
            }
        }
        Some(user)
    }

    /// What a header tells more of, escaped as in a URL where a header cannot hold it.
    fn extra_key(&self, header: &HeaderName) -> Option<String> {
        let mut prefixes = self.extra_header_prefixes.iter();
        let key = prefixes.find_map(|prefix| {
            let prefix = prefix.to_ascii_lowercase();
            header.as_str().strip_prefix(prefix.as_str())
        })?;
        Some(crate::request::unescape(key, false).unwrap_or_else(|_| key.to_owned()))
    }

    /// Takes the headers off, so that nothing behind believes them again.
    pub fn strip(&self, headers: &mut HeaderMap) {
        let named = [
            &self.username_headers,
            &self.uid_headers,
            &self.group_headers,
        ];
        let mut gone: Vec<HeaderName> = named
            .into_iter()
            .flatten()
            .filter_map(|name| name.parse().ok())
            .collect();
        let extra = headers
            .keys()
            .filter(|header| self.extra_key(header).is_some());
        gone.extend(extra.cloned());
        for header in gone {
            headers.remove(header);
        }
    }
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    let found = headers.get_all(name).iter().take(VALUES_MAX);
    let texts = found.filter_map(|value| value.to_str().ok());
    texts.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_a_user() {
        let config = RequestHeader {
            allowed_names: vec!["proxy".into()],
            username_headers: vec!["X-Remote-User".into(), "X-Other-User".into()],
            uid_headers: vec!["X-Remote-Uid".into()],
            group_headers: vec!["X-Remote-Group".into()],
            extra_header_prefixes: vec!["X-Remote-Extra-".into()],
        };
        assert!(config.allows("proxy") && !config.allows("other"));
        let mut headers = HeaderMap::new();
        assert!(config.user(&headers).is_none());
        for (name, value) in [
            ("x-other-user", "jane"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "devs"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-example.com%2fscopes", "a"),
            ("x-remote-extra-example.com%2fscopes", "b"),
            ("accept", "*/*"),
        ] {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        let user = config.user(&headers).expect("named");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("jane", "7"));
        assert_eq!(user.groups, ["devs", "ops", AUTHENTICATED]);
        assert_eq!(user.extra["example.com/scopes"], ["a", "b"]);
        config.strip(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
