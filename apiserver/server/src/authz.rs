//! Who may do what: nodes what their pods need, everybody what the roles and bindings of the cluster say.

mod conditions;
pub mod config;
pub mod coverage;
pub mod node;
pub mod rbac;
pub mod roles;
pub mod webhook;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use corral_api::selector::{FieldSelector, LabelSelector};
use corral_api::status::Status;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::authn::{MASTERS, Reload, User};
use crate::reload::Watched;
use crate::request::{RequestInfo, Verb};

use config::{AuthorizationConfiguration, AuthorizerConfig, Mode};
use node::NodeAuthorizer;
use rbac::Rbac;
use webhook::Webhook;

/// Who decides, and in which order.
#[derive(Debug, Clone, Default)]
pub enum AuthzConfig {
    /// Nodes, then roles and bindings.
    #[default]
    Standard,
    /// As flags say.
    Given(Vec<AuthorizerConfig>),
    /// As the file of an `AuthorizationConfiguration` says, which is read again when it changes.
    File(PathBuf, Reload),
}

/// What somebody says of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No, whatever others say.
    Deny,
    /// Others decide; if nobody does, no.
    NoOpinion,
}

/// Somebody who decides.
enum Link {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
    Webhook(Box<Webhook>),
}

/// A configuration, and what is made of it.
struct Configured {
    config: AuthorizationConfiguration,
    links: Vec<Link>,
}

/// Decides who may do what. Those of the group `system:masters` may everything; then the first that says yes or no decides.
pub struct Authorizer {
    node: NodeAuthorizer,
    /// Roles and bindings.
    pub rbac: Rbac,
    configured: ArcSwap<Configured>,
    watched: Option<Watched>,
}

impl Authorizer {
    /// Over the objects of a server.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub async fn new(api: &Arc<Api>, config: AuthzConfig) -> Result<Self, String> {
        let (config, watched) = match config {
            AuthzConfig::Standard => {
                let modes = [Mode::Node, Mode::Rbac].map(AuthorizerConfig::of_mode);
                (AuthorizationConfiguration::of_flags(modes.to_vec()), None)
            }
            AuthzConfig::Given(authorizers) => {
                config::check(&authorizers)?;
                (AuthorizationConfiguration::of_flags(authorizers), None)
            }
            AuthzConfig::File(path, reload) => {
                let told = |e| format!("authorization configuration {}: {e}", path.display());
                let watched = Watched::read(path.clone(), reload.0).map_err(told)?;
                (parsed(watched.text())?, Some(watched))
            }
        };
        Ok(Self {
            node: NodeAuthorizer::new(api.clone()),
            rbac: Rbac::new(api.clone()),
            configured: ArcSwap::from_pointee(Configured::of(config).await?),
            watched,
        })
    }

    /// Reads the configuration again whenever its file has changed; what makes no sense changes nothing.
    pub async fn reload(&self, stop: CancellationToken) {
        let Some(watched) = &self.watched else {
            return;
        };
        let mut changes = watched.changes(stop);
        while let Some(text) = changes.next().await {
            let taken = match parsed(&text) {
                Ok(config) => Configured::of(config).await,
                Err(error) => Err(error),
            };
            changes.tell(taken.map(|taken| self.configured.store(Arc::new(taken))));
        }
    }

    /// The configuration in effect, as its file would write it.
    pub fn configuration(&self) -> serde_json::Value {
        // Nothing but texts, numbers and lists of them.
        serde_json::to_value(&self.configured.load().config).unwrap_or_default()
    }

    /// Whether a user may.
    pub async fn allows(&self, user: &User, access: &Access) -> bool {
        self.decide(user, access).await.0 == Decision::Allow
    }

    /// Whether a user may, and why, in the words of whoever decides.
    pub async fn decide(&self, user: &User, access: &Access) -> (Decision, String) {
        if user.is_in(MASTERS) {
            return (Decision::Allow, String::new());
        }
        let configured = self.configured.load_full();
        let mut why = Vec::new();
        for link in &configured.links {
            let (decision, reason) = self.ask(link, user, access).await;
            if decision != Decision::NoOpinion {
                return (decision, reason);
            }
            if !reason.is_empty() {
                why.push(reason);
            }
        }
        (Decision::NoOpinion, why.join("\n"))
    }

    async fn ask(&self, link: &Link, user: &User, access: &Access) -> (Decision, String) {
        match link {
            Link::Node => match node::name_of(user).map(|node| self.node.check(node, access)) {
                Some(Ok(())) => (Decision::Allow, String::new()),
                Some(Err(why)) => (Decision::NoOpinion, why),
                None => (Decision::NoOpinion, String::new()),
            },
            Link::Rbac => match self.rbac.allows(user, access) {
                true => (
                    Decision::Allow,
                    self.rbac.reason(user, access).unwrap_or_default(),
                ),
                false => {
                    let missing = self.rbac.missing(user, &access.namespace);
                    let why = rbac::unresolved(&missing).map(|missing| format!("RBAC: {missing}"));
                    (Decision::NoOpinion, why.unwrap_or_default())
                }
            },
            Link::AlwaysAllow => (Decision::Allow, String::new()),
            Link::AlwaysDeny => (Decision::NoOpinion, "Everything is forbidden.".to_owned()),
            Link::Webhook(webhook) => webhook.decide(user, access).await,
        }
    }
}

