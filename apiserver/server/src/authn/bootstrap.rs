//! Bootstrap tokens: Secrets of `kube-system` by which nodes join.

use std::collections::{BTreeMap, BTreeSet};

use corral_api::k8s::api::core::v1::Secret;
use jiff::Timestamp;

use super::User;
use crate::api::Api;

/// The type of such a Secret.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group of those who come with one.
pub const GROUP: &str = "system:bootstrappers";
/// The prefix of the Secret's name, before the token's id.
pub const NAME_PREFIX: &str = "bootstrap-token-";

/// Bytes of the name of a token's own group before its last one.
const GROUP_NAME_BYTES_MAX: usize = 255;

/// Splits `id.secret`, six and sixteen characters.
pub fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let ok = |s: &str, n| {
        s.len() == n
            && s.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (ok(id, 6) && ok(secret, 16)).then_some((id, secret))
}

pub(super) fn authenticate(api: &Api, token: &str) -> Option<User> {
    let (id, given) = split(token)?;
    let secrets = api.core("secrets");
    let stored = secrets
        .cacher
        .peek(&secrets.key("kube-system", &format!("{NAME_PREFIX}{id}")))?;
    let secret: Secret = serde_json::from_slice(&stored.json).ok()?;
    if secret.type_.as_deref() != Some(SECRET_TYPE) || secret.metadata.deletion_timestamp.is_some()
    {
        return None;
    }
    let data = texts(secret);
    let get = |key: &str| data.get(key).map_or("", String::as_str);
    let expired = match get("expiration") {
        "" => false,
        text => text
            .parse::<Timestamp>()
            .map_or(true, |at| at < Timestamp::now()),
    };
    let good = same(get("token-secret").as_bytes(), given.as_bytes())
        && get("token-id") == id
        && get("usage-bootstrap-authentication") == "true"
        && !expired;
    if !good {
        return None;
    }
    let groups = groups(get("auth-extra-groups"))?;
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    Some(User::new(&format!("system:bootstrap:{id}"), &groups))
}

/// The groups of a token: those that it names besides, sorted. One that may be no group of such a token spoils it.
fn groups(extra: &str) -> Option<BTreeSet<String>> {
    let may_be = |group: &str| {
        let name = group.strip_prefix("system:bootstrappers:")?;
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let (last, before) = name.as_bytes().split_last()?;
        let good = is_letter(*last)
            && before.len() <= GROUP_NAME_BYTES_MAX
            && before
                .iter()
                .all(|byte| is_letter(*byte) || b":-".contains(byte));
        good.then(|| group.to_owned())
    };
    let mut groups = BTreeSet::from([GROUP.to_owned()]);
    if !extra.is_empty() {
        let extra: Option<Vec<String>> = extra.split(',').map(may_be).collect();
        groups.extend(extra?);
    }
    Some(groups)
}

fn texts(secret: Secret) -> BTreeMap<String, String> {
    let data = secret.data.unwrap_or_default().into_iter();
    data.filter_map(|(k, v)| String::from_utf8(v.0).ok().map(|v| (k, v)))
        .collect()
}

/// Compares without telling by its time how much is alike.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_a_token_are_those_of_bootstrapping() {
        let all = |extra: &str| {
            let groups = groups(extra)?;
            Some(groups.into_iter().collect::<Vec<_>>().join(" "))
        };
        let of = |more: &str| Some(format!("{GROUP}{more}"));
        assert_eq!(all(""), of(""));
        assert_eq!(
            all("system:bootstrappers:y,system:bootstrappers:x:1,system:bootstrappers:y"),
            of(" system:bootstrappers:x:1 system:bootstrappers:y")
        );
        assert_eq!(
            all("system:bootstrappers:-a"),
            of(" system:bootstrappers:-a")
        );
        for bad in [
            "foo",
            ",",
            " ",
            "x,",
            "A",
            "a.b",
            "a:",
            "",
            "a,foo",
            "a, system:bootstrappers:b",
        ] {
            let bad = if bad.contains("foo") || bad == "," {
                bad.to_owned()
            } else {
                format!("system:bootstrappers:{bad}")
            };
            assert_eq!(all(&bad), None, "{bad}");
        }
    }

    #[test]
    fn tokens_have_a_shape() {
        assert_eq!(
            split("abcdef.0123456789abcdef"),
            Some(("abcdef", "0123456789abcdef"))
        );
        for token in ["", "abcdef", "abcdef.short", "ABCDEF.0123456789abcdef"] {
            assert_eq!(split(token), None);
        }
    }
}
