//! Whom a client asks to be taken for, and whether it may.
//!
//! The narrow rights come first: `impersonate-on:MODE:VERB` for what is asked and `impersonate:MODE` for whom. Where they do
//! not do, `impersonate` does, by which everything can be asked. The first refusal is the one that is told.

use std::collections::BTreeMap;
use std::time::Instant;

use corral_api::field::{FieldError, FieldPath, go_quote};
use corral_api::names::{dns1123_label, dns1123_subdomain};
use corral_api::status::Status;
use http::HeaderMap;

use crate::Shared;
use crate::authn::{ANONYMOUS, AUTHENTICATED, MASTERS, UNAUTHENTICATED, User};
use crate::authz::node::NODES;
use crate::authz::{Access, Decision};
use crate::request::{self, RequestInfo};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
/// The group of the API in which uids and what else is known of users may be given away.
const AUTHENTICATION: &str = "authentication.k8s.io";
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
const NODE_PREFIX: &str = "system:node:";
/// Where tokens of pods and nodes name the node.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// How metrics call the right to be somebody whatever is asked.
const LEGACY: &str = "legacy";

/// A way to impersonate somebody for just what is asked, which has verbs of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
        }
    }

    fn verb(self) -> String {
        format!("impersonate:{}", self.name())
    }
}

/// A right that it takes to be somebody.
struct Need {
    access: Access,
    /// Why nobody has it.
    never: Option<String>,
}

impl From<Access> for Need {
    fn from(access: Access) -> Self {
        Self {
            access,
            never: None,
        }
    }
}

/// Whom a client is taken for.
pub(super) struct Taken {
    pub user: User,
    /// The verb that allowed it for just what is asked.
    pub constraint: Option<String>,
}

