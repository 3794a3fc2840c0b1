//! Asking an authorizer from within an expression.

use std::sync::Arc;

use crate::value::{Evaluated, EvaluationError, Value};

/// Decides what users may do. It is asked while an expression is evaluated, at most a few times for each.
pub trait Authorizer: Sync {
    /// Whether the user of the request, or the service account that is named, may do this.
    fn check(&self, check: &Check) -> Decision;
}

/// A question to the authorizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// Namespace and name of the service account to ask about instead of the request's user.
    pub service_account: Option<(String, String)>,
    /// The verb.
    pub verb: String,
    /// What it is about.
    pub target: Target,
}

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A path that belongs to no resource.
    Path(String),
    /// A resource, of any version.
    Resource(Resource),
}

impl Default for Target {
    fn default() -> Self {
        Self::Resource(Resource::default())
    }
}

/// A resource that a question is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Resource {
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

/// The authorizer's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong while deciding.
    pub error: Option<String>,
}

/// The authorizer in an expression, or what was made of it.
#[derive(Clone)]
pub struct AuthorizerValue<'a> {
    authorizer: &'a dyn Authorizer,
    stage: Stage,
}

#[derive(Debug, Clone)]
enum Stage {
    Authorizer(Option<(String, String)>),
    Path(Arc<Check>),
    Group(Arc<Check>),
    Resource(Arc<Check>),
    Decision(Arc<Decision>),
}

impl std::fmt::Debug for AuthorizerValue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stage.fmt(f)
    }
}

impl<'a> AuthorizerValue<'a> {
    /// The variable `authorizer`.
    pub fn new(authorizer: &'a dyn Authorizer) -> Self {
        Self {
            authorizer,
            stage: Stage::Authorizer(None),
        }
    }

    /// The variable `authorizer.requestResource`.
    pub fn of_resource(authorizer: &'a dyn Authorizer, resource: Resource) -> Self {
        Self {
            authorizer,
            stage: Stage::Resource(Arc::new(Check {
                target: Target::Resource(resource),
                ..Check::default()
            })),
        }
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Stage::Path(_) => "kubernetes.authorization.PathCheck",
            Stage::Group(_) => "kubernetes.authorization.GroupCheck",
            Stage::Resource(_) => "kubernetes.authorization.ResourceCheck",
            Stage::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    fn at(&self, stage: Stage) -> Value<'a> {
        Value::Authorizer(Self {
            authorizer: self.authorizer,
            stage,
        })
    }

    /// A function of one of the types.
    pub(crate) fn call(&self, function: &str, args: &[Value<'a>]) -> Evaluated<'a> {
        let texts: Option<Vec<&str>> = args.iter().map(Value::as_str).collect();
        let texts = texts.ok_or_else(EvaluationError::no_such_overload)?;
        match (&self.stage, function, texts.as_slice()) {
            (Stage::Decision(decision), name, []) => Ok(match name {
                "allowed" => Value::Bool(decision.allowed),
                "reason" => Value::text(decision.reason.as_str()),
                "errored" => Value::Bool(decision.error.is_some()),
                "error" => Value::text(decision.error.clone().unwrap_or_default()),
                _ => return Err(EvaluationError::no_such_overload()),
            }),
            (Stage::Authorizer(account), "path", [path]) => {
                let path = not_empty(path, "path")?;
                Ok(self.at(Stage::Path(Arc::new(Check {
                    service_account: account.clone(),
                    target: Target::Path(path),
                    ..Check::default()
                }))))
            }
            (Stage::Authorizer(account), "group", [group]) => {
                let resource = Resource {
                    group: (*group).to_owned(),
                    ..Resource::default()
                };
                Ok(self.at(Stage::Group(Arc::new(Check {
                    service_account: account.clone(),
                    target: Target::Resource(resource),
                    ..Check::default()
                }))))
            }
            (Stage::Authorizer(_), "serviceAccount", [namespace, name]) => {
                if !corral_api::names::dns1123_subdomain(name).is_empty() {
                    return Err(EvaluationError::new("Invalid service account name"));
                }
                if !corral_api::names::dns1123_label(namespace).is_empty() {
                    return Err(EvaluationError::new("Invalid service account namespace"));
                }
                let account = Some(((*namespace).to_owned(), (*name).to_owned()));
                Ok(self.at(Stage::Authorizer(account)))
            }
            (Stage::Group(check), "resource", [resource]) => {
                let resource = not_empty(resource, "resource")?;
                Ok(self.at(Stage::Resource(changed(check, |r| r.resource = resource))))
            }
            (Stage::Resource(check) | Stage::Path(check), "check", [verb]) => {
                let check = Check {
                    verb: (*verb).to_owned(),
                    ..(**check).clone()
                };
                let decision = self.authorizer.check(&check);
                Ok(self.at(Stage::Decision(Arc::new(decision))))
            }
            (Stage::Resource(check), name, [text]) => {
                let text = (*text).to_owned();
                let check = changed(check, |r| match name {
                    "subresource" => r.subresource = text,
                    "namespace" => r.namespace = text,
                    "name" => r.name = text,
                    "fieldSelector" => r.field_selector = text,
                    "labelSelector" => r.label_selector = text,
                    _ => {}
                });
                Ok(self.at(Stage::Resource(check)))
            }
            _ => Err(EvaluationError::no_such_overload()),
        }
    }
}

fn not_empty(text: &str, what: &str) -> Result<String, EvaluationError> {
    if text.trim().is_empty() {
        return Err(EvaluationError::new(format!("{what} must not be empty")));
    }
    Ok(text.to_owned())
}

fn changed(check: &Arc<Check>, change: impl FnOnce(&mut Resource)) -> Arc<Check> {
    let mut check = (**check).clone();
    if let Target::Resource(resource) = &mut check.target {
        change(resource);
    }
    Arc::new(check)
}
