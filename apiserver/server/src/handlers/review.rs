//! Reviews: questions that are answered and never stored, and the binding of a pod by its collection.

use corral_api::k8s::api::authentication::v1::{
    SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus, UserInfo,
};
use corral_api::k8s::api::authorization::v1::{
    FieldSelectorAttributes, LabelSelectorAttributes, LocalSubjectAccessReview,
    NonResourceAttributes, NonResourceRule, ResourceAttributes, ResourceRule,
    SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use corral_api::meta::ObjectMeta;
use corral_api::selector::{FieldSelector, LabelSelector};
use corral_api::status::Status;
use corral_api::time::Time;
use corral_kinds::all;
use corral_kinds::schema::Node;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Call;
use crate::apply::{self, Manager, Owners, Views, take_managed};
use crate::authn::User;
use crate::authz::{Access, Decision, Requirement, node, rbac};
use crate::registry::{WriteContext, body, metadata};
use crate::response::{self, Answer};

/// Answers a review.
pub(super) async fn create(call: &Call) -> Result<Answer, Status> {
    match call.info.resource.as_str() {
        "tokenreviews" => token(call).await,
        "selfsubjectreviews" => who(call),
        "subjectaccessreviews" => {
            let mut asked = read::<SubjectAccessReview>(call)?;
            let review = &mut asked.review;
            let user = subject(&review.spec);
            let access = access(
                &review.spec.resource_attributes,
                &review.spec.non_resource_attributes,
            )?;
            review.status =
                Some(decide(call, &user, &access, &review.spec.resource_attributes).await);
            created(call, &asked)
        }
        "localsubjectaccessreviews" => {
            let mut asked = read::<LocalSubjectAccessReview>(call)?;
            let review = &mut asked.review;
            let user = subject(&review.spec);
            let access = access(&review.spec.resource_attributes, &None)?;
            review.status =
                Some(decide(call, &user, &access, &review.spec.resource_attributes).await);
            created(call, &asked)
        }
        "selfsubjectaccessreviews" => {
            let mut asked = read::<SelfSubjectAccessReview>(call)?;
            let review = &mut asked.review;
            let access = access(
                &review.spec.resource_attributes,
                &review.spec.non_resource_attributes,
            )?;
            let resource = &review.spec.resource_attributes;
            review.status = Some(decide(call, &call.user, &access, resource).await);
            created(call, &asked)
        }
        "selfsubjectrulesreviews" => rules(call),
        "bindings" => super::subresource::bind_by_collection(call).await,
        _ => Err(Status::no_such_path()),
    }
}

/// A question as it was asked.
struct Asked<T> {
    review: T,
    managed: Value,
    schema: Node,
    cx: WriteContext,
}

fn read<T: DeserializeOwned + Clone + 'static>(call: &Call) -> Result<Asked<T>, Status> {
    let info = &call.info;
    let kind = all::resource(&info.group, &info.version, &info.resource)
        .ok_or_else(Status::no_such_path)?;
    let schema = corral_kinds::schema::of(kind);
    let cx = call.write_context()?;
    let mut value = body::read(kind, &cx, call.decoded(&schema)?)?;
    metadata::check_namespace(&cx, &value)?;
    metadata::drop_system_fields(&mut value)?;
    if kind.names().namespaced {
        value["metadata"]["namespace"] = info.namespace.clone().into();
    }
    let names = kind.names();
    let object = kind.decode(value.clone()).map_err(|error| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {error}",
            names.kind, names.version, names.kind
        ))
    })?;
    let errors = kind.validate(&object);
    if !errors.is_empty() {
        // Kubernetes leaves out the kind.
        return Err(Status::invalid(names.group, "", "", &errors));
    }
    schema.complete(&mut value);
    let manager = Manager {
        name: cx.manager.clone(),
        api_version: names.api_version(),
        subresource: String::new(),
        status_is_apart: kind.has_status(),
        time: corral_api::time::format_seconds(cx.now),
    };
    let sent = take_managed(&mut value);
    let owners = Owners {
        sent: sent.as_ref(),
        kind: Some(names.kind),
        ..Owners::default()
    };
    let views = Views::default();
    let managed = apply::update(&schema, None, &value, owners, &manager, &views);
    let review = object
        .get::<T>()
        .cloned()
        .ok_or_else(Status::no_such_path)?;
    Ok(Asked {
        review,
        managed: managed.unwrap_or_default(),
        schema,
        cx,
    })
}

