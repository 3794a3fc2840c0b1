//! Which objects a request is about: namespace, name, label selector, field selector.

use corral_api::selector::{FieldSelector, LabelSelector, Operator, Requirement};

use crate::object::{Marks, Stored};

/// What a LIST or WATCH selects.
#[derive(Debug, Clone)]
pub struct Predicate {
    prefix: String,
    resource_prefix: String,
    labels: LabelSelector,
    /// What the labels of every selected object have.
    label_marks: Marks,
    fields: FieldSelector,
}

impl Predicate {
    /// Objects below `resource_prefix`, of one namespace if it is given, that meet both selectors.
    pub fn new(
        resource_prefix: &str,
        namespace: Option<&str>,
        labels: LabelSelector,
        fields: FieldSelector,
    ) -> Self {
        let prefix = match namespace {
            Some(namespace) => format!("{resource_prefix}{namespace}/"),
            None => resource_prefix.to_owned(),
        };
        Self {
            prefix,
            resource_prefix: resource_prefix.to_owned(),
            label_marks: marks(&labels),
            labels,
            fields,
        }
    }

    /// The prefix of all keys that may be selected.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The one value that a field must have; `None` if the field is not selected by, or may have several.
    pub fn required_field(&self, field: &str) -> Option<&str> {
        self.fields.required(field)
    }

    /// Whether everything below the prefix is selected.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether an object is selected.
    pub fn selects(&self, stored: &Stored) -> bool {
        self.selects_below(stored) && stored.key.as_str().starts_with(&self.prefix)
    }

    /// Whether an object is selected whose key is known to begin with the prefix.
    pub fn selects_below(&self, stored: &Stored) -> bool {
        self.label_marks.are_in(stored.label_marks)
            && (self.labels.is_everything()
                || self.labels.requirements.iter().all(|r| meets(r, stored)))
            && (self.fields.is_everything() || self.selects_fields(stored))
    }

    fn selects_fields(&self, stored: &Stored) -> bool {
        let (namespace, name) = stored.namespace_and_name(&self.resource_prefix);
        self.fields.matches(|field| match field {
            "metadata.name" => Some(name),
            "metadata.namespace" => Some(namespace),
            other => stored.field(other),
        })
    }
}

/// What is marked in every object that meets the requirements.
fn marks(labels: &LabelSelector) -> Marks {
    let requirements = labels.requirements.iter();
    requirements.fold(Marks::default(), |marks, requirement| {
        let key = &requirement.key;
        match &requirement.operator {
            Operator::In(values) => match values.as_slice() {
                [value] => marks.with_key(key).with_label(key, value),
                _ => marks.with_key(key),
            },
            Operator::Exists | Operator::GreaterThan(_) | Operator::LessThan(_) => {
                marks.with_key(key)
            }
            Operator::NotIn(_) | Operator::DoesNotExist => marks,
        }
    })
}

fn meets(requirement: &Requirement, stored: &Stored) -> bool {
    let value = stored.label(&requirement.key);
    let number = || value.and_then(|v| v.parse::<i64>().ok());
    match &requirement.operator {
        Operator::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
        Operator::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::GreaterThan(n) => number().is_some_and(|v| v > *n),
        Operator::LessThan(n) => number().is_some_and(|v| v < *n),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use corral_kinds::all;
    use corral_storage::{Key, Revision};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::object::Shape;

    fn labelled(labels: &BTreeMap<String, String>) -> Stored {
        let shape = Shape::new(all::resource("", "v1", "configmaps").expect("served"));
        let metadata = json!({"name": "a", "namespace": "n", "labels": labels});
        let json = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
        let value = crate::object::canonical(json);
        let key = Key::new("/registry/configmaps/n/a");
        Stored::from_parts(&shape, key, &value, Revision(1)).expect("an object")
    }

    proptest! {
        #[test]
        fn marks_select_what_the_labels_do(
            labels in prop::collection::btree_map("[a-d]{1,2}", "[x-z1-3]{0,2}", 0..5),
            selector in "(!?[a-d]|[a-d](=|!=)[x-z]{0,2}|[a-d] (in|notin) \\([x-z1]{0,2}(,[x-z]{1,2})?\\)|[a-d](<|>)[1-3])(,[a-d]=[x-z1]{0,2})?"
        ) {
            let selector = LabelSelector::parse(&selector).expect("a selector");
            let expected = selector.matches(&labels);
            let everything = FieldSelector::parse("").expect("everything");
            let predicate = Predicate::new("/registry/configmaps/", Some("n"), selector, everything);
            prop_assert_eq!(predicate.selects(&labelled(&labels)), expected);
        }
    }
}
