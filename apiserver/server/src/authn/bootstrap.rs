//! Bootstrap tokens: Secrets of `kube-system` by which nodes join.

use std::collections::BTreeMap;

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
    let more = get("auth-extra-groups")
        .split(',')
        .filter(|g| g.starts_with("system:bootstrappers:"));
    let groups: Vec<&str> = std::iter::once(GROUP).chain(more).collect();
    Some(User::new(&format!("system:bootstrap:{id}"), &groups))
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
