//! The audit policy: what of which requests is recorded, at which stages.

use serde::{Deserialize, Serialize};

use crate::authn::User;
use crate::request::{RequestInfo, Verb};

/// How much of a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when and with which outcome.
    Metadata,
    /// The body of the request, too.
    Request,
    /// The body of the answer, too.
    RequestResponse,
}

impl Level {
    /// As a policy says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When an event is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// When it is known who asks.
    RequestReceived,
    /// When the head of an answer goes out that lasts.
    ResponseStarted,
    /// When the answer is complete.
    ResponseComplete,
    /// When a handler has panicked.
    Panic,
}

/// Resources of one group.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct GroupResources {
    group: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resource_names: Vec<String>,
}

/// What is recorded of some requests.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    users: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    user_groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    verbs: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resources: Vec<GroupResources>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<String>,
    #[serde(
        default,
        rename = "nonResourceURLs",
        skip_serializing_if = "Vec::is_empty"
    )]
    non_resource_urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    omit_stages: Vec<Stage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    omit_managed_fields: Option<bool>,
}

/// A policy, as its file writes it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    metadata: serde_json::Value,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<Rule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

/// What is recorded of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How much.
    pub level: Level,
    /// When not.
    pub omitted: Vec<Stage>,
    /// Whether managed fields are left out of bodies.
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!(
                "{} {} is no audit.k8s.io/v1 Policy",
                policy.api_version, policy.kind
            ));
        }
        if policy.rules.is_empty() {
            return Err("a policy needs at least one rule".to_owned());
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            rule.check()
                .map_err(|why| format!("rules[{index}]: {why}"))?;
        }
        Ok(policy)
    }

    /// What is recorded of a request. The first rule that fits decides; without one, nothing is.
    pub fn judge(&self, user: Option<&User>, info: &RequestInfo) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.fits(user, info));
        let mut omitted = self.omit_stages.clone();
        let mut omit_managed_fields = self.omit_managed_fields;
        if let Some(rule) = rule {
            omitted.extend(&rule.omit_stages);
            omit_managed_fields = rule.omit_managed_fields.unwrap_or(omit_managed_fields);
        }
        Verdict {
            level: rule.map_or(Level::None, |rule| rule.level),
            omitted,
            omit_managed_fields,
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            return Err(format!("nonResourceURLs: {why}"));
        }
        for url in &self.non_resource_urls {
            if url == "*" {
                continue;
            }
            if !url.starts_with('/') {
                let why = "non-resource URL rules must begin with a '/' character";
                return Err(format!("nonResourceURLs: {url:?}: {why}"));
            }
            if url[..url.len() - 1].contains('*') {
                let why = "non-resource URL wildcards '*' must be the final character of the rule";
                return Err(format!("nonResourceURLs: {url:?}: {why}"));
            }
        }
        for resources in &self.resources {
            if resources.group.contains('/') {
                let why = "a group is named without its version";
                return Err(format!("resources.group: {:?}: {why}", resources.group));
            }
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                return Err(
                    "resources.resourceNames: using resourceNames requires at least one resource"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }

    fn fits(&self, user: Option<&User>, info: &RequestInfo) -> bool {
        let named = |names: &[String], name: &str| names.iter().any(|n| n == name);
        // Rules about people fit nobody whom it is not known to be.
        if !self.users.is_empty() && !user.is_some_and(|user| named(&self.users, &user.name)) {
            return false;
        }
        let of_group = |group: &String| named(&self.user_groups, group);
        let in_group = |user: &User| user.groups.iter().any(of_group);
        if !self.user_groups.is_empty() && !user.is_some_and(in_group) {
            return false;
        }
        if !self.verbs.is_empty() && !named(&self.verbs, verb(info)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource && self.fits_resource(info);
        }
        if self.non_resource_urls.is_empty() {
            return true;
        }
        let fits = |url: &String| match url.strip_suffix('*') {
            Some(prefix) => info.path.starts_with(prefix),
            None => *url == info.path,
        };
        !info.is_resource && self.non_resource_urls.iter().any(fits)
    }

    fn fits_resource(&self, info: &RequestInfo) -> bool {
        if !self.namespaces.is_empty() && !self.namespaces.contains(&info.namespace) {
            return false;
        }
        let qualified = info.qualified_resource();
        let name = super::object_name(info);
        let fits = |resources: &GroupResources| {
            let names = &resources.resource_names;
            let is_meant = |resource: &String| {
                *resource == qualified
                    || resource == "*"
                    || resource
                        .strip_prefix("*/")
                        .is_some_and(|sub| !info.subresource.is_empty() && sub == info.subresource)
                    || resource.strip_suffix("/*") == Some(&*info.resource)
            };
            resources.group == info.group
                && (resources.resources.is_empty()
                    || resources.resources.iter().any(is_meant)
                        && (names.is_empty() || names.contains(&name)))
        };
        self.resources.is_empty() || self.resources.iter().any(fits)
    }
}

