//! Names of API types: group, version, kind and resource.

use std::fmt;

/// An API group and version, such as `apps/v1`; the core group is the empty string.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersion {
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
}

impl GroupVersion {
    /// Reads `v1` or `apps/v1`.
    ///
    /// # Errors
    /// Answers the text back when it has more than one slash or an empty version.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (group, version) = text.split_once('/').unwrap_or(("", text));
        if version.is_empty() || version.contains('/') || (group.is_empty() && text.contains('/')) {
            return Err(format!("unexpected GroupVersion string: {text}"));
        }
        Ok(Self {
            group: group.to_owned(),
            version: version.to_owned(),
        })
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.version)
        } else {
            write!(f, "{}/{}", self.group, self.version)
        }
    }
}

/// How a version stands to other versions of its group: stable ones before beta, beta before alpha, new ones before old,
/// and names of another form last, in their own order. The greatest is the preferred one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionPriority {
    stability: u8,
    major: u64,
    minor: u64,
    other: std::cmp::Reverse<String>,
}

impl VersionPriority {
    /// The priority of a version such as `v1`, `v2beta1` or `nightly`.
    pub fn of(version: &str) -> Self {
        let (stability, major, minor) = Self::parse(version).unwrap_or((0, 0, 0));
        let other = if stability == 0 { version } else { "" };
        Self {
            stability,
            major,
            minor,
            other: std::cmp::Reverse(other.to_owned()),
        }
    }

    fn parse(version: &str) -> Option<(u8, u64, u64)> {
        let number = |text: &str| -> Option<u64> {
            let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
            text.parse().ok().filter(|_| plain)
        };
        let rest = version.strip_prefix('v')?;
        for (stability, word) in [(2, "beta"), (1, "alpha")] {
            if let Some((major, minor)) = rest.split_once(word) {
                return Some((stability, number(major)?, number(minor)?));
            }
        }
        Some((3, number(rest)?, 0))
    }
}

/// A kind with its group and version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind, such as `Deployment`.
    pub kind: String,
}

impl GroupVersionKind {
    /// The group and version together.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion {
            group: self.group.clone(),
            version: self.version.clone(),
        }
    }
}

impl fmt::Display for GroupVersionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.group_version(), self.kind)
    }
}

/// A resource (the plural in URLs) with its group and version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The resource, such as `deployments`.
    pub resource: String,
}

/// `resource.group` as Kubernetes writes it in messages: `pods`, `deployments.apps`.
pub fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_in_the_order_of_kubernetes() {
        let wanted = [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "foo1",
            "foo10",
            "v01",
        ];
        let mut sorted = wanted.to_vec();
        sorted.sort_unstable();
        sorted.sort_by_key(|version| std::cmp::Reverse(VersionPriority::of(version)));
        assert_eq!(sorted, wanted);
    }

    #[test]
    fn group_versions_parse_and_print() {
        for text in ["v1", "apps/v1", "rbac.authorization.k8s.io/v1"] {
            assert_eq!(GroupVersion::parse(text).expect("valid").to_string(), text);
        }
        for text in ["", "/v1", "a/b/c", "apps/"] {
            assert!(GroupVersion::parse(text).is_err(), "{text}");
        }
    }
}
