//! `PodTemplate`.

use corral_api::field::FieldError;
use corral_api::k8s::api::core::v1::PodTemplate;
use jiff::Timestamp;
use serde_json::Value;

use super::pod_spec::{defaults, prepare, validation, warnings};
use crate::kind::{Column, Kind, Names, Words};
use crate::rules::{Errors, at};
use crate::table;

/// `v1 PodTemplate`.
pub struct PodTemplateKind;

impl Kind for PodTemplateKind {
    type Object = PodTemplate;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const GENERATION: bool = true;

    fn default(template: &mut PodTemplate) {
        defaults::template(template.template.get_or_insert_default());
    }

    fn prepare_create(template: &mut PodTemplate) {
        prepare::drop_unoffered_of_template(template.template.get_or_insert_default(), None);
    }

    fn prepare_update(new: &mut PodTemplate, old: &PodTemplate) {
        let template = new.template.get_or_insert_default();
        prepare::drop_unoffered_of_template(template, old.template.as_ref());
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Containers", "Names of the containers."),
            Column::text("Images", "Images of the containers."),
            Column::text("Pod Labels", "Labels of the pods made from it."),
        ]
    }

    fn cells(template: &PodTemplate, _now: Timestamp) -> Vec<Value> {
        let pods = template.template.as_ref();
        let spec = pods.and_then(|t| t.spec.as_ref());
        let labels = pods.and_then(|t| t.metadata.as_ref()?.labels.as_ref());
        let [names, images] = table::containers(spec.map(|s| &s.containers));
        vec![
            template.metadata.name.clone().into(),
            names,
            images,
            table::labels(labels).into(),
        ]
    }

    fn validate(template: &PodTemplate) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let pods = template.template.clone().unwrap_or_default();
        validation::template(&mut errors, &at("template"), &pods);
        errors
    }

    fn warnings(template: &PodTemplate) -> Vec<String> {
        warnings::of_template("template", template.template.as_ref())
    }
}