/// The verb, as a policy names it.
pub(super) fn verb(info: &RequestInfo) -> &str {
    match info.verb {
        Verb::Other => &info.method,
        verb => verb.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, uri: &str) -> RequestInfo {
        RequestInfo::new(&method.parse().expect("method"), &uri.parse().expect("uri"))
            .expect("valid")
    }

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: [quiet]
- level: None
  userGroups: [silent]
- level: Metadata
  nonResourceURLs: ["/healthz*", "/version"]
- level: Request
  verbs: [get]
  resources: [{group: "", resources: [configmaps], resourceNames: [one]}]
- level: RequestResponse
  omitManagedFields: false
  omitStages: [ResponseStarted]
  resources: [{group: "", resources: ["*/log", "services/*"]}, {group: apps}]
- level: Metadata
  namespaces: [a, ""]
  resources: [{group: "", resources: [pods, nodes]}]
"#;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(POLICY).expect("valid");
        let level = |user: &User, method: &str, uri: &str| {
            policy.judge(Some(user), &info(method, uri)).level
        };
        let jane = User::new("jane", &[]);
        assert_eq!(
            level(&User::new("quiet", &[]), "GET", "/healthz"),
            Level::None
        );
        assert_eq!(
            level(&User::new("x", &["silent"]), "GET", "/healthz"),
            Level::None
        );
        assert_eq!(level(&jane, "GET", "/healthz/ping"), Level::Metadata);
        assert_eq!(level(&jane, "GET", "/version"), Level::Metadata);
        assert_eq!(level(&jane, "GET", "/version/x"), Level::None);
        let map = "/api/v1/namespaces/a/configmaps";
        assert_eq!(level(&jane, "GET", &format!("{map}/one")), Level::Request);
        assert_eq!(level(&jane, "GET", &format!("{map}/two")), Level::None);
        assert_eq!(level(&jane, "PUT", &format!("{map}/one")), Level::None);
        let pod = "/api/v1/namespaces/b/pods/p";
        assert_eq!(
            level(&jane, "GET", &format!("{pod}/log")),
            Level::RequestResponse
        );
        assert_eq!(level(&jane, "GET", pod), Level::None);
        assert_eq!(
            level(&jane, "GET", "/api/v1/namespaces/a/pods"),
            Level::Metadata
        );
        assert_eq!(level(&jane, "GET", "/api/v1/nodes"), Level::Metadata);
        let service = "/api/v1/namespaces/b/services/s";
        assert_eq!(level(&jane, "GET", service), Level::RequestResponse);
        assert_eq!(
            level(&jane, "GET", &format!("{service}/proxy")),
            Level::RequestResponse
        );
        let unknown = policy.judge(None, &info("GET", "/healthz"));
        assert_eq!(
            unknown.level,
            Level::Metadata,
            "rules about people fit nobody"
        );
        let scaled = policy.judge(
            Some(&jane),
            &info("PATCH", "/apis/apps/v1/namespaces/c/deployments/d/scale"),
        );
        assert_eq!(
            scaled,
            Verdict {
                level: Level::RequestResponse,
                omitted: vec![Stage::RequestReceived, Stage::ResponseStarted],
                omit_managed_fields: false,
            }
        );
    }

    #[test]
    fn a_policy_that_makes_no_sense_is_refused() {
        let rule = |rule: &str| {
            Policy::parse(&format!(
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{rule}]\n"
            ))
        };
        assert!(rule("{level: Metadata}").is_ok());
        for bad in [
            "{}",
            "{level: All}",
            "{level: None, typo: 1}",
            "",
            "{level: None, omitStages: [Never]}",
            "{level: None, nonResourceURLs: [x]}",
            "{level: None, nonResourceURLs: [\"/a*b\"]}",
            "{level: None, nonResourceURLs: [/a], namespaces: [b]}",
            "{level: None, resources: [{group: apps/v1}]}",
            "{level: None, resources: [{resourceNames: [a]}]}",
        ] {
            assert!(rule(bad).is_err(), "{bad}");
        }
        assert!(Policy::parse("apiVersion: v1\nkind: Policy\nrules: [{level: None}]").is_err());
    }
}