fn parsed(text: &str) -> Result<AuthorizationConfiguration, String> {
    AuthorizationConfiguration::parse(text).map_err(|e| format!("authorization configuration: {e}"))
}

impl Configured {
    async fn of(config: AuthorizationConfiguration) -> Result<Self, String> {
        let links = links(config.authorizers.clone()).await?;
        Ok(Self { config, links })
    }
}

async fn links(authorizers: Vec<AuthorizerConfig>) -> Result<Vec<Link>, String> {
    let mut links = Vec::new();
    for authorizer in authorizers {
        links.push(match (authorizer.mode, authorizer.webhook) {
            (Mode::Node, _) => Link::Node,
            (Mode::Rbac, _) => Link::Rbac,
            (Mode::AlwaysAllow, _) => Link::AlwaysAllow,
            (Mode::AlwaysDeny, _) => Link::AlwaysDeny,
            (Mode::Webhook, Some(config)) => {
                Link::Webhook(Box::new(Webhook::open(&authorizer.name, config).await?))
            }
            (Mode::Webhook, None) => {
                return Err(format!(
                    "authorizer {}: webhook: Required value",
                    authorizer.name
                ));
            }
        });
    }
    Ok(links)
}

/// A requirement of a selector, as a review tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// The field or label.
    pub key: String,
    /// How its value is compared.
    pub operator: String,
    /// With what.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl Requirement {
    /// Those of a field selector.
    pub fn of_fields(selector: &FieldSelector) -> Vec<Self> {
        let requirements = selector.requirements.iter().map(|requirement| Self {
            key: requirement.field.clone(),
            operator: if requirement.equals { "In" } else { "NotIn" }.to_owned(),
            values: vec![requirement.value.clone()],
        });
        requirements.collect()
    }

    /// Those of a label selector. Comparisons of numbers are left out: reviews have none.
    pub fn of_labels(selector: &LabelSelector) -> Vec<Self> {
        use corral_api::selector::Operator;
        let requirement = |found: &corral_api::selector::Requirement| {
            let (operator, values) = match &found.operator {
                Operator::In(values) => ("In", values.to_vec()),
                Operator::NotIn(values) => ("NotIn", values.to_vec()),
                Operator::Exists => ("Exists", Vec::new()),
                Operator::DoesNotExist => ("DoesNotExist", Vec::new()),
                _ => return None,
            };
            Some(Self {
                key: found.key.clone(),
                operator: operator.to_owned(),
                values,
            })
        };
        selector
            .requirements
            .iter()
            .filter_map(requirement)
            .collect()
    }
}

/// A question of access.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The verb.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Resource; empty for a path.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace; empty for all, or for cluster-scoped objects.
    pub namespace: String,
    /// Name; empty for all.
    pub name: String,
    /// The path, where no resource is named.
    pub path: String,
    /// What of a collection is asked for, by fields.
    pub fields: Vec<Requirement>,
    /// The same by labels.
    pub labels: Vec<Requirement>,
}

impl Access {
    /// What a request needs.
    pub fn of(info: &RequestInfo) -> Self {
        if !info.is_resource {
            return Self {
                verb: info.method.clone(),
                path: info.path.clone(),
                ..Default::default()
            };
        }
        let collection = matches!(info.verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
        let fields = info.query.get("fieldSelector").filter(|_| collection);
        let fields = fields
            .and_then(|text| FieldSelector::parse(text).ok())
            .unwrap_or_default();
        let labels = info.query.get("labelSelector").filter(|_| collection);
        let labels = labels
            .and_then(|text| LabelSelector::parse(text).ok())
            .map_or_else(Vec::new, |selector| Requirement::of_labels(&selector));
        // Reading a collection with one name is reading that object, as rules with names see it.
        let name = match fields.required("metadata.name") {
            Some(name) if matches!(info.verb, Verb::List | Verb::Watch) => name,
            _ => &info.name,
        };
        Self {
            verb: info.verb.as_str().to_owned(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: name.to_owned(),
            path: String::new(),
            fields: Requirement::of_fields(&fields),
            labels,
        }
    }

    /// `resource/subresource`, as rules name it.
    pub fn qualified_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// 403: a user is refused, with the reason of who decided, if there is one.
    pub fn forbidden(&self, user: &str, reason: &str) -> Status {
        let mut why = self.refusal(user);
        if !reason.is_empty() {
            why = format!("{why}: {reason}");
        }
        Status::forbidden(&self.group, &self.resource, &self.name, &why)
    }

    /// Why a user is refused, in Kubernetes' words.
    fn refusal(&self, user: &str) -> String {
        if self.resource.is_empty() {
            return format!("User {user:?} cannot {} path {:?}", self.verb, self.path);
        }
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        format!(
            "User {user:?} cannot {} resource {:?} in API group {:?} {scope}",
            self.verb,
            self.qualified_resource(),
            self.group
        )
    }
}
