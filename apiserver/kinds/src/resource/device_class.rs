//! `DeviceClass`: devices that are alike to those who ask for them.

use corral_api::field::FieldError;
use corral_api::k8s::api::resource::v1::DeviceClass;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::rules::{self as own, ITEMS_MAX, at_most};
use crate::core::pod_spec::validation::resources::is_extended;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{Errors, at};

/// `resource.k8s.io/v1 DeviceClass`.
pub struct DeviceClassKind;

impl Kind for DeviceClassKind {
    type Object = DeviceClass;

    const NAMES: Names<'static> = Names {
        group: "resource.k8s.io",
        version: "v1",
        kind: "DeviceClass",
        plural: "deviceclasses",
        singular: "deviceclass",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const GENERATION: bool = true;
    const NAME_RULE: fn(&str) -> Vec<String> = name;

    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::AGE]
    }

    fn cells(class: &DeviceClass, now: Timestamp) -> Vec<Value> {
        vec![
            class.metadata.name.clone().into(),
            age(&class.metadata, now),
        ]
    }

    fn validate(class: &DeviceClass) -> Vec<FieldError> {
        validate(class, &own::Expressions::new())
    }

    fn validate_update(new: &DeviceClass, old: &DeviceClass) -> Vec<FieldError> {
        validate(new, &own::expressions([&old.spec.selectors]))
    }

    fn warnings(_class: &DeviceClass) -> Vec<String> {
        vec![
            "spec: accepted, but the allocation of devices is not honoured by this server yet"
                .to_owned(),
        ]
    }
}

/// Kubernetes counts bytes here, and says so.
fn name(text: &str) -> Vec<String> {
    let complaints = names::dns1123_subdomain(text).into_iter();
    let told = complaints.map(|why| match why.as_str() {
        "must be no more than 253 characters" => "must be no more than 253 bytes".to_owned(),
        _ => why,
    });
    told.collect()
}

fn validate(class: &DeviceClass, kept: &own::Expressions<'_>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let (spec, path) = (&class.spec, at("spec"));
    let selectors = spec.selectors.as_deref();
    own::selectors(&mut errors, &path.child("selectors"), selectors, kept);
    let config = spec.config.as_deref().unwrap_or_default();
    let config_path = path.child("config");
    at_most(&mut errors, &config_path, config, ITEMS_MAX);
    for (index, one) in config.iter().enumerate() {
        own::opaque(&mut errors, &config_path.index(index), one.opaque.as_ref());
    }
    if let Some(name) = spec.extended_resource_name.as_ref()
        && !is_extended(name)
    {
        let path = path.child("extendedResourceName");
        let detail = "must be a valid extended resource name";
        errors.push(FieldError::invalid(&path, name.as_str(), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn a_selector_is_an_expression_and_settings_are_an_object() {
        let class: DeviceClass = serde_json::from_value(serde_json::json!({"spec": {
            "selectors": [{}], "config": [{"opaque": {"driver": "d", "parameters": 5}}],
            "extendedResourceName": "plain",
        }}))
        .expect("a class");
        assert_eq!(
            texts(&DeviceClassKind::validate(&class)),
            [
                "spec.selectors[0].cel: Required value",
                "spec.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
                "spec.extendedResourceName: Invalid value: \"plain\": must be a valid extended resource name",
            ]
        );
    }
}
