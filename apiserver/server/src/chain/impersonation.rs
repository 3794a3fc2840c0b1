//! Whom a client asks to be taken for, and whether it may.

use std::collections::BTreeMap;

use corral_api::field::go_quote;
use corral_api::names::{dns1123_label, dns1123_subdomain};
use corral_api::status::Status;
use http::HeaderMap;

use crate::Shared;
use crate::authn::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};
use crate::authz::Access;
use crate::request;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
/// The group of the API in which uids and what else is known of users may be given away.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whom the headers name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    /// Reads the headers; `None` if they name nobody.
    ///
    /// # Errors
    /// 400 when they say more about somebody without a name: who sends them does not mean to act with its own rights.
    fn read(headers: &HeaderMap) -> Result<Option<Self>, Status> {
        let texts = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            let text =
                |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            values.map(text).collect()
        };
        let first = |name: &str| texts(name).into_iter().next().unwrap_or_default();
        let mut wanted = Self {
            name: first(USER),
            uid: first(UID),
            groups: texts(GROUP),
            extra: BTreeMap::new(),
        };
        for header in headers.keys() {
            let Some(key) = header.as_str().strip_prefix(EXTRA) else {
                continue;
            };
            // What is escaped in no way that makes sense is meant as it is.
            let key = request::unescape(key, false).unwrap_or_else(|_| key.to_owned());
            let values = wanted.extra.entry(key).or_default();
            values.extend(texts(header.as_str()));
        }
        if wanted == Self::default() {
            return Ok(None);
        }
        if wanted.name.is_empty() {
            return Err(Status::bad_request(format!(
                "requested {} without impersonating a user name",
                wanted.in_go()
            )));
        }
        Ok(Some(wanted))
    }

    /// As Go prints it.
    fn in_go(&self) -> String {
        let list = |texts: &[String]| {
            let texts: Vec<String> = texts.iter().map(|text| go_quote(text)).collect();
            format!("[]string{{{}}}", texts.join(", "))
        };
        let groups = match self.groups.as_slice() {
            [] => "[]string(nil)".to_owned(),
            groups => list(groups),
        };
        let extra = self.extra.iter();
        let extra = extra.map(|(key, values)| format!("{}:{}", go_quote(key), list(values)));
        let extra = match extra.collect::<Vec<_>>().as_slice() {
            [] => "map[string][]string(nil)".to_owned(),
            extra => format!("map[string][]string{{{}}}", extra.join(", ")),
        };
        format!(
            "&user.DefaultInfo{{Name:{}, UID:{}, Groups:{groups}, Extra:{extra}}}",
            go_quote(&self.name),
            go_quote(&self.uid)
        )
    }

    /// The namespace and name of the ServiceAccount that is meant.
    fn account(&self) -> Option<(&str, &str)> {
        let rest = self.name.strip_prefix("system:serviceaccount:")?;
        let (namespace, name) = rest.split_once(':')?;
        let is_name = dns1123_label(namespace).is_empty() && dns1123_subdomain(name).is_empty();
        is_name.then_some((namespace, name))
    }

    /// What rights it takes to be this user, in the order in which they are looked at.
    fn rights(&self) -> Vec<Access> {
        let right = |group: &str, resource: &str, name: &str| Access {
            verb: "impersonate".to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        let mut rights = vec![match self.account() {
            Some((namespace, name)) => Access {
                namespace: namespace.to_owned(),
                ..right("", "serviceaccounts", name)
            },
            None => right("", "users", &self.name),
        }];
        rights.extend(self.groups.iter().map(|group| right("", "groups", group)));
        if !self.uid.is_empty() {
            rights.push(right(AUTHENTICATION, "uids", &self.uid));
        }
        for (key, values) in &self.extra {
            rights.extend(values.iter().map(|value| Access {
                subresource: key.clone(),
                ..right(AUTHENTICATION, "userextras", value)
            }));
        }
        rights
    }

    /// The user, who is in the groups of a user of that name besides those that were asked for.
    fn user(self) -> User {
        let mut groups = match self.account() {
            Some((namespace, name)) if self.groups.is_empty() => {
                User::service_account(namespace, name).groups
            }
            _ => self.groups,
        };
        let is_in = |group: &str| groups.iter().any(|known| known == group);
        let more = match self.name == ANONYMOUS {
            true if !is_in(UNAUTHENTICATED) => Some(UNAUTHENTICATED),
            false if !is_in(AUTHENTICATED) && !is_in(UNAUTHENTICATED) => Some(AUTHENTICATED),
            _ => None,
        };
        groups.extend(more.map(str::to_owned));
        User {
            name: self.name,
            uid: self.uid,
            groups,
            extra: self.extra,
        }
    }
}

