//! Evaluates roles and bindings. They are read off the caches and compiled into grants by subject; the compiled form
//! is kept until one of the four kinds changes.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use corral_api::k8s::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use corral_storage::Key;
use imbl::OrdMap;

use super::Access;
use crate::api::Api;
use crate::authn::{MASTERS, User};
use crate::object::Stored;

type Objects = OrdMap<Key, Arc<Stored>>;
const KINDS: [&str; 4] = [
    "roles",
    "rolebindings",
    "clusterroles",
    "clusterrolebindings",
];
const GROUP: &str = "rbac.authorization.k8s.io";

/// Rules that hold in one namespace, or everywhere.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The namespace; `None` for everywhere.
    pub namespace: Option<String>,
    /// The rules.
    pub rules: Arc<Vec<PolicyRule>>,
    /// The binding, its role and the subject, as reasons name them.
    given: Arc<str>,
    /// The role, if it is not there.
    missing: Option<Missing>,
}

/// A role that a binding refers to and that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    kind: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.kind.to_ascii_lowercase();
        write!(f, "{kind}.{GROUP} {:?} not found", self.name)
    }
}

/// What was not found, in Kubernetes' words; nothing where everything was.
pub fn unresolved(missing: &[impl std::fmt::Display]) -> Option<String> {
    match missing {
        [] => None,
        [only] => Some(only.to_string()),
        all => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            Some(format!("[{}]", all.join(", ")))
        }
    }
}

struct Compiled {
    sources: [Objects; 4],
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

/// Evaluates access.
pub struct Rbac {
    api: Arc<Api>,
    compiled: ArcSwapOption<Compiled>,
}

impl Rbac {
    /// Over the roles and bindings of a server.
    pub fn new(api: Arc<Api>) -> Self {
        Self {
            api,
            compiled: ArcSwapOption::empty(),
        }
    }

    /// Whether a user may.
    pub fn allows(&self, user: &User, access: &Access) -> bool {
        if user.is_in(MASTERS) {
            return true;
        }
        self.compiled().grant(user, access).is_some()
    }

    /// By which binding a user may; nothing for somebody who may not, or who may everything.
    pub fn reason(&self, user: &User, access: &Access) -> Option<String> {
        if user.is_in(MASTERS) {
            return None;
        }
        let compiled = self.compiled();
        let grant = compiled.grant(user, access)?;
        Some(format!("RBAC: allowed by {}", grant.given))
    }

    /// The roles that a user would have in a namespace, or everywhere alone, if they were there.
    pub fn missing(&self, user: &User, namespace: &str) -> Vec<Missing> {
        let compiled = self.compiled();
        let mut found = Vec::new();
        for everywhere in [true, false] {
            let here = compiled
                .grants(user)
                .filter(|grant| match &grant.namespace {
                    None => everywhere,
                    Some(of) => !everywhere && of == namespace,
                });
            for missing in here.filter_map(|grant| grant.missing.clone()) {
                if !found.contains(&missing) {
                    found.push(missing);
                }
            }
        }
        found
    }

    /// The rules that a user has in a namespace.
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let compiled = self.compiled();
        let here = compiled
            .grants(user)
            .filter(|g| g.namespace.as_deref().is_none_or(|n| n == namespace));
        here.flat_map(|grant| grant.rules.iter().cloned()).collect()
    }

    /// The rules of a role that a binding in a namespace refers to; `None` if there is no such role.
    pub fn role(&self, reference: &RoleRef, namespace: &str) -> Option<Vec<PolicyRule>> {
        let (plural, namespace) = match reference.kind.as_str() {
            "Role" => ("roles", namespace),
            _ => ("clusterroles", ""),
        };
        let resource = self.api.resource(GROUP, plural)?;
        let stored = resource
            .cacher
            .peek(&resource.key(namespace, &reference.name))?;
        // A Role and a ClusterRole hold their rules in the same place.
        #[derive(serde::Deserialize)]
        struct Rules {
            rules: Option<Vec<PolicyRule>>,
        }
        let role: Rules = serde_json::from_slice(&stored.json).ok()?;
        Some(role.rules.unwrap_or_default())
    }

    fn compiled(&self) -> Arc<Compiled> {
        let sources = KINDS.map(|plural| {
            let resource = self.api.resource(GROUP, plural);
            resource
                .map(|r| r.cacher.snapshot().objects)
                .unwrap_or_default()
        });
        if let Some(compiled) = self.compiled.load_full()
            && compiled
                .sources
                .iter()
                .zip(&sources)
                .all(|(a, b)| a.ptr_eq(b))
        {
            return compiled;
        }
        let compiled = Arc::new(compile(sources));
        self.compiled.store(Some(compiled.clone()));
        compiled
    }
}

impl Compiled {
    fn grant<'a>(&'a self, user: &'a User, access: &Access) -> Option<&'a Grant> {
        self.grants(user)
            .filter(|grant| grant.covers(access))
            .find(|grant| grant.rules.iter().any(|r| rule_allows(r, access)))
    }

    fn grants<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Grant> {
        let own = self.users.get(&user.name).into_iter().flatten();
        let groups = user
            .groups
            .iter()
            .filter_map(|group| self.groups.get(group))
            .flatten();
        own.chain(groups)
    }
}

impl Grant {
    fn covers(&self, access: &Access) -> bool {
        match &self.namespace {
            None => true,
            Some(namespace) => !access.resource.is_empty() && *namespace == access.namespace,
        }
    }
}

/// The rules of somebody who may do everything.
pub fn full_authority() -> Vec<PolicyRule> {
    vec![everything(), every_path()]
}

fn everything() -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec!["*".into()]),
        resources: Some(vec!["*".into()]),
        verbs: vec!["*".into()],
        ..Default::default()
    }
}