fn right(verb: &str, group: &str, resource: &str, name: &str) -> Access {
    Access {
        verb: verb.to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    }
}

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
        let (namespace, name) = self.name.strip_prefix(ACCOUNT_PREFIX)?.split_once(':')?;
        let is_name = dns1123_label(namespace).is_empty() && dns1123_subdomain(name).is_empty();
        is_name.then_some((namespace, name))
    }

    /// The name of the node that is meant.
    fn node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX)?;
        dns1123_subdomain(name).is_empty().then_some(name)
    }

    /// The narrow ways that there are for somebody to be this user. ServiceAccounts and nodes are what their names say, and
    /// nothing more can be asked for.
    fn modes(&self, asking: &User) -> Vec<Mode> {
        let says_more = !self.uid.is_empty() || !self.groups.is_empty() || !self.extra.is_empty();
        match (self.account(), self.node()) {
            (None, None) => vec![Mode::UserInfo],
            _ if says_more => Vec::new(),
            (Some(_), _) => vec![Mode::ServiceAccount],
            (None, Some(node)) if runs_on(asking, node) => {
                vec![Mode::AssociatedNode, Mode::ArbitraryNode]
            }
            (None, Some(_)) => vec![Mode::ArbitraryNode],
        }
    }

    /// What it takes to be this user in one of the narrow ways, for what is asked.
    fn narrow_needs(&self, mode: Mode, info: &RequestInfo) -> Vec<Need> {
        let asked = Access::of(info);
        let on = Access {
            verb: format!("impersonate-on:{}:{}", mode.name(), asked.verb),
            ..asked
        };
        let verb = mode.verb();
        let mut needs = vec![on.into()];
        match (mode, self.account(), self.node()) {
            (Mode::ServiceAccount, Some((namespace, name)), _) => needs.push(Need::from(Access {
                namespace: namespace.to_owned(),
                ..right(&verb, AUTHENTICATION, "serviceaccounts", name)
            })),
            // Which node it is follows from who asks.
            (Mode::AssociatedNode, ..) => {
                needs.push(right(&verb, AUTHENTICATION, "nodes", "*").into());
            }
            (Mode::ArbitraryNode, _, Some(name)) => {
                needs.push(right(&verb, AUTHENTICATION, "nodes", name).into());
            }
            _ => {
                needs.push(right(&verb, AUTHENTICATION, "users", &self.name).into());
                let mut more = self.more_needs(&verb, AUTHENTICATION);
                more.iter_mut().for_each(forbid);
                needs.extend(more);
            }
        }
        needs
    }

    /// What it takes to be this user, whatever is asked.
    fn needs(&self) -> Vec<Need> {
        const VERB: &str = "impersonate";
        let whom = match self.account() {
            Some((namespace, name)) => Access {
                namespace: namespace.to_owned(),
                ..right(VERB, "", "serviceaccounts", name)
            },
            None => right(VERB, "", "users", &self.name),
        };
        let mut needs = vec![whom.into()];
        needs.extend(self.more_needs(VERB, ""));
        needs
    }

    /// What it takes to have the rest, in the order in which it is looked at.
    fn more_needs(&self, verb: &str, group: &str) -> Vec<Need> {
        let mut needs = Vec::new();
        if !self.uid.is_empty() {
            needs.push(right(verb, AUTHENTICATION, "uids", &self.uid).into());
        }
        let groups = self.groups.iter();
        needs.extend(groups.map(|name| right(verb, group, "groups", name).into()));
        for (key, values) in &self.extra {
            needs.extend(values.iter().map(|value| {
                Need::from(Access {
                    subresource: key.clone(),
                    ..right(verb, AUTHENTICATION, "userextras", value)
                })
            }));
        }
        needs
    }

    /// The user, who is in the groups of a user of that name besides those that were asked for.
    fn user(self, mode: Option<Mode>) -> User {
        let mut groups = match (self.account(), mode) {
            (Some((namespace, name)), _) if self.groups.is_empty() => {
                User::service_account(namespace, name).groups
            }
            (_, Some(Mode::AssociatedNode | Mode::ArbitraryNode)) => vec![NODES.to_owned()],
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

/// Whether somebody is a ServiceAccount by a token that is bound to a node, or to a pod on it.
fn runs_on(user: &User, node: &str) -> bool {
    user.name.starts_with(ACCOUNT_PREFIX)
        && user
            .extra
            .get(NODE_NAME)
            .is_some_and(|names| matches!(names.as_slice(), [name] if name == node))
}

/// Marks what nobody gets in the narrow way, and takes off names that refusals do not tell.
fn forbid(need: &mut Need) {
    let access = &mut need.access;
    let why = match (access.resource.as_str(), access.name.as_str()) {
        ("groups", "") => "the empty string group is not allowed".to_owned(),
        ("groups", MASTERS) => format!("the {MASTERS} group is not allowed"),
        ("userextras", value) => {
            let key = &access.subresource;
            let path = FieldPath::new("extra.key");
            let wrong = FieldError::domain_prefixed_path(&path, key);
            let why = match wrong.as_slice() {
                _ if key.is_empty() => "the empty string key in extra is not allowed".to_owned(),
                [] if value.is_empty() => {
                    "the empty string value in extra is not allowed".to_owned()
                }
                [] => return,
                wrong => {
                    let wrong = FieldError::aggregate(wrong);
                    format!("an invalid key in extra is not allowed: {wrong}")
                }
            };
            access.name.clear();
            access.subresource.clear();
            why
        }
        _ => return,
    };
    need.never = Some(format!("impersonating {why}"));
}

/// Whether a user has all that it takes.
async fn check(shared: &Shared, asking: &User, mode: &str, needs: Vec<Need>) -> Result<(), Status> {
    for Need { access, never } in needs {
        let (allowed, reason) = match never {
            Some(why) => (false, why),
            None => {
                let began = Instant::now();
                let (decision, reason) = shared.authorizer.decide(asking, &access).await;
                let allowed = decision == Decision::Allow;
                let asked = &shared.metrics.impersonation_reviews;
                asked.made(mode, allowed, began.elapsed());
                (allowed, reason)
            }
        };
        if !allowed {
            return Err(access.forbidden(&asking.name, &reason));
        }
    }
    Ok(())
}

/// The user that a client asks to be taken for, if it may for what it asks.
pub(super) async fn user(
    shared: &Shared,
    asking: &User,
    headers: &HeaderMap,
    info: &RequestInfo,
) -> Result<Option<Taken>, Status> {
    let Some(wanted) = Wanted::read(headers)? else {
        return Ok(None);
    };
    let began = Instant::now();
    let found = way(shared, asking, &wanted, info).await;
    let mode = match &found {
        Ok(Some(mode)) => mode.name(),
        Ok(None) => LEGACY,
        Err(_) => "",
    };
    let attempts = &shared.metrics.impersonations;
    attempts.made(mode, found.is_ok(), began.elapsed());
    let mode = found?;
    Ok(Some(Taken {
        user: wanted.user(mode),
        constraint: mode.map(Mode::verb),
    }))
}

/// The way in which a user may be another: the first that is allowed.
async fn way(
    shared: &Shared,
    asking: &User,
    wanted: &Wanted,
    info: &RequestInfo,
) -> Result<Option<Mode>, Status> {
    let mut refusal = None;
    for mode in wanted.modes(asking) {
        let needs = wanted.narrow_needs(mode, info);
        match check(shared, asking, mode.name(), needs).await {
            Ok(()) => return Ok(Some(mode)),
            Err(why) => refusal = refusal.or(Some(why)),
        }
    }
    match check(shared, asking, LEGACY, wanted.needs()).await {
        Ok(()) => Ok(None),
        Err(why) => Err(refusal.unwrap_or(why)),
    }
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
        read(headers).expect("valid").expect("somebody").user(None)
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
        let needs = wanted.needs();
        let need = needs.iter().find(|need| need.access.name == "1");
        assert_eq!(need.expect("one").access.subresource, "a/b");
    }
}