/// The user that a client asks to be taken for, if it may.
pub(super) async fn user(
    shared: &Shared,
    asking: &User,
    headers: &HeaderMap,
) -> Result<Option<User>, Status> {
    let Some(wanted) = Wanted::read(headers)? else {
        return Ok(None);
    };
    for right in wanted.rights() {
        if !shared.authorizer.allows(asking, &right).await {
            let why = right.refusal(&asking.name);
            return Err(Status::forbidden(
                &right.group,
                &right.resource,
                &right.name,
                &why,
            ));
        }
    }
    Ok(Some(wanted.user()))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn read(headers: &[(&str, &str)]) -> Result<Option<Wanted>, Status> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(
                name,
                HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
            );
        }
        Wanted::read(&map)
    }

    fn user(headers: &[(&str, &str)]) -> User {
        read(headers).expect("valid").expect("somebody").user()
    }

    #[test]
    fn who_says_more_about_nobody_is_refused() {
        let told = |headers: &[(&str, &str)]| read(headers).expect_err("refused").message;
        assert_eq!(
            told(&[
                (GROUP, "a"),
                (GROUP, "b\""),
                ("impersonate-extra-scopes", "c"),
                ("impersonate-extra-more", "d"),
            ]),
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"a\", \"b\\\"\"}, \
             Extra:map[string][]string{\"more\":[]string{\"d\"}, \"scopes\":[]string{\"c\"}}} without \
             impersonating a user name"
        );
        assert_eq!(
            told(&[(UID, "u")]),
            "requested &user.DefaultInfo{Name:\"\", UID:\"u\", Groups:[]string(nil), \
             Extra:map[string][]string(nil)} without impersonating a user name"
        );
        for headers in [&[(GROUP, "")], &[("impersonate-extra-a", "")]] {
            assert_eq!(read(headers).expect_err("refused").code, 400);
        }
        for headers in [
            &[][..],
            &[(USER, "")],
            &[(UID, "")],
            &[(USER, ""), (UID, "")],
        ] {
            assert_eq!(read(headers).expect("nobody is named"), None);
        }
    }

    #[test]
    fn groups_are_those_of_a_user_of_the_name() {
        for (name, asked, expected) in [
            ("jane", &[][..], &[AUTHENTICATED][..]),
            ("jane", &[AUTHENTICATED, "g"], &[AUTHENTICATED, "g"]),
            ("jane", &["g"], &["g", AUTHENTICATED]),
            ("jane", &[UNAUTHENTICATED], &[UNAUTHENTICATED]),
            (ANONYMOUS, &[], &[UNAUTHENTICATED]),
            (
                ANONYMOUS,
                &[AUTHENTICATED],
                &[AUTHENTICATED, UNAUTHENTICATED],
            ),
            (ANONYMOUS, &[UNAUTHENTICATED], &[UNAUTHENTICATED]),
            ("system:serviceaccount:n:a", &["g"], &["g", AUTHENTICATED]),
            (
                "system:serviceaccount:n:a",
                &[],
                &[
                    "system:serviceaccounts",
                    "system:serviceaccounts:n",
                    AUTHENTICATED,
                ],
            ),
            ("system:serviceaccount:n:a:b", &[], &[AUTHENTICATED]),
            ("system:serviceaccount:N:a", &[], &[AUTHENTICATED]),
        ] {
            let mut headers = vec![(USER, name)];
            headers.extend(asked.iter().map(|group| (GROUP, *group)));
            assert_eq!(user(&headers).groups, expected, "{name} {asked:?}");
        }
    }

    #[test]
    fn keys_of_extras_are_unescaped_where_that_makes_sense() {
        let wanted = read(&[
            (USER, "jane"),
            ("impersonate-extra-a%2fb", "1"),
            ("impersonate-extra-%zz", "2"),
            ("impersonate-extra-x", "3"),
            ("impersonate-extra-%78", "4"),
        ]);
        let wanted = wanted.expect("valid").expect("somebody");
        let keys: Vec<&String> = wanted.extra.keys().collect();
        assert_eq!(keys, ["%zz", "a/b", "x"]);
        assert_eq!(wanted.extra["x"].len(), 2);
        let rights = wanted.rights();
        let right = rights.iter().find(|right| right.name == "1").expect("one");
        assert_eq!(right.subresource, "a/b");
    }
}
