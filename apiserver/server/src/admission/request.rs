//! A request as webhooks and policies see it.

use std::collections::BTreeMap;

use corral_api::gvk::GroupVersionKind;
use serde_json::{Value, json};

use super::matching::Seen;
use crate::registry::{DeleteOptions, Resource, WriteContext};

/// Which of those that are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Those that may change the object.
    Mutating,
    /// Those that may only refuse it.
    Validating,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change.
    Update,
    /// The end of an object.
    Delete,
    /// A connection to what an object stands for.
    Connect,
}

impl Operation {
    /// The word of rules and reviews.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A request, without its object.
pub struct Request<'a> {
    /// What the object of the request is: for some subresources another kind than the resource's.
    pub kind: GroupVersionKind,
    /// Group, version and plural of the resource.
    pub resource: (String, String, String),
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace; that of a Namespace is itself.
    pub namespace: String,
    /// The object's name; empty where the server will choose it.
    pub name: String,
    /// What is done.
    pub operation: Operation,
    /// The options of the request.
    pub options: Value,
    /// The circumstances.
    pub cx: &'a WriteContext,
    /// The resource whose own kind the object is, so that it has other versions.
    pub owner: Option<&'a Resource>,
    /// The labels of a Namespace that is written: those that selectors of namespaces look at.
    pub namespace_labels: Option<BTreeMap<String, String>>,
}

impl<'a> Request<'a> {
    /// A request about an object of a resource.
    pub fn about(
        resource: &'a Resource,
        cx: &'a WriteContext,
        operation: Operation,
        name: &str,
    ) -> Self {
        let names = resource.kind.names();
        let is_namespace = names.group.is_empty() && names.kind == "Namespace";
        let namespace = if is_namespace { name } else { &cx.namespace };
        Self {
            kind: GroupVersionKind {
                group: names.group.to_owned(),
                version: names.version.to_owned(),
                kind: names.kind.to_owned(),
            },
            resource: (
                names.group.to_owned(),
                names.version.to_owned(),
                names.plural.to_owned(),
            ),
            subresource: "",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            operation,
            options: options(cx, operation),
            cx,
            owner: Some(resource),
            namespace_labels: None,
        }
    }

    /// A request about a subresource whose object is of another kind.
    pub fn of_subresource(mut self, subresource: &'a str, kind: GroupVersionKind) -> Self {
        self.subresource = subresource;
        self.kind = kind;
        self.owner = None;
        self
    }

    /// The same with the options of a deletion.
    pub fn with_deletion(mut self, options: &DeleteOptions) -> Self {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = options.grace_period_seconds {
            value["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(preconditions) = &options.preconditions {
            let mut given = json!({});
            if let Some(uid) = &preconditions.uid {
                given["uid"] = uid.as_str().into();
            }
            if let Some(version) = &preconditions.resource_version {
                given["resourceVersion"] = version.as_str().into();
            }
            value["preconditions"] = given;
        }
        if let Some(orphan) = options.orphan_dependents {
            value["orphanDependents"] = orphan.into();
        }
        if let Some(policy) = &options.propagation_policy {
            value["propagationPolicy"] = policy.as_str().into();
        }
        if self.cx.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        self.options = value;
        self
    }

    /// The request as an `AdmissionRequest` tells it, without its objects: as it is seen, and as it was made.
    pub fn described(&self, seen: &Seen) -> Value {
        let user = &self.cx.user;
        let mut user_info = json!({"username": user.name, "groups": user.groups});
        if !user.uid.is_empty() {
            user_info["uid"] = user.uid.as_str().into();
        }
        if !user.extra.is_empty() {
            user_info["extra"] = json!(user.extra);
        }
        let kind = |kind: &GroupVersionKind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let resource = |(group, version, plural): &(String, String, String)| json!({"group": group, "version": version, "resource": plural});
        let mut described = json!({
            "kind": kind(&seen.kind(self)), "resource": resource(&seen.resource(self)),
            "requestKind": kind(&self.kind), "requestResource": resource(&self.resource),
            "operation": self.operation.as_str(), "userInfo": user_info,
            "dryRun": self.cx.dry_run, "options": self.options,
        });
        let texts = [
            ("subResource", self.subresource),
            ("requestSubResource", self.subresource),
            ("name", &self.name),
            ("namespace", &self.namespace),
        ];
        for (key, text) in texts {
            if !text.is_empty() {
                described[key] = text.into();
            }
        }
        described
    }

    /// Whether the resource is this one.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.0 == group && self.resource.2 == plural
    }
}

fn options(cx: &WriteContext, operation: Operation) -> Value {
    let kind = match operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut value = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if cx.dry_run {
        value["dryRun"] = json!(["All"]);
    }
    let texts = [
        ("fieldManager", &cx.asked.field_manager),
        ("fieldValidation", &cx.asked.field_validation),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            value[key] = text.as_str().into();
        }
    }
    value
}
