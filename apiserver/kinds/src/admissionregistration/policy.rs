//! What policies and their bindings have in common: parameters, variables, and how tables show them.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::admissionregistration::v1::{ParamKind, ParamRef, Variable};
use corral_api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use corral_api::names;
use serde_json::Value;

use super::expressions::Expressions;
use super::matching::given;
use crate::kind::Column;
use crate::rules::{Errors, complain, label_selector, text};

/// Words that CEL keeps for itself.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name of a policy that a binding names.
pub(super) fn policy_name(errors: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        complain(errors, path, name, names::dns1123_subdomain(name));
    }
}

/// The kind of a policy's parameters.
pub(super) fn param_kind(errors: &mut Errors, path: &FieldPath, given: &ParamKind) {
    let (version, version_path) = (text(&given.api_version), path.child("apiVersion"));
    let mut wrong = |shown: &str, detail: String| {
        errors.push(FieldError::invalid(&version_path, shown, detail));
    };
    match version.matches('/').count() {
        _ if version.is_empty() => errors.push(FieldError::required(&version_path, "")),
        0 | 1 => {
            let (group, number) = match version.split_once('/') {
                _ if version == "/" => ("", ""),
                Some(parts) => parts,
                None => ("", version),
            };
            let complaints = names::dns1123_subdomain(group);
            if !group.is_empty() && !complaints.is_empty() {
                wrong(group, complaints.join(","));
            }
            let complaints = names::dns1035_label(number);
            if number.is_empty() {
                wrong(version, "version must be specified".to_owned());
            } else if !complaints.is_empty() {
                wrong(number, complaints.join(","));
            }
        }
        _ => wrong(
            version,
            format!("unexpected GroupVersion string: {version}"),
        ),
    }
    let (kind, kind_path) = (text(&given.kind), path.child("kind"));
    let complaints = names::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.push(FieldError::required(&kind_path, ""));
    } else if !complaints.is_empty() {
        let detail = format!(
            "may have mixed case, but should otherwise match: {}",
            complaints.join(",")
        );
        errors.push(FieldError::invalid(&kind_path, kind, detail));
    }
}

/// The parameters that a binding names.
pub(super) fn param_ref(errors: &mut Errors, path: &FieldPath, given: &ParamRef) {
    const ONE: &str = "name and selector are mutually exclusive";
    let name = text(&given.name);
    if !name.is_empty() {
        let path = path.child("name");
        complain(errors, &path, name, names::path_segment(name));
        if given.selector.is_some() {
            errors.push(FieldError::forbidden(&path, ONE));
        }
    }
    match &given.selector {
        Some(selector) => {
            let path = path.child("selector");
            label_selector(errors, &path, selector);
            if !name.is_empty() {
                errors.push(FieldError::forbidden(&path, ONE));
            }
        }
        None if name.is_empty() => {
            let detail = "one of name or selector must be specified";
            errors.push(FieldError::required(path, detail));
        }
        None => {}
    }
    let path = path.child("parameterNotFoundAction");
    match text(&given.parameter_not_found_action) {
        "" => errors.push(FieldError::required(&path, "")),
        "Allow" | "Deny" => {}
        other => {
            let allowed = ["Deny", "Allow"];
            errors.push(FieldError::not_supported_of(&path, other, &allowed));
        }
    }
}

/// Named expressions.
pub(super) fn variables(
    errors: &mut Errors,
    path: &FieldPath,
    list: &[Variable],
    expressions: &mut Expressions,
) {
    for (index, variable) in list.iter().enumerate() {
        let path = path.index(index);
        let (name, name_path) = (variable.name.as_str(), path.child("name"));
        if name.trim().is_empty() {
            errors.push(FieldError::required(&name_path, "name is not specified"));
        } else if !is_identifier(name) {
            let detail = "must be a valid CEL identifier";
            errors.push(FieldError::invalid(&name_path, name, detail));
        }
        let detail = "expression is not specified";
        let text_path = path.child("expression");
        if given(errors, &text_path, &variable.expression, detail) {
            expressions.variable(errors, &text_path, variable);
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let first = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    let rest = name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    first && rest && !RESERVED.contains(&name)
}

pub(super) fn columns(second: Column) -> Vec<Column> {
    vec![
        Column::NAME,
        second,
        Column::text("ParamKind", "The kind of its parameters."),
        Column::AGE,
    ]
}

pub(super) fn binding_columns() -> Vec<Column> {
    vec![
        Column::NAME,
        Column::text("PolicyName", "The policy that it puts into effect."),
        Column::text("ParamRef", "The parameters."),
        Column::AGE,
    ]
}

pub(super) fn kind_cell(kind: Option<&ParamKind>) -> Value {
    let shown = kind.map(|kind| format!("{}/{}", text(&kind.api_version), text(&kind.kind)));
    shown.unwrap_or_else(|| "<unset>".to_owned()).into()
}

pub(super) fn ref_cell(reference: Option<&ParamRef>) -> Value {
    let unset = || "<unset>".to_owned();
    let Some(reference) = reference else {
        return unset().into();
    };
    let shown = match (text(&reference.namespace), text(&reference.name)) {
        (_, "") => reference
            .selector
            .as_ref()
            .map_or_else(unset, selector_in_go),
        // Nothing here tells whether the parameters have namespaces.
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    shown.into()
}

/// A selector as Go prints it.
fn selector_in_go(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels
        .map(|(key, value)| format!("{key}: {value},"))
        .collect();
    let expressions = selector.match_expressions.iter().flatten();
    let expressions: String = expressions
        .map(|one| {
            let values = one.values.as_deref().unwrap_or_default().join(" ");
            format!(
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
                one.key, one.operator
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{at, texts};

    #[test]
    fn parameters_have_a_kind_and_a_name_or_a_selector() {
        let mut errors = Errors::new();
        let kind = ParamKind {
            api_version: Some("a/b/c".into()),
            kind: Some("A_b".into()),
        };
        param_kind(&mut errors, &at("paramKind"), &kind);
        let reference = ParamRef {
            selector: Some(LabelSelector::default()),
            name: Some("n".into()),
            ..ParamRef::default()
        };
        param_ref(&mut errors, &at("paramRef"), &reference);
        let texts = texts(&errors);
        assert_eq!(texts.len(), 5, "{texts:?}");
        assert_eq!(
            texts[0],
            "paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"
        );
        assert_eq!(texts[4], "paramRef.parameterNotFoundAction: Required value");
        assert_eq!(ref_cell(Some(&reference)), "*/n");
    }
}
