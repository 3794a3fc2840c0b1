//! `ValidatingAdmissionPolicy`: rules in CEL that writes must keep.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::admissionregistration::v1::{
    AuditAnnotation, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec, Validation,
};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::expressions::Expressions;
use super::matching::{self, given};
use super::{name_warnings, policy};
use crate::conditions;
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age, keep_metadata};
use crate::rules::{Errors, at, complain, json, supported, text};

const AUDIT_ANNOTATIONS_MAX: usize = 20;
/// Bytes of an expression whose value is an annotation of at most 10 KiB.
const AUDIT_EXPRESSION_SIZE_MAX: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];

/// `admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy`.
pub struct ValidatingAdmissionPolicyKind;

impl Kind for ValidatingAdmissionPolicyKind {
    type Object = ValidatingAdmissionPolicy;

    const NAMES: Names<'static> = Names {
        group: "admissionregistration.k8s.io",
        version: "v1",
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        short_names: Words::Of(&[]),
        categories: Words::Of(&["api-extensions"]),
        namespaced: false,
    };
    const STATUS: bool = true;
    const GENERATION: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut ValidatingAdmissionPolicy) {
        let spec = object.spec.get_or_insert_default();
        fill::absent(&mut spec.failure_policy, "Fail".to_owned());
        if let Some(constraints) = &mut spec.match_constraints {
            matching::default_resources(constraints);
        }
    }

    /// Nobody changes labels and the like by the way.
    fn keep_for_status(new: &mut ValidatingAdmissionPolicy, old: &ValidatingAdmissionPolicy) {
        keep_metadata(&mut new.metadata, &old.metadata);
    }

    fn validate(object: &ValidatingAdmissionPolicy) -> Vec<FieldError> {
        validate(object, None)
    }

    fn validate_update(
        new: &ValidatingAdmissionPolicy,
        old: &ValidatingAdmissionPolicy,
    ) -> Vec<FieldError> {
        validate(new, Some(old))
    }

    fn validate_status_update(
        new: &ValidatingAdmissionPolicy,
        _old: &ValidatingAdmissionPolicy,
    ) -> Vec<FieldError> {
        status(new)
    }

    fn warnings(object: &ValidatingAdmissionPolicy) -> Vec<String> {
        name_warnings(object.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        policy::columns(Column::integer("Validations", "How many rules it has."))
    }

    fn cells(object: &ValidatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        vec![
            object.metadata.name.clone().into(),
            spec.validations.map_or(0, |list| list.len()).into(),
            policy::kind_cell(spec.param_kind.as_ref()),
            age(&object.metadata, now),
        ]
    }
}

fn validate(object: &ValidatingAdmissionPolicy, old: Option<&ValidatingAdmissionPolicy>) -> Errors {
    let mut errors = Errors::new();
    let path = at("spec");
    let spec = object.spec.clone().unwrap_or_default();
    let failure_path = path.child("failurePolicy");
    matching::failure_policy(&mut errors, &failure_path, &spec.failure_policy);
    if let Some(kind) = &spec.param_kind {
        policy::param_kind(&mut errors, &path.child("paramKind"), kind);
    }
    let constraints_path = path.child("matchConstraints");
    match &spec.match_constraints {
        None => errors.push(FieldError::required(&constraints_path, "")),
        Some(constraints) => {
            matching::match_resources(&mut errors, &constraints_path, constraints);
            if constraints.resource_rules.iter().flatten().next().is_none() {
                let path = constraints_path.child("resourceRules");
                errors.push(FieldError::required(&path, ""));
            }
        }
    }
    let was = old.map(|old| old.spec.clone().unwrap_or_default());
    let mut expressions = Expressions::of_validating(&spec, was.as_ref());
    let unchanged = was.is_some_and(|was| {
        was.param_kind == spec.param_kind
            && matching::same_conditions(&spec.match_conditions, &was.match_conditions)
    });
    if !unchanged {
        let conditions = spec.match_conditions.as_deref().unwrap_or_default();
        let path = path.child("matchConditions");
        matching::conditions(&mut errors, &path, conditions, &expressions);
    }
    let variables = spec.variables.as_deref().unwrap_or_default();
    let variables_path = path.child("variables");
    policy::variables(&mut errors, &variables_path, variables, &mut expressions);
    checks(&mut errors, object, &spec, &expressions);
    errors
}

