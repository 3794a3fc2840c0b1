//! `Secret`.

use corral_api::field::FieldError;
use corral_api::k8s::ByteString;
use corral_api::k8s::api::core::v1::Secret;
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use super::config_map::{DATA_SIZE_MAX, IMMUTABLE};
use crate::fill;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at};
use crate::selectable::SelectableField;

/// `v1 Secret`.
pub struct SecretKind;

impl Kind for SecretKind {
    type Object = Secret;

    const NAMES: Names<'static> = Names {
        group: "",
        version: "v1",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: true,
    };
    const SELECTABLE_FIELDS: &'static [SelectableField] = &[SelectableField::text("type")];

    fn default(secret: &mut Secret) {
        fill::text(&mut secret.type_, "Opaque");
        merge_string_data(secret);
    }

    fn prepare_create(secret: &mut Secret) {
        merge_string_data(secret);
    }

    fn prepare_update(new: &mut Secret, _old: &Secret) {
        merge_string_data(new);
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::text("Type", "What the secret is for."),
            Column::text("Data", "Number of keys."),
            Column::AGE,
        ]
    }

    fn cells(secret: &Secret, now: Timestamp) -> Vec<Value> {
        vec![
            secret.metadata.name.clone().into(),
            secret.type_.clone().into(),
            secret.data.as_ref().map_or(0, |d| d.len()).into(),
            age(&secret.metadata, now),
        ]
    }

    fn validate(secret: &Secret) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let path = at("data");
        let mut size = 0;
        for (key, value) in secret.data.iter().flatten() {
            rules::complain(&mut errors, &path.key(key), key, names::config_key(key));
            size += value.0.len();
        }
        if size > DATA_SIZE_MAX {
            errors.push(FieldError::too_long(&path, DATA_SIZE_MAX));
        }
        keys_of_type(&mut errors, secret);
        errors
    }

    fn validate_update(new: &Secret, old: &Secret) -> Vec<FieldError> {
        let mut errors = Errors::new();
        rules::immutable(&mut errors, &at("type"), &new.type_, &old.type_);
        if old.immutable == Some(true) {
            for (field, changed) in [
                ("immutable", new.immutable != Some(true)),
                ("data", new.data != old.data),
            ] {
                if changed {
                    errors.push(FieldError::forbidden(&at(field), IMMUTABLE));
                }
            }
        }
        errors.extend(Self::validate(new));
        errors
    }
}

/// `stringData` is a way to write only: it wins over `data` and is never stored.
fn merge_string_data(secret: &mut Secret) {
    let Some(texts) = secret.string_data.take() else {
        return;
    };
    if texts.is_empty() {
        return;
    }
    let data = secret.data.get_or_insert_default();
    for (key, text) in texts {
        data.insert(key, ByteString(text.into_bytes()));
    }
}

const ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

/// Keys that a secret of a known type must have.
fn keys_of_type(errors: &mut Errors, secret: &Secret) {
    let path = at("data");
    let value = |key: &str| secret.data.as_ref().and_then(|d| d.get(key));
    let mut need = |keys: &[&str]| {
        for key in keys {
            errors.push(FieldError::required(&path.key(key), ""));
        }
    };
    match secret.type_.as_deref().unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let annotations = secret.metadata.annotations.as_ref();
            if annotations
                .and_then(|a| a.get(ACCOUNT_ANNOTATION))
                .is_none_or(String::is_empty)
            {
                let path = at("metadata.annotations").key(ACCOUNT_ANNOTATION);
                errors.push(FieldError::required(&path, ""));
            }
        }
        "kubernetes.io/basic-auth"
            if value("username").is_none() && value("password").is_none() =>
        {
            need(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(|v| v.0.is_empty()) => {
            need(&["ssh-privatekey"]);
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if value(key).is_none() {
                    need(&[key]);
                }
            }
        }
        "kubernetes.io/dockercfg" => json_object(errors, secret, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_object(errors, secret, ".dockerconfigjson"),
        _ => {}
    }
}

fn json_object(errors: &mut Errors, secret: &Secret, key: &str) {
    let path = at("data").key(key);
    let Some(value) = secret.data.as_ref().and_then(|d| d.get(key)) else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    // The parser's own words could quote what is secret.
    if serde_json::from_slice::<serde_json::Map<String, Value>>(&value.0).is_err() {
        let shown = "<secret contents redacted>";
        errors.push(FieldError::invalid(&path, shown, "must be a JSON object"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_data_wins_over_data_and_is_not_kept() {
        let mut secret: Secret = serde_json::from_value(serde_json::json!({
            "data": {"a": "MQ==", "b": "Mg=="}, "stringData": {"a": "x"},
        }))
        .expect("a secret");
        SecretKind::default(&mut secret);
        assert_eq!(
            serde_json::to_value(&secret).expect("JSON")["data"],
            serde_json::json!({"a": "eA==", "b": "Mg=="})
        );
        assert_eq!(
            (secret.string_data, secret.type_.as_deref()),
            (None, Some("Opaque"))
        );
    }
}
