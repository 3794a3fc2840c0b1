//! `AuthorizationConfiguration`: who decides in which order, from a file that may change.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest time that a service may be given, as in kube-apiserver.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Authorizers of one configuration.
const AUTHORIZERS_MAX: usize = 64;
const API_VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];

const KIND: &str = "AuthorizationConfiguration";

/// The configuration, as its file writes it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationConfiguration {
    api_version: String,
    kind: String,
    /// Those who decide, in order.
    #[serde(default)]
    pub authorizers: Vec<AuthorizerConfig>,
}

/// Somebody who decides.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizerConfig {
    /// Of what kind.
    #[serde(rename = "type")]
    pub mode: Mode,
    /// The name, for logs and metrics.
    #[serde(default)]
    pub name: String,
    /// The service that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookConfig>,
}

/// Kinds of deciders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Mode {
    /// Nodes may do what their pods need.
    Node,
    /// Roles and bindings.
    #[serde(rename = "RBAC")]
    Rbac,
    /// A service.
    Webhook,
    /// Everybody may do everything.
    AlwaysAllow,
    /// Nobody may do anything.
    AlwaysDeny,
}

impl Mode {
    /// As flags name it.
    ///
    /// # Errors
    /// For a mode that there is not.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "Node" => Self::Node,
            "RBAC" => Self::Rbac,
            "Webhook" => Self::Webhook,
            "AlwaysAllow" => Self::AlwaysAllow,
            "AlwaysDeny" => Self::AlwaysDeny,
            other => return Err(format!("authorization mode {other:?} is not supported")),
        })
    }
}

/// What an answer that does not come means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum FailurePolicy {
    /// The next one is asked.
    NoOpinion,
    /// No.
    Deny,
}

/// A service, and how it is asked.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookConfig {
    /// How long a yes is kept.
    #[serde(rename = "authorizedTTL", with = "duration")]
    pub authorized_life: Duration,
    /// Whether a yes is kept.
    #[serde(default = "yes")]
    pub cache_authorized_requests: bool,
    /// How long a no is kept.
    #[serde(rename = "unauthorizedTTL", with = "duration")]
    pub unauthorized_life: Duration,
    /// Whether a no is kept.
    #[serde(default = "yes")]
    pub cache_unauthorized_requests: bool,
    /// How long it has for an answer.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// The version of the review that it is sent.
    pub subject_access_review_version: String,
    /// The version of the review that conditions look at.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub match_condition_subject_access_review_version: String,
    /// What no answer means.
    pub failure_policy: FailurePolicy,
    /// Where it is.
    pub connection_info: ConnectionInfo,
    /// Expressions that must all hold of what it is asked about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_conditions: Vec<MatchCondition>,
}

/// Where a service is.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionInfo {
    #[serde(rename = "type")]
    kind: String,
    /// A kubeconfig file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_config_file: Option<PathBuf>,
}

/// An expression.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MatchCondition {
    /// In CEL.
    pub expression: String,
}

fn yes() -> bool {
    true
}

/// Durations in Go's form.
mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        crate::duration::parse(&text).map_err(serde::de::Error::custom)
    }

    pub fn serialize<S: Serializer>(given: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::duration::text(*given))
    }
}

impl AuthorizerConfig {
    /// One that is named after what it is.
    pub fn of_mode(mode: Mode) -> Self {
        Self {
            mode,
            name: format!("{mode:?}").to_ascii_lowercase(),
            webhook: None,
        }
    }
}

impl ConnectionInfo {
    /// By a kubeconfig file.
    pub fn of_file(path: PathBuf) -> Self {
        Self {
            kind: "KubeConfigFile".to_owned(),
            kube_config_file: Some(path),
        }
    }
}

impl AuthorizationConfiguration {
    /// What flags say.
    pub fn of_flags(authorizers: Vec<AuthorizerConfig>) -> Self {
        Self {
            api_version: API_VERSIONS[0].to_owned(),
            kind: KIND.to_owned(),
            authorizers,
        }
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if !API_VERSIONS.contains(&config.api_version.as_str()) || config.kind != KIND {
            return Err(format!(
                "{} {} is no {} {KIND}",
                config.api_version, config.kind, API_VERSIONS[0]
            ));
        }
        check(&config.authorizers)?;
        Ok(config)
    }
}

