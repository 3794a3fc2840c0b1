//! Rules of the selector with which a kind of this group finds its pods. The type of the field does not tell a selector
//! that was not given from one without conditions; the latter has an empty list of labels here.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::PodTemplateSpec;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use corral_api::selector;
use serde_json::Value;

use crate::rules::{self, Errors, at, json};

/// Gives a selector without conditions its empty list of labels. No rule lets such a selector into the store.
pub(crate) fn mark_given(value: &mut Value) {
    let Some(Value::Object(selector)) = value.pointer_mut("/spec/selector") else {
        return;
    };
    let conditions = |value: &Value| match value {
        Value::Object(labels) => !labels.is_empty(),
        Value::Array(expressions) => !expressions.is_empty(),
        _ => false,
    };
    if !selector.values().any(conditions) {
        let labels = Value::Object(Default::default());
        selector.insert("matchLabels".to_owned(), labels);
    }
}

fn given(selector: &LabelSelector) -> Option<&LabelSelector> {
    Some(selector).filter(|s| **s != LabelSelector::default())
}

fn is_empty(selector: &LabelSelector) -> bool {
    let no_labels = selector.match_labels.as_ref().is_none_or(|l| l.is_empty());
    let expressions = selector.match_expressions.as_ref();
    no_labels && expressions.is_none_or(Vec::is_empty)
}

/// A selector that must be there and be right. Whether it can be compared with labels.
pub(crate) fn required(errors: &mut Errors, path: &FieldPath, selector: &LabelSelector) -> bool {
    let Some(selector) = given(selector) else {
        errors.push(FieldError::required(path, ""));
        return true;
    };
    let known = errors.len();
    rules::label_selector(errors, path, selector);
    if errors.len() > known {
        let detail = "invalid label selector";
        errors.push(rules::invalid_selector(path, selector, detail));
        return false;
    }
    if is_empty(selector) {
        let detail = "empty selector is invalid for deployment";
        errors.push(rules::invalid_selector(path, selector, detail));
    }
    true
}

/// The selector must select the pods that are made from the template. One that was not given selects nothing.
pub(crate) fn selects(
    errors: &mut Errors,
    path: &FieldPath,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
) {
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if let Ok(selector) = selector::LabelSelector::from_object(given(selector))
        && !selector.matches_opt(labels)
    {
        let detail = "`selector` does not match template `labels`";
        let path = path.child("metadata").child("labels");
        errors.push(FieldError::invalid(&path, json(&labels), detail));
    }
}

/// The rules of a DaemonSet, which asks for no selector as long as none is given.
pub(crate) fn of_daemons(
    errors: &mut Errors,
    path: &FieldPath,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
) {
    let (known, selector_path) = (errors.len(), path.child("selector"));
    rules::label_selector(errors, &selector_path, selector);
    if errors.len() == known {
        selects(errors, &path.child("template"), selector, template);
    }
    if given(selector).is_some() && is_empty(selector) {
        let detail = "empty selector is invalid for daemonset";
        errors.push(rules::invalid_selector(&selector_path, selector, detail));
    }
}

/// The rules of a StatefulSet. Whether the selector can be compared with labels.
pub(crate) fn of_set(errors: &mut Errors, path: &FieldPath, selector: &LabelSelector) -> bool {
    let Some(selector) = given(selector) else {
        errors.push(FieldError::required(path, ""));
        return true;
    };
    let known = errors.len();
    rules::label_selector(errors, path, selector);
    let is_usable = errors.len() == known;
    if is_empty(selector) {
        let detail = "empty selector is invalid for statefulset";
        errors.push(rules::invalid_selector(path, selector, detail));
    }
    if !is_usable {
        errors.push(rules::invalid_selector(path, selector, ""));
    }
    is_usable
}

/// A selector stays as it was.
pub(crate) fn immutable(errors: &mut Errors, new: &LabelSelector, old: &LabelSelector) {
    if new == old {
        return;
    }
    let (path, detail) = (at("spec.selector"), "field is immutable");
    errors.push(match given(new) {
        Some(selector) => rules::invalid_selector(&path, selector, detail),
        None => FieldError::invalid(&path, Value::Null, detail),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_selector_without_conditions_is_marked() {
        let marked = |selector: Value| {
            let mut value = serde_json::json!({"spec": {"selector": selector}});
            mark_given(&mut value);
            value["spec"]["selector"].clone()
        };
        let nothing = serde_json::json!({"matchLabels": {}});
        assert_eq!(marked(serde_json::json!({})), nothing);
        assert_eq!(marked(serde_json::json!({"matchLabels": null})), nothing);
        assert_eq!(marked(Value::Null), Value::Null);
        let expressions = serde_json::json!({"matchExpressions": [{"key": "a"}]});
        assert_eq!(marked(expressions.clone()), expressions);
    }
}
