//! Which requests a FlowSchema is about.

use corral_api::k8s::api::flowcontrol::v1::{
    NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, Subject,
};

use crate::authn::User;
use crate::request::RequestInfo;

const ALL: &str = "*";

/// The rules of a schema, read once so that asking them allocates nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    subjects: Vec<Who>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Everybody,
    User(String),
    Group(String),
    /// All ServiceAccounts of a namespace: how their names as users begin.
    Accounts(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Resources {
    verbs: Words,
    groups: Words,
    resources: Words,
    namespaces: Words,
    cluster: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Paths {
    verbs: Words,
    paths: Option<Vec<String>>,
}

/// Some words, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Words {
    All,
    Of(Vec<String>),
}

impl Words {
    fn new(words: &[String]) -> Self {
        match words {
            [all] if all == ALL => Self::All,
            some => Self::Of(some.to_vec()),
        }
    }

    fn hold(&self, mut is_meant: impl FnMut(&str) -> bool) -> bool {
        match self {
            Self::All => true,
            Self::Of(words) => words.iter().any(|word| is_meant(word)),
        }
    }
}

impl Rules {
    /// Reads rules; a subject without the name that its kind has is nobody.
    pub fn new(rules: &[PolicyRulesWithSubjects]) -> Self {
        let read = |rule: &PolicyRulesWithSubjects| Rule {
            subjects: rule.subjects.iter().filter_map(Who::new).collect(),
            resources: rule
                .resource_rules
                .iter()
                .flatten()
                .map(Resources::new)
                .collect(),
            paths: rule
                .non_resource_rules
                .iter()
                .flatten()
                .map(Paths::new)
                .collect(),
        };
        Self(rules.iter().map(read).collect())
    }

    /// Whether a request of a user is meant.
    pub fn mean(&self, user: &User, info: &RequestInfo) -> bool {
        self.0.iter().any(|rule| {
            rule.subjects.iter().any(|who| who.is(user))
                && match info.is_resource {
                    true => rule.resources.iter().any(|rule| rule.mean(info)),
                    false => rule.paths.iter().any(|rule| rule.mean(info)),
                }
        })
    }
}

impl Who {
    fn new(subject: &Subject) -> Option<Self> {
        match subject.kind.as_str() {
            "User" => subject.user.as_ref().map(|user| match user.name.as_str() {
                ALL => Self::Everybody,
                name => Self::User(name.to_owned()),
            }),
            "Group" => subject
                .group
                .as_ref()
                .map(|group| match group.name.as_str() {
                    ALL => Self::Everybody,
                    name => Self::Group(name.to_owned()),
                }),
            "ServiceAccount" => subject.service_account.as_ref().map(|account| {
                let prefix = format!("system:serviceaccount:{}:", account.namespace);
                match account.name.as_str() {
                    ALL => Self::Accounts(prefix),
                    name => Self::User(prefix + name),
                }
            }),
            _ => None,
        }
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Self::Everybody => true,
            Self::User(name) => *name == user.name,
            Self::Group(name) => user.groups.iter().any(|group| group == name),
            Self::Accounts(prefix) => user.name.starts_with(prefix.as_str()),
        }
    }
}

/// The verb as rules name it.
fn verb(info: &RequestInfo) -> &str {
    match info.is_resource {
        true => info.verb.as_str(),
        false => &info.method,
    }
}

impl Resources {
    fn new(rule: &ResourcePolicyRule) -> Self {
        Self {
            verbs: Words::new(&rule.verbs),
            groups: Words::new(&rule.api_groups),
            resources: Words::new(&rule.resources),
            namespaces: Words::new(rule.namespaces.as_deref().unwrap_or_default()),
            cluster: rule.cluster_scope == Some(true),
        }
    }

    fn mean(&self, info: &RequestInfo) -> bool {
        let is_resource = |word: &str| match info.subresource.as_str() {
            "" => word == info.resource,
            subresource => word
                .strip_prefix(info.resource.as_str())
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| rest == subresource),
        };
        self.verbs.hold(|word| word == verb(info))
            && self.resources.hold(is_resource)
            && self.groups.hold(|word| word == info.group)
            && match info.namespace.as_str() {
                "" => self.cluster,
                namespace => self.namespaces.hold(|word| word == namespace),
            }
    }
}

impl Paths {
    fn new(rule: &NonResourcePolicyRule) -> Self {
        // One word for all counts wherever it stands.
        let all = rule.non_resource_urls.iter().any(|path| path == ALL);
        Self {
            verbs: Words::new(&rule.verbs),
            paths: (!all).then(|| rule.non_resource_urls.clone()),
        }
    }

