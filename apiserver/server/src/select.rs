//! Which objects a request is about: namespace, name, label selector, field selector.

use corral_api::selector::{FieldSelector, LabelSelector, Operator, Requirement};

use crate::object::Stored;

/// What a LIST or WATCH selects.
#[derive(Debug, Clone)]
pub struct Predicate {
    prefix: String,
    resource_prefix: String,
    labels: LabelSelector,
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
        stored.key.as_str().starts_with(&self.prefix)
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
