//! `ResourceClaimTemplate`: from which the claims of pods are made.

use corral_api::field::FieldError;
use corral_api::k8s::api::resource::v1::ResourceClaimTemplate;
use jiff::Timestamp;
use serde_json::Value;

use super::claim;
use super::rules::Expressions;
use crate::core::pod_spec::validation::claim_metadata;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, json};

/// `resource.k8s.io/v1 ResourceClaimTemplate`.
pub struct ResourceClaimTemplateKind;

impl Kind for ResourceClaimTemplateKind {
    type Object = ResourceClaimTemplate;

    const NAMES: Names<'static> = Names {
        group: "resource.k8s.io",
        version: "v1",
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        singular: "resourceclaimtemplate",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };

    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::AGE]
    }

    fn cells(template: &ResourceClaimTemplate, now: Timestamp) -> Vec<Value> {
        vec![
            template.metadata.name.clone().into(),
            age(&template.metadata, now),
        ]
    }

    fn default(template: &mut ResourceClaimTemplate) {
        claim::default(&mut template.spec.spec);
    }

    fn prepare_create(template: &mut ResourceClaimTemplate) {
        claim::prepare(&mut template.spec.spec);
    }

    fn validate(template: &ResourceClaimTemplate) -> Vec<FieldError> {
        validate(template, &Expressions::new())
    }

    fn validate_update(
        new: &ResourceClaimTemplate,
        old: &ResourceClaimTemplate,
    ) -> Vec<FieldError> {
        let mut errors = validate(new, &claim::expressions(&old.spec.spec));
        let is_same = rules::same(&new.spec.metadata, &old.spec.metadata)
            && rules::same_structures(&new.spec.spec, &old.spec.spec);
        if !is_same {
            let detail = "field is immutable";
            errors.push(FieldError::invalid(&at("spec"), json(&new.spec), detail));
        }
        errors
    }

    fn warnings(_template: &ResourceClaimTemplate) -> Vec<String> {
        vec![
            "spec: accepted, but claims of pods to devices are not honoured by this server yet"
                .to_owned(),
        ]
    }
}

fn validate(template: &ResourceClaimTemplate, kept: &Expressions<'_>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = at("spec");
    if let Some(meta) = &template.spec.metadata {
        claim_metadata(&mut errors, &path.child("metadata"), meta);
    }
    claim::validate(&mut errors, &path.child("spec"), &template.spec.spec, kept);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_stays_as_it_is() {
        let template = |class: &str| -> ResourceClaimTemplate {
            let requests =
                serde_json::json!([{"name": "r", "exactly": {"deviceClassName": class}}]);
            let json = serde_json::json!({"spec": {"spec": {"devices": {"requests": requests}}}});
            let mut template = serde_json::from_value(json).expect("a template");
            ResourceClaimTemplateKind::default(&mut template);
            template
        };
        assert!(ResourceClaimTemplateKind::validate(&template("a")).is_empty());
        let errors = ResourceClaimTemplateKind::validate_update(&template("a"), &template("b"));
        assert_eq!(errors.len(), 1);
    }
}
