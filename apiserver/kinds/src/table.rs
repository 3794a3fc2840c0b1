//! Texts that the cells of several kinds have in common.

use std::collections::BTreeMap;

use corral_api::k8s::api::core::v1::Container;
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use crate::kind::Column;

/// Items of a list that a cell shows before it says how many more there are.
const LIST_ITEMS_MAX: usize = 3;

/// Wide columns of everything that has a template of pods.
pub(crate) fn template_columns() -> [Column; 3] {
    [
        Column::text("Containers", "Names of the containers.").wide(),
        Column::text("Images", "Images of the containers.").wide(),
        Column::text("Selector", "Labels of the pods that belong to it.").wide(),
    ]
}

/// Names and images of containers.
pub(crate) fn containers(containers: Option<&Vec<Container>>) -> [Value; 2] {
    let containers = containers.map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<&str> = containers
        .iter()
        .map(|c| c.image.as_deref().unwrap_or_default())
        .collect();
    [names.join(",").into(), images.join(",").into()]
}

/// Labels, or `<none>`.
pub(crate) fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    let pairs: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    or_none(pairs.join(","))
}

/// A selector, or `<none>`.
pub(crate) fn selector(selector: Option<&LabelSelector>) -> String {
    or_none(selector_text(selector))
}

/// A selector's requirements in the order of their keys; empty if there are none.
pub(crate) fn selector_text(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return String::new();
    };
    let mut parts: Vec<(&str, String)> = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), format!("{key}={value}")))
        .collect();
    for expression in selector.match_expressions.iter().flatten() {
        let key = &expression.key;
        let mut values = expression.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        let text = match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".to_owned(),
        };
        parts.push((key, text));
    }
    parts.sort_by_key(|(key, _)| *key);
    let texts: Vec<String> = parts.into_iter().map(|(_, text)| text).collect();
    texts.join(",")
}

/// The text, or `<none>` in place of nothing.
pub(crate) fn or_none(text: String) -> String {
    or(text, "<none>")
}

/// The text, or another in place of nothing.
pub(crate) fn or(text: String, otherwise: &str) -> String {
    if text.is_empty() {
        otherwise.to_owned()
    } else {
        text
    }
}

/// The first items of a list and how many more there are.
pub(crate) fn first_items(items: impl Iterator<Item = String>) -> String {
    let mut shown = Vec::with_capacity(LIST_ITEMS_MAX);
    let mut n_more = 0;
    for item in items {
        if shown.len() < LIST_ITEMS_MAX {
            shown.push(item);
        } else {
            n_more += 1;
        }
    }
    let shown = shown.join(",");
    if n_more > 0 {
        format!("{shown} + {n_more} more...")
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_and_lists_read_as_in_kubernetes() {
        let given: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"b": "1"},
            "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "Exists"}],
        }))
        .expect("a selector");
        assert_eq!(selector(Some(&given)), "a in (x,y),b=1,c");
        assert_eq!(selector(None), "<none>");
        let numbers = (0..5).map(|n| n.to_string());
        assert_eq!(first_items(numbers), "0,1,2 + 2 more...");
    }
}
