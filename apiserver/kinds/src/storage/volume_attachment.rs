//! `VolumeAttachment`: a volume that is to be attached to a node.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeError};
use corral_api::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::core::persistent_volume::inline_spec;
use crate::core::pod_spec::validation::driver_name;
use crate::kind::{Column, Kind, Names, Words, age};
use crate::rules::{self, Errors, at, json, text};

const METADATA_SIZE_MAX: usize = 256 * 1024;
const MESSAGE_SIZE_MAX: usize = 1024;

/// `storage.k8s.io/v1 VolumeAttachment`.
pub struct VolumeAttachmentKind;

impl Kind for VolumeAttachmentKind {
    type Object = VolumeAttachment;

    const NAMES: Names<'static> = Names {
        group: "storage.k8s.io",
        version: "v1",
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        singular: "volumeattachment",
        short_names: Words::Of(&[]),
        categories: Words::Of(&[]),
        namespaced: false,
    };
    const STATUS: bool = true;

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column {
                format: "name".into(),
                ..Column::text("Attacher", "Who attaches it.")
            },
            Column::text("PV", "The volume."),
            Column::text("Node", "The node."),
            Column {
                kind: "boolean".into(),
                ..Column::text("Attached", "Whether it is attached.")
            },
            Column::AGE,
        ]
    }

    fn cells(attachment: &VolumeAttachment, now: Timestamp) -> Vec<Value> {
        let spec = &attachment.spec;
        vec![
            attachment.metadata.name.clone().into(),
            spec.attacher.clone().into(),
            text(&spec.source.persistent_volume_name).into(),
            spec.node_name.clone().into(),
            attachment
                .status
                .as_ref()
                .is_some_and(|s| s.attached)
                .into(),
            age(&attachment.metadata, now),
        ]
    }

    fn validate(attachment: &VolumeAttachment) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let (spec, path) = (&attachment.spec, at("spec"));
        driver_name(&mut errors, &path.child("attacher"), &spec.attacher);
        source(&mut errors, &path.child("source"), &spec.source);
        let node = spec.node_name.as_str();
        let complaints = names::dns1123_subdomain(node);
        rules::complain(&mut errors, &path.child("nodeName"), node, complaints);
        status(&mut errors, attachment);
        if let Some(name) = &spec.source.persistent_volume_name {
            let path = path.child("source").child("persistentVolumeName");
            rules::complain(&mut errors, &path, name, names::dns1123_subdomain(name));
        }
        errors
    }

    fn validate_update(new: &VolumeAttachment, old: &VolumeAttachment) -> Vec<FieldError> {
        let mut errors = Self::validate(new);
        if !rules::same(&new.spec, &old.spec) {
            let detail = "field is immutable";
            errors.push(FieldError::invalid(&at("spec"), json(&new.spec), detail));
        }
        errors
    }

    fn validate_status_update(new: &VolumeAttachment, old: &VolumeAttachment) -> Vec<FieldError> {
        Self::validate_update(new, old)
    }

    fn warnings(_attachment: &VolumeAttachment) -> Vec<String> {
        vec!["spec: accepted, but not honoured by this server yet".to_owned()]
    }
}

fn source(errors: &mut Errors, path: &FieldPath, source: &VolumeAttachmentSource) {
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (&source.inline_volume_spec, &source.persistent_volume_name) {
        (None, None) => errors.push(FieldError::required(path, detail)),
        (Some(_), Some(_)) => errors.push(FieldError::forbidden(path, detail)),
        (None, Some(name)) if name.is_empty() => {
            let detail = "must specify non empty persistentVolumeName";
            let path = path.child("persistentVolumeName");
            errors.push(FieldError::required(&path, detail));
        }
        (None, Some(_)) => {}
        (Some(spec), None) => inline_spec(errors, &path.child("inlineVolumeSpec"), spec),
    }
}

fn status(errors: &mut Errors, attachment: &VolumeAttachment) {
    let Some(status) = &attachment.status else {
        return;
    };
    let path = at("status");
    let pairs = status.attachment_metadata.iter().flatten();
    let size: usize = pairs.map(|(key, value)| key.len() + value.len()).sum();
    if size > METADATA_SIZE_MAX {
        let path = path.child("attachmentMetadata");
        errors.push(FieldError::too_long(&path, METADATA_SIZE_MAX));
    }
    failure(
        errors,
        &path.child("attachError"),
        status.attach_error.as_ref(),
    );
    failure(
        errors,
        &path.child("detachError"),
        status.detach_error.as_ref(),
    );
}

fn failure(errors: &mut Errors, path: &FieldPath, failure: Option<&VolumeError>) {
    let Some(failure) = failure else { return };
    if text(&failure.message).len() > MESSAGE_SIZE_MAX {
        // Kubernetes names the other bound here.
        let path = path.child("message");
        errors.push(FieldError::too_long(&path, METADATA_SIZE_MAX));
    }
    if let Some(code) = failure.error_code.filter(|code| *code < 0) {
        let detail = format!("must be between 0 and {}, inclusive", i32::MAX);
        errors.push(FieldError::invalid(&path.child("errorCode"), code, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn an_attachment_is_of_one_volume_and_stays_so() {
        let attachment = |source: Value| -> VolumeAttachment {
            serde_json::from_value(serde_json::json!({
                "spec": {"attacher": "d", "nodeName": "n", "source": source}
            }))
            .expect("an attachment")
        };
        let old = attachment(serde_json::json!({"persistentVolumeName": "a"}));
        assert!(VolumeAttachmentKind::validate(&old).is_empty());
        let errors = VolumeAttachmentKind::validate_update(&attachment(Value::Null), &old);
        let errors = texts(&errors);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert_eq!(
            errors[0],
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        );
    }
}