fn checks(
    errors: &mut Errors,
    object: &ValidatingAdmissionPolicy,
    spec: &ValidatingAdmissionPolicySpec,
    expressions: &Expressions,
) {
    let (path, name) = (at("spec"), text(&object.metadata.name));
    let validations = spec.validations.as_deref().unwrap_or_default();
    let annotations = spec.audit_annotations.as_deref().unwrap_or_default();
    let annotations_path = path.child("auditAnnotations");
    let validations_path = path.child("validations");
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required(&validations_path, detail));
        errors.push(FieldError::required(&annotations_path, detail));
        return;
    }
    for (index, one) in validations.iter().enumerate() {
        validation(errors, &validations_path.index(index), one, expressions);
    }
    if annotations.len() > AUDIT_ANNOTATIONS_MAX {
        let detail = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        errors.push(FieldError::invalid(
            &annotations_path,
            json(annotations),
            detail,
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, one) in annotations.iter().enumerate() {
        let path = annotations_path.index(index);
        audit_annotation(errors, &path, name, one, expressions);
        if !seen.insert(&one.key) {
            errors.push(FieldError::duplicate(&path.child("key"), one.key.as_str()));
        }
    }
}

fn validation(
    errors: &mut Errors,
    path: &FieldPath,
    validation: &Validation,
    expressions: &Expressions,
) {
    let detail = "expression is not specified";
    let text_path = path.child("expression");
    if given(errors, &text_path, &validation.expression, detail) {
        expressions.rule(errors, &text_path, &validation.expression);
    }
    let detail = "must be non-empty if specified";
    let texts = [
        ("messageExpression", text(&validation.message_expression)),
        ("message", text(&validation.message)),
    ];
    for (field, value) in texts {
        let path = path.child(field);
        if !value.is_empty() && value.trim().is_empty() {
            errors.push(FieldError::invalid(&path, value, detail));
        } else if field == "messageExpression" && !value.is_empty() {
            expressions.message(errors, &path, value);
        } else if field == "message" && value.trim().contains(['\n', '\r']) {
            errors.push(FieldError::invalid(
                &path,
                value,
                "must not contain line breaks",
            ));
        }
    }
    if let Some(reason) = &validation.reason {
        supported(errors, &path.child("reason"), reason, REASONS);
    }
}

fn audit_annotation(
    errors: &mut Errors,
    path: &FieldPath,
    name: &str,
    annotation: &AuditAnnotation,
    expressions: &Expressions,
) {
    let (key, key_path) = (annotation.key.as_str(), path.child("key"));
    if name.is_empty() {
        let detail = "requires metadata.name be non-empty";
        errors.push(FieldError::invalid(&key_path, key, detail));
    } else {
        let full = format!("{name}/{key}");
        complain(errors, &key_path, &full, names::qualified_name(&full));
    }
    let path = path.child("valueExpression");
    if annotation.value_expression.trim().len() > AUDIT_EXPRESSION_SIZE_MAX {
        let detail = format!("must not exceed {AUDIT_EXPRESSION_SIZE_MAX} bytes in length");
        errors.push(FieldError::required(&path, detail));
    } else {
        let detail = "valueExpression is not specified";
        if given(errors, &path, &annotation.value_expression, detail) {
            expressions.note(errors, &path, &annotation.value_expression);
        }
    }
}

fn status(object: &ValidatingAdmissionPolicy) -> Errors {
    let mut errors = Errors::new();
    let status = object.status.clone().unwrap_or_default();
    let path = at("status");
    let warnings = status.type_checking.and_then(|t| t.expression_warnings);
    let warnings_path = path.child("typeChecking.expressionWarnings");
    for (index, warning) in warnings.iter().flatten().enumerate() {
        let path = warnings_path.index(index);
        if warning.warning.is_empty() {
            errors.push(FieldError::required(&path.child("warning"), ""));
        }
        if warning.field_ref.trim().is_empty() {
            errors.push(FieldError::required(&path.child("fieldRef"), ""));
        }
    }
    let list = status.conditions.unwrap_or_default();
    conditions::validate(&mut errors, &path.child("conditions"), &list);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn a_policy_matches_something_and_checks_something() {
        let mut object: ValidatingAdmissionPolicy = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["*"],
                "apiVersions": ["*"], "resources": ["*"]}]},
                "validations": [{"expression": "true", "message": "a\nb"}],
                "auditAnnotations": [{"key": "k", "valueExpression": "'a'"}, {"key": "k", "valueExpression": " "}]},
        }))
        .expect("a policy");
        ValidatingAdmissionPolicyKind::default(&mut object);
        let errors = ValidatingAdmissionPolicyKind::validate(&object);
        assert_eq!(
            texts(&errors),
            [
                "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
                "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                "spec.auditAnnotations[1].key: Duplicate value: \"k\"",
            ]
        );
        let errors = ValidatingAdmissionPolicyKind::validate(&ValidatingAdmissionPolicy::default());
        assert_eq!(errors.len(), 4, "{:?}", texts(&errors));
    }
}
