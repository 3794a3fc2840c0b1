//! `Secret`.

use corral_api::k8s::ByteString;
use corral_api::k8s::api::core::v1::Secret;
use jiff::Timestamp;
use serde_json::Value;

use crate::fill;
use crate::kind::{Column, Kind, Names, age};

/// `v1 Secret`.
pub struct SecretKind;

impl Kind for SecretKind {
    type Object = Secret;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };

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

    fn selectable_fields(secret: &Secret) -> Vec<(&'static str, String)> {
        vec![("type", secret.type_.clone().unwrap_or_default())]
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
}

/// `stringData` is a way to write only: it wins over `data` and is never stored.
fn merge_string_data(secret: &mut Secret) {
    let Some(texts) = secret.string_data.take() else { return };
    if texts.is_empty() {
        return;
    }
    let data = secret.data.get_or_insert_default();
    for (key, text) in texts {
        data.insert(key, ByteString(text.into_bytes()));
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
        assert_eq!((secret.string_data, secret.type_.as_deref()), (None, Some("Opaque")));
    }
}
