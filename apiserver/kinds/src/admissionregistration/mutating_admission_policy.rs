//! `MutatingAdmissionPolicy`: changes to objects, in CEL, before they are written.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicySpec, Mutation,
};
use corral_cel::admission::Returns;
use jiff::Timestamp;
use serde_json::Value;

use super::expressions::Expressions;
use super::matching::{self, REINVOCATION_POLICIES, given};
use super::{name_warnings, policy};
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{Errors, at, required_of, text};

const PATCH_TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];

/// `admissionregistration.k8s.io/v1 MutatingAdmissionPolicy`.
pub struct MutatingAdmissionPolicyKind;

impl Kind for MutatingAdmissionPolicyKind {
    type Object = MutatingAdmissionPolicy;

    const NAMES: Names<'static> = Names {
        group: "admissionregistration.k8s.io",
        version: "v1",
        kind: "MutatingAdmissionPolicy",
        plural: "mutatingadmissionpolicies",
        singular: "mutatingadmissionpolicy",
        short_names: Words::Of(&[]),
        categories: Words::Of(&["api-extensions"]),
        namespaced: false,
    };
    const GENERATION: bool = true;
    const STORAGE_VERSION: (&'static str, &'static str) =
        ("admissionregistration.k8s.io", "v1beta1");
    const UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut MutatingAdmissionPolicy) {
        let spec = object.spec.get_or_insert_default();
        fill::absent(&mut spec.failure_policy, "Fail".to_owned());
        if let Some(constraints) = &mut spec.match_constraints {
            matching::default_resources(constraints);
        }
    }

    fn validate(object: &MutatingAdmissionPolicy) -> Vec<FieldError> {
        validate(object, None)
    }

    fn validate_update(
        new: &MutatingAdmissionPolicy,
        old: &MutatingAdmissionPolicy,
    ) -> Vec<FieldError> {
        validate(new, Some(old))
    }

    fn warnings(object: &MutatingAdmissionPolicy) -> Vec<String> {
        name_warnings(object.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        policy::columns(Column::integer("Mutations", "How many changes it makes."))
    }

    fn cells(object: &MutatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        vec![
            object.metadata.name.clone().into(),
            spec.mutations.map_or(0, |list| list.len()).into(),
            policy::kind_cell(spec.param_kind.as_ref()),
            age(&object.metadata, now),
        ]
    }
}

fn validate(object: &MutatingAdmissionPolicy, old: Option<&MutatingAdmissionPolicy>) -> Errors {
    let mut errors = Errors::new();
    let path = at("spec");
    let spec = object.spec.clone().unwrap_or_default();
    let failure_path = path.child("failurePolicy");
    matching::failure_policy(&mut errors, &failure_path, &spec.failure_policy);
    if let Some(kind) = &spec.param_kind {
        policy::param_kind(&mut errors, &path.child("paramKind"), kind);
    }
    constraints(&mut errors, &path.child("matchConstraints"), &spec);
    let was = old.map(|old| old.spec.clone().unwrap_or_default());
    let mut expressions = Expressions::of_mutating(&spec, was.as_ref());
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
    let mutations = spec.mutations.as_deref().unwrap_or_default();
    let mutations_path = path.child("mutations");
    if mutations.is_empty() {
        let detail = "mutations must contain at least one item";
        errors.push(FieldError::required(&mutations_path, detail));
    }
    for (index, one) in mutations.iter().enumerate() {
        let path = mutations_path.index(index);
        mutation(&mut errors, &path, one, &expressions);
    }
    let again_path = path.child("reinvocationPolicy");
    let again = text(&spec.reinvocation_policy);
    required_of(&mut errors, &again_path, again, REINVOCATION_POLICIES);
    errors
}

fn constraints(errors: &mut Errors, path: &FieldPath, spec: &MutatingAdmissionPolicySpec) {
    let Some(constraints) = &spec.match_constraints else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    matching::match_resources(errors, path, constraints);
    if constraints.resource_rules.iter().flatten().next().is_none() {
        errors.push(FieldError::required(&path.child("resourceRules"), ""));
    }
    matching::mutating_operations(errors, path, constraints);
}

fn mutation(errors: &mut Errors, path: &FieldPath, mutation: &Mutation, expressions: &Expressions) {
    let type_ = mutation.patch_type.as_str();
    required_of(errors, &path.child("patchType"), type_, PATCH_TYPES);
    let configuration = mutation
        .apply_configuration
        .as_ref()
        .map(|c| text(&c.expression));
    let patch = mutation.json_patch.as_ref().map(|p| text(&p.expression));
    const APPLIED: (&str, Returns) = ("applyConfiguration", Returns::ApplyConfiguration);
    const PATCH: (&str, Returns) = ("jsonPatch", Returns::JsonPatch);
    let (own, (own_field, returns), other, other_field) = match type_ {
        "JSONPatch" => (patch, PATCH, configuration, APPLIED.0),
        "ApplyConfiguration" => (configuration, APPLIED, patch, PATCH.0),
        _ => return,
    };
    let path_of_own = path.child(own_field);
    match own {
        None => {
            let detail = format!("must be specified when patchType is {type_}");
            errors.push(FieldError::required(&path_of_own, detail));
        }
        Some(text) => {
            let path = path_of_own.child("expression");
            if given(errors, &path, text, "") {
                expressions.change(errors, &path, text, returns);
            }
        }
    }
    if other.is_some() {
        let detail = format!("must not be specified when patchType is {type_}");
        let shown = format!("{{{other_field}}}");
        errors.push(FieldError::invalid(&path.child(other_field), shown, detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn a_mutation_has_the_text_of_its_type_only() {
        let mut object: MutatingAdmissionPolicy = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": [{"operations": ["DELETE"],
                "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]},
                "mutations": [{"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}]},
        }))
        .expect("a policy");
        MutatingAdmissionPolicyKind::default(&mut object);
        let errors = MutatingAdmissionPolicyKind::validate(&object);
        assert_eq!(
            texts(&errors),
            [
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \
                 \"CONNECT\", \"CREATE\", \"UPDATE\"",
                "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when \
                 patchType is JSONPatch",
            ]
        );
    }
}