fn every_path() -> PolicyRule {
    PolicyRule {
        non_resource_urls: Some(vec!["*".into()]),
        verbs: vec!["*".into()],
        ..Default::default()
    }
}

fn read<T: serde::de::DeserializeOwned>(objects: &Objects) -> impl Iterator<Item = T> + '_ {
    objects
        .values()
        .filter_map(|stored| serde_json::from_slice(&stored.json).ok())
}

fn compile(sources: [Objects; 4]) -> Compiled {
    let mut roles: HashMap<(String, String), Arc<Vec<PolicyRule>>> = HashMap::new();
    for role in read::<Role>(&sources[0]) {
        let key = (
            role.metadata.namespace.unwrap_or_default(),
            role.metadata.name.unwrap_or_default(),
        );
        roles.insert(key, Arc::new(role.rules.unwrap_or_default()));
    }
    for role in read::<ClusterRole>(&sources[2]) {
        let key = (String::new(), role.metadata.name.unwrap_or_default());
        roles.insert(key, Arc::new(role.rules.unwrap_or_default()));
    }
    let rules = |reference: &RoleRef, namespace: &str| {
        let namespace = if reference.kind == "ClusterRole" {
            ""
        } else {
            namespace
        };
        let found = roles.get(&(namespace.to_owned(), reference.name.clone()));
        let missing = found.is_none().then(|| Missing {
            kind: reference.kind.clone(),
            name: reference.name.clone(),
        });
        (found.cloned().unwrap_or_default(), missing)
    };
    let (mut users, mut groups) = (HashMap::new(), HashMap::new());
    for binding in read::<ClusterRoleBinding>(&sources[3]) {
        let (rules, missing) = rules(&binding.role_ref, "");
        let name = binding.metadata.name.unwrap_or_default();
        let role = &binding.role_ref;
        let given = format!(
            "ClusterRoleBinding {name:?} of {} {:?}",
            role.kind, role.name
        );
        let grant = Grant {
            namespace: None,
            rules,
            given: given.into(),
            missing,
        };
        give(&mut users, &mut groups, binding.subjects, &grant);
    }
    for binding in read::<RoleBinding>(&sources[1]) {
        let namespace = binding.metadata.namespace.unwrap_or_default();
        let (rules, missing) = rules(&binding.role_ref, &namespace);
        let name = binding.metadata.name.unwrap_or_default();
        let place = format!("{name}/{namespace}");
        let role = &binding.role_ref;
        let given = format!("RoleBinding {place:?} of {} {:?}", role.kind, role.name);
        let grant = Grant {
            namespace: Some(namespace),
            rules,
            given: given.into(),
            missing,
        };
        give(&mut users, &mut groups, binding.subjects, &grant);
    }
    Compiled {
        sources,
        users,
        groups,
    }
}

type Grants = HashMap<String, Vec<Grant>>;

fn give(users: &mut Grants, groups: &mut Grants, subjects: Option<Vec<Subject>>, grant: &Grant) {
    for subject in subjects.into_iter().flatten() {
        let mut shown = format!("{:?}", subject.name);
        let (map, name) = match subject.kind.as_str() {
            "User" => (&mut *users, subject.name),
            "Group" => (&mut *groups, subject.name),
            "ServiceAccount" => {
                let namespace = subject
                    .namespace
                    .or_else(|| grant.namespace.clone())
                    .unwrap_or_default();
                shown = format!("{:?}", format!("{}/{namespace}", subject.name));
                let name = format!("system:serviceaccount:{namespace}:{}", subject.name);
                (&mut *users, name)
            }
            _ => continue,
        };
        let mut grant = grant.clone();
        grant.given = format!("{} to {} {shown}", grant.given, subject.kind).into();
        map.entry(name).or_default().push(grant);
    }
}

/// Whether one rule allows an access.
pub fn rule_allows(rule: &PolicyRule, access: &Access) -> bool {
    let has = |list: &[String], value: &str| list.iter().any(|item| item == "*" || item == value);
    if !has(&rule.verbs, &access.verb) {
        return false;
    }
    if access.resource.is_empty() {
        return rule
            .non_resource_urls
            .iter()
            .flatten()
            .any(|url| path_matches(url, &access.path));
    }
    let groups = rule.api_groups.as_deref().unwrap_or_default();
    let resources = rule.resources.as_deref().unwrap_or_default();
    let names = rule.resource_names.as_deref().unwrap_or_default();
    has(groups, &access.group)
        && resources.iter().any(|r| resource_matches(r, access))
        && (names.is_empty() || (!access.name.is_empty() && names.contains(&access.name)))
}

fn resource_matches(rule: &str, access: &Access) -> bool {
    match rule.split_once('/') {
        _ if rule == "*" => true,
        Some(("*", subresource)) => !subresource.is_empty() && subresource == access.subresource,
        _ => rule == access.qualified_resource(),
    }
}

fn path_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_as_kubernetes_matches_them() {
        let rule = PolicyRule {
            api_groups: Some(vec!["".into()]),
            resources: Some(vec!["pods".into(), "*/status".into()]),
            resource_names: None,
            verbs: vec!["get".into()],
            ..Default::default()
        };
        let access = |resource: &str, subresource: &str| Access {
            verb: "get".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            ..Default::default()
        };
        assert!(rule_allows(&rule, &access("pods", "")));
        assert!(!rule_allows(&rule, &access("pods", "log")));
        assert!(rule_allows(&rule, &access("nodes", "status")));
        assert!(
            path_matches("/healthz/*", "/healthz/etcd")
                && !path_matches("/healthz", "/healthz/etcd")
        );
    }
}