fn created<T: Serialize>(call: &Call, asked: &Asked<T>) -> Result<Answer, Status> {
    let mut value = serde_json::to_value(&asked.review).map_err(Status::internal)?;
    asked.schema.complete(&mut value);
    if !asked.managed.is_null() {
        value["metadata"]["managedFields"] = asked.managed.clone();
    }
    let representation = call.whole_representation()?;
    let answer = response::object(201, representation, &value);
    Ok(super::with_warnings(answer, &asked.cx))
}

fn info(user: User) -> UserInfo {
    UserInfo {
        username: Some(user.name),
        uid: Some(user.uid).filter(|u| !u.is_empty()),
        groups: Some(user.groups),
        extra: Some(user.extra).filter(|e| !e.is_empty()),
    }
}

async fn token(call: &Call) -> Result<Answer, Status> {
    let mut asked = read::<TokenReview>(call)?;
    let review = &mut asked.review;
    let given = review.spec.token.clone();
    if given.is_empty() {
        let why = "token is required for TokenReview in authentication";
        return Err(Status::bad_request(why));
    }
    let audiences = review.spec.audiences.clone().unwrap_or_default();
    let found = call.shared.authenticator.token(&given, &audiences).await;
    review.status = Some(match found {
        Ok(known) => TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(known.audiences),
            user: Some(info(known.user)),
            error: None,
        },
        Err(why) => {
            // As in Kubernetes, what the client says of it stands where there is nothing to say.
            let said = review.status.take().unwrap_or_default();
            let none = "invalid bearer token";
            TokenReviewStatus {
                error: Some(match why.as_slice() {
                    [] => none.to_owned(),
                    why => format!("[{none}, {}]", why.join(", ")),
                }),
                authenticated: None,
                user: said.user.or_else(|| Some(UserInfo::default())),
                audiences: said.audiences,
            }
        }
    });
    created(call, &asked)
}

fn who(call: &Call) -> Result<Answer, Status> {
    let mut asked = read::<SelfSubjectReview>(call)?;
    let review = &mut asked.review;
    review.status = Some(SelfSubjectReviewStatus {
        user_info: Some(info((*call.user).clone())),
    });
    // It is made by the server: nothing of what was sent is kept.
    review.metadata = ObjectMeta {
        creation_timestamp: Some(Time(asked.cx.now)),
        ..Default::default()
    };
    asked.managed = Value::Null;
    created(call, &asked)
}

fn subject(spec: &corral_api::k8s::api::authorization::v1::SubjectAccessReviewSpec) -> User {
    User {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    }
}