    fn mean(&self, info: &RequestInfo) -> bool {
        let is_meant = |path: &String| {
            let above = path.trim_end_matches('*').trim_end_matches('/');
            *path == info.path
                || info
                    .path
                    .strip_prefix(above)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        self.verbs.hold(|word| word == verb(info))
            && self
                .paths
                .as_ref()
                .is_none_or(|paths| paths.iter().any(is_meant))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use super::*;

    fn rules(subject: Value, rule: Value) -> Rules {
        let mut all = json!([{"subjects": [subject]}]);
        let field = match rule["nonResourceURLs"].is_array() {
            true => "nonResourceRules",
            false => "resourceRules",
        };
        all[0][field] = json!([rule]);
        Rules::new(&serde_json::from_value::<Vec<PolicyRulesWithSubjects>>(all).expect("rules"))
    }

    fn info(method: Method, uri: &str) -> RequestInfo {
        RequestInfo::new(&method, &uri.parse().expect("a URI")).expect("a request")
    }

    #[test]
    fn subjects_are_users_groups_and_accounts() {
        let every =
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]});
        let pods = info(Method::GET, "/api/v1/namespaces/a/pods");
        let ann = User::new("ann", &["team"]);
        let account = User::service_account("a", "bot");
        for (subject, is_ann, is_account) in [
            (
                json!({"kind": "User", "user": {"name": "ann"}}),
                true,
                false,
            ),
            (json!({"kind": "User", "user": {"name": "*"}}), true, true),
            (
                json!({"kind": "Group", "group": {"name": "team"}}),
                true,
                false,
            ),
            (json!({"kind": "Group", "group": {"name": "*"}}), true, true),
            (
                json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": "*"}}),
                false,
                true,
            ),
            (
                json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": "bot"}}),
                false,
                true,
            ),
            (
                json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "b", "name": "bot"}}),
                false,
                false,
            ),
            (json!({"kind": "User"}), false, false),
        ] {
            let rules = rules(subject.clone(), every.clone());
            assert_eq!(rules.mean(&ann, &pods), is_ann, "{subject}");
            assert_eq!(rules.mean(&account, &pods), is_account, "{subject}");
        }
    }

    #[test]
    fn resources_are_meant_with_verb_group_subresource_and_scope() {
        let ann = User::new("ann", &[]);
        let about = |rule: Value| rules(json!({"kind": "User", "user": {"name": "*"}}), rule);
        let some = about(json!({
            "verbs": ["list"], "apiGroups": ["apps"], "resources": ["deployments"], "namespaces": ["a"],
        }));
        let uri = "/apis/apps/v1/namespaces/a/deployments";
        assert!(some.mean(&ann, &info(Method::GET, uri)));
        assert!(!some.mean(&ann, &info(Method::POST, uri)));
        assert!(!some.mean(&ann, &info(Method::GET, "/apis/apps/v1/deployments")));
        assert!(!some.mean(
            &ann,
            &info(Method::GET, "/apis/apps/v1/namespaces/b/deployments")
        ));
        assert!(!some.mean(&ann, &info(Method::GET, "/api/v1/namespaces/a/pods")));
        let status = about(json!({
            "verbs": ["*"], "apiGroups": [""], "resources": ["nodes/status"], "clusterScope": true,
        }));
        assert!(status.mean(&ann, &info(Method::PUT, "/api/v1/nodes/n/status")));
        assert!(!status.mean(&ann, &info(Method::PUT, "/api/v1/nodes/n")));
        assert!(!status.mean(
            &ann,
            &info(Method::PUT, "/api/v1/namespaces/a/pods/p/status")
        ));
    }

    #[test]
    fn paths_are_meant_with_all_below_them() {
        let ann = User::new("ann", &[]);
        let about = |path: &str| {
            let rule = json!({"verbs": ["get"], "nonResourceURLs": [path]});
            rules(json!({"kind": "User", "user": {"name": "*"}}), rule)
        };
        for (path, asked, is_meant) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/ping", true),
            ("/healthz", "/healthzz", false),
            ("/healthz/*", "/healthz/ping", true),
            ("/healthz/*", "/healthz", false),
            ("*", "/version", true),
            ("/", "/", true),
            ("/", "/version", true),
        ] {
            let is = about(path).mean(&ann, &info(Method::GET, asked));
            assert_eq!(is, is_meant, "{path} {asked}");
        }
        assert!(!about("*").mean(&ann, &info(Method::POST, "/version")));
    }
}