/// Checks those who decide.
///
/// # Errors
/// What is wrong with one.
pub fn check(authorizers: &[AuthorizerConfig]) -> Result<(), String> {
    if authorizers.is_empty() {
        return Err(
            "authorizers: Required value: at least one authorization mode must be defined"
                .to_owned(),
        );
    }
    if authorizers.len() > AUTHORIZERS_MAX {
        return Err(format!(
            "authorizers: there may be {AUTHORIZERS_MAX} at most"
        ));
    }
    let mut names = BTreeSet::new();
    for (index, authorizer) in authorizers.iter().enumerate() {
        let told = |why: String| format!("authorizers[{index}].{why}");
        let mode = authorizer.mode;
        let again = authorizers[..index]
            .iter()
            .any(|before| before.mode == mode);
        if again && mode != Mode::Webhook {
            return Err(told(format!("type: Duplicate value: {mode:?}")));
        }
        if authorizer.name.is_empty() {
            return Err(told("name: Required value".to_owned()));
        }
        if !names.insert(&authorizer.name) {
            return Err(told(format!(
                "name: Duplicate value: {:?}",
                authorizer.name
            )));
        }
        match (&authorizer.webhook, mode) {
            (Some(webhook), Mode::Webhook) => {
                webhook.check().map_err(|e| told(format!("webhook.{e}")))?;
            }
            (None, Mode::Webhook) => {
                return Err(told(
                    "webhook: Required value: required when type=Webhook".to_owned(),
                ));
            }
            (Some(_), _) => {
                return Err(told(
                    "webhook: Invalid value: may only be specified when type=Webhook".to_owned(),
                ));
            }
            (None, _) => {}
        }
    }
    Ok(())
}

impl WebhookConfig {
    fn check(&self) -> Result<(), String> {
        if self.timeout.is_zero() || self.timeout > TIMEOUT_MAX {
            return Err(format!(
                "timeout: Invalid value: must be > 0s and <= {TIMEOUT_MAX:?}"
            ));
        }
        for (name, life, kept) in [
            (
                "authorizedTTL",
                self.authorized_life,
                self.cache_authorized_requests,
            ),
            (
                "unauthorizedTTL",
                self.unauthorized_life,
                self.cache_unauthorized_requests,
            ),
        ] {
            if life.is_zero() && kept {
                return Err(format!("{name}: Invalid value: must be > 0s"));
            }
        }
        if !matches!(
            self.subject_access_review_version.as_str(),
            "v1" | "v1beta1"
        ) {
            let found = &self.subject_access_review_version;
            return Err(format!(
                "subjectAccessReviewVersion: Unsupported value: {found:?}: supported values: \"v1\", \"v1beta1\""
            ));
        }
        if !self.match_conditions.is_empty()
            && self.match_condition_subject_access_review_version != "v1"
        {
            return Err(
                "matchConditionSubjectAccessReviewVersion: Required value: must be v1 where there are match conditions"
                    .to_owned(),
            );
        }
        match (
            self.connection_info.kind.as_str(),
            &self.connection_info.kube_config_file,
        ) {
            ("KubeConfigFile", Some(path)) if path.is_absolute() => Ok(()),
            ("KubeConfigFile", _) => Err(
                "connectionInfo.kubeConfigFile: Required value: must be an absolute path"
                    .to_owned(),
            ),
            (other, _) => Err(format!(
                "connectionInfo.type: Unsupported value: {other:?}: supported values: \"KubeConfigFile\""
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(authorizers: &str) -> Result<AuthorizationConfiguration, String> {
        AuthorizationConfiguration::parse(&format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{authorizers}]\n"
        ))
    }

    const WEBHOOK: &str = "authorizedTTL: 5m, unauthorizedTTL: 30s, timeout: 3s, subjectAccessReviewVersion: v1, \
         failurePolicy: Deny, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /a}";

    #[test]
    fn the_order_and_the_services_are_read() {
        let text = format!(
            "{{type: Webhook, name: w, webhook: {{{WEBHOOK}}}}}, {{type: Node, name: n}}, {{type: RBAC, name: r}}"
        );
        let config = parse(&text).expect("valid");
        let modes: Vec<Mode> = config.authorizers.iter().map(|a| a.mode).collect();
        assert_eq!(modes, [Mode::Webhook, Mode::Node, Mode::Rbac]);
        let webhook = config.authorizers[0].webhook.as_ref().expect("one");
        assert_eq!(webhook.authorized_life, Duration::from_secs(300));
        assert!(webhook.cache_authorized_requests);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let webhook = |more: &str| format!("{{type: Webhook, name: w, webhook: {{{more}}}}}");
        for bad in [
            String::new(),
            "{type: ABAC, name: a}".to_owned(),
            "{type: RBAC}".to_owned(),
            "{type: RBAC, name: a}, {type: RBAC, name: b}".to_owned(),
            "{type: RBAC, name: a}, {type: Node, name: a}".to_owned(),
            "{type: Webhook, name: a}".to_owned(),
            format!("{{type: RBAC, name: a, webhook: {{{WEBHOOK}}}}}"),
            webhook(&WEBHOOK.replace("3s", "31s")),
            webhook(&WEBHOOK.replace("30s", "0s")),
            webhook(&WEBHOOK.replace("n: v1", "n: v2")),
            webhook(&WEBHOOK.replace("Deny", "Maybe")),
            webhook(&WEBHOOK.replace("/a", "a")),
            webhook(&WEBHOOK.replace("type: KubeConfigFile", "type: InClusterConfig")),
            webhook(&format!(
                "{WEBHOOK}, matchConditions: [{{expression: \"true\"}}]"
            )),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }
}