fn access(
    resource: &Option<ResourceAttributes>,
    path: &Option<NonResourceAttributes>,
) -> Result<Access, Status> {
    match (resource, path) {
        (Some(r), None) => Ok(Access {
            verb: r.verb.clone().unwrap_or_default(),
            group: r.group.clone().unwrap_or_default(),
            version: r.version.clone().unwrap_or_default(),
            resource: r.resource.clone().unwrap_or_default(),
            subresource: r.subresource.clone().unwrap_or_default(),
            namespace: r.namespace.clone().unwrap_or_default(),
            name: r.name.clone().unwrap_or_default(),
            path: String::new(),
            fields: r.field_selector.as_ref().map_or_else(Vec::new, fields),
            labels: r.label_selector.as_ref().map_or_else(Vec::new, labels),
        }),
        (None, Some(p)) => Ok(Access {
            verb: p.verb.clone().unwrap_or_default(),
            path: p.path.clone().unwrap_or_default(),
            ..Default::default()
        }),
        _ => Err(Status::bad_request(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
}

/// What a review's field selector requires, in whichever form it comes.
fn fields(selector: &FieldSelectorAttributes) -> Vec<Requirement> {
    if let Some(raw) = &selector.raw_selector {
        let parsed = FieldSelector::parse(raw).unwrap_or_default();
        return Requirement::of_fields(&parsed);
    }
    let requirements = selector.requirements.iter().flatten().map(|r| Requirement {
        key: r.key.clone(),
        operator: r.operator.clone(),
        values: r.values.clone().unwrap_or_default(),
    });
    requirements.filter(is_of_a_field).collect()
}

/// The same of labels.
fn labels(selector: &LabelSelectorAttributes) -> Vec<Requirement> {
    if let Some(raw) = &selector.raw_selector {
        let parsed = LabelSelector::parse(raw).ok();
        return parsed.map_or_else(Vec::new, |parsed| Requirement::of_labels(&parsed));
    }
    let requirements = selector.requirements.iter().flatten().map(|r| Requirement {
        key: r.key.clone(),
        operator: r.operator.clone(),
        values: r.values.clone().unwrap_or_default(),
    });
    requirements.filter(is_of_a_label).collect()
}

/// Whether a field selector can say this: a field is compared with one value.
fn is_of_a_field(requirement: &Requirement) -> bool {
    matches!(requirement.operator.as_str(), "In" | "NotIn") && requirement.values.len() == 1
}

/// Whether a label selector can say this.
fn is_of_a_label(requirement: &Requirement) -> bool {
    let operator = requirement.operator.as_str();
    matches!(operator, "In" | "NotIn" | "Exists" | "DoesNotExist")
}

/// What of a selector nobody can read; the question is answered as if it were not there.
fn unread(resource: &ResourceAttributes) -> Option<String> {
    let in_fields = resource.field_selector.as_ref().and_then(|selector| {
        let raw = selector.raw_selector.as_deref();
        let raw = raw.map(|raw| FieldSelector::parse(raw).is_ok());
        let given = selector.requirements.as_ref().map_or(0, Vec::len);
        part_unread(raw, given, fields(selector).len())
    });
    let in_labels = resource.label_selector.as_ref().and_then(|selector| {
        let raw = selector.raw_selector.as_deref();
        let raw = raw.map(|raw| LabelSelector::parse(raw).is_ok());
        let given = selector.requirements.as_ref().map_or(0, Vec::len);
        part_unread(raw, given, labels(selector).len())
    });
    let told = [("fieldSelector", in_fields), ("labelSelector", in_labels)];
    let told = told.into_iter().filter_map(|(name, how)| {
        let how = how?;
        Some(format!(
            "spec.resourceAttributes.{name} {how} due to parse error"
        ))
    });
    let told: Vec<_> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// How much of a selector was passed over: whether its text was readable, and of how many requirements how many were.
fn part_unread(raw: Option<bool>, n_given: usize, n_read: usize) -> Option<&'static str> {
    match raw {
        Some(true) => None,
        Some(false) => Some("ignored"),
        None if n_read == n_given => None,
        None if n_read == 0 => Some("ignored"),
        None => Some("partially ignored"),
    }
}

async fn decide(
    call: &Call,
    user: &User,
    access: &Access,
    resource: &Option<ResourceAttributes>,
) -> SubjectAccessReviewStatus {
    let (decision, reason) = call.shared.authorizer.decide(user, access).await;
    SubjectAccessReviewStatus {
        allowed: decision == Decision::Allow,
        denied: (decision == Decision::Deny).then_some(true),
        reason: Some(reason).filter(|reason| !reason.is_empty()),
        evaluation_error: resource.as_ref().and_then(unread),
    }
}

fn rules(call: &Call) -> Result<Answer, Status> {
    let mut asked = read::<SelfSubjectRulesReview>(call)?;
    let review = &mut asked.review;
    let namespace = review.spec.namespace.clone().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let mut status = SubjectRulesReviewStatus::default();
    for rule in call.shared.authorizer.rbac.rules(&call.user, &namespace) {
        if rule.non_resource_urls.is_some() {
            status.non_resource_rules.push(NonResourceRule {
                non_resource_urls: rule.non_resource_urls,
                verbs: rule.verbs,
            });
        } else {
            status.resource_rules.push(ResourceRule {
                api_groups: rule.api_groups,
                resources: rule.resources,
                resource_names: rule.resource_names,
                verbs: rule.verbs,
            });
        }
    }
    let mut errors = Vec::new();
    if node::name_of(&call.user).is_some() {
        status.incomplete = true;
        errors.push("node authorizer does not support user rule resolution".to_owned());
    }
    let missing = call.shared.authorizer.rbac.missing(&call.user, &namespace);
    errors.extend(rbac::unresolved(&missing));
    status.evaluation_error = rbac::unresolved(&errors);
    // Kubernetes answers what it found, and not what it was asked.
    *review = SelfSubjectRulesReview {
        status: Some(status),
        ..Default::default()
    };
    asked.managed = Value::Null;
    created(call, &asked)
}
