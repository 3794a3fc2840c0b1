//! `IngressClass`.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::networking::v1::{
    IngressClass, IngressClassParametersReference, IngressClassSpec,
};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, text};

/// Marks the class of Ingresses that name none.
pub const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
const CONTROLLER_LENGTH_MAX: usize = 250;

/// `networking.k8s.io/v1 IngressClass`.
pub struct IngressClassKind;

impl Kind for IngressClassKind {
    type Object = IngressClass;

    const NAMES: Names<'static> = Names {
        group: "networking.k8s.io",
        version: "v1",
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const GENERATION: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Controller", "Who serves Ingresses of this class."),
            Column::text("Parameters", "An object with more parameters."),
            Column::AGE,
        ]
    }

    fn cells(class: &IngressClass, now: Timestamp) -> Vec<Value> {
        let mut name = class.metadata.name.clone().unwrap_or_default();
        if is_default(class) {
            name.push_str(" (default)");
        }
        let spec = class.spec.as_ref();
        let parameters = spec.and_then(|spec| spec.parameters.as_ref());
        let parameters = parameters.map_or_else(
            || "<none>".to_owned(),
            |p| match &p.api_group {
                Some(group) => format!("{}.{group}/{}", p.kind, p.name),
                None => format!("{}/{}", p.kind, p.name),
            },
        );
        let controller = spec.and_then(|spec| spec.controller.clone());
        vec![
            name.into(),
            controller.unwrap_or_default().into(),
            parameters.into(),
            age(&class.metadata, now),
        ]
    }

    fn default(class: &mut IngressClass) {
        let spec = class.spec.as_mut();
        if let Some(parameters) = spec.and_then(|spec| spec.parameters.as_mut()) {
            fill::absent(&mut parameters.scope, "Cluster".to_owned());
        }
    }

    fn validate(class: &IngressClass) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let nothing = IngressClassSpec::default();
        let spec = class.spec.as_ref().unwrap_or(&nothing);
        let path = at("spec");
        controller(
            &mut errors,
            &path.child("controller"),
            text(&spec.controller),
        );
        if let Some(given) = &spec.parameters {
            parameters(&mut errors, &path.child("parameters"), given);
        }
        errors
    }

    fn validate_update(new: &IngressClass, old: &IngressClass) -> Vec<FieldError> {
        let of = |class: &IngressClass| {
            let controller = class.spec.as_ref().and_then(|spec| spec.controller.clone());
            controller.unwrap_or_default()
        };
        let mut errors = Errors::new();
        rules::immutable(&mut errors, &at("spec.controller"), &of(new), &of(old));
        errors.extend(Self::validate(new));
        errors
    }
}

/// Whether Ingresses that name no class are of this one.
pub fn is_default(class: &IngressClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get(DEFAULT_ANNOTATION))
        .is_some_and(|value| value == "true")
}

fn controller(errors: &mut Errors, path: &FieldPath, name: &str) {
    if name.len() > CONTROLLER_LENGTH_MAX {
        errors.push(FieldError::too_long(path, CONTROLLER_LENGTH_MAX));
    }
    errors.extend(FieldError::domain_prefixed_path(path, name));
}

fn parameters(errors: &mut Errors, path: &FieldPath, given: &IngressClassParametersReference) {
    if let Some(group) = &given.api_group {
        let path = path.child("apiGroup");
        rules::complain(errors, &path, group, names::dns1123_subdomain(group));
    }
    for (field, value) in [("kind", &given.kind), ("name", &given.name)] {
        let path = path.child(field);
        if value.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        rules::complain(errors, &path, value, names::path_segment(value));
    }
    let (scope_path, path) = (path.child("scope"), path.child("namespace"));
    match (given.scope.as_deref(), &given.namespace) {
        (None, _) => errors.push(FieldError::required(&scope_path, "")),
        (Some("Namespace"), None) => {
            let detail = "`parameters.scope` is set to 'Namespace'";
            errors.push(FieldError::required(&path, detail));
        }
        (Some("Namespace"), Some(namespace)) => {
            rules::complain(errors, &path, namespace, names::dns1123_label(namespace));
        }
        (Some("Cluster"), Some(_)) => {
            let detail = "`parameters.scope` is set to 'Cluster'";
            errors.push(FieldError::forbidden(&path, detail));
        }
        (Some(scope), _) => {
            rules::supported(errors, &scope_path, scope, &["Cluster", "Namespace"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn class(spec: serde_json::Value) -> IngressClass {
        let mut class = serde_json::from_value(json!({"spec": spec})).expect("a class");
        IngressClassKind::default(&mut class);
        class
    }

    #[test]
    fn a_class_names_its_controller_for_good() {
        let (one, other) = (
            class(json!({"controller": "a.b/c"})),
            class(json!({"controller": "a.b/d"})),
        );
        assert_eq!(
            texts(&IngressClassKind::validate(&one)),
            Vec::<String>::new()
        );
        assert_eq!(
            texts(&IngressClassKind::validate_update(&other, &one)),
            ["spec.controller: Invalid value: \"a.b/d\": field is immutable"]
        );
        let wrong = class(
            json!({"controller": "a", "parameters": {"kind": "", "name": "n", "scope": "Namespace"}}),
        );
        assert_eq!(
            texts(&IngressClassKind::validate(&wrong)),
            [
                "spec.controller: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.parameters.kind: Required value",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ]
        );
    }

    #[test]
    fn a_row_tells_the_default_class_and_its_parameters() {
        let mut class = class(
            json!({"controller": "a.b/c", "parameters": {"apiGroup": "g.h", "kind": "K", "name": "n"}}),
        );
        class.metadata.name = Some("c".into());
        class.metadata.annotations =
            Some([(DEFAULT_ANNOTATION.to_owned(), "true".to_owned())].into());
        let row = IngressClassKind::cells(&class, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[..3],
            ["c (default)", "a.b/c", "K.g.h/n"].map(Value::from)
        );
    }
}
